"""Records of classes: all that scoring them needs, as plain values."""

from typing import Any

from ...data.actions.samples import ActionSample
from ...evaluation.records import is_number
from ...evaluation.task import Record
from ...files import check_fields
from .encoding import Classified
from .questions import QUESTIONS

NUM_KEPT = 5  # classes of a prediction
_NOTHING: Any = type(None)


def sample_record(sample: Classified) -> dict[str, Any]:
    """Return all that scoring a class needs of a sample, as plain values.

    `reference` is the number of its class. Of a sample that a model is asked about, it is by head, and `questions`
    tells the texts, their source and whether words of labels are hidden.
    """
    if isinstance(sample, ActionSample):
        return _record_of(sample, sample.label, sample.label_name)
    asking = sample.asking
    labels = {head: sample.sample.labels.get(head) for head in asking.heads}
    questions = {"source": asking.source, "hide_words": asking.hide_words, "texts": sample.texts()}
    return {**_record_of(sample.sample, labels, sample.answers()), "questions": questions}


def _record_of(sample: Any, reference: Any, name: Any) -> dict[str, Any]:
    return {
        "id": sample.id,
        "task": "classification",
        "reference": reference,
        "reference_name": name,
        "tags": list(sample.tags),
    }


def check_record(record: Record) -> None:
    """Raise a `ValueError` that names the record if it does not hold what scoring a class reads.

    `answer` lists classes from the most likely one on, `{"class", "label", "score"}` each. `reference` is the number
    of the right class, or `None` where it is not known. Of a model that is asked questions, `answer` is what
    `Heads.best` returns, and `reference` and `questions` are those of `sample_record`.
    """
    name = f"record {record.get('id')}"
    if not isinstance(record.get("answer"), dict):
        check_fields(record, name, answer=list, reference=(int, _NOTHING))
        _check_reference(record["reference"], record.get("reference_name"), name)
        _check_classes(record["answer"], name, "answer", kind=int)
        return
    check_fields(record, name, reference=dict, questions=dict)
    check_fields(record["answer"], f"{name}, answer", heads=dict)
    heads = record["answer"]["heads"]
    if not heads or heads.keys() != record["reference"].keys():
        raise ValueError(f"{name}: answer must be of the heads {list(record['reference'])}, got {list(heads)}")
    names = record.get("reference_name")
    check_fields({"reference_name": names}, name, reference_name=(dict, _NOTHING))
    for head, classes in heads.items():
        check_fields(heads, f"{name}, answer", **{head: list})
        check_fields(record["reference"], f"{name}, reference", **{head: (int, _NOTHING)})
        _check_reference(record["reference"][head], (names or {}).get(head), f"{name}, {head}")
        _check_classes(classes, name, head, kind=int)
    if len(heads) > 1:
        check_fields(record["answer"], f"{name}, answer", combinations=list)
        _check_classes(record["answer"]["combinations"], name, "combinations", kind=dict)
        for item in record["answer"]["combinations"]:
            check_fields(item["class"], f"{name}, a combination", **dict.fromkeys(heads, int))
            if item["class"].keys() != heads.keys():
                raise ValueError(f"{name}: a combination must be of the heads {list(heads)}, got {item['class']}")
    check_fields(record["questions"], f"{name}, questions", source=str)
    source = record["questions"]["source"]
    if source not in QUESTIONS:
        raise ValueError(f"{name}: source of questions must be of {list(QUESTIONS)}, got {source!r}")
    if not isinstance(record["questions"].get("hide_words"), bool):
        raise ValueError(f"{name}: hide_words of questions must be true or false, got {record['questions']}")


def _check_reference(label: int | None, title: Any, name: str) -> None:
    """Raise a `ValueError` unless a class is a number from 0 on or none, and its name a text or none."""
    if label is not None and label < 0:
        raise ValueError(f"{name}: reference must be the number of a class, or null where it is unknown, got {label}")
    check_fields({"reference_name": title}, name, reference_name=(str, _NOTHING))


def _check_classes(classes: list[Any], name: str, part: str, kind: type) -> None:
    """Raise a `ValueError` unless there are classes with finite scores, from the best on, and each once."""
    if not classes:
        raise ValueError(f"{name}: {part} must hold at least one class, got none")
    for item in classes:
        if not isinstance(item, dict):
            raise ValueError(f"{name}: a class must be an object, got {item!r}")
        kinds: Any = {"class": kind, "label": str, "score": (int, float)}
        check_fields(item, f"{name}, {part}", **kinds)
        if not is_number(item["score"]):
            raise ValueError(f"{name}: a score must be finite, got {item['score']!r}")
    numbers = [item["class"] for item in classes]
    if doubled := [number for number in numbers if numbers.count(number) > 1]:
        raise ValueError(f"{name}: {part} must hold each class once, got {doubled[0]} more than once")
    scores = [item["score"] for item in classes]
    if scores != sorted(scores, reverse=True):
        raise ValueError(f"{name}: classes must be in the order of their scores, got {scores}")
