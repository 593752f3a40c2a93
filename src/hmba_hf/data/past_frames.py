"""Clips as a stream has them: with a past of other things before them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .samples import Sample, SampleSequence


class StreamedSamples(SampleSequence):
    """Samples with up to `longest` frames of other samples before their own, a number drawn for each.

    What a model learns from them holds after any number of frames, which it does not when all that it has seen are
    clips of one length.

    Args:
        samples: with frames of one size.
        longest: most frames before a clip.
        seed: another seed, another past for each sample.

    Raises:
        ValueError: if `longest` is below 0.
    """

    def __init__(self, samples: Sequence[Sample], longest: int, seed: int = 0):
        if longest < 0:
            raise ValueError(f"longest must be at least 0, got {longest}")
        self.samples, self.longest, self.seed = samples, longest, seed

    def __len__(self) -> int:
        return len(self.samples)

    def read_sample(self, index: int) -> Sample:
        sample = self.samples[index]
        generator = np.random.default_rng([self.seed, index])
        past: list = []
        wanted = int(generator.integers(self.longest + 1))
        while len(past) < wanted:
            other = self.samples[int(generator.integers(len(self.samples)))]
            if other.frames is None or sample.frames is None:
                raise ValueError(f"sample {sample.id}: a past can be put before frames, got a video file")
            past += other.frames
        return replace(sample, frames=[*past[:wanted], *(sample.frames or ())]) if past else sample
