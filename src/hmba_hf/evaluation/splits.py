"""Several splits of a dataset as one sequence of samples."""

from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from ..data.loading import RowSamples, load_samples
from ..data.samples import Sample, SampleSequence


class Splits(SampleSequence[Any]):
    """Several splits of a dataset, by name, one after the other."""

    def __init__(self, splits: Mapping[str, Sequence[Sample]]):
        self.names = list(splits)
        self.splits = list(splits.values())
        self._ends = list(accumulate(len(split) for split in self.splits))

    def __len__(self) -> int:
        return self._ends[-1]

    def read_sample(self, index: int) -> Sample:
        """Read sample `index`."""
        place, number = self.locate(index)
        return self.splits[place][number]

    def locate(self, index: int) -> tuple[int, int]:
        """The number of the split that sample `index` is in, and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1}, got {index}")
        place = bisect(self._ends, index)
        if place == 0:
            return 0, index
        return place, index - self._ends[place - 1]


def load_splits(dataset_name: str, names: Sequence[str], max_samples: int | None = None, **options: Any) -> Splits:
    """Load splits of a dataset; arguments as in `load_samples`.

    Args:
        max_samples: this many from the start of each split; all when absent.
        options: `limits`, `schemas`, and those of the micro-world.

    Raises:
        ValueError: if two samples of a split have the same id, or as `load_samples`.
    """
    splits = {}
    for name in names:
        samples = load_samples(dataset_name, name, max_samples, **options)
        if isinstance(samples, RowSamples):
            _check_unique(samples.ids(), name)
        splits[name] = samples
    return Splits(splits)


def _check_unique(ids: Sequence[str | None], split: str) -> None:
    """Raise a `ValueError` if two samples of a split have the same id, under which both would be scored."""
    first: dict[str, int] = {}
    for index, name in enumerate(ids):
        if name is not None and first.setdefault(name, index) != index:
            raise ValueError(
                f"a sample must be once in a split, got {name!r} of {split!r} in rows {first[name]} and {index}"
            )
