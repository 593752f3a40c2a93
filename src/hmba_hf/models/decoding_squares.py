"""A frame on a square of its longer side, and resized without the memory for that square."""

from typing import Any

import numpy as np
from PIL import Image

# Pixels of a stretch of rows or columns that is resized at once.
_BAND = 2**18
# A picture of more rows, and 16 times as many rows as columns, is turned first: its rows would be padded to as many
# columns, so that a file of one column and a million rows would take days.
_TALL = 2**12
_NARROW = 16


def expand_to_square(image: Any, fill: float = 255) -> Any:
    """Centre an image on a square of its longer side; an odd remainder goes to the bottom or the right.

    Args:
        image: PIL image, or array `(..., h, w)`.
        fill: value of the padding in every channel, white by default.

    Source: Shikra's Expand2square, which the released H-MBA applies to every frame.
    """
    if isinstance(image, Image.Image):
        side, bands = max(image.size), len(image.getbands())
        square = Image.new(image.mode, (side, side), int(fill) if bands == 1 else (int(fill),) * bands)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square
    height, width = image.shape[-2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    padded = np.full((*image.shape[:-2], side, side), fill, dtype=image.dtype)
    padded[..., top : top + height, left : left + width] = image
    return padded


def resize_squared(frame: Any, size: tuple[int, int], resample: int, fill: int) -> np.ndarray:
    """Pad a frame to a square as `expand_to_square` does, and resize it with Pillow: the same pixels, less memory.

    Pillow resizes the rows first and then the columns, each by itself. So rows are padded and resized a few at a time,
    and then columns are. Pictures of one column or a few are resized the other way round, with other roundings.

    Args:
        frame: `(h, w, channels)`, uint8, of 1 or 3 channels; or `PictureRows`, of which a few are made at a time.
        size: height and width of the result.
        resample: Pillow's number of a filter.
        fill: value of the padding in every channel.

    Returns:
        `(*size, channels)`, uint8.
    """
    height, width, channels = frame.shape
    if size == (height, width) and height == width:  # Pillow would copy each pixel
        return np.array(frame)
    if height > max(_TALL, _NARROW * width):
        turned = resize_squared(np.asarray(frame).swapaxes(0, 1), size[::-1], resample, fill)
        return np.ascontiguousarray(turned.swapaxes(0, 1))
    side = max(height, width)
    top = (side - height) // 2
    left = (side - width) // 2
    narrow = np.empty((height, size[1], channels), np.uint8)
    for start, stop in _bands(height, side):
        band = np.full((stop - start, side, channels), fill, np.uint8)
        band[:, left : left + width] = frame[start:stop]
        narrow[start:stop] = _resize(band, (stop - start, size[1]), resample)
    small = np.empty((*size, channels), np.uint8)
    for start, stop in _bands(size[1], side):
        band = np.full((side, stop - start, channels), fill, np.uint8)
        band[top : top + height] = narrow[:, start:stop]
        small[:, start:stop] = _resize(band, (size[0], stop - start), resample)
    return small


def _bands(length: int, side: int) -> list[tuple[int, int]]:
    """Cut `length` lines of `side` pixels into bands."""
    step = max(_BAND // side, 1)
    return [(start, min(start + step, length)) for start in range(0, length, step)]


def _resize(pixels: np.ndarray, size: tuple[int, int], resample: int) -> np.ndarray:
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    resized = np.asarray(picture.resize((size[1], size[0]), resample))
    return resized[..., None] if resized.ndim == 2 else resized
