"""Samples as inputs of a model, one by one, without those that cannot be read."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Protocol

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import Dataset, IterableDataset, Subset
from tqdm.auto import tqdm

from ..digests import digest_text
from .bad_samples import READ_ERRORS, BadSamples
from .dataset_streams import SampleStream
from .samples import Sample

_NONE = "at least one sample must be readable, got none; the last one: {}"


class SampleEncoder(Protocol):
    """Turns samples into inputs of a model."""

    def encode(self, sample: Sample) -> dict[str, Any]:
        """Turn one sample into tensors without a batch axis.

        Raises:
            ValueError: if nothing can be learned from it.
        """


class EncodedSamples(Dataset):
    """The samples of a sequence as an encoder makes them.

    Under the policy `"skip"`, the next readable sample takes the place of an unreadable one. Batches keep their size
    in every process, and an index always gives the same sample.

    Args:
        samples: of the sequence.
        encoder: turns one into inputs. With a seed it takes a `generator`, too, a `torch.Generator`.
        bad: what becomes of samples that cannot be read.
        seed: of random crops and the like. What they draw depends on it, on the epoch and on the index alone, not on
            workers, processes or where a run was stopped.
    """

    def __init__(self, samples: Sequence[Any], encoder: Any, bad: BadSamples, seed: int | None = None):
        self.samples = samples
        self.encoder = encoder
        self.bad = bad
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64)
        if seed is not None:
            self._epoch.share_memory_()  # workers that outlive an epoch see it change

    def set_epoch(self, epoch: int) -> None:
        """Draw other crops than in the epochs before."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Encode sample `index`, also counted from the end, or the next readable one after it.

        Raises:
            IndexError: if there is no such sample.
            ValueError: if a sample cannot be read and the policy is `"stop"`, or if no sample can be read.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"an index must be from {-len(self)} to {len(self) - 1}, got {index}")
        for step in range(len(self)):
            place = (index + step) % len(self)
            name = f"sample number {place}"
            try:
                sample = self.samples[place]
                name = f"sample {sample.id}"
                return self._encode(sample, place)
            except READ_ERRORS as error:
                self.bad.meet(name, error)
                last = error
        raise ValueError(_NONE.format(last))

    def _encode(self, sample: Any, place: int) -> dict[str, Any]:
        if self.seed is None:
            return self.encoder.encode(sample)
        digest = digest_text(f"{self.seed} {int(self._epoch)} {place}")
        generator = torch.Generator().manual_seed(int(digest[:15], 16))
        return self.encoder.encode(sample, generator=generator)


class EncodedStream(IterableDataset):
    """The samples of a streamed dataset as an encoder makes them, in endless passes.

    Samples that cannot be read are left out. Each pass is shuffled anew. A resumed run reads the passed part again.
    """

    def __init__(self, stream: SampleStream, encoder: SampleEncoder, bad: BadSamples):
        self.stream = stream
        self.encoder = encoder
        self.bad = bad

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for epoch in count():
            last = None
            found = False
            for number, read in enumerate(self.stream.passage(epoch)):
                name = f"sample number {number}"
                try:
                    sample = read()
                    name = f"sample {sample.id}"
                    encoded = self.encoder.encode(sample)
                except READ_ERRORS as error:
                    self.bad.meet(name, error)
                    last = error
                else:
                    found = True
                    yield encoded
            if last is not None and not found:
                raise ValueError(_NONE.format(last))
            if not found:  # another worker has the rows
                return


def readable_samples(samples: Sequence[Sample], encoder: SampleEncoder, bad: BadSamples) -> list[int]:
    """Find the samples that can be read, each process in its share of them; the policy of `bad` meets the others."""
    state = PartialState()
    found = []
    share = range(state.process_index, len(samples), state.num_processes)
    is_hidden = None if state.is_main_process else True
    for index in tqdm(share, desc="reading evaluation samples", disable=is_hidden):
        name = f"sample number {index}"
        try:
            sample = samples[index]
            name = f"sample {sample.id}"
            encoder.encode(sample)
        except READ_ERRORS as error:
            bad.meet(name, error)
        else:
            found.append(index)
    return sorted(gather_object(found))


def evaluation_samples(samples: Sequence[Any], encoder: Any, bad: BadSamples, split: str) -> EncodedSamples:
    """Build what a training is evaluated on: the samples of a split that can be read, the same ones each time.

    Raises:
        ValueError: if none can be read, or if one cannot and is not to be skipped.
    """
    readable: Any = Subset(samples, readable_samples(samples, encoder, bad))  # type: ignore[arg-type]  # any sequence will do
    if not len(readable):
        raise ValueError(f"evaluation must have at least one sample that can be read, got none in {split!r}")
    return EncodedSamples(readable, encoder, bad)
