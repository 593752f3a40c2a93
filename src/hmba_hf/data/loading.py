"""Samples by name: the micro-world, or a dataset on disk or on the Hub."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..models.decoding_containers import LIMITS, SourceLimits
from ..repositories import check_revision, split_revision
from .bad_samples import READ_ERRORS, UnreadableSample
from .micro_world.actions import MICRO_ACTIONS, MicroActions, MicroActionsConfig
from .micro_world.questions import MICRO_DRIVING, MICRO_QUESTIONS, MicroDriving, MicroQuestions
from .micro_world.world import MicroWorld, MicroWorldConfig, TwoTaskWorld
from .preparing.parquet_shards import check_finished
from .samples import SampleSequence, import_datasets
from .schemas import (
    ACTIONS,
    QUESTIONED_ACTIONS,
    SCHEMAS,
    Schema,
    join_name,
    name_of_row,
    schema_of_columns,
    schema_of_row,
)

MICRO_WORLD = "micro-world"
TWO_TASKS = "micro-world-two-tasks"
DRAWN = (MICRO_WORLD, TWO_TASKS, MICRO_ACTIONS, MICRO_QUESTIONS, MICRO_DRIVING)
"""The datasets that are drawn, not read."""

_OF_PATTERNS = re.compile(r"[*?\[\n\r]|::")
_CLIPS = 10_000  # of the micro-world, which has no end of its own


class RowSamples(SampleSequence[Any]):
    """Undecoded rows of one of `SCHEMAS`, read as samples on demand, their pictures within `limits`."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], split: str, limits: SourceLimits = LIMITS):
        self.rows = rows
        self.split = split
        self.limits = limits

    def __len__(self) -> int:
        return len(self.rows)

    def read_sample(self, index: int) -> Any:
        """Read row `index`."""
        return read_row(self.rows[index], self.split, self.limits)

    def ids(self) -> list[str | None]:
        """Read the ids of all samples and nothing else; `None` where a row has none."""
        rows: Any = self.rows
        if isinstance(rows, list):
            return [name_of_row(row) for row in rows]
        names = schema_of_columns(set(rows.column_names)).names
        columns = [rows[name][:] for name in names]
        return [join_name(parts) for parts in zip(*columns, strict=True)]

    def without_pictures(self, index: int) -> tuple[Any, list[Any]]:
        """Read row `index` undecoded: its sample with an empty video, and its files, `{"bytes", "path"}` each."""
        row = self.rows[index]
        return _read(schema_of_row(row).read_without_pictures, row, self.split)


def undecoded(rows: Any, schemas: Sequence[Schema] = SCHEMAS) -> Any:
    """Return the rows of a dataset of one of `schemas`, whole or streamed, with their files undecoded.

    Raises:
        ValueError: if the columns are of no schema.
    """
    return schema_of_columns(set(rows.column_names or ()), schemas).undecoded(rows)


def read_row(row: Mapping[str, Any], split: str, limits: SourceLimits = LIMITS) -> Any:
    """Read an undecoded row, its pictures within `limits`.

    In a mixture of schemas it may have empty columns of another one.

    Raises:
        UnreadableSample: if its values make no sample, or if a picture is missing or damaged.
    """
    return _read(schema_of_row(row).read, row, split, limits)


def _read(reader: Callable[..., Any], row: Mapping[str, Any], *options: Any) -> Any:
    try:
        return reader(row, *options)
    except READ_ERRORS as error:
        name = name_of_row(row)
        if name is None:
            raise
        raise UnreadableSample(str(error) or type(error).__name__, f"sample {name}") from error


def load_samples(
    name: str,
    split: str,
    size: int | None = None,
    streaming: bool = False,
    limits: SourceLimits = LIMITS,
    schemas: Sequence[Schema] = SCHEMAS,
    **world: Any,
) -> Sequence[Any]:
    """Load one split of a dataset.

    Args:
        name: `"micro-world"`, `"micro-world-two-tasks"` for its risk and its ego questions by turns,
            `"micro-actions"`, `"micro-questions"`, `"micro-driving"`, or a folder or Hub id of a dataset of one of
            `SCHEMAS`. `org/drama@v1` is its branch, tag or commit `v1`.
        split: `"train"`, `"validation"` or `"test"`.
        size: this many samples from the start. When absent, all of a dataset, or 10,000 clips of the micro-world.
        streaming: read only the rows that are asked for and hold them in memory, their files encoded. Otherwise
            `datasets` downloads all splits of a dataset on the Hub.
        limits: of the pictures of rows.
        schemas: that the caller can use.
        world: values of `MicroWorldConfig` or of `MicroActionsConfig`, for what is drawn alone; with questions, also
            those of `MicroQuestions` or of `MicroDriving`.

    Raises:
        ValueError: if there is no such dataset or split, if it is empty or not finished, or if the columns are of
            none of `schemas`.
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if name in DRAWN:
        return _draw(name, split, _CLIPS if size is None else size, schemas, world)
    rows = load_rows(name, split, streaming, schemas)
    if streaming:
        if size is not None:
            rows = rows.take(size)
        held = list(rows)
        if not held:
            raise ValueError(f"{split!r} of {name!r} must hold samples, got no data")
        return RowSamples(held, split, limits)
    if size is not None:
        rows = rows.select(range(min(size, len(rows))))
    return RowSamples(rows, split, limits)


def _draw(name: str, split: str, size: int, schemas: Sequence[Schema], world: dict[str, Any]) -> Sequence[Any]:
    """Draw the clips of one of `DRAWN`; those of classes are refused where the caller can use none."""
    needed = {MICRO_ACTIONS: ACTIONS, MICRO_QUESTIONS: QUESTIONED_ACTIONS, MICRO_DRIVING: QUESTIONED_ACTIONS}
    schema = needed.get(name)
    if schema is not None and schema not in schemas:
        known = [schema.name for schema in schemas]
        raise ValueError(f"a dataset must be of {known}, got {schema.name}, {name!r}")
    if name == MICRO_ACTIONS:
        return MicroActions(MicroActionsConfig(**world), split, size)
    if name == MICRO_QUESTIONS:
        options = _taken(world, ("bond", "predictor_errors"))
        return MicroQuestions(MicroActionsConfig(**world), split, size, **options)
    if name == MICRO_DRIVING:
        options = _taken(world, ("predictor_errors",))
        return MicroDriving(MicroWorld(MicroWorldConfig(**world), split, size), **options)
    clips = MicroWorld(MicroWorldConfig(**world), split, size)
    if name == TWO_TASKS:
        return TwoTaskWorld(clips)
    return clips


def _taken(values: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Take out those of some values that have one of `names`."""
    return {name: values.pop(name) for name in names if name in values}


def _check_is_no_pattern(repository: str) -> None:
    """Raise a `ValueError` for a folder whose path `datasets` would take for a pattern, also of other folders."""
    if Path(repository).is_dir() and (found := _OF_PATTERNS.search(str(Path(repository).resolve()))):
        raise ValueError(
            f"the folder of a dataset must have a path without *, ?, [, :: and line breaks, which datasets reads as "
            f"patterns, got {found.group()!r} in {repository!r}: rename it"
        )


def load_rows(name: str, split: str, streaming: bool = False, schemas: Sequence[Schema] = SCHEMAS) -> Any:
    """Load one split of a dataset as undecoded rows, whole or streamed, as in `load_samples`."""
    repository, revision = split_revision(name)
    check_revision(repository, revision)
    check_finished(repository)
    _check_is_no_pattern(repository)
    datasets = import_datasets()
    import pyarrow  # which datasets brings

    try:
        rows = datasets.load_dataset(repository, split=split, streaming=streaming, revision=revision)
        return undecoded(rows, schemas)
    except (FileNotFoundError, ConnectionError) as error:
        raise ValueError(f"a dataset must be {MICRO_WORLD!r}, a folder or a Hub id, got {name!r}: {error}") from error
    except (datasets.exceptions.DatasetGenerationError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"the files of {name!r} must be whole, got {error.__cause__ or error}") from error
