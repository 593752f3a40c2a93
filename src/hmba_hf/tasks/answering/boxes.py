"""Boxes of answers, and how well they meet the true ones."""

from collections.abc import Sequence
from typing import Any

from ...data.samples import BOX_MARKER, Box, Sample
from ...metrics.grounding import GroundingScores, mean_iou, picked_object


def answer_box(answer: str, reader: Any, size: tuple[int, int]) -> Box | None:
    """Return the box that an answer gives, as fractions of the original frame, or `None` if it gives none.

    That is the last one that `parse_boxes` reads, and so the last one that is shown: four plain numbers in order, on
    the padded square. What reaches into the padding is not clipped to the frame. None is read from an answer without
    such a box.

    Args:
        answer: generated text.
        reader: has `parse_boxes`, as a processor and the module `parsing_boxes` do.
        size: height and width of the original frame.

    Source: github.com/Sranc3/H-MBA at 9a8645d, `mIoU.py`.
    Differs: the script also takes numbers that are out of order or beyond the square, where no frame is; here they
        are unreadable, as everywhere else.
    """
    readable = [parsed.box for parsed in reader.parse_boxes(answer) if parsed.box is not None]
    if not readable:
        return None
    height, width = size
    x1, y1, x2, y2 = readable[-1]
    side = max(size)  # of the square that the frame is padded to, in its middle
    left = (side - width) // 2
    top = (side - height) // 2
    return (
        (x1 * side - left) / width,
        (y1 * side - top) / height,
        (x2 * side - left) / width,
        (y2 * side - top) / height,
    )


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
