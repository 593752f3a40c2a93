"""Dataset streaming: rows are read as they arrive, and never downloaded or held as a whole."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from ..models.decoding_containers import LIMITS, SourceLimits
from .loading import DRAWN, load_rows, read_row
from .mixing import shares
from .samples import Sample, import_datasets
from .schemas import SCHEMAS, Schema

BUFFER_SIZE = 1000  # rows among which streamed rows are shuffled


class SampleStream:
    """Rows of a `datasets.IterableDataset` of `SCHEMAS`, one or several, read as samples."""

    def __init__(self, rows: Any, split: str, limits: SourceLimits = LIMITS):
        self.rows = rows
        self.split = split
        self.limits = limits

    def passage(self, epoch: int) -> Iterator[Callable[[], Sample]]:
        """Yield a reader of each row once, in an order that depends on the epoch."""
        self.rows.set_epoch(epoch)
        for row in self.rows:
            yield partial(read_row, row, self.split, self.limits)


def open_stream(
    names: Sequence[str],
    split: str,
    weights: Sequence[float] | None = None,
    size: int | None = None,
    seed: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
    limits: SourceLimits = LIMITS,
    schemas: Sequence[Schema] = SCHEMAS,
) -> SampleStream:
    """Open datasets for streaming in one shuffled order, of which each process reads a share.

    Args:
        names: folders or Hub ids of datasets of one of `SCHEMAS`.
        split: such as `"train"`.
        weights: the share that is drawn from each; a pass ends when all have been seen as a whole. Without weights
            a pass has each row once.
        size: only this many rows of each, from the start. Processes or workers that share the files of
            a dataset share this number, too. Each takes its part from the start of its own files.
        seed: of the order.
        process_index, num_processes: whose share this is.
        limits: of the pictures of rows.
        schemas: that the caller can use.

    Raises:
        ValueError: if a dataset or split does not exist, if its columns are of no schema, or if the weights are
            not one positive number for each dataset.
    """
    datasets = import_datasets()
    sources = [_open(name, split, size, schemas) for name in names]
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
    return SampleStream(rows, split, limits)


def _open(name: str, split: str, size: int | None, schemas: Sequence[Schema]) -> Any:
    if name in DRAWN:
        raise ValueError(f"a streamed dataset must be a folder or a Hub id, got {name!r}, which is drawn, not read")
    rows = load_rows(name, split, streaming=True, schemas=schemas)
    # Row by row, since tables with the columns of different schemas cannot be joined.
    rows = rows.map(dict, features=rows.features)
    if size is not None:
        rows = rows.take(size)
    return rows
