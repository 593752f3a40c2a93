"""From a video file to the frames of one clip, which ends at a given time or spreads over it, decoded with PyAV."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from .decoding_containers import LIMITS, SourceLimits, VideoDecodeError, opened
from .decoding_reader import VideoReader
from .decoding_streams import check_source_fps, iter_frames
from .sampling_video import (
    TIME_TOLERANCE,
    ClipMetadata,
    causal_times,
    causal_timestamps,
    check_rate,
    check_sampling,
    latest_frames,
    metadata_of,
    segment_times,
)


def decode_frames(
    source: Any,
    timestamp: float | None = None,
    num_frames: int | None = 5,
    fps: float = 2.0,
    limits: SourceLimits = LIMITS,
    source_fps: float | None = None,
    only_whole: bool = False,
    prepare: Callable[[Any], np.ndarray] | None = None,
    prepares_rows: bool = False,
) -> tuple[np.ndarray, ClipMetadata]:
    """Decode the clip of `num_frames` frames that ends at `timestamp`, `1 / fps` seconds apart.

    A frame is the latest one not after its wanted time, the first one where the clip starts before the video. Only
    the stretch from the keyframe before the clip is decoded, and only the wanted frames are kept. Of H.264, H.265 and
    AV1 in plain MP4 and Matroska files, pictures of that stretch that none of the clip needs are passed over, and with
    them their damage. A stream without timestamps (raw H.264) is decoded from its start and counted at its rate.
    Where the clock of a file goes back, another recording begins: a clip shows one recording, without a timestamp
    the last one. Outside of the stretch that is decoded only MPEG streams show it. Times that a container rounds, as
    Matroska to milliseconds, may miss their frames by that much.

    Args:
        source: path, http(s) URL, bytes or binary file object; a file object is read from its start, rewound and
            left open.
        timestamp: seconds on the clock of the video, whose first frame has time 0; the last frame when absent.
        num_frames: number of frames; every frame up to `timestamp` when `None`.
        fps: frames per second of the clip.
        limits: of `source` and its claims.
        source_fps: frames per second of a stream without timestamps, instead of the rate that its headers declare.
        only_whole: make a frame that the decoder has mended, or that depends on one, an error instead of a warning.
        prepare: makes of each frame, `(h, w, 3)`, what is returned of it, such as a smaller one, as soon as it comes.
        prepares_rows: hand heavy frames to `prepare` as `decoding_pictures.PictureRows`, which takes less memory.

    Returns:
        Frames `(t, h, w, 3)`, uint8 RGB, upright and with square pixels, and their metadata. Beside them at most 16
        times the memory of one RGB frame is taken, unless the decoder itself takes more; see `SourceLimits`.

    Raises:
        FileNotFoundError: a path leads to no file.
        VideoDecodeError: `source` holds no video, or a wanted frame is lost or depends on one that is.
        ValueError: `timestamp` lies after the last frame.
    """
    check_sampling(timestamp, num_frames, fps)
    if num_frames is not None:
        check_rate(fps)
    check_source_fps(source_fps)
    with opened(source, limits) as (file, name), VideoReader(file, name, limits, source_fps) as reader:
        reader.prepare = prepare
        reader.prepares_rows = prepares_rows
        if num_frames is None:
            end = reader.last_time() if timestamp is None else float(timestamp)
            scan = reader.read_all(end, is_last=timestamp is None)
        elif timestamp is None:
            scan = reader.select_last(partial(causal_times, num_frames=int(num_frames), fps=float(fps)))
        else:
            scan = reader.select(causal_times(float(timestamp), int(num_frames), float(fps)), is_last=False)
        return reader.clip(scan, only_whole)


def decode_segments(
    source: Any,
    num_frames: int = 8,
    position: float | Sequence[float] = 0.5,
    limits: SourceLimits = LIMITS,
    source_fps: float | None = None,
    only_whole: bool = False,
    prepare: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, ClipMetadata]:
    """Decode frames that spread evenly over a whole video, one of each of `num_frames` equal segments.

    Args:
        num_frames: number of segments.
        position: of a frame in its segment, as in `segment_times`.
        source, limits, source_fps, only_whole, prepare: as in `decode_times`, which this is otherwise.
    """
    segment_times(1.0, num_frames, position)  # before anything is opened

    def choose(duration: float, rate: float) -> list[float]:
        return segment_times(duration, num_frames, position)

    return decode_times(source, choose, limits, source_fps, only_whole, prepare)


def decode_times(
    source: Any,
    choose: Callable[[float, float], Sequence[float]],
    limits: SourceLimits = LIMITS,
    source_fps: float | None = None,
    only_whole: bool = False,
    prepare: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, ClipMetadata]:
    """Decode the frames at times that are chosen once the length of the video is known.

    Where a keyframe lies between two times, the frames before it are not decoded, so that the cost of a frame does not
    depend on the length of a file in which one can seek. Packets show the length of a plain file, as for
    `decode_frames`, and its end is not decoded unless it is wanted. Of a file of several recordings, the last one
    counts, if what is read shows them; MPEG streams always do.

    Args:
        choose: returns seconds since the first frame, in any order, from the duration of the video in seconds and
            its frames per second, the average where the rate varies. A time after the last frame stands for that one.
        source, limits, source_fps, only_whole, prepare: as in `decode_frames`.

    Returns:
        As `decode_frames`, the frames in the order of the chosen times.

    Raises:
        FileNotFoundError: a path leads to no file.
        VideoDecodeError: `source` holds no video, or its end or a wanted frame is lost or depends on one that is.
    """
    check_source_fps(source_fps)
    with opened(source, limits) as (file, name), VideoReader(file, name, limits, source_fps) as reader:
        reader.prepare = prepare
        knew_breaks = reader.may_have_breaks
        frames, metadata = _read_times(reader, choose, only_whole)
        if reader.may_have_breaks and not knew_breaks:  # what was read holds several recordings
            frames, metadata = _read_times(reader, choose, only_whole)
        return frames, metadata


def _read_times(
    reader: VideoReader, choose: Callable[[float, float], Sequence[float]], only_whole: bool
) -> tuple[np.ndarray, ClipMetadata]:
    first, last, end = reader.span()
    chosen = choose(max(end - first, TIME_TOLERANCE), float(reader.video.rate))
    wanted = [min(first + time, last) for time in chosen]
    order = np.argsort(wanted, kind="stable")
    frames, metadata = reader.clip_of_stretches(sorted(wanted), last, only_whole)
    places = np.argsort(order)
    if (places == np.arange(len(places))).all():
        return frames, metadata
    return frames[places], metadata_of(metadata, places)


def video_duration(source: Any, limits: SourceLimits = LIMITS, source_fps: float | None = None) -> float:
    """Seconds from the first picture of a video to the end of its last one, which is decoded for it.

    Where the end is damaged, it is the duration of the header, and infinite where the header has none.

    Args:
        source, limits, source_fps: as in `decode_frames`.

    Raises:
        FileNotFoundError: a path leads to no file.
        VideoDecodeError: `source` holds no video.
    """
    check_source_fps(source_fps)
    with opened(source, limits) as (file, name), VideoReader(file, name, limits, source_fps) as reader:
        return reader.duration()


__all__ = [
    "ClipMetadata",
    "VideoDecodeError",
    "causal_timestamps",
    "check_sampling",
    "decode_frames",
    "decode_segments",
    "decode_times",
    "iter_frames",
    "latest_frames",
    "segment_times",
    "video_duration",
]
