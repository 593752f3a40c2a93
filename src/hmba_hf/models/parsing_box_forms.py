"""Box text in all the forms in which vision-language models write it: where it stands, its numbers, its label.

A form is how the numbers of a box are written, whatever they mean: the key of JSON under which they stand, such as
`"bbox_2d"`, or one of `BRACKETS`, `CORNERS`, `LOC` and `OTHER_LOC`.
"""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from .parsing_boxes import BRACKET, NUMBER, box_brackets, last_phrase

BRACKETS = "brackets"  # [1, 2, 3, 4], alone or in a list
CORNERS = "corners"  # (1,2),(3,4)
LOC = "loc"  # <loc0001><loc0002><loc0003><loc0004>
OTHER_LOC = "loc_"  # <loc_1><loc_2><loc_3><loc_4>, of Florence-2
UNKNOWN = ""
KEYS = ("bbox_2d", "box_2d", "bbox", "bounding_box", "box")
MARKS = {
    "<ref>": "</ref>",
    "<box>": "</box>",
    "<|object_ref_start|>": "<|object_ref_end|>",
    "<|box_start|>": "<|box_end|>",
    "<|begin_of_box|>": "<|end_of_box|>",
}
_LABEL_KEYS = ("label", "text_content", "name", "category")
_ANY_MARK = re.compile("|".join(re.escape(mark) for pair in MARKS.items() for mark in pair))
_MARKED_LABEL = re.compile(r"(?:<ref>|<\|object_ref_start\|>)([^<]*)(?:</ref>|<\|object_ref_end\|>)?")

# An object of JSON begins with a key or ends at once; a brace in a sentence is followed by something else.
_OBJECT = re.compile(r"""\{(?=\s*(?:["'}]|$))""")
_TOKEN = re.compile(r"""("(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?)|([{}\[\]:,])|\s+|([^\s{}\[\]:,"']+)""")
_COLON = re.compile(r"\s*:\s*")
_CONSTANTS = ("true", "false", "null", "none", "nan", "infinity")
# What follows the key of a box: a list, perhaps of lists and perhaps as text, or numbers as text, or something else.
_VALUE = re.compile(r"""["']?\s*(\[(?:[^\[\]{}]|\[[^\[\]{}]*\]?)*\]?)["']?|(["'][^"'\n]*)["']?|[^,{}\[\]\n]*""")
_LIST_END = re.compile(r"\s*\]")
_FENCE_BEFORE = re.compile(r"```\w*\s*$")
_FENCE_BEHIND = re.compile(r"\s*```")

_COORDINATE = r"\(\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*\)"
_PAIR = re.compile(_COORDINATE + r"\s*,\s*\(([^()\[\]{}<>\n]*)(\)?)", re.ASCII)
_BOX_START = "<|box_start|>"
_LOC_RUN = re.compile(r"<loc_?\d*(?:>|$)(?:\s*<loc_?\d*(?:>|$))*(?:<seg\d*(?:>|$))*", re.ASCII)
_LOC_TOKEN = re.compile(r"<loc_?(\d*)(>?)", re.ASCII)
_LOC_LABEL = re.compile(r"[^;<\n]*")


class BoxText(NamedTuple):
    """One box as it is written.

    Attributes:
        form: a key of `KEYS`, or one of the other forms; `UNKNOWN` if the text ends before it shows.
        label: what the text calls it: in JSON or marks, or the phrase before it.
        fields: its numbers as printed, few or many.
        is_whole: whether it ends before the text does.
        text: what is printed of it, without label and marks.
        span: of the list that it is in, from the first character to the one behind its last.
    """

    form: str
    label: str
    fields: tuple[str, ...]
    is_whole: bool
    text: str
    span: tuple[int, int]


Run = tuple[int, int, list[BoxText]]  # of boxes beside each other: where it begins, where it ends


def find_boxes(text: str, brackets: str = "all") -> list[BoxText]:
    """Find all box text in any form, in order; never fails, and takes time linear in the length of the text.

    Args:
        brackets: `"all"` that `box_brackets` finds, only those with `"four"` numbers, or `"none"`.
    """
    found = list(_objects(text))
    for start, end in gaps(found, len(text)):
        found += _pairs(text, start, end)
        found += _loc_runs(text, start, end)
    found.sort(key=_place)
    if brackets != "none":
        for start, end in gaps(found, len(text)):
            found += _lists(text, start, end, brackets == "four")
        found.sort(key=_place)
    return _labelled(text, found)


def _place(box: BoxText) -> tuple[int, int]:
    return box.span


def gaps(found: list[BoxText], length: int) -> list[tuple[int, int]]:
    """Return what lies between the boxes of a text, as the first character of each piece and the one behind it."""
    pieces = []
    position = 0
    for box in found:
        start, end = box.span
        if start > position:
            pieces.append((position, start))
        position = max(position, end)
    if position < length:
        pieces.append((position, length))
    return pieces


def without_marks(text: str) -> str:
    """Remove the marks around labels and boxes."""
    return _ANY_MARK.sub("", text)


def read_numbers(fields: tuple[str, ...]) -> tuple[float, float, float, float] | None:
    """Return four plain numbers, quoted or not; None if they are not."""
    if len(fields) != 4:
        return None
    numbers = []
    for field in fields:
        word = field.strip(" \t\r\n\"'")
        if not NUMBER.fullmatch(word.removeprefix("-")):
            return None
        numbers.append(float(word))
    x1, y1, x2, y2 = numbers
    if max(numbers) == float("inf") or min(numbers) == -float("inf"):
        return None
    return x1, y1, x2, y2


def _objects(text: str) -> Iterator[BoxText]:
    """Find the boxes in objects of JSON; objects beside each other, in lists and in code fences have one span."""
    runs: list[Run] = []
    position = 0
    while begin := _OBJECT.search(text, position):
        position, boxes = _ObjectReader(text).read(begin.start())
        if boxes:
            _add_run(text, runs, begin.start(), position, boxes)
    yield from _placed(text, runs)


def _add_run(text: str, runs: list[Run], start: int, end: int, boxes: list[BoxText]) -> None:
    """Add the boxes of a piece of a text to the run before, if only a comma parts them, or begin another."""
    if runs and not text[runs[-1][1] : start].strip(" \t\r\n,"):
        first, _, earlier = runs[-1]
        earlier += boxes
        runs[-1] = (first, end, earlier)
    else:
        runs.append((start, end, boxes))


def _placed(text: str, runs: list[Run]) -> Iterator[BoxText]:
    """Give the boxes of each run its span, with the brackets and the code fence around it."""
    before = 0
    for start, end, boxes in runs:
        span = _widened(text, before, start, end)
        before = span[1]
        for box in boxes:
            yield box._replace(span=span)


class _Open:
    """An object of JSON that is being read: the first of its boxes by number, and its label.

    Attributes:
        box_key: the key of a box whose value it is.
    """

    def __init__(self, first: int, box_key: str):
        self.first = first
        self.box_key = box_key
        self.label = ""


class _ObjectReader:
    """Reads one object of JSON, whole, cut off or broken, from left to right."""

    def __init__(self, text: str):
        self.text = text
        self.boxes: list[BoxText] = []
        self.open: list[_Open] = []
        self.unlabelled: list[int] = []  # numbers of boxes whose objects had no label, in order
        self.key = ""

    def read(self, start: int) -> tuple[int, list[BoxText]]:
        """Read from a brace as far as the object goes; return where it ends, and its boxes."""
        position = start
        last = start + 1  # the end of its last box
        while position < len(self.text):
            token = _TOKEN.match(self.text, position)
            assert token is not None  # every character begins one
            word = token[3]
            if word and not _is_constant(word) and token.end() < len(self.text):  # a sentence, and no JSON
                self._close_all()
                return (last if self.boxes else position), self.boxes
            count = len(self.boxes)
            position = self._take(token)
            if len(self.boxes) > count:
                last = position
            if not self.open:
                return position, self.boxes
        if self.open[-1].first == len(self.boxes):  # the key of its box may have been to come
            self._add([BoxText(UNKNOWN, "", (), False, self.text[start:], (0, 0))])
        self._close_all()
        return len(self.text), self.boxes

    def _take(self, token: re.Match[str]) -> int:
        """Take one token, and the box behind it if it is the key of one; return where the next token begins."""
        string, mark, _ = token.groups()
        if mark == "{":
            box_key = self.key if self.key in KEYS else ""
            self.open.append(_Open(len(self.boxes), box_key))
            self.key = ""
        elif mark == "}":
            self._close(token.end())
        elif string and (colon := _COLON.match(self.text, token.end())):
            self.key = _unquoted(string)
            if self.key in KEYS and self.text[colon.end() : colon.end() + 1] != "{":
                boxes, end = _read_value(self.text, colon.end(), self.key)
                self._add(boxes)
                self.key = ""
                return end
            return colon.end()
        elif string and self.key in _LABEL_KEYS:
            self.open[-1].label = self.open[-1].label or _unquoted(string)
            self.key = ""
        return token.end()

    def _add(self, boxes: list[BoxText]) -> None:
        self.unlabelled += range(len(self.boxes), len(self.boxes) + len(boxes))
        self.boxes += boxes

    def _close(self, end: int) -> None:
        """Close the inner object: its label is that of all boxes in it that have none yet."""
        closed = self.open.pop()
        if closed.box_key and closed.first == len(self.boxes):  # a box of another kind, such as {"x1": 1, ...}
            self._add([BoxText(closed.box_key, "", (), end < len(self.text), "{...}", (0, 0))])
        while closed.label and self.unlabelled and self.unlabelled[-1] >= closed.first:
            number = self.unlabelled.pop()
            self.boxes[number] = self.boxes[number]._replace(label=closed.label)

    def _close_all(self) -> None:
        while self.open:
            self._close(len(self.text))


def _read_value(text: str, position: int, key: str) -> tuple[list[BoxText], int]:
    """Read the boxes that stand as the value of a key, one or a list of them; return them and where they end."""
    value = _VALUE.match(text, position)
    assert value is not None  # it may be empty
    listed, quoted = value.groups()
    boxes = []
    for bracket in BRACKET.finditer(listed or ""):
        content, closed = bracket.groups()
        if content.strip() or closed:  # not the outer one of a list of lists
            boxes.append(BoxText(key, "", tuple(content.split(",")), bool(closed), bracket.group(), (0, 0)))
    if not boxes:
        fields = tuple((quoted or "").strip("\"' ").split(","))
        boxes.append(BoxText(key, "", fields, value.end() < len(text), value.group().strip(), (0, 0)))
    return boxes, value.end()


def _pairs(text: str, start: int, end: int) -> Iterator[BoxText]:
    """Find boxes that are written as two points, and one that is cut off behind its mark."""
    last = start
    for pair in _PAIR.finditer(text, start, end):
        x1, y1, rest, closed = pair.groups()
        last = pair.end()
        if any(char.isdigit() for char in rest) or last == len(text):
            fields = (x1, y1, *rest.split(","))
            yield BoxText(CORNERS, "", fields, bool(closed), pair.group(), pair.span())
    begun = text.rfind(_BOX_START, last, end)
    if begun >= 0 and end == len(text):
        written = text[begun + len(_BOX_START) :]
        if not written.strip("(),.-0123456789 \t\r\n"):
            yield BoxText(CORNERS, "", (), False, written, (begun, end))


def _loc_runs(text: str, start: int, end: int) -> Iterator[BoxText]:
    """Find boxes that are written as tokens of places, four for each."""
    for run in _LOC_RUN.finditer(text, start, end):
        form = OTHER_LOC if "_" in run.group() else LOC
        tokens = list(_LOC_TOKEN.finditer(run.group()))
        for first in range(0, len(tokens), 4):
            four = tokens[first : first + 4]
            fields = tuple(token[1] if len(token[1]) == 4 else token.group() for token in four)
            is_whole = len(four) == 4 and bool(four[-1][2])
            written = "".join(token.group() for token in four)
            yield BoxText(form, "", fields, is_whole, written, run.span())


def _lists(text: str, start: int, end: int, only_four: bool) -> Iterator[BoxText]:
    """Find boxes that are written in brackets, those beside each other with one span."""
    runs: list[Run] = []
    piece = text[start:end]
    for bracket in box_brackets(piece):
        content, closed = bracket.groups()
        boxes = []
        for part in content.split(";"):
            boxes.append(BoxText(BRACKETS, "", tuple(part.split(",")), bool(closed), bracket.group(), (0, 0)))
        if only_four and read_numbers(boxes[0].fields) is None:
            continue
        _add_run(piece, runs, bracket.start(), bracket.end(), boxes)
    for box in _placed(piece, runs):
        yield box._replace(span=(start + box.span[0], start + box.span[1]))


def _widened(text: str, before: int, start: int, end: int) -> tuple[int, int]:
    """Take the brackets of a list around some boxes into their span, and a code fence around that."""
    lead = text[before:start].rstrip()
    bare = lead.rstrip("[ \t\r\n")
    depth = lead[len(bare) :].count("[")
    if depth:
        start = before + len(bare) + lead[len(bare) :].index("[")
    while depth:
        closing = _LIST_END.match(text, end)
        if closing is None:
            break
        end = closing.end()
        depth -= 1
    fence = _FENCE_BEFORE.search(text, max(before, start - 40), start)
    if fence:
        start = fence.start()
        closing = _FENCE_BEHIND.match(text, end)
        if closing:
            end = closing.end()
    return start, end


def _labelled(text: str, found: list[BoxText]) -> list[BoxText]:
    """Give each box its label: its own, else that in marks or the phrase before it, else that of the box before."""
    labelled = []
    position = 0
    label = ""
    for index, box in enumerate(found):
        start, end = box.span
        if index and found[index - 1].span == box.span:
            labelled.append(box._replace(label=box.label or label))
            continue
        before = text[position:start]
        marked = _MARKED_LABEL.findall(before)
        position = end
        if marked:
            label = marked[-1].strip()
        else:
            phrase = last_phrase(without_marks(before))
            if box.form == LOC and not phrase:
                behind = _LOC_LABEL.match(text, end)
                assert behind is not None  # it may be empty
                phrase = behind.group().strip()
                position = behind.end()
            label = phrase or label
        labelled.append(box._replace(label=box.label or label))
    return labelled


def _is_constant(word: str) -> bool:
    return word.lower() in _CONSTANTS or not any(map(str.isalpha, word)) or word[0].isdigit()


def _unquoted(string: str) -> str:
    """Return what a string of JSON holds, whole or cut off."""
    try:
        return str(json.loads(string))
    except ValueError:  # in single quotes, cut off, or with an escape that JSON lacks
        return string[1:].removesuffix(string[0])
