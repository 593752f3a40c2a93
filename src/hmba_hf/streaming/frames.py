"""The frames that a video stream is given: what they are, and why one cannot follow another."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..models.decoding_containers import VideoDecodeError
from ..models.decoding_stills import load_picture, upright

_CHANNELS = (1, 3, 4)


class FrameError(ValueError):
    """A frame that cannot follow those before: it is no picture, of another kind, or has no time of its own."""


class KindChange(FrameError):
    """A frame of another size or dtype than those before."""


class TimeJump(FrameError):
    """A frame with a time before the last one's, or more than a whole clip after it."""


@dataclass(eq=False)
class WindowFrame:
    """A frame in the window of a stream.

    Attributes:
        rows: of its tokens, `(1, 1, p, d)`.
        projected: what the adapter's scans read of it wherever it stands, once it was computed.
    """

    rows: Tensor
    projected: dict[str, Tensor] | None = None


def upright_frame(frame: Any) -> Any:
    """Turn a picture upright; one that is upright need not be decoded for that.

    Raises:
        FrameError: if it is damaged.
    """
    if not isinstance(frame, Image.Image):
        return frame
    try:
        return upright(frame, "a frame")
    except VideoDecodeError as error:
        raise FrameError(str(error)) from error


def load_frame(frame: Any) -> None:
    """Decode a picture that was opened alone, before frames of other cameras are encoded beside it.

    Raises:
        FrameError: if it is damaged.
    """
    if isinstance(frame, Image.Image):
        try:
            load_picture(frame, "a frame")
        except VideoDecodeError as error:
            raise FrameError(str(error)) from error


def copy_frame(frame: Any) -> Any:
    """Copy a picture, array or tensor, since a camera may write its next frame into it; errors of `load_frame`."""
    load_frame(frame)
    if isinstance(frame, Tensor):
        return frame.clone()
    return frame.copy()


def describe_frame(frame: Any) -> tuple[tuple[int, ...], str]:
    """Return `(height, width, channels)` and the dtype of a picture.

    Raises:
        FrameError: if it is no picture.
    """
    if isinstance(frame, Image.Image):
        dtype = "uint8"
        if frame.mode.startswith(("I", "F")):
            dtype = frame.mode
        return (frame.height, frame.width, len(frame.getbands())), dtype
    shape: tuple[int, ...] = ()
    if isinstance(frame, (np.ndarray, Tensor)):
        shape = tuple(frame.shape)
    if len(shape) not in (2, 3):
        got = type(frame).__name__
        if shape:
            got += f" of shape {shape}"
        raise FrameError(f"a frame must be a picture, or (h, w), (h, w, channels) or (channels, h, w), got {got}")
    if len(shape) == 2:
        shape = (*shape, 1)
    elif shape[0] in _CHANNELS and shape[2] not in _CHANNELS:
        shape = (*shape[1:], shape[0])
    return shape, str(frame.dtype).removeprefix("torch.")
