"""Samples by name: the micro-world, or a dataset on disk or on the Hub."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..repositories import check_revision, split_revision
from .bad_samples import READ_ERRORS, UnreadableSample
from .micro_world.world import MicroWorld, MicroWorldConfig, TwoTaskWorld
from .preparing.parquet_shards import check_finished
from .samples import (
    Sample,
    SampleSequence,
    from_bddx_row,
    from_drama_row,
    from_drama_row_without_pictures,
    import_datasets,
)

MICRO_WORLD = "micro-world"
TWO_TASKS = "micro-world-two-tasks"
DRAMA_COLUMNS = {"id", "frames", "width", "height", "question", "answer", "objects"}
BDDX_COLUMNS = {"video", "video_id", "segment", "action", "justification"}


class RowSamples(SampleSequence):
    """Rows in the DRAMA or the BDD-X schema with their files as they are, read as samples when they are asked for."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], split: str):
        self.rows, self.split = rows, split

    def __len__(self) -> int:
        return len(self.rows)

    def read_sample(self, index: int) -> Sample:
        """Read row `index`."""
        return read_row(self.rows[index], self.split)

    def ids(self) -> list[str | None]:
        """Read the ids of all samples and nothing else; `None` where a row has none."""
        names = ("id",) if "id" in self._columns() else ("video_id", "segment")
        rows: Any = self.rows
        if isinstance(rows, list):
            columns = [[row.get(name) for row in rows] for name in names]
        else:
            columns = [rows[name][:] for name in names]
        return [None if None in parts else "_".join(map(str, parts)) for parts in zip(*columns, strict=True)]

    def _columns(self) -> set[str]:
        return set(self.rows[0] if isinstance(self.rows, list) else self.rows.column_names)  # type: ignore[attr-defined]

    def without_pictures(self, index: int) -> tuple[Sample, list[Any]]:
        """Read row `index` without decoding anything: its sample with an empty video, and its files as they are.

        The files are `{"bytes", "path"}` each.
        """
        row = self.rows[index]
        if _is_drama(row):
            return _read(from_drama_row_without_pictures, row, self.split), row["frames"]
        return replace(_read(from_bddx_row, row, self.split), video=b""), [row["video"]]


def undecoded(rows: Any) -> Any:
    """Let the rows of a dataset or a stream give files as they are, if the columns are of a schema.

    Raises:
        ValueError: if they are of none.
    """
    datasets = import_datasets()
    columns = set(rows.column_names or ())
    if DRAMA_COLUMNS <= columns:
        return rows.cast_column("frames", datasets.List(datasets.Image(decode=False)))
    if BDDX_COLUMNS <= columns:
        return rows.cast_column("video", datasets.Video(decode=False))
    raise ValueError(
        f"the dataset must have the columns of DRAMA {sorted(DRAMA_COLUMNS)} or BDD-X {sorted(BDDX_COLUMNS)}, "
        f"got {sorted(columns)}"
    )


def read_row(row: Mapping[str, Any], split: str) -> Sample:
    """Read an undecoded row; in a mixture of schemas each has the columns of all, empty where they are not its own.

    Raises:
        UnreadableSample: if it makes no sample, or if a picture of it is missing or damaged.
    """
    return _read(from_drama_row if _is_drama(row) else from_bddx_row, row, split)


def _read(reader: Callable[[Mapping[str, Any], str], Sample], row: Mapping[str, Any], split: str) -> Sample:
    try:
        return reader(row, split)
    except READ_ERRORS as error:
        is_drama = _is_drama(row)
        if (row["id"] if is_drama else row["video_id"]) is None:
            raise
        name = row["id"] if is_drama else f"{row['video_id']}_{row['segment']}"
        raise UnreadableSample(str(error) or type(error).__name__, f"sample {name}") from error


def _is_drama(row: Mapping[str, Any]) -> bool:
    return "video" not in row or row.get("frames") is not None


def load_samples(
    name: str, split: str, size: int | None = None, streaming: bool = False, **world: Any
) -> Sequence[Sample]:
    """Load one split of a dataset.

    Args:
        name: `"micro-world"`, or `"micro-world-two-tasks"` for its risks and what its ego car does by turns, or a
            folder or Hub id of a dataset in the DRAMA or the BDD-X schema; `org/drama@v1` is its branch, tag or
            commit `v1`.
        split: `"train"`, `"validation"` or `"test"`.
        size: this many samples from the start; all of a dataset, 10,000 clips of the micro-world when absent.
        streaming: read only the rows that are asked for and hold them in memory, their files encoded; otherwise all
            splits of a dataset on the Hub are downloaded, as `datasets` does.
        world: values of `MicroWorldConfig`; they concern the micro-world alone.

    Raises:
        ValueError: if there is no such dataset or split, if it is empty or not finished, or if the columns are of
            neither schema.
    """
    if size is not None and size < 1:
        raise ValueError(f"at least one sample must be asked for, got size={size}")
    if name in (MICRO_WORLD, TWO_TASKS):
        clips = MicroWorld(MicroWorldConfig(**world), split, 10000 if size is None else size)
        return clips if name == MICRO_WORLD else TwoTaskWorld(clips)
    rows = load_rows(name, split, streaming)
    if streaming:
        held = list(rows if size is None else rows.take(size))
        if not held:
            raise ValueError(f"samples are wanted, got no data in {split!r} of {name!r}")
        return RowSamples(held, split)
    return RowSamples(rows if size is None else rows.select(range(min(size, len(rows)))), split)


def load_rows(name: str, split: str, streaming: bool = False) -> Any:
    """Load one split of a dataset as undecoded rows, or as a stream of them, as in `load_samples`."""
    repository, revision = split_revision(name)
    check_revision(repository, revision)
    check_finished(repository)
    try:
        rows = import_datasets().load_dataset(repository, split=split, streaming=streaming, revision=revision)
    except (FileNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"expected {MICRO_WORLD!r}, a folder or a Hub id of a dataset, got {name!r}: {error}"
        ) from error
    return undecoded(rows)
