"""Scores of retrieval: how often the right item is among the first, both ways, with and without reading pairs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...evaluation.task import CardMetric, Scorer, Scores
from ...metrics.bootstrap import bootstrap_interval
from ...metrics.retrieval import recall_at
from .records import WAYS

DEPTHS = (1, 5, 10)
# What is looked for, and the rank that tells how well it was found.
_DIRECTIONS = {"text_to_video": "video_rank", "video_to_text": "text_rank"}
_TITLES = {"text_to_video": "text to video", "video_to_text": "video to text"}
_OF_WAYS = {"features": "", "read": ", best pairs read together"}


def _card_metrics() -> dict[str, CardMetric]:
    metrics = {}
    for way in WAYS:
        for direction, title in _TITLES.items():
            for depth in DEPTHS:
                name = f"{direction}_recall_at_{depth}{_ending(way)}"
                metrics[name] = CardMetric("recall", f"R@{depth}, {title}{_OF_WAYS[way]}")
    return metrics


def _ending(way: str) -> str:
    return "" if way == "features" else "_read"


CARD_METRICS = _card_metrics()


class RankScorer(Scorer):
    """The ranks of right items as recalls and medians."""

    def score(self, rows: Sequence[int]) -> Scores:
        """Score a group of records."""
        values: dict[str, Any] = {}
        intervals = {}
        for way in WAYS:
            answers = [self.records[row]["answer"].get(way) for row in rows]
            if None in answers:
                continue
            for direction, rank in _DIRECTIONS.items():
                ranks = np.array([answer[rank] for answer in answers])
                for depth in DEPTHS:
                    name = f"{direction}_recall_at_{depth}{_ending(way)}"
                    values[name] = recall_at(ranks, depth)
                    intervals[name] = bootstrap_interval(ranks <= depth, **asdict(self.bootstrap))
                values[f"{direction}_median_rank{_ending(way)}"] = float(np.median(ranks))
        return Scores(values, intervals, {})

    def each(self) -> list[dict[str, Any]]:
        """Return the ranks of every record."""
        scores = []
        for record in self.records:
            ranks = {}
            for way, found in record["answer"].items():
                for direction, rank in _DIRECTIONS.items():
                    ranks[f"{direction}_rank{_ending(way)}"] = found[rank]
            scores.append(ranks)
        return scores
