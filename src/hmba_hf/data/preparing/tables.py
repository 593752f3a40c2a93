"""Tables of annotations as datasets publish them: CSV files with a header."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .parquet_shards import Dropped

MALFORMED = "malformed_entry"
NO_UNICODE = "text_is_no_unicode"

_PICKLES = (".pickle", ".pkl")


@dataclass
class Table:
    """The rows of a file.

    Args:
        columns: of the header.
        rows: the place of each row for messages, such as `list.csv, line 3`, and its cells by column.
        dropped: rows with more or fewer cells than the header.
    """

    columns: list[str]
    rows: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)


def refuse_pickle(path: str | Path) -> None:
    """Raise `ValueError` for a pickle, which runs what its author likes while it is read."""
    if Path(path).suffix.lower() in _PICKLES:
        raise ValueError(
            f"{path} must be a CSV file, or a JSON file where a program takes one, got a pickle, which can run any "
            "code and is not read: where you trust it, write it with `pandas.read_pickle(...).to_csv(...)`"
        )


def is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON may hold one half of a surrogate pair."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def read_table(path: str | Path, wanted: Sequence[str]) -> Table:
    """Read a CSV file in UTF-8 by the names of its columns; empty lines are none of its rows.

    Args:
        path: of the file.
        wanted: columns that it must have, in any order and among others.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a pickle or no CSV file, if a quoted cell has no end, or if a column is missing or twice
            there.
    """
    refuse_pickle(path)
    name = Path(path).name
    lines: list[tuple[int, list[str]]] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                lines.append((reader.line_num, [cell.strip() for cell in cells]))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} must be a CSV file in UTF-8, got one that cannot be read: {error}") from error
    header = lines[0][1] if lines else []
    missing = [column for column in wanted if column not in header]
    if missing:
        raise ValueError(
            f"{path} must have the columns {', '.join(wanted)}, got {header} without {', '.join(missing)}"
        )
    if len(set(header)) < len(header):
        raise ValueError(f"{path} must name each column once, got {header}")
    table = Table(header)
    for number, cells in lines[1:]:
        place = f"{name}, line {number}"
        if not any(cells):
            continue
        if len(cells) != len(header):
            table.dropped.append(Dropped(place, MALFORMED, f"{len(cells)} cells for {len(header)} columns"))
            continue
        table.rows.append((place, dict(zip(header, cells, strict=True))))
    return table
