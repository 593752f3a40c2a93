"""Box text: reading the boxes of an answer, and writing boxes for a model to read.

A model reads and writes boxes in [0, 1] of the white square to which each frame is padded, with three decimals. Users
pass and get pixels of the original frame; rows of datasets hold boxes in [0, 1] of the original frame.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

_BRACKET = re.compile(r"\[([^\[\]]*)(\]?)")
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)
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
    """

    label: str
    box: tuple[float, float, float, float] | None
    text: str
    numbers: tuple[float, float, float, float] | None


def format_boxes(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> str:
    """Write boxes in pixels of a frame in the form that the model reads: `[x1,y1,x2,y2;...]` on the padded square.

    Args:
        boxes: `(x1, y1, x2, y2)` each, in pixels of the original frame.
        size: height and width of the original frame.

    Source: github.com/Sranc3/H-MBA at 9a8645d, `PlainBoxFormatter` and `Expand2square`.
    """
    side, left, top = _square_around(size)
    texts = []
    for box in boxes:
        if len(box) != 4 or not all(math.isfinite(value) for value in box):
            raise ValueError(f"a box must be 4 finite numbers (x1, y1, x2, y2), got {box!r}")
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
    for bracket in _box_brackets(text):
        content, closed = bracket.groups()
        label = _last_phrase(text[end : bracket.start()]) or label
        parts = [""]
        if closed:
            parts = content.split(";")
        for part in parts:
            found.append(ParsedBox(label, _read_box(part), text=bracket.group(), numbers=_read_numbers(part)))
        end = bracket.end()
    return found


def strip_boxes(text: str) -> str:
    """Remove the brackets that `parse_boxes` reads as box text, well-formed or not, and nothing else.

    A bracket that never closes ends before the next one or with the text.
    """
    pieces = []
    end = 0
    for bracket in _box_brackets(text):
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
                objects.append({"label": parsed.label, "box": _box_to_pixels(parsed.box, size)})
        return objects
    if np.shape(size) == (2,):
        sizes = [size] * len(text)
    else:
        sizes = list(size)
    if len(text) != len(sizes):
        raise ValueError(f"sizes must be one for all texts or one each, got {len(text)} texts and {len(sizes)} sizes")
    return [post_process_boxes(one, pair) for one, pair in zip(text, sizes, strict=True)]


def _box_brackets(text: str) -> Iterator[re.Match[str]]:
    for bracket in _BRACKET.finditer(text):
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
    if numbers is None or not all(_NUMBER.fullmatch(field.strip()) for field in part.split(",")):
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


def _last_phrase(text: str) -> str:
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


def _square_around(size: tuple[int, int]) -> tuple[int, int, int]:
    """Return the side of the padded square and the frame's left and top offset in it, all in pixels."""
    if np.shape(size) != (2,) or min(size) < 1:
        raise ValueError(f"size must be (height, width) of at least one pixel, got {size!r}")
    height, width = size
    side = max(height, width)
    return side, (side - width) // 2, (side - height) // 2


def _box_to_pixels(box: tuple[float, float, float, float], size: tuple[int, int]) -> dict[str, float]:
    """Bring a box from [0, 1] of the padded square to pixels of the frame in it."""
    side, left, top = _square_around(size)
    height, width = size
    x1, y1, x2, y2 = box
    return {
        "xmin": _clipped(x1 * side - left, width),
        "ymin": _clipped(y1 * side - top, height),
        "xmax": _clipped(x2 * side - left, width),
        "ymax": _clipped(y2 * side - top, height),
    }


def _clipped(pixels: float, limit: int) -> float:
    """Move a coordinate into the frame, and round it to two decimals."""
    return round(min(max(pixels, 0.0), limit), 2)


__all__ = ["ParsedBox", "format_boxes", "parse_boxes", "post_process_boxes", "strip_boxes"]
