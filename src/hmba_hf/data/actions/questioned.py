"""One video with a class for each head of a model and questions about it, and the dataset row that stores it.

A question has a source, and each source leaks something else. Questions made from annotations know the answer,
predicted ones know what another model believes, and generic ones know nothing. Rows hold the first two kinds; generic
questions are the same for all videos and belong to a processor or to the options of a run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...files import check_fields
from ..samples import check_file, check_media, check_tags, file_content, import_datasets
from .samples import ActionSample, Video, check_clip, check_label, known_class, to_file

GENERIC = "generic"
PREDICTED = "predicted"
ANNOTATION = "annotation"
SOURCES = (GENERIC, PREDICTED, ANNOTATION)
"""Where questions come from: the same for all videos, from another model's predictions, from the right answers."""

ACTION_HEAD = "action"
"""The head of datasets that have one class for each video."""


class Question(NamedTuple):
    """One question about a video.

    Attributes:
        head: whose class is the answer.
        source: one of `SOURCES`.
        text: the question.
    """

    head: str
    source: str
    text: str


@dataclass(frozen=True)
class QuestionedSample:
    """One video, its class for each head, and questions about it.

    Args:
        id: unique name, also used in error messages.
        video: path or bytes of a video file, or its frames, oldest first, of one size.
        labels: number of the class from 0 on by head; `None` where it is not known.
        label_names: name of the class by head, of the same heads or of fewer.
        questions: at most one for each head and source.
        split: `"train"`, `"validation"` or `"test"`.
        tags: names of its groups, such as `unseen`. Each group gets scores of its own.

    Raises:
        ValueError: if it has no name, no video, no head or an unknown split, if a label is no number of a class, or if
            a question is empty, doubled, or of an unknown head or source.
    """

    id: str
    video: Video
    labels: Mapping[str, int | None]
    label_names: Mapping[str, str | None]
    questions: tuple[Question, ...] = ()
    split: str = "train"
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_clip(self.id, self.video, self.split)
        name = f"sample {self.id}"
        if not self.labels:
            raise ValueError(f"{name} must have a label or none for each head, got no head")
        for head, label in self.labels.items():
            check_label(label, name, f"a label of {head}")
        others = sorted(set(self.label_names) - set(self.labels))
        if others:
            raise ValueError(
                f"{name} must have names of classes of its heads {list(self.labels)}, got those of {others}"
            )
        seen = set()
        for question in self.questions:
            _check_question(question, name, self.labels)
            key = (question.head, question.source)
            if key in seen:
                raise ValueError(f"{name} must have one question of a head and a source, got more of {key}")
            seen.add(key)

    def questions_from(self, source: str) -> dict[str, str]:
        """Return the questions of one of `SOURCES` by head; a head without one is left out."""
        if source not in SOURCES:
            raise ValueError(f"source must be one of {SOURCES}, got {source!r}")
        return {question.head: question.text for question in self.questions if question.source == source}


def _check_question(question: Question, name: str, heads: Mapping[str, Any]) -> None:
    if question.head not in heads:
        raise ValueError(f"{name} must have questions of its heads {list(heads)}, got one of {question.head!r}")
    if question.source not in SOURCES:
        raise ValueError(f"{name} must have questions from {SOURCES}, got {question.source!r}")
    if not question.text.strip():
        raise ValueError(
            f"{name} must have a text as {question.source} question of {question.head}, got {question.text!r}"
        )


def questioned(sample: ActionSample | QuestionedSample) -> QuestionedSample:
    """Return a sample of one class as one with the head `action` and no question; others as they are."""
    if isinstance(sample, QuestionedSample):
        return sample
    return QuestionedSample(
        id=sample.id,
        video=sample.video,
        labels={ACTION_HEAD: sample.label},
        label_names={ACTION_HEAD: sample.label_name},
        split=sample.split,
        tags=sample.tags,
    )


def questioned_features(heads: Mapping[str, Sequence[str]]) -> Any:
    """The `datasets.Features` of a row; the video stays undecoded.

    Args:
        heads: names of the classes of each head, in the order of their numbers.
    """
    datasets = import_datasets()
    text = datasets.Value("string")
    return datasets.Features(
        {
            "id": text,
            "video": datasets.Video(decode=False),
            "labels": {head: datasets.ClassLabel(names=list(names)) for head, names in heads.items()},
            "label_names": dict.fromkeys(heads, text),
            "questions": datasets.List(dict.fromkeys(Question._fields, text)),
            "tags": datasets.List(text),
        }
    )


def head_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names of the classes of each head from the features of a dataset of videos with one class or several.

    Args:
        features: as `questioned_features` or `action_features` makes them.

    Raises:
        ValueError: if they name no classes.
    """
    labels = {ACTION_HEAD: features["label"]} if "label" in features else features.get("labels")
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError(f"a dataset must have a class label for each head, got {labels}")
    names = {}
    for head, label in labels.items():
        if not hasattr(label, "names"):
            raise ValueError(f"a dataset must name the classes of {head}, got {label}")
        names[head] = list(label.names)
    return names


def to_questioned_row(sample: QuestionedSample, name: str | None = None) -> dict[str, Any]:
    """Write a sample of a video file as a row, its bytes inside; a class that is not known is `None`.

    Args:
        sample: whose video is a path or bytes.
        name: of the file in the row; the last part of its path, or its id, when absent.

    Raises:
        ValueError: if the sample has frames instead of a file, or a generic question.
    """
    _refuse_generic(sample.questions, f"sample {sample.id}")
    return {
        "id": sample.id,
        "video": to_file(sample.id, sample.video, name),
        "labels": dict(sample.labels),
        "label_names": {head: sample.label_names.get(head) for head in sample.labels},
        "questions": [question._asdict() for question in sample.questions],
        "tags": list(sample.tags),
    }


def _refuse_generic(questions: Sequence[Question], name: str) -> None:
    for question in questions:
        if question.source == GENERIC:
            raise ValueError(f"{name} must have generic questions in a processor, not in a row, got {question.text!r}")


def from_questioned_row(row: Mapping[str, Any], split: str = "train") -> QuestionedSample:
    """Read a row, its video as `{"bytes", "path"}`, with or without columns `label_names`, `questions` and `tags`.

    Raises:
        ValueError: if the row has no name, no video or no head, a generic question, or values of other types.
    """
    name = f"row {row['id']}"
    check_fields(dict(row), name, id=str, labels=dict)
    names = row.get("label_names") or {}
    check_fields({"label_names": names}, name, label_names=dict)
    for head, label_name in names.items():
        if not isinstance(label_name, (str, type(None))):
            raise ValueError(f"{name}: the name of the class of {head} must be a text, got {label_name!r}")
    check_tags(row, name)
    check_media(row["video"], name, "a video")
    check_file(row["video"], name)
    questions = _read_questions(row.get("questions") or (), name)
    _refuse_generic(questions, name)
    return QuestionedSample(
        id=row["id"],
        video=file_content(row["video"]),
        labels={head: known_class(label) for head, label in row["labels"].items()},
        label_names=dict(names),
        questions=questions,
        split=split,
        tags=tuple(row.get("tags") or ()),
    )


def _read_questions(questions: Any, name: str) -> tuple[Question, ...]:
    if not isinstance(questions, (list, tuple)):
        raise ValueError(f"{name} must have a list of questions, got {questions!r}")
    read = []
    for question in questions:
        check_fields(question, f"{name}, a question", **dict.fromkeys(Question._fields, str))
        read.append(Question(**{field: question[field] for field in Question._fields}))
    return tuple(read)
