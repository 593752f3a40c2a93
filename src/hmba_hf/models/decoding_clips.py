"""What a caller may give as videos: files, arrays, pictures, in any nesting, to the frames of each clip."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from transformers.image_utils import ChannelDimension
from transformers.utils import is_torch_tensor

from .decoding_containers import LIMITS, SourceLimits
from .decoding_pictures import add_colours, channels_first, checked_pixels
from .decoding_stills import decode_picture, load_frame, read_picture, upright_rgb


def flatten_videos(videos: Any, depth: int = 0) -> list[Any]:
    """List the clips in any nesting of them.

    A clip is a path, URL, bytes or file object; an array with 4 dimensions; a list of frames (PIL images or arrays);
    a single frame; or, as in transformers, a list of image paths inside a list of lists.
    """
    if is_file(videos) or _is_frame(videos) or (_is_array(videos) and videos.ndim == 4):
        return [videos]
    if _is_array(videos) and videos.ndim == 5:
        return list(videos)
    if not isinstance(videos, (list, tuple)) or len(videos) == 0:
        got = f"{type(videos).__name__} of shape {tuple(getattr(videos, 'shape', ()))}"
        raise ValueError(
            f"videos must be a video, a list of frames or a list of videos, none of them empty, got {got}"
        )
    if all(_is_frame(item) for item in videos) or (depth == 2 and all(isinstance(item, str) for item in videos)):
        return [videos]
    return [clip for item in videos for clip in flatten_videos(item, depth + 1)]


def flatten_pictures(images: Any, limits: SourceLimits | None = None) -> list[Any]:
    """List the pictures in any nesting of them, each as a clip of one frame; files are read within `limits`.

    A picture is a path, URL, bytes, file object or base64 text; a PIL image; or an array with 2 or 3 dimensions. An
    array with more dimensions is a list of pictures. A prompt without any has an empty list in a list of lists.

    Raises:
        VideoDecodeError: a file holds no picture.
        ValueError: for anything else.
    """
    if isinstance(images, str):
        return [[load_frame(images, limits or LIMITS)]]
    if is_file(images):
        return [[read_picture(images, limits or LIMITS)]]
    if _is_frame(images):
        return [[images]]
    if not isinstance(images, (list, tuple)) and not (_is_array(images) and images.ndim > 3):
        raise ValueError(f"images must be pictures or lists of pictures, got {type(images).__name__}")
    return [clip for item in images for clip in flatten_pictures(item, limits)]


def is_file(value: Any) -> bool:
    """Return whether a value is a path, URL, bytes or a file object."""
    return isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(value, "read")


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or is_torch_tensor(value)


def _is_frame(value: Any) -> bool:
    return isinstance(value, Image.Image) or (_is_array(value) and value.ndim in (2, 3))


def _to_array(value: Any) -> np.ndarray:
    if is_torch_tensor(value):
        if value.is_meta:
            raise ValueError("pixels must be in memory, got a tensor on the device meta")
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def stack_frames(
    clip: Any,
    layout: Any = None,
    do_convert_rgb: bool | None = True,
    do_rescale: bool | None = True,
    limits: SourceLimits = LIMITS,
) -> np.ndarray:
    """Stack the frames of a clip to `(t, c, h, w)`: uint8, or float32 in [0, 1] when nothing is to be rescaled.

    Args:
        clip: an array with 4 dimensions, a list of frames, one frame, or a list of paths of pictures.
        layout: whether the channels of arrays come first or last; found by their number when absent.
        do_convert_rgb: turn grey and transparent frames into RGB.
        do_rescale: whether pixels are going to be rescaled to [0, 1].
        limits: of picture files and of pictures.

    Raises:
        VideoDecodeError: a picture is damaged or exceeds `limits`.
        ValueError: frames differ in size, or are no pictures.
    """
    if isinstance(clip, (list, tuple)) and isinstance(clip[0], str):
        clip = [load_frame(item, limits) for item in clip]
    if _is_array(clip) and clip.ndim == 4:
        frames = _to_array(clip)
    else:
        listed = list(clip) if isinstance(clip, (list, tuple)) else [clip]
        if any(isinstance(frame, Image.Image) for frame in listed):
            layout = ChannelDimension.LAST
        arrays = [_frame_to_array(frame, do_convert_rgb, limits) for frame in listed]
        shapes = sorted({array.shape for array in arrays})
        if len(shapes) > 1:
            raise ValueError(f"all frames of a clip must have the same size, got {shapes}")
        frames = np.stack(arrays)
    frames = checked_pixels(channels_first(frames, layout), do_rescale)
    if do_convert_rgb and frames.shape[1] != 3:
        frames = np.stack([add_colours(frame) for frame in frames])
    return frames


def _frame_to_array(frame: Any, do_convert_rgb: bool | None, limits: SourceLimits) -> np.ndarray:
    """Turn a PIL image or an array into an array with a channel axis."""
    if isinstance(frame, Image.Image):
        frame = upright_rgb(frame, limits) if do_convert_rgb else decode_picture(frame, limits)
    array = _to_array(frame)
    return array[..., None] if array.ndim == 2 else array


def one_per_clip(value: Any, count: int, name: str) -> list[Any]:
    """Spread one value over all clips, or check that a (nested) list has one for each."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        if isinstance(value, Mapping) and count > 1:
            raise ValueError(f"expected {count} entries of {name}, one for each video, got one")
        return [value] * count
    values = [inner for item in value for inner in (item if isinstance(item, (list, tuple)) else [item])]
    if len(values) != count:
        raise ValueError(f"expected {count} entries of {name}, one for each video, got {len(values)}")
    return values
