"""Several sources of samples as one, each drawn as often as its weight says."""

from collections.abc import Sequence

import numpy as np

from .samples import Sample, SampleSequence, import_datasets


class MixedSamples(SampleSequence):
    """Sequences of samples, one after the other, or with weights in a random order.

    With weights, the mixture ends when every source has been seen as a whole; the others have begun anew by then, as
    `datasets.interleave_datasets` has it with `all_exhausted`.

    Args:
        sources: sequences of samples.
        weights: the share that is drawn from each.
        seed: another seed, another order of the sources.

    Raises:
        ValueError: if the weights are not as many as the sources, or not positive.
    """

    def __init__(self, sources: Sequence[Sequence[Sample]], weights: Sequence[float] | None = None, seed: int = 0):
        self.sources = sources
        places = [[(number, place) for place in range(len(source))] for number, source in enumerate(sources)]
        if weights is None:
            self._places = np.array([place for source in places for place in source])
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
    """Bring weights to a sum of one, or say why that cannot be done."""
    if len(weights) != count or not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"a positive weight is wanted for each of {count} datasets, got {list(weights)}")
    return [weight / sum(weights) for weight in weights]
