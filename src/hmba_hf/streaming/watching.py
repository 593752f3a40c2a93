"""A question repeated while a video stream goes on: when to ask it, and which answers to give."""

import math
import sys
from collections.abc import Callable, Iterator
from numbers import Real
from typing import TYPE_CHECKING, Any

from ..models.parsing_dialects import find_dialect

if TYPE_CHECKING:
    from .stream import VideoStream

ROUNDING = 0.05  # of the time between two frames or moments, by which times may be rounded

Answer = dict[str, Any]


def texts_differ(before: Answer, after: Answer) -> bool:
    """Return whether two answers of a stream differ, even in the last digit of a box."""
    return before["generated_text"] != after["generated_text"]


def check_every(every: float) -> None:
    """Raise a `ValueError` unless the seconds from one question to the next are a number, 0 or more."""
    if not isinstance(every, Real) or not (math.isfinite(every) and every >= 0):
        raise ValueError(f"every must be a number of seconds, 0 or more, got {every!r}")


def words_differ(before: Answer, after: Answer) -> bool:
    """Return whether two answers of a stream differ in more than their boxes, in whatever dialect these are."""
    strip_boxes = find_dialect("unit_square").strip_boxes  # box text of H-MBA, and that in all other forms
    return strip_boxes(before["generated_text"]) != strip_boxes(after["generated_text"])


class Watch(Iterator[Answer]):
    """Answers to one question about a video stream that differ from the one before; see `VideoStream.watch`.

    It reads the private moment and the drives of its stream, the other half of one class in two.

    Attributes:
        last: the last answer yielded, with which new ones are compared; `None` before the first.
    """

    def __init__(
        self,
        stream: "VideoStream",
        question: str,
        every: float,
        changed: Callable[[Answer, Answer], bool],
        generate_kwargs: dict[str, Any],
    ):
        check_every(every)
        if not callable(changed):
            raise ValueError(f"changed must be a function of two answers, such as words_differ, got {changed!r}")
        self.last: Answer | None = None
        self._stream = stream
        self._question = question
        self._changed = changed
        self._options = generate_kwargs
        moments = min(every * stream.fps, sys.maxsize)  # from one question to the next
        self._steps = max(1, math.ceil(moments - ROUNDING))
        self._asked: tuple[int, int] | None = None  # in which drive of the stream, at which of its moments

    @property
    def is_due(self) -> bool:
        """Whether `next` will ask."""
        now = self._stream._moment
        if now < 0:
            return False  # before the first frame
        if self._asked is None or self._asked[0] != self._stream._drives:
            return True
        return now - self._asked[1] >= self._steps

    def __next__(self) -> Answer:
        """Ask if it is time, and return the answer if it has changed; otherwise stop for now."""
        if not self.is_due:
            raise StopIteration
        answer = self._stream.ask(self._question, **self._options)
        self._asked = (self._stream._drives, self._stream._moment)
        if self.last is not None and not self._changed(self.last, answer):
            raise StopIteration
        self.last = answer
        return answer
