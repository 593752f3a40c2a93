"""Clips of a batch mixed with each other, and their classes with them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .heads import UNKNOWN


@dataclass(frozen=True)
class Mixing:
    """How a batch is mixed: as a whole by mixup, or by cutmix, or not at all.

    A batch is mixed with itself in reverse order. Where both ways are given, each takes half of the batches.

    Args:
        mixup: mixup draws weights from a beta distribution with this parameter; 0 never does.
        cutmix: likewise, of cutmix, which puts a rectangle of one clip into another, the same one in all frames.
        smoothing: share of a label that is spread evenly over all classes.

    Raises:
        ValueError: if a value is out of range.

    Source: Zhang et al. 2017, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899; Szegedy et al. 2015,
    arXiv:1512.00567.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing must be from 0 up to but without 1, got {self.smoothing}")

    def mix(
        self, pixels: Tensor, labels: Tensor, num_labels: int | Sequence[int], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch; the labels of all heads in the same shares.

        Args:
            pixels: `(b, ..., height, width)`.
            labels: classes, `(b,)`, or of several heads `(b, heads)`; -100 where one is not known.
            num_labels: number of classes, or of those of each head.
            rng: draws what is mixed, and how much.

        Returns:
            Pixels, and the probabilities of all classes, `(b, classes)`, the heads side by side. Those of a head are
            zeros where its class is not known, and nothing is learned there.
        """
        wanted = soft_labels(labels, num_labels, self.smoothing)
        if not self.mixup and not self.cutmix:
            return pixels, wanted
        is_cut = bool(self.cutmix)
        if self.mixup and self.cutmix:
            is_cut = rng.random() < 0.5
        if is_cut:
            pixels, kept = cut(pixels, rng.beta(self.cutmix, self.cutmix), rng)
        else:
            kept = rng.beta(self.mixup, self.mixup)
            pixels = pixels * kept + pixels.flip(0) * (1 - kept)
        return pixels, wanted * kept + wanted.flip(0) * (1 - kept)


def soft_labels(labels: Tensor, num_labels: int | Sequence[int], smoothing: float) -> Tensor:
    """Return the probabilities of classes, of which a share is spread evenly over all of a head.

    Arguments and shapes are as in `Mixing.mix`.
    """
    sizes = [num_labels] if isinstance(num_labels, int) else list(num_labels)
    heads = labels.reshape(len(labels), len(sizes)).unbind(dim=1)
    wanted = []
    for numbers, size in zip(heads, sizes, strict=True):
        is_known = numbers != UNKNOWN
        certain = torch.nn.functional.one_hot(numbers.where(is_known, 0), size).float()
        smooth = certain * (1 - smoothing) + smoothing / size
        wanted.append(smooth * is_known[:, None])
    return torch.cat(wanted, dim=1)


def cut(pixels: Tensor, kept: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Put a rectangle of each clip into the one on the other side of the batch, and return the share that is kept.

    The rectangle has the shape of a frame, its centre is anywhere, and what lies outside of the frame is lost.
    """
    height, width = pixels.shape[-2:]
    side = math.sqrt(1 - kept)
    top, bottom = _drawn_span(height, int(height * side), rng)
    left, right = _drawn_span(width, int(width * side), rng)
    mixed = pixels.clone()
    mixed[..., top:bottom, left:right] = pixels.flip(0)[..., top:bottom, left:right]
    taken = (bottom - top) * (right - left)
    return mixed, 1 - taken / (height * width)


def _drawn_span(length: int, part: int, rng: np.random.Generator) -> tuple[int, int]:
    """Place a part around any centre of a length, and return where it begins and ends."""
    centre = int(rng.integers(length))
    return max(centre - part // 2, 0), min(centre + part // 2, length)
