"""The annotations of BDD-X: a CSV file whose rows describe drives in segments, and lists of rows for the splits.

A row describes a video in up to 15 segments. Rows are known by their rank `n`: the 1-based number among those that
have a video, a first start and a first justification. Segments are known by their index: the 0-based number among
those of ranked rows whose four cells are filled, 26,521 in all. The column `segment` holds this index, as the names of
RAG-Driver, DriveGPT4 and DriveMM do. `{video_id}_{segment}` is unique, although a thousand videos are described twice.

Source: github.com/JinkyuKimUCB/explainable-deep-driving, `Step1_csv2json.py`; github.com/jxbbb/ADAPT, `src/prepro`.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar
from urllib.parse import urlparse

from ..preparing.converting import Entry, Plan
from ..preparing.parquet_shards import Dropped

CELLS = ("start", "end", "action", "justification")
COLUMNS = ["Input.Video", *(f"Answer.{number}{cell}" for number in range(1, 16) for cell in CELLS)]
SPLIT_FILES = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}
RANGES = {"train": range(1, 5595), "validation": range(5595, 6296), "test": range(6296, 6997)}


@dataclass(frozen=True)
class Segment:
    """What the ego car does from `start` to `end`, in seconds of a drive, and why.

    Args:
        index: 0-based, among all segments that are filled.
        rank: 1-based, of the row it stands in.
    """

    fingerprint_name: ClassVar = "Segment"

    index: int
    rank: int
    video_id: str
    start: float
    end: float
    action: str
    justification: str


@dataclass
class Annotations:
    """What the CSV file holds.

    Args:
        segments: those whose four cells are filled, in order.
        dropped: segments with missing or wrong cells, and rows without a segment.
        found: the number of both.
        videos: the video of each ranked row, the first at 0.
    """

    segments: list[Segment] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    found: int = 0
    videos: list[str] = field(default_factory=list)


def read_annotations(path: str | Path) -> Annotations:
    """Read the CSV file.

    Raises:
        ValueError: if it is not BDD-X's or is cut off.
    """
    read = Annotations()
    index = 0
    for line, cells in _read_rows(path):
        video_id = PurePosixPath(urlparse(cells[0]).path).stem
        answers = _answers(cells)
        problem = _row_problem(cells, answers[0])
        used = []
        for place, answer in enumerate(answers, 1):
            if any(answer.values()):
                used.append((place, answer))
        read.found += max(len(used), 1)
        if problem is not None and not used:
            read.dropped.append(Dropped(f"line {line}", problem, video_id))
        if problem is not None:
            for place, _ in used:
                read.dropped.append(Dropped(f"line {line}, answer {place}", problem, video_id))
            continue
        read.videos.append(video_id)
        for place, answer in used:
            missing = [f"no {cell}" for cell in CELLS if not answer[cell]]
            if missing:
                detail = f"{video_id}: {', '.join(missing)}"
                read.dropped.append(Dropped(f"line {line}, answer {place}", "segment_partly_empty", detail))
                continue
            start = _seconds(answer["start"])
            end = _seconds(answer["end"])
            if start is None or end is None:
                detail = f"from {answer['start']!r} to {answer['end']!r}"
                read.dropped.append(Dropped(f"{video_id}_{index}", "time_is_no_number", detail))
            else:
                segment = Segment(
                    index=index,
                    rank=len(read.videos),
                    video_id=video_id,
                    start=start,
                    end=end,
                    action=answer["action"],
                    justification=answer["justification"],
                )
                read.segments.append(segment)
            index += 1
    return read


def _answers(cells: Sequence[str]) -> list[dict[str, str]]:
    """Return the cells of each answer of a row by their names."""
    answers = []
    for first in range(1, len(COLUMNS), len(CELLS)):
        answers.append(dict(zip(CELLS, cells[first : first + len(CELLS)], strict=True)))
    return answers


def _read_rows(path: str | Path) -> list[tuple[int, list[str]]]:
    """Read the number of the line and the cells of each row below the header, without stray spaces."""
    rows: list[tuple[int, list[str]]] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                cells = [" ".join(cell.split()) for cell in row]
                rows.append((reader.line_num, cells))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error
    header = rows[0][1] if rows else []
    if header != COLUMNS:
        raise ValueError(
            f"{path} must have the {len(COLUMNS)} columns of BDD-X, {COLUMNS[0]} to {COLUMNS[-1]}, got {header}"
        )
    below: list[tuple[int, list[str]]] = []
    for line, cells in rows[1:]:
        if not cells:  # an empty line
            cells = [""] * len(COLUMNS)
        if len(cells) != len(COLUMNS):
            raise ValueError(
                f"{path}, line {line} must have {len(COLUMNS)} cells, got {len(cells)}: is the file whole?"
            )
        below.append((line, cells))
    return below


def _row_problem(cells: Sequence[str], first: Mapping[str, str]) -> str | None:
    """Return why a row has no rank; `None` if it has one."""
    if not any(cells):
        return "row_empty"
    if not cells[0]:
        return "row_without_video"
    if not first["start"] or not first["justification"]:
        return "row_without_first_answer"
    return None


def _seconds(text: str) -> float | None:
    """Read a time; `None` if the text is no time."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value) or value < 0:
        return None
    return value


def read_split_files(folder: str | Path) -> dict[int, tuple[str, str]]:
    """Read `train.txt`, `val.txt` and `test.txt`: the split and the video of each rank that they list.

    Raises:
        FileNotFoundError: if one of them is missing.
        ValueError: if a line is not `{rank}_{video}` or a rank is listed twice.
    """
    listed: dict[int, tuple[str, str]] = {}
    for split, name in SPLIT_FILES.items():
        path = Path(folder) / name
        if not path.is_file():
            raise FileNotFoundError(f"the split rule split_files needs {path}; the rule ranges needs no such file")
        for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1):
            rank, _, video_id = line.strip().partition("_")
            if not line.strip():
                continue
            if rank.isdecimal() and int(rank) in listed:
                raise ValueError(f"{path}, line {number} must name a new row, got {line!r} again")
            if not rank.isdecimal() or not video_id:
                raise ValueError(f"{path}, line {number} must be number_video, got {line!r}")
            listed[int(rank)] = (split, video_id)
    return listed


def plan_segments(read: Annotations, listed: Mapping[int, tuple[str, str]] | None) -> Plan:
    """Put segments into splits, by the lists of ranks or, where there are none, by `RANGES`.

    Raises:
        ValueError: if a list names a row that the annotations do not have, or another video for it.
    """
    for rank, (list_name, video_id) in (listed or {}).items():
        known = read.videos[rank - 1] if 1 <= rank <= len(read.videos) else "none"
        if known != video_id:
            raise ValueError(
                f"row {rank} of the annotations must be about {video_id}, as in the list of the {list_name} split, "
                f"got {known}: annotations and split files do not belong together, or the annotations are cut off"
            )
    entries = []
    dropped = list(read.dropped)
    for segment in read.segments:
        name = f"{segment.video_id}_{segment.index}"
        split = _split_of(segment.rank, listed)
        if split is None:
            reason = "row_in_no_range" if listed is None else "row_in_no_split_file"
            dropped.append(Dropped(name, reason, f"row {segment.rank}"))
        else:
            entries.append(Entry(name, split, segment.video_id, segment))
    return Plan(read.found, entries, dropped)


def _split_of(rank: int, listed: Mapping[int, tuple[str, str]] | None) -> str | None:
    if listed is not None:
        if rank not in listed:
            return None
        return listed[rank][0]
    for split, ranks in RANGES.items():
        if rank in ranks:
            return split
    return None
