"""Videos in the forms in which vLLM hands them over, each brought to one clip that H-MBA's processor reads."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from ...installation import missing_package
from ...models.decoding_clips import stack_frames

try:
    from vllm.multimodal.media import MediaWithBytes
    from vllm.multimodal.parse import MultiModalDataItems, MultiModalDataParser, ProcessorBatchItems
    from vllm.multimodal.video import VideoLoader
except ImportError as missing:
    raise missing_package("the vLLM plug-in needs", "vllm") from missing

READER = "hmba"
# What vLLM calls frames that came as pictures in base64, whose bytes are no video.
_PICTURES = "jpeg_sequence"
# Of vLLM's metadata, what says nothing about the frames.
_NOT_OF_FRAMES = ("do_sample_frames", "video_backend")


class VideoBytes(VideoLoader):
    """A reader of videos that leaves them whole: which frames are wanted depends on the request's `timestamp`."""

    @classmethod
    def load_bytes(cls, data: bytes, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Return no frames; vLLM keeps the bytes beside them."""
        return np.zeros((0, 1, 1, 3), np.uint8), {"video_backend": READER}


class Clip(NamedTuple):
    """One video of a prompt.

    Attributes:
        source: bytes of a file, or frames, `(t, h, w, 3)` or `(t, 3, h, w)`.
        metadata: of frames: their `fps` or `timestamps`.
        timestamp: the current moment in seconds; the end when absent.
    """

    source: bytes | np.ndarray
    metadata: dict[str, Any] | None = None
    timestamp: float | None = None


class ClipItems(ProcessorBatchItems):
    """The clips of one prompt."""

    def __init__(self, clips: list[Clip | None]) -> None:
        super().__init__(clips, "video")


class ClipParser(MultiModalDataParser):
    """Takes the videos of a prompt: each a path, bytes, frames, or frames with their metadata."""

    def _parse_video_data(self, data: Any) -> ClipItems | None:
        if data is None:
            return None
        if _is_one_video(data):
            videos = [data]
        elif isinstance(data, (list, tuple, np.ndarray, Tensor)):
            videos = list(data)
        else:
            raise _no_video(data)
        return ClipItems([None if video is None else _as_clip(video) for video in videos])


def clips_of(items: MultiModalDataItems) -> list[Any]:
    """Return the clips of a prompt; `None` stands for one that vLLM holds under its name."""
    return items["video"].get_all() if "video" in items else []


def _is_one_video(data: Any) -> bool:
    if isinstance(data, (str, os.PathLike, bytes, MediaWithBytes, Clip)):
        return True
    if isinstance(data, (np.ndarray, Tensor)):
        return data.ndim == 4
    return _is_pair(data) or _are_frames(data)


def _is_pair(data: Any) -> bool:
    """Whether it is frames with their metadata, which may be `None`."""
    if not isinstance(data, tuple) or len(data) != 2 or not isinstance(data[1], Mapping | None):
        return False
    return isinstance(data[0], (np.ndarray, Tensor)) or _are_frames(data[0])


def _are_frames(data: Any) -> bool:
    return isinstance(data, (list, tuple)) and bool(data) and all(_is_frame(item) for item in data)


def _is_frame(item: Any) -> bool:
    return isinstance(item, Image.Image) or (isinstance(item, (np.ndarray, Tensor)) and item.ndim == 3)


def _as_clip(video: Any) -> Clip:
    """Bring one video to a clip.

    Raises:
        ValueError: if it is in none of the forms that are read.
    """
    if isinstance(video, Clip):
        return video
    if isinstance(video, MediaWithBytes):
        frames, metadata = video.media
        if metadata.get("video_backend") != _PICTURES:
            return Clip(video.original_bytes)
        video = (frames, metadata)
    if isinstance(video, bytes):
        return Clip(video)
    if isinstance(video, (str, os.PathLike)):
        if "://" in str(video):
            raise ValueError(
                f"a video of `generate` must be a file, bytes or frames, got {video!r}: `chat` fetches it"
            )
        return Clip(Path(video).read_bytes())
    metadata = None
    if _is_pair(video):
        video, metadata = video
        metadata = {name: value for name, value in (metadata or {}).items() if name not in _NOT_OF_FRAMES}
    if isinstance(video, (np.ndarray, Tensor)):
        if video.ndim != 4:
            shape = tuple(video.shape)
            raise ValueError(f"frames must be (t, height, width, 3) or (t, 3, height, width), got {shape}")
    elif not _are_frames(video):
        raise _no_video(video)
    if not isinstance(video, np.ndarray):
        video = stack_frames(video)
    return Clip(video, metadata)


def _no_video(data: Any) -> ValueError:
    kind = type(data).__name__
    return ValueError(f"a video must be a file, bytes, frames, or a pair of frames and their metadata, got {kind}")


__all__ = ["READER", "Clip", "ClipItems", "ClipParser", "VideoBytes", "clips_of"]
