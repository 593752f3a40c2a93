"""Questions about videos in files: one entry for each video, with a question for each head.

- CSV files with the columns `narration_id`, `verb_question` and `noun_question`, or those of other heads.
- JSON files: a list of objects with these values, or an object of such objects by their ids. `null` asks nothing.

Spaces around ids and questions are none of theirs.

The released questions of MambaVL are pickles with the columns `verb question` and `noun question`. Pickles are not
read, since they can run code. Once written as CSV or JSON, their names with spaces are accepted, too.

Source: github.com/Dongzhikang/MambaVL at 601b789, for the names of the columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...files import check_fields, parse_json
from ..preparing.parquet_shards import Dropped
from ..preparing.tables import MALFORMED, NO_UNICODE, is_unicode, read_table, refuse_pickle
from .questioned import Question

DOUBLED = "doubled_id"

Entries = Sequence[tuple[str, Mapping[str, Any]]]


@dataclass
class QuestionFile:
    """What files of questions hold.

    Args:
        found: number of their entries.
        questions: of each video by its id.
        dropped: entries without an id or a question, or with one that is no text, and further ones of one id.
    """

    found: int = 0
    questions: dict[str, tuple[Question, ...]] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)

    def add(self, place: str, name: str, questions: tuple[Question, ...]) -> None:
        """Add the questions of an entry, or count it as dropped."""
        self.found += 1
        if not name:
            self.dropped.append(Dropped(place, MALFORMED, "it names no video"))
        elif not questions:
            self.dropped.append(Dropped(place, MALFORMED, f"it asks nothing about {name}"))
        elif name in self.questions:
            self.dropped.append(Dropped(place, DOUBLED, f"{name} has questions before it"))
        else:
            self.questions[name] = questions


def read_questions(
    paths: Sequence[str | Path], source: str, heads: Sequence[str], id_column: str = "narration_id"
) -> QuestionFile:
    """Read the questions of files, all from one source.

    Args:
        paths: of the files.
        source: one of `SOURCES`.
        heads: whose questions are read.
        id_column: name of the column of ids.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if one is a pickle or malformed, or has no questions of any head.
    """
    read = QuestionFile()
    wanted = [f"{head}_question" for head in heads]
    for path in paths:
        refuse_pickle(path)
        if Path(path).suffix.lower() == ".json":
            columns, entries = _read_json(Path(path), id_column, wanted, read)
        else:
            columns, entries = _read_csv(path, id_column, read)
        if not {column.replace(" ", "_") for column in columns} & {*wanted}:
            raise ValueError(f"{path} must have one or more of {', '.join(wanted)}, got {sorted(columns)}")
        if doubled := [column for column in wanted if {column, column.replace("_question", " question")} <= columns]:
            raise ValueError(f"{path} must have one column of questions for each head, got two names of {doubled}")
        for place, entry in entries:
            read.add(place, entry[id_column].strip(), _questions_of(entry, source, heads))
    return read


def _questions_of(entry: Mapping[str, Any], source: str, heads: Sequence[str]) -> tuple[Question, ...]:
    questions = []
    for head in heads:
        text = entry.get(f"{head}_question")
        if text is None:
            text = entry.get(f"{head} question")
        if text is not None and text.strip():
            questions.append(Question(head, source, text.strip()))
    return tuple(questions)


def _read_csv(path: str | Path, id_column: str, read: QuestionFile) -> tuple[set[str], Entries]:
    """Read the columns and the entries of a CSV file, and drop lines that do not fit its header."""
    table = read_table(path, [id_column])
    read.found += len(table.dropped)
    read.dropped += table.dropped
    return set(table.columns), table.rows


def _read_json(path: Path, id_column: str, wanted: Sequence[str], read: QuestionFile) -> tuple[set[str], Entries]:
    """Read the names of values and the entries of a JSON file.

    Entries are dropped that are no objects with an id, or whose question in one of the wanted columns is no text, and
    those with half a surrogate pair in one of these.
    """
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON file, got one that cannot be read: {error}") from error
    if isinstance(content, dict):
        content = [_with_id(name, value, id_column) for name, value in content.items()]
    if not isinstance(content, list):
        raise ValueError(f"{path} must be a JSON list or object of questions, got {type(content).__name__}")
    columns: set[str] = set()
    entries: list[tuple[str, Mapping[str, Any]]] = []
    for number, entry in enumerate(content):
        place = f"{path.name}, entry {number}"
        try:
            check_fields(entry, place, **{id_column: str})
            columns |= entry.keys()
            asked = [column for column in entry if column.replace(" ", "_") in wanted]
            check_fields(entry, f"{place}, {entry[id_column]}", **dict.fromkeys(asked, (str, type(None))))
        except ValueError as error:
            read.found += 1
            read.dropped.append(Dropped(place, MALFORMED, str(error)))
            continue
        texts = [entry[name] for name in (id_column, *asked)]
        strange = [text for text in texts if text is not None and not is_unicode(text)]
        if strange:
            read.found += 1
            read.dropped.append(Dropped(place, NO_UNICODE, ascii(strange[0])))
            continue
        entries.append((place, entry))
    return columns, entries


def _with_id(name: str, value: Any, id_column: str) -> Any:
    return {**value, id_column: name} if isinstance(value, dict) else value
