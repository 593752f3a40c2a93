"""Past frames: frames of other samples before those of a training clip."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .samples import Sample, SampleSequence


class SamplesWithPast(SampleSequence[Sample]):
    """Samples with up to `longest` past frames before their own, a number drawn for each.

    A model trained on them answers after any number of frames. One trained on clips of one length does not.

    Args:
        samples: with frames of one size.
        longest: most past frames of a clip.
        seed: of the past frames.

    Raises:
        ValueError: if `longest` is below 0.
    """

    def __init__(self, samples: Sequence[Sample], longest: int, seed: int = 0):
        if longest < 0:
            raise ValueError(f"longest must be at least 0, got {longest}")
        self.samples = samples
        self.longest = longest
        self.seed = seed

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
                raise ValueError(f"sample {sample.id} must have frames to take past frames, got a video file")
            past += other.frames
        if not past:
            return sample
        return replace(sample, frames=[*past[:wanted], *(sample.frames or ())])
