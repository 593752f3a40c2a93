"""How well a predicted box meets the true one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Box = Sequence[float]


@dataclass(frozen=True)
class GroundingScores:
    """Scores over `count` pairs of boxes.

    Args:
        mean_iou: mean intersection over union.
        mean_iou_interval: its 95 % bootstrap interval.
        accuracy: share of pairs with an IoU above 0.5.
        missed: share of pairs with an IoU of 0, unparsed ones included.
        unparsed: share of predictions that are `None`.
        centre_distance: mean L1 distance of the centres where there is a prediction; `None` where there is none.
        count: number of pairs.
    """

    mean_iou: float
    mean_iou_interval: tuple[float, float]
    accuracy: float
    missed: float
    unparsed: float
    centre_distance: float | None
    count: int


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes `(x1, y1, x2, y2)`; 0 if either has no area."""
    for box in (first, second):
        if len(box) != 4 or not np.isfinite(box).all():
            raise ValueError(f"expected a box of 4 finite numbers (x1, y1, x2, y2), got {box!r}")
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    areas = [max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0) for box in (first, second)]
    if width <= 0 or height <= 0 or min(areas) == 0:
        return 0.0
    return float(width * height / (sum(areas) - width * height))


def pair_ious(predictions: Sequence[Box | None], targets: Sequence[Box]) -> np.ndarray:
    """IoU of each prediction with its target, `(n,)`; 0 for a prediction that is `None`."""
    if len(predictions) != len(targets) or not targets:
        raise ValueError(
            f"expected as many predictions as targets, at least one, got {len(predictions)} and {len(targets)}"
        )
    pairs = zip(predictions, targets, strict=True)
    return np.array([0.0 if prediction is None else box_iou(prediction, target) for prediction, target in pairs])


def mean_iou(predictions: Sequence[Box | None], targets: Sequence[Box]) -> GroundingScores:
    """Score predicted boxes against true ones, both in the same coordinates.

    A prediction is the last box of an answer, as in the published script, or `None` if that cannot be read; choosing
    it is the caller's part. `None` counts as IoU 0.

    Source: github.com/Sranc3/H-MBA at 9a8645d, `mIoU.py`.
    Differs: unreadable answers and boxes without area count as IoU 0, where the script stops with an error.
    """
    ious = pair_ious(predictions, targets)
    distances = [
        (abs(box[0] + box[2] - target[0] - target[2]) + abs(box[1] + box[3] - target[1] - target[3])) / 2
        for box, target in zip(predictions, targets, strict=True)
        if box is not None
    ]
    return GroundingScores(
        mean_iou=float(ious.mean()),
        mean_iou_interval=bootstrap_interval(ious),
        accuracy=float((ious > 0.5).mean()),
        missed=float((ious == 0).mean()),
        unparsed=1 - len(distances) / len(ious),
        centre_distance=float(np.mean(distances)) if distances else None,
        count=len(ious),
    )


def picked_object(prediction: Box | None, objects: Sequence[Box]) -> int | None:
    """Index of the object whose box overlaps the prediction most, or `None` if it touches none."""
    if prediction is None or not objects:
        return None
    ious = [box_iou(prediction, box) for box in objects]
    best = int(np.argmax(ious))
    return best if ious[best] > 0 else None


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of `values`, resampled `draws` times."""
    if len(values) == 0 or not 0 < confidence < 1:
        raise ValueError(f"expected values and a confidence in (0, 1), got {len(values)} values and {confidence}")
    rng = np.random.default_rng(seed)
    sample = np.asarray(values, dtype=float)
    means = [sample[rng.integers(len(sample), size=len(sample))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
