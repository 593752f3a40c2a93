"""Clips of many requests, encoded some of one shape at once; it needs no vLLM."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Of one shape. More leave a processor's caches, and take memory that requests need.
CLIPS_AT_ONCE = 16


def encode_together(inputs: dict[str, Any], encode: Callable[[dict[str, Tensor]], Iterable[Tensor]]) -> list[Any]:
    """Return what `encode` makes of each clip, in their order.

    Args:
        inputs: by name, each with an item for each clip.
        encode: takes clips of one shape, of which each input has a row.
    """
    alike: dict[Any, list[int]] = {}
    count = len(next(iter(inputs.values()), ()))
    for place in range(count):
        shapes = tuple(tuple(items[place].shape) for items in inputs.values())
        alike.setdefault(shapes, []).append(place)
    embeddings: list[Any] = [None] * count
    for places in alike.values():
        for first in range(0, len(places), CLIPS_AT_ONCE):
            some = places[first : first + CLIPS_AT_ONCE]
            together = {name: torch.stack([items[place] for place in some]) for name, items in inputs.items()}
            for place, embedding in zip(some, encode(together), strict=True):
                embeddings[place] = embedding
    return embeddings


__all__ = ["CLIPS_AT_ONCE", "encode_together"]
