"""Clips for training: frames drawn at random times, and frames as normalised pixels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

# How a processor gives frames that are to be changed before they are cut and normalised.
_UNCHANGED = {"do_resize": False, "do_center_crop": False, "do_normalize": False}
_SEEDS = 2**62


def video_of(sample: Any) -> Any:
    """Return the video of a sample as a processor takes it: a path, bytes, or a list of pictures.

    Args:
        sample: an `ActionSample`, or one with `frames`.
    """
    frames = getattr(sample, "frames", None)
    if frames is None and not isinstance(sample.video, tuple):
        return sample.video
    return list(sample.video if frames is None else frames)


def draw_frames(video: Any, processor: Any, generator: torch.Generator | None) -> list[Image.Image]:
    """Draw the frames of a clip at random times, as a processor samples them, whole and in RGB.

    Args:
        video: as `video_of` returns it.
        processor: a `ClipVideoProcessor`. Its sampling and rules for files are those of training.
        generator: draws the times; those of a prediction when it is `None`.

    Raises:
        OSError, ValueError: if the video cannot be read.
    """
    options: dict[str, Any] = {"num_frames": processor.num_frames}
    if generator is not None:
        options = {"generator": int(torch.randint(_SEEDS, (), generator=generator))}
    read = processor(videos=[video], return_tensors="np", **options, **_UNCHANGED)
    values = np.round(read["pixel_values_videos"][0] * 255).astype(np.uint8)  # (t, 3, h, w)
    return [Image.fromarray(frame) for frame in values.transpose(0, 2, 3, 1)]


def to_pixels(frames: Sequence[Image.Image], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return frames of one size as normalised pixels, `(t, 3, height, width)` in float32.

    Args:
        frames: in RGB.
        mean, std: of each colour, of values from 0 to 1.
    """
    pixels = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames]))  # (t, height, width, 3)
    pixels = pixels.permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
