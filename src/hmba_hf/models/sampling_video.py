"""Which frames a clip holds: times that end at a given one, and the frames that are shown at them."""

import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers.video_utils import VideoMetadata

# Seconds. A decimal such as 2.76 stands for the frame at 69/25 s, which the nearest float may miss by rounding.
TIME_TOLERANCE = 1e-6
# Seconds. Containers round the times of frames to ticks of their clocks: by half of 1/600 s in QuickTime, or less.
LONGEST_ROUNDING = 1e-3


@dataclass
class ClipMetadata(VideoMetadata):
    """Facts about a clip: `height` and `width` of the upright original frame, and the time of each of its frames.

    `frames_indices` are `frame_times * fps`, rounded. Unknown facts are `None`: the rate and the indices where the
    rate varies or is assumed, the number of frames and the duration where neither the end of the file nor its header
    shows them.
    """

    total_num_frames: int | None  # type: ignore[assignment]  # transformers always knows it
    frame_times: list[float] | None = None

    @property
    def timestamps(self) -> list[float]:
        """Seconds of each frame on the clock of its video."""
        return super().timestamps if self.frame_times is None else self.frame_times

    @property
    def current_time(self) -> float | None:
        """Seconds at which the last frame is shown, if known."""
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


def check_rate(fps: float | None) -> None:
    """Raise `ValueError` unless there is a rate at which frames are sampled, `fps` > 0."""
    if fps is None:
        raise ValueError("fps must be a number greater than zero, got None")
    check_sampling(None, None, fps)


def _is_number(value: Any) -> bool:
    if isinstance(value, np.number):
        value = value.item()  # a narrow one would be compared with infinity
    limit = sys.float_info.max
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -limit <= value <= limit


def causal_timestamps(timestamp: float, num_frames: int, fps: float) -> list[float]:
    """Times of `num_frames` frames that end at `timestamp` and lie `1 / fps` seconds apart, oldest first.

    Times before the video are negative; the first frame stands for them.
    """
    check_sampling(timestamp, num_frames, None)
    check_rate(fps)
    return causal_times(timestamp, int(num_frames), fps)


def causal_times(end: float, num_frames: int, fps: float) -> list[float]:
    """The same on a clock that may go back behind the start of its file, so `end` may be negative."""
    return [end - step / fps for step in reversed(range(num_frames))]


def segment_times(duration: float, num_segments: int, position: float | Sequence[float] = 0.5) -> list[float]:
    """Times of one frame in each of equal segments, which together cover a video.

    Args:
        duration: of the video in seconds.
        num_segments: number of segments.
        position: of the frame in its segment, from 0 for its start up to but without 1; one for all or one for each.
            View `i` of `n`, counted from 0, is at `(i + 1) / (n + 1)`; training draws one for each segment.

    Raises:
        ValueError: if a value is out of its range, or if there are not as many positions as segments.

    Source: temporal segment networks, Wang et al. 2016, arXiv:1608.00859, section 3.1.
    """
    check_sampling(None, num_segments, None)
    if not (_is_number(duration) and duration > 0):
        raise ValueError(f"duration must be a number of seconds greater than zero, got {duration!r}")
    positions = np.asarray(position, dtype=float).tolist()
    if not isinstance(positions, list):
        positions = [positions] * int(num_segments)
    if len(positions) != num_segments:
        raise ValueError(f"position must be one for all or each of {num_segments} segments, got {len(positions)}")
    if not all(_is_number(place) and 0 <= place < 1 for place in positions):
        raise ValueError(f"position must be from 0 up to but without 1, got {position!r}")
    length = duration / num_segments
    return [float((number + place) * length) for number, place in enumerate(positions)]


def consecutive_times(
    duration: float,
    rate: float,
    num_frames: int,
    frame_step: int = 1,
    position: float = 0.5,
    start: float | None = None,
) -> list[float]:
    """Times of frames that follow each other at a step, each in the middle of the time for which its frame is shown.

    Args:
        duration: of the video in seconds.
        rate: frames per second.
        num_frames: number of frames.
        frame_step: frames from one to the next.
        position: of the clip among all that fit into the video, from 0 for the first up to but without 1. Frames
            after the end of a video that is too short stand for its last one.
        start: seconds at which the first frame is shown, instead.

    Raises:
        ValueError: if a value is out of its range, or if `start` lies after the video.
    """
    check_sampling(start, num_frames, rate)
    check_sampling(None, frame_step, duration)
    if not (_is_number(position) and 0 <= position < 1):
        raise ValueError(f"position must be from 0 up to but without 1, got {position!r}")
    count = max(round(duration * rate), 1)
    if start is None:
        slack = max(count - 1 - (num_frames - 1) * frame_step, 0)
        first = int(position * (slack + 1))
    else:
        if start > duration:
            raise ValueError(f"start must be from 0 to {duration:g} s, the end of the video, got {start}")
        first = int((start + TIME_TOLERANCE) * rate)
    return [(min(first + number * frame_step, count - 1) + 0.5) / rate for number in range(num_frames)]


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


def check_no_facts_of_a_file(facts: Mapping | None) -> None:
    """Raise a `ValueError` for metadata that comes with a file: its own are read, so these would change nothing."""
    if facts is not None:
        wanted = "video_metadata must be absent beside a file, which says when its frames are shown"
        raise ValueError(f"{wanted}, got {facts!r}")


def describe_frames(frames: np.ndarray, facts: Mapping | None) -> ClipMetadata:
    """Complete the metadata that came with the frames of a clip, `(t, c, h, w)`.

    Times may be negative, as those of a clock that was set.

    Raises:
        ValueError: if facts are unknown, are no numbers, or are not one for each frame.
    """
    if not isinstance(facts, Mapping | None):
        raise ValueError(f"video_metadata must be facts by name, got {facts!r}")
    given = {key: value for key, value in (facts or {}).items() if value is not None}
    if "timestamps" in given:
        given["frame_times"] = given.pop("timestamps")
    unknown = sorted(set(given) - set(ClipMetadata.__dataclass_fields__))
    if unknown:
        raise ValueError(f"video_metadata has unknown keys {unknown}")
    length, _, height, width = frames.shape
    for key in given.keys() & {"frames_indices", "frame_times"}:
        given[key] = _one_for_each(given[key], length, key)
    check_sampling(None, None, given.get("fps"))
    for key in given.keys() & {"total_num_frames", "duration", "height", "width"}:
        if not (_is_number(given[key]) and given[key] >= 0):
            raise ValueError(f"{key} of video_metadata must be a number, zero or more, got {given[key]!r}")
    given.setdefault("total_num_frames", length)
    if given["total_num_frames"] == length:
        given.setdefault("frames_indices", list(range(length)))
    return ClipMetadata(**{"height": height, "width": width, **given})


def _one_for_each(values: Any, length: int, key: str) -> list[Any]:
    """Return a fact of each frame of a clip as plain numbers."""
    listed = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise ValueError(f"video_metadata must give {key} as a list, got {values!r}")
    numbers = [value.item() if hasattr(value, "item") else value for value in listed]
    if len(numbers) != length:
        raise ValueError(f"video_metadata must give {key} for {length} frames, got {len(numbers)}")
    for number in numbers:
        if not _is_number(number):
            raise ValueError(f"video_metadata must give {key} as numbers, got {number!r}")
    return numbers


def known_times(metadata: VideoMetadata) -> Sequence[float] | None:
    """Seconds of each frame, or `None` where `metadata` has none."""
    times = getattr(metadata, "frame_times", None)
    if times is not None or metadata.fps is None:
        return times
    indices = range(metadata.total_num_frames) if metadata.frames_indices is None else metadata.frames_indices
    return [index / metadata.fps for index in indices]


def metadata_of(metadata: ClipMetadata, chosen: np.ndarray) -> ClipMetadata:
    """Narrow the metadata of a clip to the chosen frames."""
    narrowed: dict[str, Any] = dict(metadata)
    times = known_times(metadata)
    for key, values in (("frames_indices", metadata.frames_indices), ("frame_times", times)):
        narrowed[key] = None if values is None else [values[index] for index in chosen]
    return ClipMetadata(**narrowed)
