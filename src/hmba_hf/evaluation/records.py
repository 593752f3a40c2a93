"""Files of predictions, one record a line."""

import sys
from pathlib import Path
from typing import Any

from ..families import TASK_OF_VERSION_0_1, find_task
from ..files import check_fields, parse_json, split_lines
from .task import Record

REQUIRED_KEYS = ("id", "answer", "reference")


def read_records(path: str | Path) -> list[Record]:
    """Read predictions, one JSON object a line.

    A record needs `id`, `answer` and `reference`, and what its task asks of it; `task`, `split`, `index`, `tags` and
    `error` are optional. `answer` is the prediction, whatever the task. A record without a `task` is of the one task
    of version 0.1.

    Raises:
        ValueError: if a line is no such object, if two have the same id in the same split, be it a number or a text,
            or if there is none.
    """
    records: list[Record] = []
    seen: dict[tuple[Any, Any], int] = {}
    for number, line in split_lines(path):
        where = f"{path}, line {number}"
        shown = line.decode(errors="replace").strip()[:80]
        try:
            record = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{where}: a record must be a JSON object, got {shown!r}: {error}") from error
        if not isinstance(record, dict) or not (record.get("error") or record.keys() >= set(REQUIRED_KEYS)):
            raise ValueError(f"{where}: a record must have {REQUIRED_KEYS}, got {shown!r}")
        try:
            _check_record(record)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        split = record.get("split") or None  # a split without a name is none
        name = record.get("id")
        key = (split, str(name))  # an id is a text, also where it was written as a number
        if name is not None and seen.setdefault(key, number) != number:
            raise ValueError(
                f"{where}: a sample must be once in a split, got {name!r} of {split!r} in line {seen[key]}, too"
            )
        records.append(record)
    if not records:
        raise ValueError(f"{path} must hold at least one record, got none")
    return records


def task_of(record: Record) -> Any:
    """Return the `Task` of a record.

    Raises:
        ValueError: if it is of none.
    """
    return find_task(record.get("task") or TASK_OF_VERSION_0_1)


def is_number(value: Any) -> bool:
    """Tell a number that a float holds from everything else that JSON may have, such as `true` or `NaN`."""
    limit = sys.float_info.max
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -limit <= value <= limit


def are_texts(value: Any) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _check_record(record: Record) -> None:
    """Raise a `ValueError` that names the record if it does not hold what scoring reads."""
    optional: dict[str, tuple[type, ...]] = {
        "id": (str, int),
        "task": (str,),
        "split": (str,),
        "index": (int,),
        "error": (str,),
    }
    name = f"record {record.get('id')}"
    fields = {key: (*kinds, type(None)) for key, kinds in optional.items() if key in record}
    if record.get("error"):
        check_fields(record, name, **fields)
        return
    check_fields(record, name, **{**fields, "id": (str, int)})
    tags = record.get("tags")
    if tags is not None and not are_texts(tags):
        raise ValueError(f"{name}: tags must be a list of texts, got {tags!r}")
    task_of(record).check_record(record)
