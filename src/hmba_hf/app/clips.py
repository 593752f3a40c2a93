"""Clips that a visitor has chosen or uploaded: how long they are, and their frames."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image

from ..models.decoding_containers import VideoDecodeError
from ..models.decoding_video import decode_frames, video_duration
from .limits import PageLimits


class Frames(NamedTuple):
    """The frames of a clip up to a moment.

    Attributes:
        pictures: oldest first, the last one current.
        times: of the pictures, in seconds.
    """

    pictures: Sequence[Image.Image]
    times: Sequence[float]


def open_clip(path: str | None, limits: PageLimits) -> BinaryIO:
    """Open a clip, whose place on disk no message shall name.

    Raises:
        ValueError: if there is none, or none any more, or if it is larger than allowed.
    """
    if not path:
        raise ValueError("a clip must be chosen or uploaded first, got none")
    if not Path(path).is_file():
        raise ValueError("the clip must be uploaded again, got one that is no longer kept")
    size = Path(path).stat().st_size
    if size > limits.max_upload_bytes:
        raise ValueError(f"a clip must have at most {limits.max_upload_bytes} bytes, got {size}")
    return open(path, "rb")


def clip_seconds(path: str | None, limits: PageLimits) -> float:
    """Return how long a clip is.

    Raises:
        ValueError: if there is no clip, if it cannot be read, or if it is longer than allowed.
    """
    with open_clip(path, limits) as file:
        seconds = video_duration(file, limits.of_sources)
    if math.isinf(seconds):
        raise VideoDecodeError("a clip must say where it ends, got one that is damaged there")
    if seconds > limits.max_clip_seconds:
        raise ValueError(f"a clip must have at most {limits.max_clip_seconds:g} seconds, got {seconds:.1f}")
    return seconds


def read_frames(
    path: str | None, seconds: float | None, limits: PageLimits, num_frames: int = 1, fps: float = 2.0
) -> Frames:
    """Read the frames that lead to a moment.

    Args:
        path: of the clip.
        seconds: the moment; the last frame when absent.
        limits: of the page.
        num_frames: how many.
        fps: how many a second.

    Raises:
        ValueError: if there is no clip, if it cannot be read, or if the moment is outside of it.
    """
    with open_clip(path, limits) as file:
        frames, metadata = decode_frames(file, seconds, num_frames, fps, limits.of_sources)
    return Frames([Image.fromarray(frame) for frame in frames], metadata.timestamps)
