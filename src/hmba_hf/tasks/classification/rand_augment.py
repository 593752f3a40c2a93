"""RandAugment of a clip: a few random operations, the same ones with the same strengths for all of its frames.

It stands here since torchvision and timm are no requirements of this package, and since all frames are changed alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageEnhance, ImageOps

_STRONGEST = 10.0  # magnitudes are from 0 up to it
_PROBABILITY = 0.5  # that an operation is applied after it has been chosen
_FILL = (124, 116, 104)  # ImageNet's mean colour
_DEGREES = 30
_SHEAR = 0.3
_SHIFT = 0.45  # of a side
_ENHANCEMENT = 0.9
_ADDED = 110


class _Operation(NamedTuple):
    """An operation on pictures.

    Attributes:
        apply: returns a picture for a picture and a strength.
        strength: for a level from 0 to 1.
        is_signed: whether a strength is as often below as above zero.
    """

    apply: Callable[[Image.Image, float], Image.Image]
    strength: Callable[[float], float] = float
    is_signed: bool = False


class Choice(NamedTuple):
    """An operation that has been drawn, by its name in `OPERATIONS`, and how strong it is."""

    name: str
    strength: float


@dataclass(frozen=True)
class RandAugment:
    """Draws operations for a clip.

    Args:
        magnitude: how strong operations are, from 0 to 10.
        num_operations: how many are drawn, each applied with probability 1/2.
        spread: standard deviation of the magnitude.

    Raises:
        ValueError: if a value is out of range.

    Source: Cubuk et al. 2019, arXiv:1909.13719; magnitudes that spread, and operations that all grow with them, are
    timm's `rand-m7-n4-mstd0.5-inc1`.
    """

    magnitude: float
    num_operations: int
    spread: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.magnitude <= _STRONGEST:
            raise ValueError(f"magnitude must be from 0 to {_STRONGEST:g}, got {self.magnitude}")
        if self.num_operations < 1:
            raise ValueError(f"num_operations must be at least 1, got {self.num_operations}")
        if self.spread < 0:
            raise ValueError(f"spread must be at least 0, got {self.spread}")

    def draw(self, generator: torch.Generator) -> list[Choice]:
        """Draw the operations of a clip, maybe none of them."""
        names = list(OPERATIONS)
        drawn: list[Choice] = []
        for _ in range(self.num_operations):
            name = names[int(torch.randint(len(names), (), generator=generator))]
            operation = OPERATIONS[name]
            noise = float(torch.randn((), generator=generator))
            magnitude = min(max(self.magnitude + self.spread * noise, 0.0), _STRONGEST)
            strength = operation.strength(magnitude / _STRONGEST)
            is_negative = bool(torch.rand((), generator=generator) < 0.5)
            if operation.is_signed and is_negative:
                strength = -strength
            is_applied = bool(torch.rand((), generator=generator) < _PROBABILITY)
            if is_applied:
                drawn.append(Choice(name, strength))
        return drawn


def apply_choices(frames: Sequence[Image.Image], choices: Sequence[Choice]) -> list[Image.Image]:
    """Apply operations, one after the other, to all frames of a clip in RGB."""
    changed = list(frames)
    for choice in choices:
        operation = OPERATIONS[choice.name]
        changed = [operation.apply(frame, choice.strength) for frame in changed]
    return changed


def _transformed(frame: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return frame.transform(
        frame.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC, fillcolor=_FILL
    )


def _rotate(frame: Image.Image, degrees: float) -> Image.Image:
    return frame.rotate(degrees, resample=Image.Resampling.BICUBIC, fillcolor=_FILL)


def _shear_x(frame: Image.Image, factor: float) -> Image.Image:
    return _transformed(frame, (1, factor, 0, 0, 1, 0))


def _shear_y(frame: Image.Image, factor: float) -> Image.Image:
    return _transformed(frame, (1, 0, 0, factor, 1, 0))


def _shift_x(frame: Image.Image, share: float) -> Image.Image:
    return _transformed(frame, (1, 0, share * frame.width, 0, 1, 0))


def _shift_y(frame: Image.Image, share: float) -> Image.Image:
    return _transformed(frame, (1, 0, 0, 0, 1, share * frame.height))


def _posterize(frame: Image.Image, bits: float) -> Image.Image:
    return ImageOps.posterize(frame, int(bits))


def _solarize(frame: Image.Image, threshold: float) -> Image.Image:
    return ImageOps.solarize(frame, int(threshold))


def _brighten_dark(frame: Image.Image, added: float) -> Image.Image:
    """Add to the values below 128, as `SolarizeAdd` of timm."""
    table = []
    for value in range(256):
        table.append(min(255, value + int(added)) if value < 128 else value)
    return frame.point(table * 3)


def _enhancement(kind: Any) -> _Operation:
    """An operation that weakens or strengthens a property of a picture."""

    def apply(frame: Image.Image, strength: float) -> Image.Image:
        return kind(frame).enhance(1 + strength)

    return _Operation(apply, lambda level: _ENHANCEMENT * level, is_signed=True)


def _without_strength(change: Callable[[Image.Image], Image.Image]) -> _Operation:
    """An operation that is as it is, whatever its strength."""

    def apply(frame: Image.Image, strength: float) -> Image.Image:
        return change(frame)

    return _Operation(apply)


OPERATIONS: dict[str, _Operation] = {
    "auto_contrast": _without_strength(ImageOps.autocontrast),
    "equalize": _without_strength(ImageOps.equalize),
    "invert": _without_strength(ImageOps.invert),
    "rotate": _Operation(_rotate, lambda level: _DEGREES * level, is_signed=True),
    "posterize": _Operation(_posterize, lambda level: 4 - int(4 * level)),
    "solarize": _Operation(_solarize, lambda level: 256 - int(256 * level)),
    "solarize_add": _Operation(_brighten_dark, lambda level: int(_ADDED * level)),
    "color": _enhancement(ImageEnhance.Color),
    "contrast": _enhancement(ImageEnhance.Contrast),
    "brightness": _enhancement(ImageEnhance.Brightness),
    "sharpness": _enhancement(ImageEnhance.Sharpness),
    "shear_x": _Operation(_shear_x, lambda level: _SHEAR * level, is_signed=True),
    "shear_y": _Operation(_shear_y, lambda level: _SHEAR * level, is_signed=True),
    "shift_x": _Operation(_shift_x, lambda level: _SHIFT * level, is_signed=True),
    "shift_y": _Operation(_shift_y, lambda level: _SHIFT * level, is_signed=True),
}
