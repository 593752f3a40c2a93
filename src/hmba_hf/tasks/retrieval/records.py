"""Records of retrieval: all that scoring them needs, as plain values."""

from typing import Any

from ...evaluation.task import Record
from ...files import check_fields
from .pairs import caption_of

WAYS = ("features", "read")
RANKS = ("text_rank", "video_rank")


def sample_record(sample: Any) -> dict[str, Any]:
    """Return all that scoring retrieval needs of a sample, as plain values; `reference` is its caption."""
    return {
        "id": sample.id,
        "task": "retrieval",
        "reference": caption_of(sample),
        "tags": list(sample.tags),
    }


def check_record(record: Record) -> None:
    """Raise a `ValueError` that names the record if it does not hold the ranks of a pair.

    `answer` holds, by `"features"` and maybe by `"read"`, `text_rank` and `video_rank`, whole numbers from 1 on.
    """
    name = f"record {record.get('id')}"
    check_fields(record, name, answer=dict)
    answer = record["answer"]
    if "features" not in answer or set(answer) - set(WAYS):
        raise ValueError(f"{name}: answer must hold 'features' and maybe 'read', got {sorted(answer)}")
    for way, found in answer.items():
        if not isinstance(found, dict):
            raise ValueError(f"{name}: {way} must be an object, got {found!r}")
        check_fields(found, f"{name}, {way}", text_rank=int, video_rank=int)
        for rank in RANKS:
            if found[rank] < 1:
                raise ValueError(f"{name}: {rank} must be at least 1, got {found[rank]}")
