"""Scores of classes: how often the right one is the most likely, over all samples and class by class."""

from collections.abc import Sequence

import numpy as np

from .bootstrap import Bootstrap


def top_k(probabilities: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the share of samples whose right class is among the `k` most likely ones.

    Of equally likely classes the first goes first. Of a sample with NaN no class is likely.

    Args:
        probabilities: of the classes, or logits, `(n, c)`.
        labels: the right classes, `(n,)`.

    Raises:
        ValueError: if shapes do not fit, if there is no sample, if a label is no class, or if `k` is below 1.
    """
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(f"probabilities must be (n, c) and labels (n,), got {probabilities.shape} and {labels.shape}")
    if len(labels) == 0 or k < 1:
        raise ValueError(f"samples and k must be at least one, got {len(labels)} and {k}")
    count = probabilities.shape[1]
    if not (labels.min() >= 0 and labels.max() < count):
        raise ValueError(f"labels must be from 0 to {count - 1}, got {labels.min()} to {labels.max()}")
    order = np.argsort(-probabilities, axis=1, kind="stable")
    is_right = (order[:, :k] == labels[:, None]).any(axis=1)
    return float((is_right & ~np.isnan(probabilities).any(axis=1)).mean())


def mean_class_accuracy(is_right: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over the classes that occur of the share of their samples that are right.

    Raises:
        ValueError: if there is no sample.
    """
    if len(labels) == 0:
        raise ValueError("samples must be at least one, got none")
    shares = [is_right[labels == label].mean() for label in np.unique(labels)]
    return float(np.mean(shares))


def class_accuracies(is_right: np.ndarray, labels: np.ndarray, bootstrap: Bootstrap) -> np.ndarray:
    """Return the mean class accuracy of each resampled corpus, `(draws,)`."""
    _, classes = np.unique(labels, return_inverse=True)
    means = []
    for times in bootstrap.resamples(len(labels)):
        counts = np.bincount(classes, weights=times)
        right = np.bincount(classes, weights=times * is_right)
        means.append(np.mean(right[counts > 0] / counts[counts > 0]))
    return np.array(means)


def confusion(predicted: Sequence[str], wanted: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count how often each class is taken for which, `{right class: {predicted class: count}}`, in order of names."""
    counts: dict[str, dict[str, int]] = {}
    for name in sorted(set(wanted)):
        counts[name] = {}
    for taken, right in sorted(zip(predicted, wanted, strict=True)):
        counts[right][taken] = counts[right].get(taken, 0) + 1
    return counts
