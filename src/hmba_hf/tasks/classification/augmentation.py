"""Random changes of a clip in training, each drawn once for all of its frames."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image

from .rand_augment import RandAugment, apply_choices

_TRIES = 10
_RATIOS = (3 / 4, 4 / 3)  # width over height of crops
_ERASED_AREAS = (0.02, 1 / 3)
_ERASED_RATIOS = (0.3, 1 / 0.3)
# Words of classes that a mirror would make wrong.
_DIRECTIONS = frozenset("left right leftwards rightwards clockwise anticlockwise counterclockwise".split())


class Box(NamedTuple):
    """A part of a picture in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Augmentation:
    """How the clips of a training differ from the files.

    Args:
        min_area: least share of a frame that a random crop keeps; 1 keeps the whole frame, whatever its shape.
        flip: probability of a mirrored clip; see `names_direction`.
        rand_augment: operations on the frames, if there are any.
        erasing: probability that noise takes the place of a random rectangle, the same one in all frames.

    Raises:
        ValueError: if a value is out of range.
    """

    min_area: float = 0.08
    flip: float = 0.5
    rand_augment: RandAugment | None = None
    erasing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.min_area <= 1:
            raise ValueError(f"min_area must be above 0 and at most 1, got {self.min_area}")
        for name in ("flip", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")

    def change_frames(
        self, frames: Sequence[Image.Image], size: tuple[int, int], generator: torch.Generator
    ) -> list[Image.Image]:
        """Crop, flip and change the frames of a clip in RGB, which have one size.

        Args:
            size: height and width of the result.

        Differs: the released code crops and flips after RandAugment, and so changes pixels that it then throws away.
        """
        height, width = size
        first = frames[0]
        box = draw_crop(first.width, first.height, self.min_area, generator)
        corners = (box.left, box.top, box.left + box.width, box.top + box.height)
        changed = []
        for frame in frames:
            changed.append(frame.resize((width, height), Image.Resampling.BICUBIC, box=corners))
        if torch.rand((), generator=generator) < self.flip:
            changed = [frame.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for frame in changed]
        if self.rand_augment is None:
            return changed
        return apply_choices(changed, self.rand_augment.draw(generator))

    def erase(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Fill a random rectangle with noise in a share of clips, `(t, channels, height, width)`, normalised."""
        if torch.rand((), generator=generator) >= self.erasing:
            return pixels
        box = draw_erased(pixels.shape[-1], pixels.shape[-2], generator)
        if box is None:
            return pixels
        erased = pixels.clone()
        part = erased[..., box.top : box.top + box.height, box.left : box.left + box.width]
        part.copy_(torch.randn(part.shape, generator=generator))
        return erased


def names_direction(names: Sequence[str]) -> bool:
    """Return whether a class has a direction in its name, as `"pulling something from left to right"` has."""
    for name in names:
        if _DIRECTIONS & set(re.findall(r"[a-z]+", name.lower())):
            return True
    return False


def draw_crop(width: int, height: int, min_area: float, generator: torch.Generator) -> Box:
    """Draw a part of a picture: its share of the area, then its shape.

    Of a picture so long that no part of a drawn shape fits, it is the middle, as long as shapes allow. Nothing is cut
    off where the least share is 1.
    """
    if min_area == 1:
        return Box(0, 0, width, height)
    for _ in range(_TRIES):
        area = width * height * _uniform(min_area, 1, generator)
        ratio = math.exp(_uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1]), generator))
        box = _placed(width, height, area, ratio, generator)
        if box is not None:
            return box
    kept_width = min(width, round(height * _RATIOS[1]))
    kept_height = min(height, round(width / _RATIOS[0]))
    return Box((width - kept_width) // 2, (height - kept_height) // 2, kept_width, kept_height)


def draw_erased(width: int, height: int, generator: torch.Generator) -> Box | None:
    """Draw a rectangle to erase; `None` if none fits.

    Source: Zhong et al. 2017, arXiv:1708.04896.
    """
    for _ in range(_TRIES):
        area = width * height * _uniform(*_ERASED_AREAS, generator)
        ratio = math.exp(_uniform(math.log(_ERASED_RATIOS[0]), math.log(_ERASED_RATIOS[1]), generator))
        box = _placed(width, height, area, ratio, generator)
        if box is not None:
            return box
    return None


def _placed(width: int, height: int, area: float, ratio: float, generator: torch.Generator) -> Box | None:
    """Place a part of an area and a shape anywhere; `None` if it does not fit."""
    part_width = round(math.sqrt(area * ratio))
    part_height = round(math.sqrt(area / ratio))
    if not (1 <= part_width <= width and 1 <= part_height <= height):
        return None
    left = int(torch.randint(width - part_width + 1, (), generator=generator))
    top = int(torch.randint(height - part_height + 1, (), generator=generator))
    return Box(left, top, part_width, part_height)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
