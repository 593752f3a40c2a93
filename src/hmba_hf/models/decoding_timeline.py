"""When each picture of a video is shown: one clock for all containers, however good their timestamps are.

A decoder gives pictures in the order in which they are shown. Their stamps are those of the container: presentation
times, or decoding times where it has no others. Where a stamp contradicts the order, the stamps around it decide:

    stamps  0  40  80 120 160          each picture at its stamp
    stamps  0  80  40 120 160          a picture that comes late is shown at its stamp
    stamps  0  40   -  40 160          pictures without a stamp of their own are counted
    stamps  0  40 9e9 120 160          a stray stamp is ignored: that picture is counted
    stamps  0  40 9e9 9e9 160          so are two in a row
    stamps  0  40   0  40  80          the clock goes back: another recording begins
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import islice, pairwise
from typing import Any, NamedTuple

# Pictures that come late, after others that are shown later, come within this many pictures.
REORDER_FRAMES = 8
# A picture that comes late fills a gap: it lies at least this far from each other one, in steps.
OWN_PLACE = Fraction(3, 4)
# Steps, or seconds as long as they are unknown, after which a gap may be a stray stamp.
LONG_GAP = 8
LONG_FIRST_GAP = 1
# Stray stamps in a row.
MOST_STRAY = 2
# Steps of a steady rate by which a first or a last picture that stands alone has a stray stamp.
LONELY = 1000
# Seconds. Clocks of 33 bits start anew after 26.5 hours, so FFmpeg takes a long step back for a step of this and more.
NEVER_A_GAP = 12 * 3600
# Steps of a steady rate that is known better than the nominal one, and seconds by which they may differ.
SETTLED_STEPS = 4
ROUNDED_STEP = Fraction(2, 1000)
# Seconds between a counted picture and the next stamp, if that lies before it.
SHORTEST_STEP = Fraction(1, 10000)


class Moment(NamedTuple):
    """A decoded frame or an error, the time at which it is shown, and its recording in the file, counted from 0.

    `is_whole` is false from a frame that the decoder had to mend up to the next intra-coded one. `lost_before` is why
    frames are missing between this one and the one before.
    """

    time: Any
    frame: Any
    recording: int
    is_whole: bool = True
    lost_before: Exception | None = None


class Timeline:
    """The clock of a stretch of video, in seconds as the container counts them.

    Args:
        stamp_of: gives the stamp of a frame in seconds, `None` where it has none.
        step: seconds from one picture to the next where nothing else is known.
        warn: takes a sentence about ignored stamps, of which the file is the subject.
        origin: the time zero of warnings; the first stamp when absent.
        are_guessed: whether most stamps follow from a few of the container's, so that a short step back means nothing.
        can_stray: whether a single stamp may be wrong, as it cannot where stamps are sums of what stands in a file.
    """

    def __init__(
        self,
        stamp_of: Callable[[Any], Fraction | None],
        step: Fraction,
        warn: Callable[[str], None],
        origin: Fraction | None = None,
        are_guessed: bool = False,
        can_stray: bool = True,
    ) -> None:
        self._are_guessed = are_guessed
        self._can_stray = can_stray
        self._stamp_in, self._nominal_step, self._warn = stamp_of, step, warn
        self._origin = origin
        self._mended: tuple[Any, Fraction] | None = None  # the first frame, if its stamp is stray, and a better one
        self._recent: deque[Fraction] = deque(maxlen=REORDER_FRAMES)  # stamps
        self._latest = Fraction(0)  # of them
        self._advance: Fraction | None = None  # by which the latest one has grown
        self._stamped = 0  # frames since one that had to be counted
        self._settled_step: Fraction | None = None  # of frames that each had a stamp
        self._counted: Fraction | None = None  # time of the last picture, if its own stamp does not give it
        self._last: Fraction | float = -math.inf
        self._shift = Fraction(0)  # by which stamps are late, where they begin anew after counted pictures
        self._recording = 0

    def place(self, found: Iterable[Any], start: Fraction | None = None) -> Iterator[Moment]:
        """Give each frame its time, in the order in which frames come.

        A frame whose stamp contradicts the order waits for the next one or two, as the first one does for one. Every
        other frame passes at once.

        Args:
            found: frames, and the errors between them.
            start: time of a first frame without a stamp; where it is `None`, frames before the first stamp are lost.

        Yields:
            Moments of frames, and of errors at the time of the frame before them, `-inf` before the first.
        """
        puzzling: list[Any] = []
        errors: list[Exception] = []
        for frame in self._with_sound_start(found):
            if isinstance(frame, Exception):
                errors.append(frame)
            else:
                stamp = self._stamp_of(frame)
                if puzzling and len(puzzling) < MOST_STRAY and not self._is_stray(puzzling, stamp):
                    puzzling.append(frame)
                    continue
                if puzzling:
                    yield from self._explained(puzzling, stamp)
                    stamp = self._stamp_of(frame)  # on the clock of another recording, if one has begun
                if self._contradicts(stamp):
                    puzzling.append(frame)
                elif stamp is not None or self._has_started or start is not None:
                    yield from self._passed(errors)
                    stamp = self._after_counted(stamp)
                    yield self._at(frame, stamp, start)
            if not puzzling:
                yield from self._passed(errors)
            del frame  # before the next one is decoded
        if puzzling:
            yield from self._explained(puzzling, None)
        yield from self._passed(errors)

    def _with_sound_start(self, found: Iterable[Any]) -> Iterator[Any]:
        """Yield what was found; where the second and third stamp agree and the first is far from both, mend it."""
        rest = iter(found)
        start = self._sound_start(rest)
        while start:  # none is kept longer than it takes
            yield start.pop(0)
        yield from rest

    def _sound_start(self, rest: Iterator[Any]) -> list[Any]:
        start: list[Any] = []
        stamps: list[tuple[Any, Fraction]] = []
        for frame in rest:
            start.append(frame)
            stamp = None if isinstance(frame, Exception) else self._stamp_of(frame)
            if stamp is not None:
                stamps.append((frame, stamp))
            if len(stamps) == 3 or stamp is None or (len(stamps) == 2 and not _is_far(stamps[0][1], stamp)):
                break
        if len(stamps) == 3 and self._can_stray:
            (frame, first), (_, second), (_, third) = stamps
            is_alone = _is_far(first, second) and _is_far(first, third) and not _is_far(second, third)
            stands = 0 < second - first <= LONELY * (third - second)  # a first picture may, as a last one may
            if self._origin is not None and self._origin <= first < second:
                stands = True  # before a gap within the video, where a stretch begins
            if is_alone and second < third and not stands:
                self._mended = frame, 2 * second - third
                self._warn("has a wrong first timestamp, which is not believed")
        return start

    def _stamp_of(self, frame: Any) -> Fraction | None:
        if self._mended is not None and self._mended[0] is frame:
            return self._mended[1]
        stamp = self._stamp_in(frame)
        if stamp is None:
            return None
        stamp += self._shift
        is_short_step_back = self._last - REORDER_FRAMES * self._nominal_step < stamp <= self._last
        return None if self._are_guessed and is_short_step_back else stamp

    def _after_counted(self, stamp: Fraction | None) -> Fraction | None:
        """Move the clock where the first stamp is no later than pictures that were counted before it."""
        if stamp is None or self._recent or self._counted is None or stamp > self._counted or self._recording > 0:
            return stamp
        self._shift = self._counted + self._nominal_step - stamp
        self._warn("begins with pictures without timestamps, which are counted")
        return stamp + self._shift

    def _passed(self, errors: list[Exception]) -> Iterator[Moment]:
        while errors:
            yield Moment(self._last, errors.pop(0), self._recording)

    @property
    def _has_started(self) -> bool:
        return bool(self._recent) or self._counted is not None

    def _step(self, *others: Fraction) -> Fraction:
        """Seconds from one picture to the next, from the last ones and `others`."""
        ordered = sorted({*self._recent, *others})
        steps = sorted(later - earlier for earlier, later in pairwise(ordered))
        return steps[len(steps) // 4] if steps else self._nominal_step  # a quarter: some pictures may be still to come

    def _contradicts(self, stamp: Fraction | None) -> bool:
        if stamp is None or not self._recent:
            return False
        ahead = stamp - self._latest
        if ahead >= 0:
            return self._can_stray and ahead > self._longest_step()
        return not self._comes_late(stamp)

    def _longest_step(self) -> Fraction | int:
        """Seconds from one picture to the next beyond which a stamp may be stray.

        Two pictures at once, as a camera sends them that has fallen behind, do not count for later steps.
        """
        if self._advance is None:
            return LONG_FIRST_GAP
        return LONG_GAP * max(self._advance, self._nominal_step)

    def _comes_late(self, stamp: Fraction) -> bool:
        step = self._step(stamp)
        is_near = self._latest - stamp <= REORDER_FRAMES * step
        is_new = all(abs(stamp - other) >= OWN_PLACE * step for other in self._recent)
        is_after_what_passed = len(self._recent) < REORDER_FRAMES or stamp > min(self._recent)
        return is_near and is_new and is_after_what_passed

    def _is_stray(self, frames: list[Any], following: Fraction | None) -> bool:
        """Return whether the stamps of frames contradict the order, by the stamp of the one that follows them."""
        first = self._stamp_of(frames[0])
        last = self._stamp_of(frames[-1])
        assert first is not None
        if following is not None:
            step = self._step()
            counted = self._latest + (len(frames) + 1) * step
            return abs(following - counted) < abs(following - (first if last is None else last) - step)
        if len(frames) > 1:
            return False
        is_lonely = self._settled_step is not None and first - self._latest > LONELY * self._settled_step
        return first < self._latest or is_lonely

    def _explained(self, frames: list[Any], following: Fraction | None) -> Iterator[Moment]:
        """Place frames the first of which contradicts the order, by the stamp of the one that follows them."""
        is_stray = self._is_stray(frames, following)
        if not is_stray:
            self._begin_recording(frames[0])
        while frames:  # none is kept longer than it takes
            stamp = self._stamp_of(frames[0])
            if is_stray:
                self._warn_of_stray(stamp)
                stamp = None
            yield self._at(frames.pop(0), stamp, None)

    def _warn_of_stray(self, stamp: Fraction | None) -> None:
        before = self._latest if self._counted is None else self._counted
        if stamp is not None:
            self._warn(
                f"has a wrong timestamp: the one after {self._shown(before)} is {self._shown(stamp)}, "
                "and is not believed"
            )

    def _shown(self, stamp: Fraction) -> str:
        origin = Fraction(0) if self._origin is None else self._origin
        return f"{float(stamp - origin):.3f} s"

    def _begin_recording(self, frame: Any) -> None:
        """Begin another recording with a frame unless its stamp lies behind a mere gap.

        One whose clock would begin before the video, or long after it, begins with it.
        """
        stamp = self._stamp_of(frame)
        latest = self._latest
        assert stamp is not None
        if latest <= stamp <= latest + NEVER_A_GAP:
            return
        how = "goes back" if stamp < latest else "leaps"
        self._warn(
            f"has a clock that {how} after {self._shown(latest)}, to {self._shown(stamp)}: another recording "
            "begins there"
        )
        if self._origin is not None and begins_anew(latest, stamp, self._origin):
            self._shift += self._origin - stamp
        self._recent.clear()
        self._advance = None
        self._stamped = 0
        self._settled_step = None
        self._counted = None
        self._recording += 1

    def _at(self, frame: Any, stamp: Fraction | None, start: Fraction | None) -> Moment:
        is_repeated = bool(self._recent) and stamp == self._latest
        if stamp is None or is_repeated:
            time = self._counted_on(start, self._nominal_step if is_repeated else self._settled_step)
            self._counted = time
            self._stamped = 0
        else:
            time = stamp
            self._origin = stamp if self._origin is None else self._origin
            if self._counted is not None and self._recent and self._latest < stamp <= self._counted:
                time = self._counted + SHORTEST_STEP
            self._counted = time if time != stamp else None
            self._note(stamp)
        self._last = time
        self._mended = None  # its frame has been placed
        return Moment(time, frame, self._recording)

    def _note(self, stamp: Fraction) -> None:
        if not self._recent:
            self._latest = stamp
        elif stamp > self._latest:
            self._advance = stamp - self._latest
            self._latest = stamp
        self._recent.append(stamp)
        self._stamped += 1
        if self._stamped > SETTLED_STEPS:
            self._settle()

    def _settle(self) -> None:
        """Measure the step from one picture to the next where it is steady: FFmpeg's rate may be a guess."""
        stamps = sorted(self._recent)
        steps = [later - earlier for earlier, later in pairwise(stamps)]
        is_steady = max(steps) - min(steps) <= ROUNDED_STEP
        self._settled_step = (stamps[-1] - stamps[0]) / len(steps) if is_steady else None

    def _counted_on(self, start: Fraction | None, step: Fraction | None) -> Fraction:
        step = self._nominal_step if step is None else step
        if self._counted is not None:
            return self._counted + step
        if self._recent:
            return self._latest + step
        assert start is not None
        return start


def begins_anew(before: Fraction, after: Fraction, origin: Fraction) -> bool:
    """Return whether a recording has a clock of its own: it begins before the video does, or long after it."""
    return after < origin or after - before > NEVER_A_GAP


def _is_far(stamp: Fraction, other: Fraction) -> bool:
    return abs(stamp - other) > LONG_FIRST_GAP


def come_in_order(moments: Iterator[Moment]) -> bool:
    """Return whether the first moments come in the order of their times, without keeping their frames."""
    places = []
    for moment in islice(moments, REORDER_FRAMES):
        places.append(_order(moment))
        del moment  # before the next one is decoded
    return places == sorted(places)


def in_order(moments: Iterator[Moment]) -> Iterator[Moment]:
    """Put moments in the order of their times, if the first ones show that a file needs it; others pass at once."""
    waiting = list(islice(moments, REORDER_FRAMES))
    if waiting == sorted(waiting, key=_order):
        while waiting:  # none is kept longer than it takes
            yield waiting.pop(0)
        yield from moments
        return
    for moment in moments:
        waiting.sort(key=_order)
        yield waiting.pop(0)
        waiting.append(moment)
    waiting.sort(key=_order)
    while waiting:
        yield waiting.pop(0)


def _order(moment: Moment) -> tuple[int, Any]:
    return moment.recording, moment.time
