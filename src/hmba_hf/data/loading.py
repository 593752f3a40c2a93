"""Samples by name: the micro-world, or a dataset on disk or on the Hub."""

from collections.abc import Sequence
from typing import Any, overload

from .micro_world import MicroWorld, MicroWorldConfig, TwoTaskWorld
from .samples import Sample, from_bddx_row, from_drama_row, import_datasets

MICRO_WORLD = "micro-world"
TWO_TASKS = "micro-world-two-tasks"
DRAMA_COLUMNS = {"id", "frames", "width", "height", "question", "answer", "objects"}
BDDX_COLUMNS = {"video", "video_id", "segment", "action", "justification"}


class RowSamples(Sequence[Sample]):
    """The rows of a `datasets.Dataset` in the DRAMA or the BDD-X schema, read as samples when they are asked for."""

    def __init__(self, rows: Any, split: str):
        columns = set(rows.column_names)
        if DRAMA_COLUMNS <= columns:
            self._read = from_drama_row
        elif BDDX_COLUMNS <= columns:
            self._read = from_bddx_row
            rows = rows.cast_column("video", import_datasets().Video(decode=False))
        else:
            raise ValueError(
                f"the dataset must have the columns of DRAMA {sorted(DRAMA_COLUMNS)} or BDD-X {sorted(BDDX_COLUMNS)}, "
                f"got {sorted(columns)}"
            )
        self.rows = rows
        self.split = split

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Read row `index`, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        return self._read(self.rows[index], self.split)


def load_samples(name: str, split: str, size: int | None = None, **world: Any) -> Sequence[Sample]:
    """Load one split of a dataset.

    Args:
        name: `"micro-world"`, or `"micro-world-two-tasks"` for its risks and what its ego car does by turns, or a
            folder or Hub id of a dataset in the DRAMA or the BDD-X schema.
        split: `"train"`, `"validation"` or `"test"`.
        size: this many samples from the start; all of a dataset, 10,000 clips of the micro-world when absent.
        world: values of `MicroWorldConfig`; they concern the micro-world alone.

    Raises:
        ValueError: if there is no such dataset or split, if it is empty, or if the columns are of neither schema.
    """
    if size is not None and size < 1:
        raise ValueError(f"at least one sample must be asked for, got size={size}")
    if name in (MICRO_WORLD, TWO_TASKS):
        clips = MicroWorld(MicroWorldConfig(**world), split, 10000 if size is None else size)
        return clips if name == MICRO_WORLD else TwoTaskWorld(clips)
    datasets = import_datasets()
    try:
        rows = datasets.load_dataset(name, split=split)
    except (FileNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"expected {MICRO_WORLD!r}, a folder or a Hub id of a dataset, got {name!r}: {error}"
        ) from error
    return RowSamples(rows if size is None else rows.select(range(min(size, len(rows)))), split)
