"""Records of answers: all that scoring them needs, as plain values."""

from typing import Any

from ...data.samples import BDDX_PARTS, BDDX_QUESTION, BOX_MARKER, Sample, check_box
from ...evaluation.records import are_texts, is_number
from ...evaluation.task import Record
from ...files import check_fields
from .boxes import RecordedBoxes, answer_boxes, box_reading


def sample_record(sample: Sample) -> dict[str, Any]:
    """All that scoring an answer about a sample needs of the sample, as plain values."""
    record: dict[str, Any] = {
        "id": sample.id,
        "task": "answering",
        "question": sample.question,
        "reference": sample.answer,
        "parts": list(sample.parts),
        "boxes": [list(box) for box in answer_boxes(sample)],
        "size": None if sample.size is None else list(sample.size),
        "tags": list(sample.tags),
    }
    if sample.others:
        record["others"] = [list(box) for box in sample.others]
    return record


def reading_record(sample: Sample, processor: Any) -> dict[str, Any]:
    """What reading an answer about a sample needs of the processor, as plain values; see `box_reading`."""
    return box_reading(processor, sample.size)


def check_record(record: Record) -> None:
    """Raise a `ValueError` that names the record if it does not hold what scoring an answer reads.

    `answer` and `reference` are texts. For boxes a record needs `boxes`, fractions of the frame, and `size`, see
    `Sample`; `question`, `parts` and `others`, boxes of what else could have been meant, are optional. So are
    `boxes_dialect` and `resized_size`, see `RecordedBoxes`.
    """
    name = f"record {record.get('id')}"
    fields: dict[str, tuple[type, ...]] = {"answer": (str,), "reference": (str,)}
    if "question" in record:
        fields["question"] = (str, type(None))
    if "boxes_dialect" in record:
        fields["boxes_dialect"] = (str, type(None))
    for key in ("boxes", "others", "parts", "size", "resized_size"):
        if key in record:
            fields[key] = (list, type(None))
    check_fields(record, name, **fields)
    for box in [*(record.get("boxes") or ()), *(record.get("others") or ())]:
        if not isinstance(box, list) or not all(map(is_number, box)):
            raise ValueError(f"{name}: a box must be [x1, y1, x2, y2], got {box!r}")
        check_box(box, record["id"])
    for key in ("size", "resized_size"):
        size = record.get(key)
        if size is not None and not (len(size) == 2 and all(map(is_number, size)) and min(size) >= 1):
            raise ValueError(f"{name}: {key} must be [height, width] of at least one pixel, got {size!r}")
    if record.get("boxes"):
        try:
            RecordedBoxes(record)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    parts = record.get("parts")
    if parts is not None and not are_texts(parts):
        raise ValueError(f"{name}: parts must be a list of texts, got {parts!r}")


def caption_parts(record: Record) -> dict[str, tuple[str, str]]:
    """The captions of a record as pairs of what was generated and what it should be, without any box.

    Box text is cut out of both in the record's dialect, and the marker `<box>` out of the reference. A caption is one
    part, `""`. An answer of which the record names `parts` has one for each line, `"action_"` and `"justification_"`
    for BDD-X's, which the literature scores apart; the last one takes all that remains.
    """
    strip_boxes = RecordedBoxes(record).strip_boxes
    answer = strip_boxes(record["answer"])
    reference = strip_boxes(record["reference"].replace(BOX_MARKER, ""))
    parts = record.get("parts")
    if parts is None and record.get("question") == BDDX_QUESTION:  # a record of version 0.1, which names no parts
        parts = BDDX_PARTS
    if not parts:
        return {"": (answer, reference)}
    last = len(parts) - 1
    answers = [*answer.split("\n", last), *[""] * last]
    references = [*reference.split("\n", last), *[""] * last]
    return {f"{part}_": (answers[row], references[row]) for row, part in enumerate(parts)}
