"""Scores of predicted classes."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...evaluation.task import CardMetric, Record, Scorer, Scores
from ...metrics.bootstrap import Bootstrap, bootstrap_interval
from ...metrics.classification import class_accuracies, confusion, mean_class_accuracy

CARD_METRICS = {
    "top_1": CardMetric("accuracy", "top-1 accuracy"),
    "top_5": CardMetric("accuracy", "top-5 accuracy"),
    "mean_class_accuracy": CardMetric("accuracy", "mean class accuracy"),
}


class ClassScorer(Scorer):
    """Predicted classes compared with the right ones, where these are known.

    Args:
        records: without an error.
        bootstrap: how intervals are drawn.
    """

    def __init__(self, records: Sequence[Record], bootstrap: Bootstrap):
        super().__init__(records, bootstrap)
        self.labelled = [row for row, record in enumerate(records) if record["reference"] is not None]
        self._is_labelled = set(self.labelled)

    def score(self, rows: Sequence[int]) -> Scores:
        """Score a group of records: top-1, top-5 and mean class accuracy."""
        rows = [row for row in rows if row in self._is_labelled]
        if not rows:
            return Scores({}, {}, {})
        ranks = np.array([self._rank(row) for row in rows])
        labels = np.array([self.records[row]["reference"] for row in rows])
        values: dict[str, Any] = {}
        intervals = {}
        for name, k in (("top_1", 1), ("top_5", 5)):
            is_found = ranks < k
            values[name] = float(is_found.mean())
            intervals[name] = bootstrap_interval(is_found, **asdict(self.bootstrap))
        is_right = ranks == 0
        values["mean_class_accuracy"] = mean_class_accuracy(is_right, labels)
        intervals["mean_class_accuracy"] = self.bootstrap.interval(class_accuracies(is_right, labels, self.bootstrap))
        return Scores(values, intervals, {})

    def each(self) -> list[dict[str, Any]]:
        """Return the predicted and the right class of every record, and the rank of the right one from 0 on."""
        scores: list[dict[str, Any]] = []
        for row, record in enumerate(self.records):
            predicted = {"predicted": record["answer"][0]["class"], "reference": record["reference"]}
            if row in self._is_labelled:
                rank = self._rank(row)
                predicted["rank"] = rank if rank < len(record["answer"]) else None
            scores.append(predicted)
        return scores

    def counts(self) -> dict[str, int]:
        """Count records whose right class is known."""
        return {"with_label": len(self.labelled)}

    def details(self) -> dict[str, Any]:
        """Return which class is taken for which and how often, `{"confusion": {right: {predicted: count}}}`."""
        names = self._names()
        predicted = []
        wanted = []
        for row in self.labelled:
            predicted.append(names[self.records[row]["answer"][0]["class"]])
            wanted.append(names[self.records[row]["reference"]])
        return {"confusion": confusion(predicted, wanted)}

    def _rank(self, row: int) -> int:
        """The place of the right class among those of a record, from 0 on; after the last one where it is none."""
        record = self.records[row]
        classes = [item["class"] for item in record["answer"]]
        if record["reference"] in classes:
            return classes.index(record["reference"])
        return len(classes)

    def _names(self) -> dict[int, str]:
        """The name of each class that occurs, with its number where another class has the same name."""
        names: dict[int, str] = {}
        for row in self.labelled:
            record = self.records[row]
            number = record["reference"]
            names.setdefault(number, record.get("reference_name") or str(number))
        for row in self.labelled:
            for item in self.records[row]["answer"]:
                names.setdefault(item["class"], item["label"])
        seen: dict[str, int] = {}
        for number, name in sorted(names.items()):
            if seen.setdefault(name, number) != number:
                names[number] = f"{name} ({number})"
        return names
