"""Boxes of answers, and how well they meet the true ones."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ...data.samples import BOX_MARKER, Box, Sample
from ...metrics.grounding import GroundingScores, mean_iou, picked_object
from ...models import parsing_boxes
from ...models.parsing_dialects import find_dialect


class RecordedBoxes:
    """Reads the boxes of a stored answer as the processor would that was there when it was given.

    Args:
        record: its `boxes_dialect` names a dialect, and its `resized_size` is the height and width of the picture that
            the base saw, where the dialect needs it. One without a dialect is H-MBA's.

    Raises:
        ValueError: if there is no such dialect, or if it needs a size that the record lacks.
    """

    def __init__(self, record: Mapping[str, Any]):
        name = record.get("boxes_dialect")
        self.locate_boxes: Any = parsing_boxes.locate_boxes
        self.strip_boxes: Any = parsing_boxes.strip_boxes
        if name is None:
            return
        dialect = find_dialect(name)
        resized = record.get("resized_size")
        if dialect.needs_resized and resized is None:
            raise ValueError(f"resized_size must be [height, width] for boxes in the dialect {name!r}, got None")
        self.locate_boxes = partial(dialect.locate_boxes, resized=resized)
        self.strip_boxes = dialect.strip_boxes


def can_read_boxes(processor: Any) -> bool:
    """Whether it is known how the model of a processor writes boxes: always for H-MBA, else if a dialect is named."""
    return getattr(processor, "boxes_dialect", "unit_square") is not None


def box_reading(processor: Any, size: Sequence[int] | None) -> dict[str, Any]:
    """Return what `RecordedBoxes` needs of a processor to read its answers about frames of a size, as plain values.

    That is nothing for H-MBA, whose processor has no `boxes_dialect`, and where none is named: samples with boxes have
    been refused there.
    """
    name = getattr(processor, "boxes_dialect", None)
    if name is None:
        return {}
    reading: dict[str, Any] = {"boxes_dialect": name}
    if size is not None and find_dialect(name).needs_resized:
        reading["resized_size"] = [int(side) for side in processor.frame_size_in_base(tuple(size))]
    return reading


def answer_box(answer: str, reader: Any, size: tuple[int, int]) -> Box | None:
    """Return the box that an answer gives, as fractions of the original frame, or `None` if it gives none.

    That is the last one that `locate_boxes` reads, and so the last one that is shown: four plain numbers in order, in
    the dialect of the reader. What reaches into the padding is not clipped to the frame. None is read from an answer
    without such a box.

    Args:
        answer: generated text.
        reader: has `locate_boxes`, as a processor, `RecordedBoxes` and the module `parsing_boxes` do. A processor of
            version 0.1 has none, and is read as that module reads.
        size: height and width of the original frame.

    Source: github.com/Sranc3/H-MBA at 9a8645d, `mIoU.py`.
    Differs: the script also takes numbers that are out of order or beyond the square, where no frame is; here they
        are unreadable, as everywhere else.
    """
    locate = getattr(reader, "locate_boxes", parsing_boxes.locate_boxes)
    readable = [parsed.box for parsed in locate(answer, size) if parsed.box is not None]
    if not readable:
        return None
    return readable[-1]


def answer_boxes(sample: Sample) -> Sequence[Box]:
    """The boxes of a sample that its answer mentions, without those of its question."""
    return sample.boxes[sample.question.count(BOX_MARKER) :]


def score_grounding(answers: Sequence[str], samples: Sequence[Sample], processor: Any) -> GroundingScores:
    """Score the box of each answer against the last box of its sample's; samples without a box are left out.

    `answer_box` defines the box of a generated answer, and `mean_iou` its score.

    Raises:
        ValueError: if no sample has a box in its answer, or if one that has lacks the `size` of its frames.
    """
    predictions = []
    targets = []
    for answer, sample in zip(answers, samples, strict=True):
        boxes = answer_boxes(sample)
        if not boxes:
            continue
        if sample.size is None:
            raise ValueError(f"sample {sample.id}: scoring its box needs size=(height, width) of the original frame")
        predictions.append(answer_box(answer, processor, sample.size))
        targets.append(boxes[-1])
    if not targets:
        raise ValueError("grounding is scored on samples with boxes, got none")
    return mean_iou(predictions, targets)


def share_picked(answers: Sequence[str], samples: Sequence[Sample], processor: Any) -> float:
    """Share of answers about the first samples whose box overlaps the right object more than any other.

    Raises:
        ValueError: if there are no answers, or if a sample lacks the boxes of other objects.
    """
    if not answers:
        raise ValueError("answers must be at least one, got none")
    picked = 0
    for index, answer in enumerate(answers):
        sample = samples[index]
        if sample.size is None or not sample.boxes or not sample.others:
            raise ValueError(f"sample {sample.id} must have a size, a box and others to pick from, got none of one")
        box = answer_box(answer, processor, sample.size)
        picked += picked_object(box, [sample.boxes[-1], *sample.others]) == 0
    return picked / len(answers)
