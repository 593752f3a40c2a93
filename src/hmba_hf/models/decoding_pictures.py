"""From a decoded frame to an upright RGB picture with square pixels."""

from typing import Any

import av
import numpy as np
from transformers.image_transforms import convert_to_rgb

# Players stretch frames whose pixels are not square. Ratios this close to 1 only repair a rounded size.
SQUARE_PIXEL_TOLERANCE = 0.01


def to_rgb(frame: av.VideoFrame, stream: Any) -> np.ndarray:
    """Convert a frame to `(h, w, 3)` uint8 RGB: square pixels, upright, transparency over white."""
    ratio = float(stream.sample_aspect_ratio or 1)
    width = frame.width if abs(ratio - 1) <= SQUARE_PIXEL_TOLERANCE else max(round(frame.width * ratio), 1)
    has_alpha = any(component.is_alpha for component in frame.format.components)
    pixels: np.ndarray = frame.to_ndarray(
        format="rgba" if has_alpha else "rgb24", width=width, interpolation="BICUBIC"
    )
    if has_alpha:
        pixels = np.asarray(convert_to_rgb(pixels, return_numpy=True, input_data_format="channels_last"))
    return _apply_display_matrix(pixels, frame)


def _apply_display_matrix(pixels: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Turn and mirror `(h, w, 3)` as the display matrix of the frame asks, to the nearest right angle.

    Formula: `(x', y') = (a x + c y, b x + d y)` with the matrix stored as `a, b, u, c, d, v, ...`.
    """
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return pixels
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(side_data), dtype=np.int32)[:5])
    if abs(b) > abs(a):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    if a < 0:
        pixels = pixels[:, ::-1]
    if d < 0:
        pixels = pixels[::-1]
    return pixels
