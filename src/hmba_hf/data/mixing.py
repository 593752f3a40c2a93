"""Several sources of samples as one, each drawn in proportion to its weight."""

import itertools
from collections.abc import Sequence

import numpy as np

from .samples import Sample, SampleSequence, import_datasets


class MixedSamples(SampleSequence[Sample]):
    """Sequences of samples, one after the other, or with weights in a random order.

    With weights, the mixture ends when every source has been seen as a whole, and shorter sources are repeated. This
    is the rule `all_exhausted` of `datasets.interleave_datasets`.

    Args:
        sources: sequences of samples.
        weights: the share that is drawn from each.
        seed: another seed, another order of the sources.

    Raises:
        ValueError: if the weights are not as many as the sources, or not positive.
    """

    def __init__(self, sources: Sequence[Sequence[Sample]], weights: Sequence[float] | None = None, seed: int = 0):
        self.sources = sources
        places: list[list[tuple[int, int]]] = []
        for number, source in enumerate(sources):
            places.append([(number, place) for place in range(len(source))])
        if weights is None:
            self._places = np.array(list(itertools.chain.from_iterable(places)))
            return
        datasets = import_datasets()
        rows = [datasets.Dataset.from_dict({"place": source}) for source in places]
        mixed = datasets.interleave_datasets(
            rows, probabilities=shares(weights, len(sources)), seed=seed, stopping_strategy="all_exhausted"
        )
        self._places = np.array(mixed["place"])

    def __len__(self) -> int:
        return len(self._places)

    def read_sample(self, index: int) -> Sample:
        source, place = self._places[index].tolist()
        return self.sources[source][place]


def shares(weights: Sequence[float], count: int) -> list[float]:
    """Scale weights to a sum of one.

    Raises:
        ValueError: if they are not `count` positive numbers.
    """
    if len(weights) != count or not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"weights must be one positive number for each of {count} datasets, got {list(weights)}")
    total = sum(weights)
    return [weight / total for weight in weights]
