"""Overlap of predicted boxes with the true ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bootstrap import DEFAULT_BOOTSTRAP, Bootstrap, Interval

Box = Sequence[float]


@dataclass(frozen=True)
class GroundingScores:
    """Scores over `count` pairs of boxes.

    Args:
        mean_iou: mean intersection over union.
        accuracy: share of pairs with an IoU above 0.5.
        missed: share of pairs with an IoU of 0, unparsed ones included.
        unparsed: share of predictions that are `None`.
        centre_distance: mean L1 distance of the centres over the pairs with a prediction, in the coordinates of the
            boxes; `None` without any.
        count: number of pairs.
        intervals: the bootstrap interval of each score above that is a number in any resampled corpus.
    """

    mean_iou: float
    accuracy: float
    missed: float
    unparsed: float
    centre_distance: float | None
    count: int
    intervals: dict[str, Interval]


def box_iou(first: Box, second: Box) -> float:
    """Return the intersection over union of two boxes `(x1, y1, x2, y2)`.

    A reversed box (`x2 < x1` or `y2 < y1`) has no area, and its IoU is 0, as that of two equal boxes without area. No
    box is clipped: the area outside of the frame counts.

    Raises:
        ValueError: for anything but four finite numbers.
    """
    for box in (first, second):
        if len(box) != 4 or not np.isfinite(box).all():
            raise ValueError(f"a box must be 4 finite numbers (x1, y1, x2, y2), got {box!r}")
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    areas = (_area(first), _area(second))
    if width <= 0 or height <= 0 or min(areas) == 0:
        return 0.0
    return float(width * height / (sum(areas) - width * height))


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def pair_ious(predictions: Sequence[Box | None], targets: Sequence[Box]) -> np.ndarray:
    """Return the IoU of each prediction with its target, `(n,)`; 0 for a prediction that is `None`."""
    if len(predictions) != len(targets) or not targets:
        raise ValueError(
            f"predictions must be as many as targets, at least one, got {len(predictions)} and {len(targets)}"
        )
    ious = np.zeros(len(targets))
    for index, prediction in enumerate(predictions):
        if prediction is not None:
            ious[index] = box_iou(prediction, targets[index])
    return ious


def mean_iou(
    predictions: Sequence[Box | None], targets: Sequence[Box], bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> GroundingScores:
    """Score predicted boxes against true ones, both in the same coordinates.

    | prediction                    | IoU            | counted as        |
    |-------------------------------|----------------|-------------------|
    | missing: `None`               | 0              | unparsed, missed  |
    | reversed or without area      | 0              | missed            |
    | reaching outside of the frame | of all its area | any other         |

    The caller chooses the prediction from an answer: with several boxes the last one, as in the published script.

    Source: github.com/Sranc3/H-MBA at 9a8645d, `mIoU.py`.
    Differs: unreadable answers and boxes without area count as IoU 0, where the script stops with an error. The script
        measures distances on the padded square, which differ for boxes as fractions of a frame that is not square.
    """
    ious = pair_ious(predictions, targets)
    distances = np.zeros(len(ious))
    for index, box in enumerate(predictions):
        if box is not None:
            distances[index] = _centre_distance(box, targets[index])
    unparsed = [box is None for box in predictions]
    statistics = np.stack([ious, ious > 0.5, ious == 0, unparsed, distances], axis=1)  # (n, 5)
    drawn = _means(bootstrap.sums(statistics), len(ious))
    scores: dict[str, Any] = {}
    intervals = {}
    for name, score in _means(statistics.sum(0), len(ious)).items():
        scores[name] = None
        if np.isfinite(score):
            scores[name] = float(score)
        if np.isfinite(drawn[name]).any():
            intervals[name] = bootstrap.interval(drawn[name])
    return GroundingScores(**scores, count=len(ious), intervals=intervals)


def _centre_distance(box: Box, target: Box) -> float:
    return (abs(box[0] + box[2] - target[0] - target[2]) + abs(box[1] + box[3] - target[1] - target[3])) / 2


def _means(sums: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Return the scores of a corpus of `count` pairs from its summed statistics, `(..., 5)`."""
    unparsed = sums[..., 3]
    with np.errstate(invalid="ignore"):  # 0 / 0 without a prediction
        distance = sums[..., 4] / (count - unparsed)
    return {
        "mean_iou": sums[..., 0] / count,
        "accuracy": sums[..., 1] / count,
        "missed": sums[..., 2] / count,
        "unparsed": unparsed / count,
        "centre_distance": distance,
    }


def picked_object(prediction: Box | None, objects: Sequence[Box]) -> int | None:
    """Return the index of the object whose box overlaps the prediction most, or `None` if none does."""
    if prediction is None or not objects:
        return None
    ious = [box_iou(prediction, box) for box in objects]
    best = int(np.argmax(ious))
    if ious[best] == 0:
        return None
    return best
