"""Random crops and mirrored clips of masked pre-training, each drawn once for all frames of a clip."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

SCALES = (1.0, 0.875, 0.75, 0.66)
# Of a crop in quarters of what is to spare: corners and middle, middles of the sides, half way to the corners.
_OFFSETS = (
    *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    *((0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)


@dataclass(frozen=True)
class MultiScaleCrop:
    """Crops of several sizes and shapes, from fixed places, and mirrored clips.

    Each side of a crop is the short side of the frame times a scale. Its two scales are the same or neighbours in the
    list, so that a crop may be somewhat wider or higher than its result.

    Args:
        scales: of the sides, from the largest to the smallest.
        flip: probability of a mirrored clip.

    Raises:
        ValueError: if a value is out of range.

    Source: Wang et al. 2016, arXiv:1608.00859, section 3.2.
    """

    scales: Sequence[float] = SCALES
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales must be one or more above 0 and up to 1, got {list(self.scales)}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip must be from 0 to 1, got {self.flip}")

    def change(
        self, frames: Sequence[Image.Image], size: tuple[int, int], generator: torch.Generator
    ) -> list[Image.Image]:
        """Crop the frames of a clip, which have one size, and mirror them or not.

        Args:
            frames: in RGB.
            size: height and width of the result.
            generator: draws the crop.
        """
        height, width = size
        box = self.draw_box(frames[0].size, generator)
        is_mirrored = float(torch.rand((), generator=generator)) < self.flip
        changed = []
        for frame in frames:
            crop = frame.crop(box).resize((width, height), Image.Resampling.BILINEAR)
            if is_mirrored:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            changed.append(crop)
        return changed

    def draw_box(self, size: tuple[int, int], generator: torch.Generator) -> tuple[int, int, int, int]:
        """Draw the left, upper, right and lower edge of a crop from a frame of a width and a height."""
        width, height = size
        sides = [max(int(min(size) * scale), 1) for scale in self.scales]
        pairs = []
        for number, side in enumerate(sides):
            for other in sides[max(number - 1, 0) : number + 2]:
                pairs.append((side, other))
        crop_width, crop_height = pairs[_draw(len(pairs), generator)]
        across, down = _OFFSETS[_draw(len(_OFFSETS), generator)]
        left = across * ((width - crop_width) // 4)
        top = down * ((height - crop_height) // 4)
        return left, top, left + crop_width, top + crop_height


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
