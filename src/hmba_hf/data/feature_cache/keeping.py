"""Features of a frozen vision tower, kept in memory while a run lasts, so that each clip is read and encoded once."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.data import Dataset

_PIXELS = "pixel_values_videos"
_GIGABYTE = 1_000_000_000


class KeptFeatures(Dataset):
    """Encoded samples with the features of their frames in the place of the pixels.

    What does not fit into memory any more is read and encoded at each visit. A clip is encoded by itself, so what it
    gives does not depend on the clips around it.

    Args:
        samples: inputs by index, such as `EncodedSamples`, with `pixel_values_videos`, `(n, t, channels, height,
            width)`, of the clips of one sample.
        encode: the tower, from such pixels to `(n, t, p, d)`.
        key: all that the features depend on but the clips.
        gigabytes: of memory that inputs and features may take.
    """

    def __init__(
        self,
        samples: Any,
        encode: Callable[[torch.Tensor], torch.Tensor],
        key: Mapping[str, str],
        gigabytes: float,
    ):
        self.samples = samples
        self.encode = encode
        self.key = dict(key)
        self.limit = gigabytes * _GIGABYTE
        self.held = 0
        self._kept: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the inputs of sample `index`, from memory if it was met before."""
        if index in self._kept:
            return self._kept[index]
        inputs = dict(self.samples[index])
        if _PIXELS in inputs:
            features = self.encode(inputs.pop(_PIXELS))
            inputs["frame_features"] = features.cpu()
        size = sum(value.nbytes for value in inputs.values() if isinstance(value, torch.Tensor))
        if self.held + size <= self.limit:
            self._kept[index] = inputs
            self.held += size
        return inputs
