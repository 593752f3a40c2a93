"""The answers of a visit as files: JSON with all that is known, CSV with a row for each."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # by which spreadsheets know what they run


def write_records(folder: Path, records: Sequence[Mapping[str, Any]], name: str = "answers") -> tuple[Path, Path]:
    """Write answers as JSON and as CSV, whose fields of several values hold JSON; return both paths.

    Raises:
        ValueError: if there are no answers.
    """
    if not records:
        raise ValueError("there must be answers to download, got none")
    as_json = folder / f"{name}.json"
    as_csv = folder / f"{name}.csv"
    as_json.write_text(json.dumps(list(records), indent=1, ensure_ascii=False) + "\n", "utf-8")
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(records[0])
    for record in records:
        writer.writerow(map(_cell, record.values()))
    as_csv.write_bytes(table.getvalue().encode())
    return as_json, as_csv


def _cell(value: Any) -> Any:
    """Return what stands in a cell: no text that a spreadsheet would run."""
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
