"""Records of classes: all that scoring them needs, as plain values."""

import math
from typing import Any

from ...data.actions.samples import ActionSample
from ...evaluation.task import Record
from ...files import check_fields

NUM_KEPT = 5  # classes of a prediction


def sample_record(sample: ActionSample) -> dict[str, Any]:
    """Return all that scoring a class needs of a sample, as plain values; `reference` is the number of its class."""
    return {
        "id": sample.id,
        "task": "classification",
        "reference": sample.label,
        "reference_name": sample.label_name,
        "tags": list(sample.tags),
    }


def check_record(record: Record) -> None:
    """Raise a `ValueError` that names the record if it does not hold what scoring a class reads.

    `answer` lists classes from the most likely one on, `{"class", "label", "score"}` each. `reference` is the number
    of the right class, or `None` where it is not known.
    """
    name = f"record {record.get('id')}"
    nothing: Any = type(None)
    check_fields(record, name, answer=list, reference=(int, nothing))
    answer = record["answer"]
    if not answer:
        raise ValueError(f"{name}: answer must hold at least one class, got none")
    for item in answer:
        if not isinstance(item, dict):
            raise ValueError(f"{name}: a class must be an object, got {item!r}")
        kinds: Any = {"class": int, "label": str, "score": (int, float)}
        check_fields(item, f"{name}, answer", **kinds)
        if not math.isfinite(item["score"]):
            raise ValueError(f"{name}: a score must be finite, got {item['score']!r}")
    scores = [item["score"] for item in answer]
    if scores != sorted(scores, reverse=True):
        raise ValueError(f"{name}: classes must be in the order of their scores, got {scores}")
