"""From a video file to the frames of one clip that ends at a given time, decoded with PyAV."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from transformers.utils import logging
from transformers.video_utils import VideoMetadata

from .decoding_containers import LIMITS, SourceLimits, VideoDecodeError, open_container, opened
from .decoding_pictures import to_rgb

logger = logging.get_logger(__name__)

# Seconds. A decimal such as 2.76 stands for the frame at 69/25 s, which the nearest float may miss by a hair.
TIME_TOLERANCE = 1e-6
# Timestamps that are out of order are put in order within this many frames.
REORDER_FRAMES = 8
# Seconds. Later than any video ends: seeking there leads to the last keyframe, whatever the header says.
FAR_FUTURE = 1e6


@dataclass
class ClipMetadata(VideoMetadata):
    """Facts about a clip: `height` and `width` of the upright original frame, and the time of each of its frames.

    `frames_indices` are `frame_times * fps`, rounded: exact for a constant rate, nominal for a varying one.
    """

    frame_times: list[float] | None = None

    @property
    def timestamps(self) -> list[float]:
        """Seconds of each frame on the clock of its video."""
        return super().timestamps if self.frame_times is None else self.frame_times


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
    return [timestamp - step / fps for step in reversed(range(int(num_frames)))]


def latest_frames(frame_times: Sequence[float], wanted: Sequence[float]) -> list[int]:
    """Index of the latest frame not after each wanted time, or of the earliest frame where there is none."""
    order = np.argsort(frame_times, kind="stable")
    ordered = [frame_times[index] for index in order]
    return [int(order[max(bisect_right(ordered, time + TIME_TOLERANCE) - 1, 0)]) for time in wanted]


def decode_frames(
    source: Any,
    timestamp: float | None = None,
    num_frames: int | None = 5,
    fps: float = 2.0,
    limits: SourceLimits = LIMITS,
) -> tuple[np.ndarray, ClipMetadata]:
    """Decode the clip of `num_frames` frames that ends at `timestamp`, `1 / fps` seconds apart.

    A frame is the latest one not after its wanted time, the first one where the clip starts before the video. Only
    the stretch from the keyframe before the clip is decoded, and only the wanted frames are kept; a stream without
    timestamps (raw H.264) is decoded from its start and counted at its rate.

    Args:
        source: path, http(s) URL, bytes or binary file object; a file object is read from its start, rewound and
            left open.
        timestamp: seconds on the clock of the video, whose first frame has time 0; the last frame when absent.
        num_frames: number of frames; every frame up to `timestamp` when `None`.
        fps: frames per second of the clip.
        limits: what `source` may claim or send.

    Returns:
        Frames `(t, h, w, 3)`, uint8 RGB, upright and with square pixels, and their metadata.

    Raises:
        FileNotFoundError: a path leads to no file.
        VideoDecodeError: `source` holds no video, or a wanted frame lies in or after damage.
        ValueError: `timestamp` lies after the last frame.
    """
    check_sampling(timestamp, num_frames, fps)
    with opened(source, limits) as (file, name), _VideoReader(file, name, limits) as reader:
        end = reader.last_time() if timestamp is None else float(timestamp)
        if num_frames is None:
            chosen = reader.read_all(end)
        else:
            chosen = reader.select([max(time, 0.0) for time in causal_timestamps(end, num_frames, float(fps))])
        if reader.concealed_from <= chosen[-1][0]:
            logger.warning(f"{name} is damaged at {reader.concealed_from:.3f} s: frames from there on may look wrong")
        pictures = {id(frame): to_rgb(frame, reader.stream, name, limits) for _, frame in chosen}
        if len({picture.shape for picture in pictures.values()}) > 1:
            raise VideoDecodeError(f"{name} changes its frame size within the clip that ends at {end:.3f} s")
        frames = np.stack([pictures[id(frame)] for _, frame in chosen])
        return frames, reader.metadata(frames, [time for time, _ in chosen])


def iter_frames(
    source: Any, source_format: str | None = None, limits: SourceLimits = LIMITS
) -> Iterator[tuple[float, np.ndarray | VideoDecodeError]]:
    """Decode a video from its start, or a camera as it comes, one frame in memory at a time.

    Args:
        source: as in `decode_frames`; with a format, whatever FFmpeg opens in it, such as a camera's device.
        source_format: FFmpeg's name of an input format, such as `v4l2`.
        limits: what `source` may claim or send.

    Yields:
        Seconds since the first frame, and the frame, `(h, w, 3)` as in `decode_frames`, in the order in which the
        decoder gives them: in a file with wrong timestamps a time may be that of an earlier frame or before it. An
        error stands in the place of what cannot be decoded, at the time of the frame before it; later frames may
        follow. What the decoder mends passes, with one warning.

    Raises:
        FileNotFoundError: a path leads to no file.
        VideoDecodeError: `source` holds no video.
    """
    with ExitStack() as stack:
        file, name = stack.enter_context(opened(source, limits, source_format))
        container, stream = open_container(file, name, source_format, limits)
        stack.enter_context(container)
        origin, seconds, warned = None, 0.0, False
        packets = container.demux(stream)
        while True:
            packet: Any = None
            try:
                packet = next(packets, None)
                frames = [] if packet is None else packet.decode()
            except av.FFmpegError as error:
                yield seconds, VideoDecodeError(f"{name} is damaged after {seconds:.3f} s: {error}")
                frames = []
            if packet is None:  # the end, or a source that cannot be read on
                break
            for frame in frames:
                if frame.time is None:
                    seconds = 0.0 if origin is None else seconds + float(1 / (stream.average_rate or 25))
                    origin = seconds if origin is None else origin
                else:
                    origin = frame.time if origin is None else origin
                    seconds = frame.time - origin
                if frame.is_corrupt and not warned:
                    logger.warning(f"{name} is damaged at {seconds:.3f} s: frames from there on may look wrong")
                warned = warned or bool(frame.is_corrupt)
                yield seconds, _picture_or_error(frame, stream, name, limits)
        if origin is None:
            raise VideoDecodeError(f"{name} holds no frame that can be decoded")


def _picture_or_error(
    frame: av.VideoFrame, stream: Any, name: str, limits: SourceLimits
) -> np.ndarray | VideoDecodeError:
    try:
        return to_rgb(frame, stream, name, limits)
    except VideoDecodeError as error:
        return error


@dataclass
class _Scan:
    """What one pass over a stretch of the video found."""

    chosen: list[tuple[float, av.VideoFrame]]
    first_time: float
    last_time: float
    covered_until: float
    passed_end: bool
    in_order: bool


class _VideoReader:
    """One open video whose frames can be read from any time on, on a clock that starts at its first frame."""

    def __init__(self, source: Any, name: str, limits: SourceLimits) -> None:
        self.source, self.name, self.limits = source, name, limits
        self.damage: Exception | None = None
        self.concealed_from = math.inf
        self.end: float | None = None
        self._open()
        try:
            self.rate = Fraction(self.stream.average_rate or self.stream.guessed_rate or 25)
            self._find_origin()
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> "_VideoReader":
        return self

    def __exit__(self, *_: Any) -> None:
        self.container.close()

    def _open(self) -> None:
        self.container, self.stream = open_container(self.source, self.name, limits=self.limits)

    def _find_origin(self) -> None:
        """Set the clock to zero at the first frame shown, and see whether frames carry timestamps at all."""
        times = []
        for frame in self._decoded():
            times.append(None if frame.pts is None else frame.pts * self.stream.time_base)
            if len(times) == REORDER_FRAMES:
                break
        if not times:
            reason = f": {self.damage}" if self.damage else ""
            raise VideoDecodeError(f"{self.name} holds no frame that can be decoded{reason}")
        known = [time for time in times if time is not None]
        self.has_times = len(known) == len(times)
        self.origin = min(known) if self.has_times else Fraction(0)
        # Few packets of a program stream have timestamps, and FFmpeg guesses wrong ones for the others after a seek.
        self.can_seek = self.has_times and self.container.format.name != "mpeg"

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """Decode from where the container stands; an error ends the frames and is kept as `damage`."""
        try:
            yield from self.container.decode(self.stream)
        except av.FFmpegError as error:
            self.damage = error

    def read(self, start: float | None) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yield `(time, frame)` from the keyframe before `start` on, or from the first frame if `start` is `None`."""
        self.damage, self.concealed_from = None, math.inf
        if start is None:
            self.container.close()
            self._open()
        else:
            ticks = int((self.origin + Fraction(start + TIME_TOLERANCE)) / self.stream.time_base)
            try:
                self.container.seek(ticks, stream=self.stream)
            except av.FFmpegError:
                return
        time: Fraction | None = None if start is not None else -1 / self.rate
        for frame in self._decoded():
            if self.has_times and frame.pts is not None:
                time = frame.pts * self.stream.time_base - self.origin
            elif time is not None:
                time += 1 / self.rate
            else:
                return
            if frame.is_corrupt:
                self.concealed_from = min(self.concealed_from, float(time))
            yield float(time), frame

    def starts_before(self, time: float) -> Iterator[float | None]:
        """Yield ever earlier times from which to try to read, at last `None`: the start of the file."""
        time, step = min(time, FAR_FUTURE), 0.0
        while self.can_seek and time - step > 0:
            yield time - step
            step = max(1.0, 2 * step)
        yield None

    def last_time(self) -> float:
        """Time of the last frame, found from the last keyframe on; damage in that stretch is an error."""
        expected = self.header_duration()
        starts = [FAR_FUTURE] if self.can_seek and expected is not None else []
        for start in [*starts, *self.starts_before(FAR_FUTURE if expected is None else expected)]:
            last, count = -1.0, 0
            for time, frame in self.read(start):
                count += 1
                if time >= last:
                    last, self.end = time, time + self._shown_for(frame)
            # After a shorter stretch, the last frame might be one out of order that precedes it.
            if count > REORDER_FRAMES:
                break
        if self.damage or self._promised_time() > last + REORDER_FRAMES / self.rate:
            raise self._damaged(last, "the last frame")
        return last

    def select(self, wanted: list[float]) -> list[tuple[float, av.VideoFrame]]:
        """Choose the latest frame not after each of the wanted times, which ascend and are zero or more."""
        for start in self.starts_before(wanted[0]):
            scan = self._scan(start, wanted)
            slack = 0.0 if scan.in_order else float(REORDER_FRAMES / self.rate)
            if start is None or scan.first_time <= wanted[0] - slack + TIME_TOLERANCE:
                break
        self._check_reached(scan, wanted[-1])
        return scan.chosen

    def _scan(self, start: float | None, wanted: list[float]) -> _Scan:
        """Read from `start` to a little after the last wanted time, keeping only the frames that are wanted."""
        chosen: dict[int, tuple[float, av.VideoFrame]] = {}
        first, last, until, in_order, beyond = math.inf, -math.inf, -math.inf, True, 0
        for time, frame in self.read(start):
            if first == math.inf and start is not None and time > wanted[0] + TIME_TOLERANCE:
                return _Scan([], math.inf, time, time, False, True)
            for index, limit in enumerate(wanted):
                if time <= limit + TIME_TOLERANCE and (index not in chosen or chosen[index][0] <= time):
                    chosen[index] = (time, frame)
            in_order = in_order and time >= last
            first = min(first, time)
            if time >= last:
                last, until = time, time + self._shown_for(frame)
            beyond += time > wanted[-1] + TIME_TOLERANCE
            if beyond > REORDER_FRAMES:
                break
        return _Scan([chosen[index] for index in sorted(chosen)], first, last, until, beyond > 0, in_order)

    def read_all(self, end: float) -> list[tuple[float, av.VideoFrame]]:
        """Read every frame up to `end`."""
        frames, last, until = [], 0.0, 0.0
        for time, frame in self.read(None):
            if time >= last:
                last, until = time, time + self._shown_for(frame)
            if time <= end + TIME_TOLERANCE:
                frames.append((time, frame))
            elif last > end + REORDER_FRAMES / self.rate:
                break
        self._check_reached(_Scan(frames, 0.0, last, until, last > end + TIME_TOLERANCE, True), end)
        return sorted(frames, key=lambda pair: pair[0])

    def _shown_for(self, frame: av.VideoFrame) -> float:
        """Seconds for which a frame is shown."""
        return float(frame.duration * self.stream.time_base if frame.duration else 1 / self.rate)

    def _check_reached(self, scan: _Scan, wanted: float) -> None:
        """Raise unless decoding came far enough to know which frame is shown at the last wanted time."""
        if scan.passed_end or wanted < scan.covered_until - TIME_TOLERANCE:
            return
        if self.damage or self._promised_time() > scan.last_time + REORDER_FRAMES / self.rate:
            raise self._damaged(scan.last_time, f"the frame at {wanted:.3f} s")
        if wanted > scan.covered_until + TIME_TOLERANCE:
            end = round(scan.covered_until, 6)
            raise ValueError(f"timestamp {wanted:.3f} s lies outside {self.name}, which ends at {end} s")

    def _damaged(self, last: float, wanted: str) -> VideoDecodeError:
        cause = self.damage or "the data end early"
        return VideoDecodeError(
            f"{self.name} is damaged: {wanted} cannot be decoded, because decoding stopped after the frame at "
            f"timestamp={round(last, 6)} ({cause})"
        )

    def _promised_time(self) -> float:
        """Time of the last frame in the index of the file; minus infinity where there is no index."""
        index = getattr(self.stream, "index_entries", ())  # PyAV 15, which lmms-eval asks for, does not show it
        if not self.has_times or len(index) == 0:
            return -math.inf
        return float(index[len(index) - 1].timestamp * self.stream.time_base - self.origin)

    def header_duration(self) -> float | None:
        """Seconds that the header gives for the video stream, or for the whole file; `None` where it is silent."""
        if self.stream.duration is not None:
            return float(self.stream.duration * self.stream.time_base)
        return None if self.container.duration is None else self.container.duration / av.time_base

    def metadata(self, frames: np.ndarray, times: list[float]) -> ClipMetadata:
        """Describe the clip `frames`, `(t, h, w, 3)`, shown at `times`."""
        indices = [round(time * self.rate) for time in times]
        duration = self.header_duration() if self.end is None else self.end
        length = 0 if duration is None else round(duration * self.rate)
        return ClipMetadata(
            total_num_frames=max(length, indices[-1] + 1),
            fps=float(self.rate),
            width=frames.shape[2],
            height=frames.shape[1],
            duration=duration,
            video_backend="pyav",
            frames_indices=indices,
            frame_times=times,
        )
