"""Which frames a clip holds: times that end at a given one, and the frames that are shown at them."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers.video_utils import VideoMetadata

from .decoding_timeline import Moment

# Seconds. A decimal such as 2.76 stands for the frame at 69/25 s, which the nearest float may miss by a hair.
TIME_TOLERANCE = 1e-6
# Seconds. Containers whose clocks tick so often or less round the times of frames; others state them exactly.
LONGEST_ROUNDING = 1e-3


@dataclass
class ClipMetadata(VideoMetadata):
    """Facts about a clip: `height` and `width` of the upright original frame, and the time of each of its frames.

    `frames_indices` are `frame_times * fps`, rounded. What is not known is `None`: the rate and the indices where the
    rate varies or is assumed, the number of frames and the duration where the end of a file was not seen and its
    header does not tell.
    """

    total_num_frames: int | None  # type: ignore[assignment]
    frame_times: list[float] | None = None

    @property
    def timestamps(self) -> list[float]:
        """Seconds of each frame on the clock of its video."""
        return super().timestamps if self.frame_times is None else self.frame_times

    @property
    def current_time(self) -> float | None:
        """Seconds at which the last frame is shown, if that is known."""
        if self.frame_times is None and (self.fps is None or self.frames_indices is None):
            return None
        return float(self.timestamps[-1])


def check_sampling(timestamp: float | None, num_frames: int | None, fps: float | None) -> None:
    """Raise `ValueError` unless `timestamp` is >= 0, `num_frames` a whole number >= 1 and `fps` > 0, all finite."""
    if timestamp is not None and not (_is_number(timestamp) and timestamp >= 0):
        raise ValueError(f"timestamp must be a number of seconds, zero or more, got {timestamp!r}")
    if num_frames is not None and (not _is_number(num_frames) or num_frames != int(num_frames) or num_frames < 1):
        raise ValueError(f"num_frames must be a whole number, one or more, got {num_frames!r}")
    if fps is not None and not (_is_number(fps) and fps > 0):
        raise ValueError(f"fps must be a number greater than zero, got {fps!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def causal_timestamps(timestamp: float, num_frames: int, fps: float) -> list[float]:
    """Times of `num_frames` frames that end at `timestamp` and lie `1 / fps` seconds apart, oldest first.

    Times before the video are negative; the first frame stands for them.
    """
    check_sampling(timestamp, num_frames, fps)
    return causal_times(timestamp, int(num_frames), fps)


def causal_times(end: float, num_frames: int, fps: float) -> list[float]:
    """The same on a clock that may go back behind the start of its file, so `end` may be negative."""
    return [end - step / fps for step in reversed(range(num_frames))]


def latest_frames(
    frame_times: Sequence[float], wanted: Sequence[float], tolerance: float = TIME_TOLERANCE
) -> list[int]:
    """Index of the latest frame not after each wanted time, or of the earliest frame where there is none.

    Args:
        tolerance: seconds by which a frame may come later, as times that are rounded do.
    """
    order = np.argsort(frame_times, kind="stable")
    ordered = [frame_times[index] for index in order]
    return [int(order[max(bisect_right(ordered, time + tolerance) - 1, 0)]) for time in wanted]


def rounding_of(times: Sequence[float]) -> float:
    """Seconds by which times may miss their frames: those in whole milliseconds have been rounded, as in Matroska."""
    is_rounded = all(abs(1000 * time - round(1000 * time)) <= 1000 * TIME_TOLERANCE for time in times)
    return LONGEST_ROUNDING if is_rounded else TIME_TOLERANCE


class Choice:
    """The latest frame not after each wanted time, of those that are offered; the first where there is none."""

    def __init__(self, wanted: list[float], tolerance: float):
        self._wanted, self._tolerance = wanted, tolerance
        self._chosen: dict[int, Moment] = {}
        self.first: Moment | None = None

    def offer(self, moment: Moment) -> None:
        """Take a frame where it stands for a wanted time better than those before."""
        if self.first is None or moment.time < self.first.time:
            self.first = moment
        for index, limit in enumerate(self._wanted):
            is_later = index not in self._chosen or self._chosen[index].time <= moment.time
            if moment.time <= limit + self._tolerance and is_later:
                self._chosen[index] = moment

    def made(self) -> list[Moment]:
        """One frame for each wanted time, if any frame was offered."""
        if self.first is None:
            return []
        return [self._chosen.get(index, self.first) for index in range(len(self._wanted))]
