"""Datasets that are read as they come in, without being downloaded or held as a whole."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from .loading import MICRO_WORLD, TWO_TASKS, load_rows, read_row
from .mixing import shares
from .samples import Sample, import_datasets

BUFFER_SIZE = 1000  # rows among which a stream is shuffled


class SampleStream:
    """Rows of a `datasets.IterableDataset` in the DRAMA or the BDD-X schema, or in both, read as samples."""

    def __init__(self, rows: Any, split: str):
        self.rows, self.split = rows, split

    def passage(self, epoch: int) -> Iterator[Callable[[], Sample]]:
        """Go through the rows once, in an order of its own for each epoch; each is read when it is called."""
        self.rows.set_epoch(epoch)
        for row in self.rows:
            yield partial(read_row, row, self.split)


def open_stream(
    names: Sequence[str],
    split: str,
    weights: Sequence[float] | None = None,
    size: int | None = None,
    seed: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
) -> SampleStream:
    """Open datasets as one shuffled stream, of which each process reads a share.

    Args:
        names: folders or Hub ids of datasets in the DRAMA or the BDD-X schema.
        split: such as `"train"`.
        weights: the share that is drawn from each; a pass ends when all have been seen as a whole. Without weights
            each row is in a pass once.
        size: only this many rows of each, from the start; where processes or workers share the files of a dataset,
            they share the number, too, and each takes its part from the start of its own files.
        seed: of the order.
        process_index, num_processes: whose share this is.

    Raises:
        ValueError: if a dataset or split is not there, if its columns are of neither schema, or for other weights
            than a positive one for each.
    """
    datasets = import_datasets()
    sources = [_open(name, split, size) for name in names]
    if len(sources) > 1 and weights is not None:
        rows = datasets.interleave_datasets(
            sources, probabilities=shares(weights, len(names)), seed=seed, stopping_strategy="all_exhausted"
        )
    elif len(sources) > 1:
        rows = datasets.interleave_datasets(sources, stopping_strategy="all_exhausted_without_replacement")
    else:
        (rows,) = sources
    rows = rows.shuffle(seed=seed, buffer_size=BUFFER_SIZE)
    if num_processes > 1:
        from datasets.distributed import split_dataset_by_node

        rows = split_dataset_by_node(rows, process_index, num_processes)
    return SampleStream(rows, split)


def _open(name: str, split: str, size: int | None) -> Any:
    if name in (MICRO_WORLD, TWO_TASKS):
        raise ValueError(f"datasets that can be read as streams are wanted, got {name!r}, which is drawn, not read")
    rows = load_rows(name, split, streaming=True)
    # Row by row: tables with the columns of different schemas cannot be joined.
    rows = rows.map(dict, features=rows.features)
    return rows if size is None else rows.take(size)
