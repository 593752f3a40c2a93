"""The schemas of datasets that are read as samples: one row of a table each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..models.decoding_containers import SourceLimits
from .actions.questioned import from_questioned_row
from .actions.samples import from_action_row
from .captions.samples import from_caption_row
from .samples import from_bddx_row, from_drama_row, from_drama_row_without_pictures, import_datasets

Row = Mapping[str, Any]


class Schema(NamedTuple):
    """How rows of one kind are recognised and read.

    Attributes:
        name: in messages.
        columns: that a dataset of this schema has at least.
        media: the column of the row's files.
        names: columns that together name a row.
        undecoded: returns the rows of a dataset, whole or streamed, with their files undecoded.
        read: makes a sample from a row of a split, its pictures within limits.
        read_without_pictures: makes a sample with an empty video, and returns the row's files with it.
    """

    name: str
    columns: frozenset[str]
    media: str
    names: tuple[str, ...]
    undecoded: Callable[[Any], Any]
    read: Callable[[Row, str, SourceLimits], Any]
    read_without_pictures: Callable[[Row, str], tuple[Any, list[Any]]]


def _undecoded_drama(rows: Any) -> Any:
    datasets = import_datasets()
    return rows.cast_column("frames", datasets.List(datasets.Image(decode=False)))


def _undecoded_video(rows: Any) -> Any:
    return rows.cast_column("video", import_datasets().Video(decode=False))


def _read_bddx(row: Row, split: str, limits: SourceLimits) -> Any:
    """Read a row; its video is decoded later, within the limits of then."""
    return from_bddx_row(row, split)


def _drama_without_pictures(row: Row, split: str) -> tuple[Any, list[Any]]:
    return from_drama_row_without_pictures(row, split), row["frames"]


def _bddx_without_pictures(row: Row, split: str) -> tuple[Any, list[Any]]:
    return replace(from_bddx_row(row, split), video=b""), [row["video"]]


def _read_action(row: Row, split: str, limits: SourceLimits) -> Any:
    """Read a row; its video is decoded later, within the limits of then."""
    return from_action_row(row, split)


def _action_without_pictures(row: Row, split: str) -> tuple[Any, list[Any]]:
    return replace(from_action_row(row, split), video=b""), [row["video"]]


def _read_questioned(row: Row, split: str, limits: SourceLimits) -> Any:
    """Read a row; its video is decoded later, within the limits of then."""
    return from_questioned_row(row, split)


def _questioned_without_pictures(row: Row, split: str) -> tuple[Any, list[Any]]:
    return replace(from_questioned_row(row, split), video=b""), [row["video"]]


def _read_caption(row: Row, split: str, limits: SourceLimits) -> Any:
    """Read a row; its video is decoded later, within the limits of then."""
    return from_caption_row(row, split)


def _caption_without_pictures(row: Row, split: str) -> tuple[Any, list[Any]]:
    return replace(from_caption_row(row, split), video=b""), [row["video"]]


BDDX = Schema(
    name="BDD-X",
    columns=frozenset({"video", "video_id", "segment", "action", "justification"}),
    media="video",
    names=("video_id", "segment"),
    undecoded=_undecoded_video,
    read=_read_bddx,
    read_without_pictures=_bddx_without_pictures,
)
DRAMA = Schema(
    name="DRAMA",
    columns=frozenset({"id", "frames", "width", "height", "question", "answer", "objects"}),
    media="frames",
    names=("id",),
    undecoded=_undecoded_drama,
    read=from_drama_row,
    read_without_pictures=_drama_without_pictures,
)
QUESTIONED_ACTIONS = Schema(
    name="questioned actions",
    columns=frozenset({"id", "video", "labels"}),
    media="video",
    names=("id",),
    undecoded=_undecoded_video,
    read=_read_questioned,
    read_without_pictures=_questioned_without_pictures,
)
ACTIONS = Schema(
    name="actions",
    columns=frozenset({"id", "video", "label"}),
    media="video",
    names=("id",),
    undecoded=_undecoded_video,
    read=_read_action,
    read_without_pictures=_action_without_pictures,
)
CAPTIONS = Schema(
    name="captions",
    columns=frozenset({"id", "video", "caption"}),
    media="video",
    names=("id",),
    undecoded=_undecoded_video,
    read=_read_caption,
    read_without_pictures=_caption_without_pictures,
)
SCHEMAS = (BDDX, DRAMA, QUESTIONED_ACTIONS, ACTIONS, CAPTIONS)
QUESTIONS = (BDDX, DRAMA)
"""The schemas of questions with answers, which are read as `Sample`s."""


def schema_of_columns(columns: set[str], schemas: Sequence[Schema] = SCHEMAS) -> Schema:
    """Return the schema of a dataset, one of `schemas`.

    Raises:
        ValueError: if its columns are of none.
    """
    for schema in schemas:
        if schema.columns <= columns:
            return schema
    known = []
    for schema in (DRAMA, BDDX, QUESTIONED_ACTIONS, ACTIONS, CAPTIONS):
        if schema in schemas:
            known.append(f"{schema.name} {sorted(schema.columns)}")
    wanted = " or ".join(known)
    raise ValueError(f"the dataset must have the columns of {wanted}, got {sorted(columns)}")


def schema_of_row(row: Row) -> Schema:
    """Return the schema of a row, which in a mixture of schemas may have empty columns of another one."""
    whole = [schema for schema in SCHEMAS if schema.columns <= row.keys()]
    for schemas in (whole, SCHEMAS):
        for schema in schemas:
            if row.get(schema.media) is not None:
                return schema
    for schemas in (whole, SCHEMAS):
        for schema in schemas:
            if schema.media in row:
                return schema
    return DRAMA


def name_of_row(row: Row) -> str | None:
    """Return the id of a row's sample; `None` where it has none."""
    return join_name([row[name] for name in schema_of_row(row).names])


def join_name(parts: Sequence[Any]) -> str | None:
    """Return the id that the values of a row's name columns make; `None` where one of them is missing."""
    if None in parts:
        return None
    return "_".join(map(str, parts))
