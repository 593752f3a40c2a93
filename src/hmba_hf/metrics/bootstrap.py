"""Confidence intervals of scores: percentiles over corpora drawn with replacement from the scored one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Interval = tuple[float, float]


@dataclass(frozen=True)
class Bootstrap:
    """The resampling behind an interval.

    Args:
        confidence: share of the resampled scores between the two ends, 2.5 % of them on either side by default.
        draws: resampled corpora.
        seed: with the same number of items, one seed draws the same corpora for every metric.
    """

    confidence: float = 0.95
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1 or self.draws < 1:
            raise ValueError(
                f"confidence must be in (0, 1) and draws at least 1, got {self.confidence} and {self.draws}"
            )
        if self.seed < 0:
            raise ValueError(f"the seed of the resampling must be zero or more, got {self.seed}")

    def resamples(self, count: int) -> Iterator[np.ndarray]:
        """Yield how often each of `count` items is in each resampled corpus, `(count,)`."""
        rng = np.random.default_rng(self.seed)
        for _ in range(self.draws):
            yield np.bincount(rng.integers(count, size=count), minlength=count).astype(float)

    def sums(self, statistics: np.ndarray) -> np.ndarray:
        """Sum the rows of `statistics`, `(n, k)`, over each resampled corpus of n items, `(draws, k)`."""
        return np.stack([times @ statistics for times in self.resamples(len(statistics))])

    def interval(self, scores: np.ndarray) -> Interval:
        """Return the ends of the interval of resampled `scores`, `(draws,)`, without those that are not finite.

        Raises:
            ValueError: if none is finite.
        """
        finite = scores[np.isfinite(scores)]
        if not len(finite):
            raise ValueError(f"a resampled score must be finite, got none of {len(scores)}")
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(finite, [tail, 1 - tail])
        return float(low), float(high)


DEFAULT_BOOTSTRAP = Bootstrap()


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> Interval:
    """Return the percentile interval of the mean of `values`, resampled `draws` times."""
    if len(values) == 0:
        raise ValueError("values must be at least one, got none")
    bootstrap = Bootstrap(confidence, draws, seed)
    sample = np.asarray(values, dtype=float)
    return bootstrap.interval(bootstrap.sums(sample[:, None])[:, 0] / len(sample))
