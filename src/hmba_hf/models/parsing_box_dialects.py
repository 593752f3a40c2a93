"""How a dialect of box text is written and read, one class for each form.

A dialect writes boxes that are given in pixels of the original frame, and reads them as fractions of the frame,
whatever its numbers mean. `"unit_square"` alone reads fractions of the square to which frames are padded, as
`parsing_boxes` does. `locate_boxes` gives fractions of the frame in every dialect, and `post_process_boxes` pixels.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .parsing_box_forms import (
    BRACKETS,
    CORNERS,
    LOC,
    OTHER_LOC,
    UNKNOWN,
    BoxText,
    find_boxes,
    gaps,
    read_numbers,
    without_marks,
)
from .parsing_boxes import (
    ParsedBox,
    box_to_pixels,
    check_box,
    check_size,
    clipped,
    format_boxes,
    locate_box,
    parse_boxes,
    size_of_each,
    strip_boxes,
)

Size = tuple[int, int]
Numbers = tuple[float, float, float, float]
Labels = Sequence[str] | None
_FOREIGN = "in another dialect: "  # how the problem of a box begins that is well-formed elsewhere, but not here
_OTHER_FORMS = {
    BRACKETS: "numbers in brackets",
    CORNERS: "two points in parentheses",
    LOC: "<loc0000> tokens",
    OTHER_LOC: "<loc_0> tokens",
}


@dataclass(frozen=True)
class BoxDialect:
    """One way of writing boxes; classes beneath it write one form each.

    Args:
        name: as in `boxes_dialect`.
        meaning: what its numbers are and how they are written, for people.
        form: of `parsing_box_forms`.
        limit: the number at the right and at the bottom of the frame; None for pixels of the resized picture.
        y_first: whether boxes are `(y1, x1, y2, x2)`.
        largest: number that can be written, if that is less than `limit`.
        asking: a question with the words that make a base answer in this dialect.
    """

    name: str
    meaning: str
    form: str
    limit: int | None
    y_first: bool = False
    largest: int | None = None
    asking: str = "{question}"

    @property
    def needs_resized(self) -> bool:
        """Whether numbers are pixels of the resized picture, so that its size must be known."""
        return self.limit is None

    def question(self, text: str) -> str:
        """Return a question with the words by which a base answers in this dialect, if it needs any."""
        return self.asking.format(question=text)

    def format_boxes(
        self, boxes: Sequence[Sequence[float]], size: Size, resized: Any = None, labels: Labels = None
    ) -> str:
        """Write boxes as the base writes and reads them.

        Args:
            boxes: `(x1, y1, x2, y2)` each, in pixels of the original frame; what lies beyond it is clipped.
            size: height and width of the original frame.
            resized: height and width of the picture that the base's tower sees, or a function that returns them for
                `size`. Needed where the numbers are its pixels.
            labels: one for each box, written with it.

        Raises:
            ValueError: if a box is not four finite numbers, if there is not one label for each box, or if `resized` is
                needed and absent.
        """
        _check_labels(labels, boxes)
        check_size(size)
        right, bottom = self._limits(_at_size(resized, size))
        height, width = size
        written = []
        for box in boxes:
            check_box(box)
            x1 = self._number(box[0] / width, right)
            y1 = self._number(box[1] / height, bottom)
            x2 = self._number(box[2] / width, right)
            y2 = self._number(box[3] / height, bottom)
            written.append((y1, x1, y2, x2) if self.y_first else (x1, y1, x2, y2))
        return self._write(written, labels)

    def parse_boxes(self, text: str, resized: Any = None) -> list[ParsedBox]:
        """Read every box of a text, in order; never fails on a text, and takes time linear in its length.

        Args:
            resized: height and width of the picture that the base's tower sees; needed where numbers are its pixels.

        Returns:
            Boxes as fractions of the frame. One that is cut off, reversed, out of range or no four numbers has
            `box=None` and says so in `problem`, and so has one in the form or with the numbers of another dialect.
        """
        limits = self._limits(resized)
        return [self._read(box, limits) for box in self._find(text)]

    def locate_boxes(self, text: str, size: Size, resized: Any = None) -> list[ParsedBox]:
        """Read every box of a text as fractions of the original frame.

        A `UserWarning` tells of boxes in another dialect, which are not read. Arguments are those of `format_boxes`.
        """
        return [self._locate(parsed, size) for parsed in self._read_aloud(text, size, resized)]

    def post_process_boxes(self, text: str | list[str], size: Any, resized: Any = None) -> list:
        """Return the boxes of an answer in pixels of the original frame, clipped to it.

        A `UserWarning` tells of boxes in another dialect, which are not read.

        Args:
            text: an answer, or a list of answers.
            size: height and width of the original frame, one pair for all answers or a list with one per answer.
            resized: as in `format_boxes`: a function, or a pair or a list as `size`.

        Returns:
            `[{"label": str, "box": {"xmin", "ymin", "xmax", "ymax"}}, ...]`, or one such list per answer. Malformed
            boxes are left out; `parse_boxes` reports them.
        """
        if not isinstance(text, str):
            sizes = size_of_each(text, size)
            resized_sizes = [resized] * len(text)
            if resized is not None and not callable(resized):
                resized_sizes = size_of_each(text, resized)
            return [self.post_process_boxes(*one) for one in zip(text, sizes, resized_sizes, strict=True)]
        objects = []
        for parsed in self._read_aloud(text, size, resized):
            if parsed.box is not None:
                objects.append({"label": parsed.label, "box": self._to_pixels(parsed.box, size)})
        return objects

    def strip_boxes(self, text: str) -> str:
        """Remove all that `parse_boxes` reads as box text, with the lists, code fences and marks around it."""
        return "".join(text[start:end] for start, end in gaps(self._find(text), len(text)))

    def _find(self, text: str) -> list[BoxText]:
        """Find box text in any form. Brackets that are no list of four numbers are words where no box is in them."""
        return find_boxes(text, brackets="four")

    def _read_aloud(self, text: str, size: Size, resized: Any) -> list[ParsedBox]:
        """Read the boxes of a text about a frame, and warn of those in another dialect."""
        check_size(size)
        found = self.parse_boxes(text, _at_size(resized, size))
        for parsed in found:
            if parsed.problem is not None and parsed.problem.startswith(_FOREIGN):
                warnings.warn(
                    f"boxes of an answer are {parsed.problem}, and are not read; boxes_dialect is {self.name!r}, "
                    f"{self.meaning}: name the one in which the model answers",
                    stacklevel=3,
                )
        return found

    def _read(self, box: BoxText, limits: Size) -> ParsedBox:
        """Bring box text to fractions of the frame, or say why it cannot be."""
        numbers = read_numbers(box.fields)
        problem = self._problem(box, numbers, limits)
        fractions = None
        if problem is None and numbers is not None:
            right, bottom = limits
            x1, y1, x2, y2 = self._x_first(numbers)
            fractions = (x1 / right, y1 / bottom, x2 / right, y2 / bottom)
        return ParsedBox(box.label, fractions, box.text, numbers, problem)

    def _x_first(self, numbers: Numbers) -> Numbers:
        if self.y_first:
            return numbers[1], numbers[0], numbers[3], numbers[2]
        return numbers

    def _problem(self, box: BoxText, numbers: Numbers | None, limits: Size) -> str | None:
        """Say why box text is of another dialect or malformed; None if it is neither."""
        if box.form == UNKNOWN:
            return "cut off"
        if box.form != self.form:
            return _FOREIGN + _OTHER_FORMS.get(box.form, f"JSON with {box.form!r}")
        if not box.is_whole:
            return "cut off"
        if numbers is None:
            return "not four numbers"
        x1, y1, x2, y2 = self._x_first(numbers)
        right, bottom = limits
        if max(x1, x2) > right or max(y1, y2) > bottom or max(numbers) > (self.largest or max(limits)):
            return f"{_FOREIGN}numbers beyond {self.largest or self.limit or 'the resized picture'}"
        return _problem_within(x1, y1, x2, y2)

    def _limits(self, resized: Any) -> Size:
        """Return the numbers at the right and at the bottom of the frame."""
        if self.limit is not None:
            return self.limit, self.limit
        if resized is None:
            raise ValueError(
                f"resized must be (height, width) of the picture that the base sees to have boxes in {self.name!r}, "
                "got None"
            )
        check_size(resized, "resized")
        height, width = resized
        return width, height

    def _number(self, fraction: float, limit: int) -> int:
        inside = min(max(fraction, 0.0), 1.0)
        return min(round(inside * limit), self.largest or limit)

    def _write(self, boxes: Sequence[tuple[int, ...]], labels: Labels) -> str:
        """Write numbers in the form, with labels or without."""
        raise NotImplementedError

    def _locate(self, parsed: ParsedBox, size: Size) -> ParsedBox:
        """Bring a box as it was read to fractions of the frame."""
        return parsed

    def _to_pixels(self, box: Numbers, size: Size) -> dict[str, float]:
        """Bring a box as it was read to pixels of the frame."""
        height, width = size
        x1, y1, x2, y2 = box
        return {
            "xmin": clipped(x1 * width, width),
            "ymin": clipped(y1 * height, height),
            "xmax": clipped(x2 * width, width),
            "ymax": clipped(y2 * height, height),
        }


class JsonDialect(BoxDialect):
    """Boxes as a list of JSON: `[{"bbox_2d": [1, 2, 3, 4], "label": "a car"}]`, the key being the form."""

    def _write(self, boxes: Sequence[tuple[int, ...]], labels: Labels) -> str:
        items = []
        for index, box in enumerate(boxes):
            item: dict[str, Any] = {self.form: list(box)}
            if labels is not None:
                item["label"] = labels[index]
            items.append(item)
        return json.dumps(items, ensure_ascii=False)


class LocDialect(BoxDialect):
    """Boxes as tokens, each with its label behind it: `<loc0001><loc0002><loc0003><loc0004> a car ; ...`."""

    def _write(self, boxes: Sequence[tuple[int, ...]], labels: Labels) -> str:
        written = []
        for index, box in enumerate(boxes):
            tokens = "".join(f"<loc{number:04d}>" for number in box)
            if labels is not None:
                tokens = f"{tokens} {labels[index]}"
            written.append(tokens)
        return " ; ".join(written)


@dataclass(frozen=True)
class MarkedDialect(BoxDialect):
    """Boxes between marks behind their label, which a tokenizer may leave out as special tokens.

    Args:
        marks: before and behind boxes.
        label_marks: before and behind a label.
        comma: between numbers.
    """

    marks: tuple[str, str] = ("", "")
    label_marks: tuple[str, str] = ("", "")
    comma: str = ", "

    def strip_boxes(self, text: str) -> str:
        """Remove all that `parse_boxes` reads as box text, with the lists and marks around it."""
        return without_marks(super().strip_boxes(text))

    def _find(self, text: str) -> list[BoxText]:
        return find_boxes(text, brackets="all" if self.form == BRACKETS else "four")

    def _write(self, boxes: Sequence[tuple[int, ...]], labels: Labels) -> str:
        if labels is None:
            return self._write_list(boxes)
        before, behind = self.label_marks
        written = []
        for index, box in enumerate(boxes):
            written.append(f"{before}{labels[index]}{behind}{self._write_list([box])}")
        return ", ".join(written)

    def _write_list(self, boxes: Sequence[tuple[int, ...]]) -> str:
        before, behind = self.marks
        if self.form == CORNERS:
            return "".join(f"{before}({x1},{y1}),({x2},{y2}){behind}" for x1, y1, x2, y2 in boxes)
        listed = self.comma.join(f"[{self.comma.join(map(str, box))}]" for box in boxes)
        return f"{before}[{listed}]{behind}"


class SquareDialect(BoxDialect):
    """The dialect of `parsing_boxes`, which reads and writes it; here what is in another form is told, too."""

    def format_boxes(
        self, boxes: Sequence[Sequence[float]], size: Size, resized: Any = None, labels: Labels = None
    ) -> str:
        """Write boxes behind their labels, see `parsing_boxes.format_boxes`; `resized` does not matter."""
        _check_labels(labels, boxes)
        if labels is None:
            return format_boxes(boxes, size)
        return ", ".join(f"{label}{format_boxes([box], size)}" for label, box in zip(labels, boxes, strict=True))

    def parse_boxes(self, text: str, resized: Any = None) -> list[ParsedBox]:
        """Read every box as `parsing_boxes.parse_boxes` does, in [0, 1] of the square; `resized` does not matter."""
        others = self._find(text)
        pieces: list[tuple[int, list[ParsedBox]]] = []
        for box in others:
            pieces.append((box.span[0], [self._read(box, (1, 1))]))
        for start, end in gaps(others, len(text)):
            found = [_explained(parsed) for parsed in parse_boxes(text[start:end])]
            pieces.append((start, found))
        pieces.sort(key=lambda piece: piece[0])
        return [parsed for _, found in pieces for parsed in found]

    def strip_boxes(self, text: str) -> str:
        """Remove the brackets that `parsing_boxes.strip_boxes` removes, and box text in other forms."""
        return "".join(strip_boxes(text[start:end]) for start, end in gaps(self._find(text), len(text)))

    def _find(self, text: str) -> list[BoxText]:
        """Find box text in other forms."""
        return find_boxes(text, brackets="none")

    def _locate(self, parsed: ParsedBox, size: Size) -> ParsedBox:
        return locate_box(parsed, size)

    def _to_pixels(self, box: Numbers, size: Size) -> dict[str, float]:
        return box_to_pixels(box, size)


def _at_size(resized: Any, size: Size) -> Any:
    """Return the resized size, where it may be a function of the original size."""
    if callable(resized):
        return resized(size)
    return resized


def _check_labels(labels: Labels, boxes: Sequence[Any]) -> None:
    if labels is not None and len(labels) != len(boxes):
        raise ValueError(f"labels must be one for each box, got {len(labels)} for {len(boxes)} boxes")


def _problem_within(x1: float, y1: float, x2: float, y2: float, of_fractions: bool = False) -> str | None:
    """Say why four numbers that are not too large are no box, of fractions or larger ones; None if they are one."""
    numbers = (x1, y1, x2, y2)
    if min(numbers) < 0:
        return "numbers below 0"
    if not of_fractions and max(numbers) <= 1 and any(number % 1 for number in numbers):
        return f"{_FOREIGN}fractions from 0 to 1"
    if x1 > x2 or y1 > y2:
        return "reversed corners"
    return None


def _explained(parsed: ParsedBox) -> ParsedBox:
    """Say why a box in brackets could not be read as one of the square."""
    if parsed.box is not None:
        return parsed
    problem = None
    if not parsed.text.endswith("]"):
        problem = "cut off"
    elif parsed.numbers is not None and max(parsed.numbers) > 1:
        problem = f"{_FOREIGN}numbers beyond 1"
    elif parsed.numbers is not None:
        problem = _problem_within(*parsed.numbers, of_fractions=True)
    return parsed._replace(problem=problem or "not four plain numbers")
