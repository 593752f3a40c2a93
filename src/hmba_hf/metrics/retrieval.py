"""Scores of retrieval: at which place of a ranking the first right item stands."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def retrieval_ranks(scores: Any, is_match: Any) -> np.ndarray:
    """Return the rank of the best right item for each query, from 1 on, `(queries,)`.

    An item with the same score as the right one counts as before it, so equal scores for all are no success.

    Args:
        scores: of each query and each item, `(queries, items)`.
        is_match: which items are right, likewise.

    Raises:
        ValueError: if the shapes differ or hold nothing, if a score is no number, or if a query has no right item.
    """
    scores = np.asarray(scores, dtype=float)
    is_match = np.asarray(is_match, dtype=bool)
    if scores.ndim != 2 or scores.shape != is_match.shape:
        raise ValueError(f"scores and is_match must be (queries, items), got {scores.shape} and {is_match.shape}")
    if scores.size == 0:
        raise ValueError(f"queries and items must be at least one, got {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"scores must be numbers, got {int(np.isnan(scores).sum())} NaN")
    lost = np.flatnonzero(~is_match.any(axis=1))
    if len(lost):
        raise ValueError(f"each query must have a right item, got none for query {lost[0]}")
    best = np.where(is_match, scores, -np.inf).max(axis=1, keepdims=True)
    return ((scores >= best) & ~is_match).sum(axis=1) + 1


def recall_at(ranks: Sequence[int] | np.ndarray, k: int) -> float:
    """Return the share of queries whose best right item is among the first `k`.

    Raises:
        ValueError: if there is no query, or if `k` is below 1.
    """
    if len(ranks) == 0 or k < 1:
        raise ValueError(f"queries and k must be at least one, got {len(ranks)} and {k}")
    return float((np.asarray(ranks) <= k).mean())
