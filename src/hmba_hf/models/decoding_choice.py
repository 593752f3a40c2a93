"""Which of the frames that a reader offers make the clip."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .decoding_pictures import ClipPictures, weight_of
from .decoding_timeline import Moment

# Durations of a frame after which the next one has come, unless frames lack.
LONGEST_STEP = 1.5


class Choice:
    """The latest frame not after each wanted time, of those that are offered; the first where there is none.

    One frame at most is kept, until the next one shows for which times it stands. Then it becomes a picture of `clip`.
    A frame that outweighs its picture becomes one at once, and the clip holds it. If the next one should replace it
    for all times, it is passed over instead.

    Args:
        wanted: times of the clip, in ascending order.
        tolerance: seconds by which a frame may come later.
        convert: makes a picture, or an error, of a frame.
        clip: takes the pictures.
        passes_over: whether frames may be passed over; then the choice may lack a picture.
    """

    def __init__(
        self,
        wanted: list[float],
        tolerance: float,
        convert: Callable[[Any], Any],
        clip: ClipPictures,
        passes_over: bool = True,
    ):
        self._limits = [time + tolerance for time in wanted]
        self._convert = convert
        self._chosen: list[Moment | None] = [None for _ in wanted]
        self._times = [math.inf for _ in wanted]  # of the chosen ones
        self._waiting: Any = None  # a frame
        self._places: list[int] = []  # for which it waits
        self._passes_over = passes_over
        self._is_passed_over = False  # whether the last frame is
        self.lacks_picture = False  # since a frame was passed over that none has replaced
        self.clip = clip
        self.first_time = math.inf

    @property
    def is_empty(self) -> bool:
        """Whether no frame was offered."""
        return math.isinf(self.first_time)

    def offer(self, moment: Moment, shown_for: float) -> None:
        """Take a frame, shown for so many seconds, where it stands for a wanted time better than those before."""
        time = float(moment.time)
        self.first_time = min(self.first_time, time)
        places = [place for place in range(len(self._limits)) if self._is_better(time, place)]
        if not places:
            return
        taken = set(places)
        self._places = [place for place in self._places if place not in taken]
        self._settle()
        is_heavy = weight_of(moment.frame.format) > 1
        is_replaced = time + LONGEST_STEP * shown_for <= self._limits[places[0]]
        self._is_passed_over = is_heavy and is_replaced and self._passes_over
        if not is_heavy:
            self._waiting = moment.frame
        elif not self._is_passed_over:
            self.clip.hold(places[0], self._convert(moment.frame))
        self._places = places
        for place in places:
            self._chosen[place] = moment._replace(frame=None)
            self._times[place] = time

    def _is_better(self, time: float, place: int) -> bool:
        before = self._times[place]
        limit = self._limits[place]
        if before > limit:  # none yet, or the first frame, which stands for times before it
            return time < before
        return before <= time <= limit

    def _settle(self) -> None:
        """Put what waits into its places."""
        waiting = self._waiting
        self._waiting = None
        if not self._places:
            return
        if self._is_passed_over:
            self.lacks_picture = True
        elif waiting is None:
            self.clip.put_held(self._places)
        else:
            self.clip.put(self._places, self._convert(waiting))
        self._places = []

    def made(self) -> list[Moment]:
        """The moments of the clip, without their frames, if any frame was offered."""
        self._settle()
        return [moment for moment in self._chosen if moment is not None]


class Lost(NamedTuple):
    """Seconds from the end of one frame to the next one, between which others were lost, and why."""

    start: float
    end: float
    cause: Exception


@dataclass
class Progress:
    """How far the frames of one recording have come: time of the last one, its end, and what was lost before."""

    recording: int = 0
    last: float = -math.inf
    until: float = -math.inf
    in_order: bool = True
    lost: list[Lost] = field(default_factory=list)

    def note(self, moment: Moment, shown_for: float) -> None:
        """Take one more frame, shown for so many seconds."""
        time = float(moment.time)
        if moment.lost_before is not None:
            self.lost.append(Lost(self.until, time, moment.lost_before))
        self.in_order = self.in_order and time >= self.last
        if time >= self.last:
            self.last = time
            self.until = time + shown_for


@dataclass
class Scan:
    """What one pass over a stretch of the video found of its last recording: moments without frames, and pictures."""

    chosen: list[Moment]
    clip: ClipPictures
    came: Progress
    first_time: float
    passed_end: bool
    is_whole_recording: bool
