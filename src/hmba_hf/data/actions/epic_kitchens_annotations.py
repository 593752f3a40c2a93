"""The annotations of EPIC-KITCHENS-100: actions as stretches of kitchen videos, with a verb and a noun each.

The files of the training and of the validation split have labels, those of the test split have none. Times decide
where an action lies. The frame numbers beside them count pictures that were extracted at 60 or 50 a second, while
older videos have 59.94 frames a second.

Source: github.com/epic-kitchens/epic-kitchens-100-annotations, README.md.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

from ...models.parsing_words import spoken
from ..preparing.converting import Entry, Plan
from ..preparing.cutting import ENDS_EARLY
from ..preparing.parquet_shards import Dropped
from ..preparing.tables import MALFORMED, read_table
from .lists import order_classes
from .preparing import UNKNOWN_CLASS
from .question_files import DOUBLED, QuestionFile
from .questioned import ANNOTATION, Question

HEADS = ("verb", "noun")
TIME_MALFORMED = "time_is_no_number"
QUESTION_OF_NO_ACTION = "question_of_no_action"

_PLACES = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp")
_LABELS = ("narration", "verb_class", "noun_class")
_MOST_DIGITS = 6
_TIME = re.compile(r"(\d{1,3}):([0-5]\d):([0-5]\d(?:\.\d{1,9})?)")


@dataclass(frozen=True)
class Action:
    """One annotated action.

    Args:
        participant_id: who does it.
        start, stop: seconds of its video.
        labels, label_names: number and name of the class by head, `None` where there is none.
        narration: the text, if known.
        questions: about it.
        tags: its groups.
    """

    fingerprint_name: ClassVar = "EpicAction"

    participant_id: str
    start: float
    stop: float
    labels: dict[str, int | None]
    label_names: dict[str, str | None]
    narration: str | None
    questions: tuple[Question, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass
class Groups:
    """Which actions are scored on their own.

    Args:
        unseen: participants of a split who are not in the training split.
        tail: numbers of rare classes by head.
    """

    unseen: dict[str, set[str]] = field(default_factory=dict)
    tail: dict[str, set[int]] = field(default_factory=dict)

    def tags(self, split: str, participant: str, labels: Mapping[str, int | None]) -> tuple[str, ...]:
        """Return the groups of an action; one is a tail action where its verb or its noun is in the tail."""
        tags = []
        if participant in self.unseen.get(split, ()):
            tags.append("unseen")
        tail = [f"tail_{head}" for head, label in labels.items() if label in self.tail.get(head, ())]
        if tail:
            tail.append("tail_action")
        return (*tags, *tail)


class Questions(NamedTuple):
    """What is asked about actions.

    Attributes:
        files: what files of questions hold, by source.
        from_labels: make questions of the names of the classes, too.
    """

    files: dict[str, QuestionFile]
    from_labels: bool = False


def read_classes(path: str | Path) -> list[str]:
    """Read the names of the classes of a head, in the order of their numbers, from the columns `id` and `key`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, or if a class has no name or number of its own.
    """
    table = read_table(path, ("id", "key"))
    _refuse_malformed(path, table.dropped)
    numbers: dict[str, str] = {}
    for place, row in table.rows:
        if not row["key"] or row["key"] in numbers:
            raise ValueError(f"{place}, must name a new class, got {row['key']!r}")
        numbers[row["key"]] = row["id"]
    if not numbers:
        raise ValueError(f"{path} must name classes, got none")
    return order_classes(numbers, str(path))


def read_participants(path: str | Path) -> set[str]:
    """Read the participants of a list with the column `participant_id`.

    Raises:
        FileNotFoundError, ValueError: if there is no such list.
    """
    table = read_table(path, ("participant_id",))
    _refuse_malformed(path, table.dropped)
    return {row["participant_id"] for _, row in table.rows}


def read_tail(path: str | Path, head: str, count: int) -> set[int]:
    """Read the numbers of the rare classes of a head from the column that bears its name.

    Args:
        path: of the list.
        head: `"verb"` or `"noun"`.
        count: of the classes of this head.

    Raises:
        FileNotFoundError: if there is no such list.
        ValueError: if a number is not that of a class.
    """
    table = read_table(path, (head,))
    _refuse_malformed(path, table.dropped)
    numbers = set()
    for place, row in table.rows:
        number = _class_number(row[head], count)
        if number is None:
            raise ValueError(f"{place}, must be the number of one of {count} classes, got {row[head]!r}")
        numbers.add(number)
    return numbers


def _refuse_malformed(path: str | Path, dropped: Sequence[Dropped]) -> None:
    if dropped:
        raise ValueError(f"{path} must have one cell for each column in each line, got {dropped[0].detail}")


def seconds(text: str) -> float | None:
    """Read a time such as `00:05:27.28` as seconds; `None` if the text is none."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    hours, minutes, rest = found.groups()
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)


def _class_number(text: str, count: int) -> int | None:
    if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS and int(text) < count:
        return int(text)
    return None


def plan_actions(
    files: Mapping[str, Sequence[str]], heads: Mapping[str, Sequence[str]], questions: Questions, groups: Groups
) -> Plan:
    """Plan the actions of all files; those that cannot be read become no rows, nor do questions about no action.

    Args:
        files: lists of actions by split; those of the test split may lack labels.
        heads: names of the classes by head.
        questions: what is asked about them.
        groups: which of them are scored on their own.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if one is malformed, if no action can be read, or if no question of a source is about one.
    """
    planner = _Planner(heads, questions, groups)
    for split, paths in files.items():
        for path in paths:
            planner.add_file(path, split)
    if not planner.entries:
        first = planner.dropped[0] if planner.dropped else "empty files"
        raise ValueError(f"files must have actions of known classes and times, got none; the first: {first}")
    planner.close()
    return Plan(len(planner.entries) + len(planner.dropped), planner.entries, planner.dropped)


class _Planner:
    """Entries and dropped ones of all files."""

    def __init__(self, heads: Mapping[str, Sequence[str]], questions: Questions, groups: Groups):
        self.heads = heads
        self.questions = questions
        self.groups = groups
        self.entries: list[Entry] = []
        self.dropped: list[Dropped] = []
        self.seen: set[str] = set()

    def add_file(self, path: str | Path, split: str) -> None:
        """Plan the actions of a file."""
        wanted = _PLACES if split == "test" else _PLACES + _LABELS
        table = read_table(path, wanted)
        self.dropped += table.dropped
        for place, row in table.rows:
            name = row["narration_id"]
            missing = [column for column in _PLACES[:3] if not row[column]]
            if missing:
                self.dropped.append(Dropped(name or place, MALFORMED, f"no {', '.join(missing)}"))
            elif name in self.seen:
                self.dropped.append(Dropped(name, DOUBLED, f"{place}: there is an action of this name before it"))
            else:
                self.seen.add(name)
                self._add(name, row, split)

    def _add(self, name: str, row: Mapping[str, str], split: str) -> None:
        start = seconds(row["start_timestamp"])
        stop = seconds(row["stop_timestamp"])
        if start is None or stop is None:
            detail = f"from {row['start_timestamp']!r} to {row['stop_timestamp']!r}"
            self.dropped.append(Dropped(name, TIME_MALFORMED, detail))
            return
        if stop < start:
            self.dropped.append(Dropped(name, ENDS_EARLY, f"from {start:g} to {stop:g} s"))
            return
        labels: dict[str, int | None] = {}
        label_names: dict[str, str | None] = {}
        for head, names in self.heads.items():
            text = row.get(f"{head}_class", "")
            label = _class_number(text, len(names))
            if label is None and (text or split != "test"):
                detail = f"the class of the {head} must be a number below {len(names)}, got {text!r}"
                self.dropped.append(Dropped(name, UNKNOWN_CLASS, detail))
                return
            labels[head] = label
            label_names[head] = None if label is None else names[label]
        action = Action(
            participant_id=row["participant_id"],
            start=start,
            stop=stop,
            labels=labels,
            label_names=label_names,
            narration=row.get("narration") or None,
            questions=self._questions(name, label_names),
            tags=self.groups.tags(split, row["participant_id"], labels),
        )
        self.entries.append(Entry(name, split, row["video_id"], action))

    def _questions(self, name: str, label_names: Mapping[str, str | None]) -> tuple[Question, ...]:
        asked: list[Question] = []
        for file in self.questions.files.values():
            asked += file.questions.get(name, ())
        if self.questions.from_labels:
            asked += label_questions(label_names)
        return tuple(asked)

    def close(self) -> None:
        """Count the questions that are about no action."""
        for source, file in self.questions.files.items():
            self.dropped += file.dropped
            strange = [name for name in file.questions if name not in self.seen]
            if file.questions and len(strange) == len(file.questions):
                raise ValueError(f"{source} questions must be about the actions, got ids such as {strange[0]!r}")
            for name in strange:
                self.dropped.append(Dropped(name, QUESTION_OF_NO_ACTION, f"{source} questions"))


def label_questions(names: Mapping[str, str | None]) -> list[Question]:
    """Return a question about the verb that names the noun, and one about the noun that names the verb.

    They are made of the right answers, so that each gives away the answer of the other head.

    Args:
        names: of the classes by head, such as `put` and `board:chopping`.
    """
    questions = []
    verb = names.get("verb")
    noun = names.get("noun")
    if noun is not None:
        questions.append(Question("verb", ANNOTATION, f"What does the person do with the {spoken(noun)}?"))
    if verb is not None:
        questions.append(Question("noun", ANNOTATION, f"What is the object of the action to {spoken(verb)}?"))
    return questions
