"""Clips for training: frames drawn at random times, and frames as normalised pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...models.decoding_video import decode_segments


def draw_frames(
    video: Any, num_frames: int, rules: Mapping[str, Any], generator: torch.Generator
) -> list[Image.Image]:
    """Draw one frame of each of as many equal segments of a video, at a random time of each, in RGB.

    Args:
        video: path or bytes of a file, or its frames as pictures, oldest first.
        num_frames: number of segments.
        rules: for files, as `LocalVideoOptions.rules` has them.
        generator: draws the times.

    Raises:
        OSError, ValueError: if the video cannot be read, as in `decode_segments`.
    """
    positions = torch.rand(num_frames, generator=generator, dtype=torch.float64)
    if isinstance(video, Sequence) and not isinstance(video, str | bytes):
        places = (torch.arange(num_frames) + positions) * (len(video) / num_frames)
        return [video[int(place)].convert("RGB") for place in places]
    frames, _ = decode_segments(video, num_frames, positions.tolist(), **rules)
    return [Image.fromarray(frame) for frame in frames]


def to_pixels(frames: Sequence[Image.Image], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return frames of one size as normalised pixels, `(t, 3, height, width)` in float32.

    Args:
        frames: in RGB.
        mean, std: of each colour, of values from 0 to 1.
    """
    pixels = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames]))  # (t, height, width, 3)
    pixels = pixels.permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
