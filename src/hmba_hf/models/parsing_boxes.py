"""Box text: reading the boxes of an answer, and writing boxes for a model to read.

A model reads and writes boxes in [0, 1] of the white square to which each frame is padded, with three decimals. Users
pass and get pixels of the original frame; rows of datasets hold boxes in [0, 1] of the original frame.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

BRACKET = re.compile(r"\[([^\[\]]*)(\]?)")
NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)
_SENTENCE_END = re.compile(r"[.!?]\s|[,;:\n]")
_PHRASE_START = re.compile(
    r"\b(?:(?P<article>an?|the|this|these|those|another|some|two|three)"
    r"|and|are|as|but|can|is|may|or|that|was|were|when|where|which|while|who|will)\b",
    re.IGNORECASE,
)


class ParsedBox(NamedTuple):
    """One box found in a text.

    Attributes:
        label: the phrase before it.
        box: `(x1, y1, x2, y2)` in [0, 1] of the padded square, None if it is malformed.
        text: the bracket.
        numbers: as printed, even if reversed or beyond the square; None if they are not four finite numbers.
        problem: why `box` is None, where a dialect of `parsing_dialects` has read it; None otherwise.
    """

    label: str
    box: tuple[float, float, float, float] | None
    text: str
    numbers: tuple[float, float, float, float] | None
    problem: str | None = None


def format_boxes(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> str:
    """Write boxes in pixels of a frame in the form that the model reads: `[x1,y1,x2,y2;...]` on the padded square.

    Args:
        boxes: `(x1, y1, x2, y2)` each, in pixels of the original frame.
        size: height and width of the original frame.

    Source: github.com/Sranc3/H-MBA at 9a8645d, `PlainBoxFormatter` and `Expand2square`.
    """
    side, left, top = square_around(size)
    texts = []
    for box in boxes:
        check_box(box)
        shifted = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
        texts.append(",".join(f"{min(max(value / side, 0.0), 1.0):.3f}" for value in shifted))
    return f"[{';'.join(texts)}]"


def parse_boxes(text: str) -> list[ParsedBox]:
    """Read every box of a text, in order; never fails, and takes time linear in the length of the text.

    A bracket is box text unless it holds only words. Each of its `;`-parts must be four plain numbers with
    `0 <= x1 <= x2 <= 1` and `0 <= y1 <= y2 <= 1`; another part, or a bracket that never closes, has `box=None`.

    The label is the noun phrase before the bracket and after the last box or punctuation mark. It starts at the first
    article (a, the, two, ...) of the last clause that has one; words such as "is" and "while" separate clauses.
    Without an article it is all of the last clause, and if that is empty, the label of the box before.

    Differs: the released pattern drops malformed text silently; this one reports it.
    """
    found: list[ParsedBox] = []
    label = ""
    end = 0
    for bracket in box_brackets(text):
        content, closed = bracket.groups()
        label = last_phrase(text[end : bracket.start()]) or label
        parts = [""]
        if closed:
            parts = content.split(";")
        for part in parts:
            found.append(ParsedBox(label, _read_box(part), text=bracket.group(), numbers=_read_numbers(part)))
        end = bracket.end()
    return found


def locate_boxes(text: str, size: tuple[int, int]) -> list[ParsedBox]:
    """Read every box of a text as `parse_boxes` does, with boxes as fractions of the original frame.

    What reaches into the padding is not clipped, and lies below 0 or above 1.

    Args:
        size: height and width of the original frame.
    """
    return [locate_box(parsed, size) for parsed in parse_boxes(text)]


def locate_box(parsed: ParsedBox, size: tuple[int, int]) -> ParsedBox:
    """Bring a box from [0, 1] of the padded square to fractions of the frame in it; a malformed one stays None."""
    side, left, top = square_around(size)
    if parsed.box is None:
        return parsed
    height, width = size
    x1, y1, x2, y2 = parsed.box
    box = (
        (x1 * side - left) / width,
        (y1 * side - top) / height,
        (x2 * side - left) / width,
        (y2 * side - top) / height,
    )
    return parsed._replace(box=box)


def strip_boxes(text: str) -> str:
    """Remove the brackets that `parse_boxes` reads as box text, well-formed or not, and nothing else.

    A bracket that never closes ends before the next one or with the text.
    """
    pieces = []
    end = 0
    for bracket in box_brackets(text):
        pieces.append(text[end : bracket.start()])
        end = bracket.end()
    return "".join(pieces) + text[end:]


def post_process_boxes(text: str | list[str], size: Any) -> list:
    """Return the boxes of an answer in pixels of the original frame, clipped to it.

    Args:
        text: an answer, or a list of answers.
        size: height and width of the original frame, one pair for all answers or a list with one per answer.

    Returns:
        `[{"label": str, "box": {"xmin", "ymin", "xmax", "ymax"}}, ...]`, or one such list per answer. Malformed
        boxes are left out; `parse_boxes` reports them.
    """
    if isinstance(text, str):
        objects = []
        for parsed in parse_boxes(text):
            if parsed.box is not None:
                objects.append({"label": parsed.label, "box": box_to_pixels(parsed.box, size)})
        return objects
    return [post_process_boxes(one, pair) for one, pair in zip(text, size_of_each(text, size), strict=True)]


def size_of_each(texts: Sequence[str], size: Any) -> list:
    """Return the size for each of some texts, of one pair for all or a list with one per text."""
    if np.shape(size) == (2,):
        sizes = [size] * len(texts)
    else:
        sizes = list(size)
    if len(texts) != len(sizes):
        raise ValueError(f"sizes must be one for all texts or one each, got {len(texts)} texts and {len(sizes)} sizes")
    return sizes


def box_brackets(text: str) -> Iterator[re.Match[str]]:
    """Find the brackets of a text that are box text, as matches of `BRACKET`: what is inside, and what closes it."""
    for bracket in BRACKET.finditer(text):
        if _is_box_text(bracket[1], bool(bracket[2])):
            yield bracket


def _is_box_text(content: str, closed: bool) -> bool:
    """Return whether a bracket is box text, well-formed or not: neither words nor the outer one of a nested pair."""
    if not closed and not content.strip():
        return False
    for word in re.split("[,;]", content):
        if word.strip("+- ").lower() in ("nan", "inf", "infinity"):
            return True
    has_digits = any(char.isdigit() for char in content)
    has_letters = any(char.isalpha() for char in content)
    return has_digits or not has_letters


def _read_box(part: str) -> tuple[float, float, float, float] | None:
    numbers = _read_numbers(part)
    if numbers is None or not all(NUMBER.fullmatch(field.strip()) for field in part.split(",")):
        return None
    x1, y1, x2, y2 = numbers
    if x1 <= x2 <= 1 and y1 <= y2 <= 1:
        return numbers
    return None


def _read_numbers(part: str) -> tuple[float, float, float, float] | None:
    try:
        x1, y1, x2, y2 = map(float, part.split(","))
    except ValueError:  # not numbers, or not four
        return None
    numbers = (x1, y1, x2, y2)
    if all(map(math.isfinite, numbers)):
        return numbers
    return None


def last_phrase(text: str) -> str:
    """Return the noun phrase at the end of a text, the label of a box behind it; see `parse_boxes`."""
    sentence = _SENTENCE_END.split(text)[-1]
    start = 0
    has_article = False
    clause_begins = True
    for word in _PHRASE_START.finditer(sentence):
        if word["article"] is None:
            clause_begins = True
            if not has_article:
                start = word.end()
        elif clause_begins:
            start = word.start()
            has_article = True
            clause_begins = False
    return sentence[start:].lstrip(" \t\r)]\"'`*").rstrip(" \t\r([\"'`*")


def check_size(size: Any, name: str = "size") -> None:
    """Raise a `ValueError` unless a size is a height and a width of at least one pixel."""
    if np.shape(size) != (2,) or min(size) < 1:
        raise ValueError(f"{name} must be (height, width) of at least one pixel, got {size!r}")


def check_box(box: Sequence[float]) -> None:
    """Raise a `ValueError` unless a box is four finite numbers in the order in which boxes are read."""
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise ValueError(f"a box must be 4 finite numbers (x1, y1, x2, y2), got {box!r}")
    x1, y1, x2, y2 = box
    if x1 > x2 or y1 > y2:
        raise ValueError(f"a box must have x1 <= x2 and y1 <= y2, got {box!r}")


def square_around(size: tuple[int, int]) -> tuple[int, int, int]:
    """Return the side of the padded square and the frame's left and top offset in it, all in pixels."""
    check_size(size)
    height, width = size
    side = max(height, width)
    return side, (side - width) // 2, (side - height) // 2


def box_to_pixels(box: tuple[float, float, float, float], size: tuple[int, int]) -> dict[str, float]:
    """Bring a box from [0, 1] of the padded square to pixels of the frame in it."""
    side, left, top = square_around(size)
    height, width = size
    x1, y1, x2, y2 = box
    return {
        "xmin": clipped(x1 * side - left, width),
        "ymin": clipped(y1 * side - top, height),
        "xmax": clipped(x2 * side - left, width),
        "ymax": clipped(y2 * side - top, height),
    }


def clipped(pixels: float, limit: int) -> float:
    """Move a coordinate into the frame, and round it to two decimals."""
    return round(min(max(pixels, 0.0), limit), 2)


__all__ = ["ParsedBox", "format_boxes", "locate_boxes", "parse_boxes", "post_process_boxes", "strip_boxes"]
