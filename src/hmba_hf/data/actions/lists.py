"""Lists of videos and the classes of their actions, in the layouts in which datasets publish them.

- CSV files with a header, parted by commas, semicolons or tabs: `label,youtube_id,time_start,time_end,split`, as
  Kinetics has it, whose videos are called `{youtube_id}_{time_start:06d}_{time_end:06d}`, or `path,label`. Lists of a
  test may lack the labels.
- JSON files as Something-Something has them: objects with an `id`, which is the name of the video, and a `template`,
  which is its class with words in brackets.
- Lines of a path and a label, parted by a space, a tab or a comma, as the original VideoMamba reads them.
- Folders: `class/video`, also within folders of splits.
"""

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ...files import check_fields, parse_json
from ..preparing.finding import VIDEO_SUFFIXES, list_videos
from ..preparing.parquet_shards import Dropped
from ..preparing.tables import NO_UNICODE, is_unicode
from .samples import SPLITS

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Splits by the words for them in lists and names of folders."""

_PATHS = ("path", "video", "video_path", "file", "filename", "file_name")
_LABELS = ("label", "class", "label_name", "class_name")
_TIMES = ("time_start", "time_end")
_LONGEST = 1e6  # seconds
_MOST_CLASSES = 100_000
_SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True)
class ListedVideo:
    """One video of a list.

    Args:
        id: its name in the dataset, not unique.
        video: path in the folder of videos, or a name without suffix.
        label: number or name of its class as the list has it; `None` where it has none.
    """

    fingerprint_name: ClassVar = "ListedVideo"

    id: str
    video: str
    label: str | None


def read_list(path: str | Path, split: str) -> list[ListedVideo | Dropped]:
    """Read the videos of one split from a list, and each entry that is none with the reason.

    Of a list with a column `split`, those of other splits are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not in a layout of this module.
    """
    if Path(path).suffix.lower() == ".json":
        return _read_json(Path(path).read_bytes(), str(path))
    lines = _read_lines(path)
    for separator in _SEPARATORS:
        header = [name.lower() for name in _cells(lines[0][1], separator)]
        if {*header} & {"youtube_id", *_PATHS} and (len(header) > 1 or separator == ","):
            if len({*header}) < len(header):
                raise ValueError(f"{path} must name each column once, got {header}")
            return list(_read_table(lines[1:], header, separator, split, Path(path).name))
    return [_read_line(line, f"{Path(path).name}, line {number}") for number, line in lines]


def _read_lines(path: str | Path) -> list[tuple[int, str]]:
    """Read the lines of a text that are not blank, with their numbers."""
    try:
        lines = Path(path).read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a text in UTF-8, got {error}") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ValueError(f"{path} must have lines, got an empty file")
    return numbered


def _cells(line: str, separator: str) -> list[str]:
    """Return the cells of a line of a CSV file; a line that is none, as of an open quote, is one cell."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, strict=True))]
    except csv.Error:
        return [line]


def _read_json(text: bytes, path: str) -> list[ListedVideo | Dropped]:
    try:
        rows = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON file, got one that cannot be read: {error}") from error
    if not isinstance(rows, list) or not rows:
        got = "an empty one" if isinstance(rows, list) else type(rows).__name__
        raise ValueError(f"{path} must be a JSON list of videos, got {got}")
    found: list[ListedVideo | Dropped] = []
    for number, row in enumerate(rows):
        try:
            check_fields(row, f"entry {number}", id=(str, int))
            label = row.get("template", row.get("label"))
            check_fields({"template": label}, f"entry {number}", template=(str, type(None)))
        except ValueError as error:
            found.append(Dropped(f"entry {number}", "malformed_entry", str(error)))
            continue
        name = str(row["id"])
        if not name:
            found.append(Dropped(f"entry {number}", "malformed_entry", "it names no video"))
            continue
        strange = [text for text in (name, label) if text is not None and not is_unicode(text)]
        if strange:
            found.append(Dropped(f"entry {number}", NO_UNICODE, ascii(strange[0])))
            continue
        found.append(ListedVideo(name, name, without_brackets(label) if label else None))
    return found


def without_brackets(template: str) -> str:
    """Return the class of a template of Something-Something, whose words for things stand in brackets."""
    return re.sub(r"\[([^\[\]]*)\]", r"\1", template)


def _read_table(
    numbered: Sequence[tuple[int, str]], header: Sequence[str], separator: str, split: str, title: str
) -> Iterator[ListedVideo | Dropped]:
    """Read the rows of a CSV file with a header."""
    labels = [name for name in _LABELS if name in header]
    for number, line in numbered:
        cells = _cells(line, separator)
        place = f"{title}, line {number}"
        if len(cells) != len(header):
            yield Dropped(place, "malformed_entry", f"{len(cells)} cells for {len(header)} columns")
            continue
        row = dict(zip(header, cells, strict=True))
        if SPLIT_NAMES.get(row.get("split", "").lower(), split) != split:
            continue
        try:
            name = _video_of(row)
        except ValueError as error:
            yield Dropped(place, "malformed_entry", str(error))
            continue
        label = row[labels[0]] if labels else ""
        yield ListedVideo(without_suffix(name), name, label or None)


def _video_of(row: Mapping[str, str]) -> str:
    """Return the path of a row, or the name under which downloads of Kinetics keep its clip."""
    if "youtube_id" not in row:
        paths = [row[name] for name in _PATHS if row.get(name)]
        if not paths:
            raise ValueError("it names no video")
        return paths[0]
    name = row["youtube_id"]
    if not name:
        raise ValueError("it names no video")
    if not all(row.get(time) for time in _TIMES):
        return name
    start, end = (float(row[time]) for time in _TIMES)
    if not 0 <= start <= end < _LONGEST:
        raise ValueError(f"its times must be seconds in their order, got {start:g} and {end:g}")
    return f"{name}_{round(start):06d}_{round(end):06d}"


def _read_line(line: str, place: str) -> ListedVideo | Dropped:
    """Read a path and a label, which only a comma parts where the path has a suffix before it."""
    for separator in (",", "\t", " "):
        name, _, label = (piece.strip() for piece in line.strip().rpartition(separator))
        is_path = bool(name) and (separator != "," or name != without_suffix(name))
        if is_path and label:
            return ListedVideo(without_suffix(name), name, label)
    return Dropped(place, "malformed_entry", f"it must be a path and a label, got {line.strip()[:80]!r}")


def without_suffix(name: str) -> str:
    """Return the name of a video without the suffix of its format."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in VIDEO_SUFFIXES else name


def read_folders(folder: str | Path) -> dict[str, list[ListedVideo | Dropped]]:
    """List the videos in folders named by their classes, by split.

    The folders of classes lie in folders that are all named by splits, or are all of the training split. A video whose
    path is no text in Unicode, which no row can hold, is left out.

    Raises:
        ValueError: if there is no video in such a folder.
    """
    root = Path(folder)
    folders = [place for place in sorted(root.iterdir()) if place.is_dir() and not place.name.startswith(".")]
    named = [(SPLIT_NAMES.get(place.name.lower()), place) for place in folders]
    if any(split is None for split, _ in named):
        named = [("train", root)]
    found: dict[str, list[ListedVideo | Dropped]] = {}
    for split, place in named:
        videos = found.setdefault(str(split), [])
        for path in list_videos(place):
            inside = path.relative_to(place)
            if len(inside.parts) < 2:
                continue
            name = path.relative_to(root).as_posix()
            if not is_unicode(name):
                videos.append(Dropped(ascii(name), NO_UNICODE, ascii(name)))
            else:
                videos.append(ListedVideo(without_suffix(name), name, inside.parts[0]))
    if not any(found.values()):
        raise ValueError(f"{folder} must hold folders named by classes, with videos in them, got none")
    return {split: found[split] for split in SPLITS if split in found}


def read_class_names(path: str | Path) -> list[str]:
    """Read the names of classes in the order of their numbers.

    Args:
        path: JSON, an object of numbers by names or of names by numbers, or a list of names; CSV with the columns `id`
            and `name`; or a text with one name a line.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no names, the same one twice, or numbers that are not 0, 1, 2 and so on.
    """
    numbers: Any = _read_classes(Path(path))
    if isinstance(numbers, dict):
        numbers = order_classes(numbers, str(path))
    if not isinstance(numbers, list):
        raise ValueError(f"{path} must be a list or an object of classes, got {type(numbers).__name__}")
    names: list[str] = []
    for name in numbers:
        if not isinstance(name, str) or not name.strip() or name.strip() in names:
            raise ValueError(f"{path} must name each class once, got {name!r}")
        if not is_unicode(name):
            raise ValueError(f"{path} must name each class in Unicode, got {name!r}")
        names.append(name.strip())
    if not names:
        raise ValueError(f"{path} must name classes, got none")
    return names


def _read_classes(path: Path) -> Any:
    """Read the names of classes in their order, or numbers by names."""
    if path.suffix.lower() == ".json":
        try:
            return parse_json(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} must be a JSON file, got one that cannot be read: {error}") from error
    lines = _read_lines(path)
    for separator in _SEPARATORS:
        header = [name.lower() for name in _cells(lines[0][1], separator)]
        if {"id", "name"} <= {*header}:
            return _read_numbers(lines[1:], header, separator, path)
    names = [line.strip() for _, line in lines]
    _refuse_numbers_beside(names, path)
    return names


def _refuse_numbers_beside(names: Sequence[str], path: Path) -> None:
    """Raise a `ValueError` if each line holds a name and its number, which would be part of the name.

    Lines that differ by their numbers alone, such as `level 0` and `level 1`, are names.
    """
    count = len(names)
    for layout in (r"(?P<number>[0-9]+)[\s,;]+(?P<name>.+)", r"(?P<name>.+)[\s,;]+(?P<number>[0-9]+)"):
        matches = [match for name in names if (match := re.fullmatch(layout, name))]
        numbers = [_whole_number(match["number"]) for match in matches]
        others = {match["name"] for match in matches}
        if count > 1 and len(others) == count and numbers in ([*range(count)], [*range(1, count + 1)]):
            raise ValueError(
                f"{path} must hold one name a line, or a header with id and name before numbers and names, got "
                f"{names[0][:80]!r}"
            )


def _read_numbers(
    lines: Sequence[tuple[int, str]], header: Sequence[str], separator: str, path: Path
) -> dict[str, str]:
    """Read the numbers of classes by their names from the rows of a CSV file."""
    numbers: dict[str, str] = {}
    for number, line in lines:
        cells = _cells(line, separator)
        if len(cells) != len(header):
            raise ValueError(f"{path}, line {number}, must have an id and a name, got {line[:80]!r}")
        row = dict(zip(header, cells, strict=True))
        if row["name"] in numbers:
            raise ValueError(f"{path} must name each class once, got {row['name']!r}")
        numbers[row["name"]] = row["id"]
    return numbers


def order_classes(numbers: Mapping[str, Any], path: str) -> list[Any]:
    """Return the names of classes in the order of their numbers.

    Args:
        numbers: numbers by names, or names by numbers, as numbers or as texts.
        path: of their file, for messages.

    Raises:
        ValueError: if the numbers are not 0, 1, 2 and so on.
    """
    wanted = [str(number) for number in range(len(numbers))]
    if numbers.keys() == set(wanted):  # names by numbers
        return [numbers[number] for number in wanted]
    by_number = {}
    for name, number in numbers.items():
        whole = _whole_number(str(number))
        if whole is None or isinstance(number, bool):
            raise ValueError(f"{path} must give each class a number, got {number!r:.80} for {name!r:.80}")
        by_number[whole] = name
    if sorted(by_number) != list(range(len(numbers))):
        raise ValueError(f"{path} must number its {len(numbers)} classes from 0 on, got {sorted(by_number)[:5]} ...")
    return [by_number[number] for number in range(len(numbers))]


def names_of(lists: Mapping[str, Sequence[ListedVideo | Dropped]]) -> list[str]:
    """Return the names of the classes of all lists, in alphabetical order, or numbers as names where lists have them.

    Raises:
        ValueError: if there is none, or if some labels are numbers and others are names.
    """
    labels = set()
    for videos in lists.values():
        for video in videos:
            if isinstance(video, ListedVideo) and video.label is not None:
                labels.add(video.label)
    if not labels:
        raise ValueError("lists must have labels, got none")
    strange = sorted(label[:20] for label in labels if _is_no_class(label))
    if strange:
        raise ValueError(f"labels must be names, or whole numbers below {_MOST_CLASSES:,}, got {strange[:3]}")
    numbers = {number for label in labels if (number := _whole_number(label)) is not None}
    if not numbers:
        return sorted(labels)
    if len(numbers) < len(labels):
        named = sorted(label for label in labels if _whole_number(label) is None)
        raise ValueError(f"labels must be all numbers or all names, or a file must name the classes, got {named[:3]}")
    return [str(number) for number in range(max(numbers) + 1)]


def number_of(label: str | None, names: Sequence[str], numbers: Mapping[str, int]) -> int | None:
    """Return the number of a class that a list gives by its name or its number; `None` for none.

    Raises:
        ValueError: if there is no such class.
    """
    if label is None:
        return None
    if label in numbers:
        return numbers[label]
    number = _whole_number(label)
    if number is not None and number < len(names):
        return number
    raise ValueError(f"the class must be one of {len(names)}, got {label!r:.80}")


def _whole_number(text: str) -> int | None:
    """Return the number that digits stand for; `None` for another text, or for a number that no class has."""
    if not re.fullmatch("[0-9]{1,20}", text):
        return None
    number = int(text)
    return number if number < _MOST_CLASSES else None


def _is_no_class(label: str) -> bool:
    """Whether a label is a number, but none of a class, such as -1 for an unknown one, or nan."""
    try:
        float(label)
    except ValueError:
        return False
    return _whole_number(label) is None
