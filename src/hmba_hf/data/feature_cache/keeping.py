"""Prepared clips, or features of a frozen vision tower in their place, kept in memory while a run lasts."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

_PIXELS = "pixel_values_videos"
_GIGABYTE = 1_000_000_000
_LEVELS = 256  # that a byte can number


class Levels(NamedTuple):
    """Pixels of few values: `values[channel][codes]` are those of a channel, to the bit.

    Frames of files and pictures have 256 values of a channel before they are normalised, and no more after that.
    """

    values: tuple[Tensor, ...]
    codes: Tensor  # (n, t, channels, height, width), uint8

    def pixels(self) -> Tensor:
        """Return the pixels, `(n, t, channels, height, width)`."""
        channels = [values[self.codes[:, :, place].int()] for place, values in enumerate(self.values)]
        return torch.stack(channels, dim=2)


def levels_of(pixels: Tensor) -> Levels | None:
    """Number the values of each channel, `(n, t, channels, height, width)`; `None` where a byte cannot."""
    values, codes = [], []
    for channel in pixels.unbind(2):
        own, numbers = channel.unique(return_inverse=True)
        if len(own) > _LEVELS:
            return None
        values.append(own)
        codes.append(numbers.to(torch.uint8))
    return Levels(tuple(values), torch.stack(codes, dim=2))


class KeptClips(Dataset):
    """Encoded samples that are kept, so that each clip is read and prepared once.

    What does not fit into memory any more is read and encoded at each visit. Inputs are the same to the bit at each
    visit. Pixels of few values are kept as bytes.

    Args:
        samples: inputs by index, such as `EncodedSamples`, that are the same at each visit.
        gigabytes: of memory that the inputs may take, in each process.

    Raises:
        ValueError: if samples are drawn anew at each visit, as random crops are.
    """

    def __init__(self, samples: Any, gigabytes: float):
        if getattr(samples, "seed", None) is not None:
            raise ValueError(f"samples that are kept must be the same at each visit, got seed={samples.seed}")
        self.samples = samples
        self.limit = gigabytes * _GIGABYTE
        self.held = 0
        self._kept: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the inputs of sample `index`, from memory if it was met before."""
        if index in self._kept:
            return {name: _opened(value) for name, value in self._kept[index].items()}
        inputs = self.prepare(dict(self.samples[index]))
        if self.held < self.limit:
            packed = {name: _packed(name, value) for name, value in inputs.items()}
            size = _count_bytes(packed.values())
            if self.held + size <= self.limit:
                self._kept[index] = packed
                self.held += size
        return inputs

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return what is kept of the inputs of a sample."""
        return inputs


class KeptFeatures(KeptClips):
    """Encoded samples with the features of their frames in the place of the pixels.

    A clip is encoded by itself, so what it gives does not depend on the clips around it.

    Args:
        samples: as for `KeptClips`, with `pixel_values_videos`, `(n, t, channels, height, width)`, of the clips of
            one sample.
        encode: the tower, from such pixels to `(n, t, p, d)`.
        key: all that the features depend on but the clips.
        gigabytes: of memory that inputs and features may take.
    """

    def __init__(
        self,
        samples: Any,
        encode: Callable[[Tensor], Tensor],
        key: Mapping[str, str],
        gigabytes: float,
    ):
        super().__init__(samples, gigabytes)
        self.encode = encode
        self.key = dict(key)

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of a sample with features."""
        if _PIXELS in inputs:
            features = self.encode(inputs.pop(_PIXELS))
            inputs["frame_features"] = features.cpu()
        return inputs


def _packed(name: str, value: Any) -> Any:
    if name == _PIXELS and isinstance(value, Tensor) and value.ndim == 5:
        return levels_of(value) or value
    return value


def _opened(value: Any) -> Any:
    return value.pixels() if isinstance(value, Levels) else value


def _count_bytes(values: Any) -> int:
    """Count the bytes of tensors, also of those in lists."""
    total = 0
    for value in values:
        if isinstance(value, Tensor):
            total += value.nbytes
        elif isinstance(value, (list, tuple)):
            total += _count_bytes(value)
    return total
