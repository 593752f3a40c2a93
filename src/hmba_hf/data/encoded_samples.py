"""Samples as a model takes them, one by one, without those that cannot be read."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import Dataset, IterableDataset
from tqdm.auto import tqdm

from .bad_samples import READ_ERRORS, BadSamples
from .collator import SampleCollator
from .dataset_streams import SampleStream
from .samples import Sample

_NONE = "at least one sample that can be learned from is wanted, got none; the last one: {}"


class EncodedSamples(Dataset):
    """The samples of a sequence as a collator encodes them.

    Where a sample cannot be read, and the policy is to skip it, the next one that can takes its place: batches keep
    their size in every process, and an index always gives the same sample.
    """

    def __init__(self, samples: Sequence[Sample], collator: SampleCollator, bad: BadSamples):
        self.samples, self.collator, self.bad = samples, collator, bad

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Encode sample `index`, also counted from the end, or the next readable one after it.

        Raises:
            IndexError: if there is no such sample.
            ValueError: if a sample cannot be read and the run is to stop then, or if none can.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"an index must be from {-len(self)} to {len(self) - 1}, got {index}")
        for step in range(len(self)):
            place = (index + step) % len(self)
            name = f"sample number {place}"
            try:
                sample = self.samples[place]
                name = f"sample {sample.id}"
                return self.collator.encode(sample)
            except READ_ERRORS as error:
                self.bad.meet(name, error)
                last = error
        raise ValueError(_NONE.format(last))


class EncodedStream(IterableDataset):
    """The samples of a stream, over and over, as a collator encodes them; those that cannot be read are left out.

    Each pass is shuffled anew. A run that goes on from a step reads again what it has passed.
    """

    def __init__(self, stream: SampleStream, collator: SampleCollator, bad: BadSamples):
        self.stream, self.collator, self.bad = stream, collator, bad

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for epoch in count():
            last, found = None, False
            for number, read in enumerate(self.stream.passage(epoch)):
                name = f"sample number {number}"
                try:
                    sample = read()
                    name = f"sample {sample.id}"
                    encoded = self.collator.encode(sample)
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


def readable_samples(samples: Sequence[Sample], collator: SampleCollator, bad: BadSamples) -> list[int]:
    """Find the samples that can be evaluated, each process a share of them; the others are met as `bad` says."""
    state, found = PartialState(), []
    share = range(state.process_index, len(samples), state.num_processes)
    for index in tqdm(share, desc="reading evaluation samples", disable=None if state.is_main_process else True):
        name = f"sample number {index}"
        try:
            sample = samples[index]
            name = f"sample {sample.id}"
            collator.encode(sample)
        except READ_ERRORS as error:
            bad.meet(name, error)
        else:
            found.append(index)
    return sorted(gather_object(found))
