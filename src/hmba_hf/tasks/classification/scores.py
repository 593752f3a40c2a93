"""Scores of predicted classes, head by head, and of what all heads together name."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from ...evaluation.task import CardMetric, Record, Scorer, Scores
from ...metrics.bootstrap import Bootstrap, bootstrap_interval
from ...metrics.classification import class_accuracies, confusion, mean_class_accuracy
from .heads import combination_name
from .questions import describe

SETTINGS = {
    "questions": "questions: {!r}. Those of source 'annotation' are made from the right answers: such scores are "
    "upper bounds"
}
_ASKED = ("questions",)
CARD_METRICS = {
    "top_1": CardMetric("accuracy", "top-1 accuracy", _ASKED),
    "top_5": CardMetric("accuracy", "top-5 accuracy", _ASKED),
    "mean_class_accuracy": CardMetric("accuracy", "mean class accuracy", _ASKED),
    "class_mean_top_5_recall": CardMetric("recall", "class-mean top-5 recall", _ASKED),
    "each_in_top_5": CardMetric("accuracy", "every head right among its own top 5 (looser than top-5)", _ASKED),
}


class _Ranked(NamedTuple):
    """The right class of a record, as a number, and its place among the predicted ones, from 0 on."""

    label: int
    rank: int


class ClassScorer(Scorer):
    """Predicted classes compared with the right ones, where these are known.

    Records of a model that is asked questions are scored head by head, with the names of the heads before those of the
    scores, unless there is one alone. All heads together are scored, too: combinations are ranked by the product of
    their probabilities, as EPIC-KITCHENS does. `each_in_top_5` is the looser count of the released code, by which each
    head is right among its own five.

    Args:
        records: without an error.
        bootstrap: how intervals are drawn.
        questions: where the questions must come from, as `settings` tells it; any one source when absent.

    Raises:
        ValueError: if records are of different heads, or if their questions are not of one source or hide other words.
    """

    def __init__(self, records: Sequence[Record], bootstrap: Bootstrap, questions: str | None = None):
        super().__init__(records, bootstrap)
        self._asked = _only_questions(records)
        if records and questions not in (None, self._asked):
            raise ValueError(f"records must have questions {questions!r}, got {self._asked!r}")
        self._heads = _only_heads(records)
        self._parts = {head: self._rank_head(head) for head in self._heads}
        self._combination: str | None = None
        if len(self._heads) > 1:
            self._combination = combination_name(self._heads)
            self._parts[self._combination] = self._rank_combinations()

    def score(self, rows: Sequence[int]) -> Scores:
        """Score a group of records: top-1, top-5 and mean class accuracy, and class-mean recall of several heads."""
        scores = Scores({}, {}, {})
        for part, ranked in self._parts.items():
            prefix = f"{part}_" if len(self._heads) > 1 else ""
            known = [ranked[row] for row in rows if row in ranked]
            if known:
                self._score_part(prefix, known, scores)
        if self._combination is not None:
            self._score_each(rows, scores)
        return scores

    def _score_part(self, prefix: str, known: Sequence[_Ranked], scores: Scores) -> None:
        """Add the scores of one head, or of combinations."""
        ranks = np.array([one.rank for one in known])
        labels = np.array([one.label for one in known])
        for name, k in (("top_1", 1), ("top_5", 5)):
            self._add_share(prefix + name, ranks < k, scores)
        self._add_class_mean(f"{prefix}mean_class_accuracy", ranks == 0, labels, scores)
        if self._asked is not None:
            self._add_class_mean(f"{prefix}class_mean_top_5_recall", ranks < 5, labels, scores)

    def _score_each(self, rows: Sequence[int], scores: Scores) -> None:
        """Add how often each head is right among its own five classes."""
        are_found = []
        for row in rows:
            ranked = [self._parts[head].get(row) for head in self._heads]
            known = [one for one in ranked if one is not None]
            if len(known) == len(ranked):
                are_found.append(all(one.rank < 5 for one in known))
        if are_found:
            self._add_share(f"{self._combination}_each_in_top_5", np.array(are_found), scores)

    def _add_share(self, name: str, is_found: np.ndarray, scores: Scores) -> None:
        scores.values[name] = float(is_found.mean())
        scores.intervals[name] = bootstrap_interval(is_found, **asdict(self.bootstrap))

    def _add_class_mean(self, name: str, is_found: np.ndarray, labels: np.ndarray, scores: Scores) -> None:
        scores.values[name] = mean_class_accuracy(is_found, labels)
        scores.intervals[name] = self.bootstrap.interval(class_accuracies(is_found, labels, self.bootstrap))

    def each(self) -> list[dict[str, Any]]:
        """Return the predicted and the right class of every record, and the rank of the right one from 0 on.

        Of a model that is asked questions, each of them is by head.
        """
        scores: list[dict[str, Any]] = []
        for row, record in enumerate(self.records):
            predicted: dict[str, dict[str, Any]] = {"predicted": {}, "reference": {}, "rank": {}}
            for head, classes in _answers(record).items():
                predicted["predicted"][head] = classes[0]["class"]
                predicted["reference"][head] = _references(record)[head]
                if row in self._parts[head]:
                    rank = self._parts[head][row].rank
                    predicted["rank"][head] = rank if rank < len(classes) else None
            if self._asked is not None:
                scores.append(predicted)
            else:
                scores.append({name: values[""] for name, values in predicted.items() if values})
        return scores

    def counts(self) -> dict[str, int]:
        """Count records whose right class is known, of several heads for each of them."""
        labelled: set[int] = set()
        for head in self._heads:
            labelled.update(self._parts[head])
        counts = {"with_label": len(labelled)}
        if len(self._heads) > 1:
            counts |= {f"with_{head}": len(self._parts[head]) for head in self._heads}
        return counts

    def details(self) -> dict[str, Any]:
        """Return which class is taken for which and how often, `{"confusion": {right: {predicted: count}}}`.

        Of a model that is asked questions, the table is by head.
        """
        tables = {head: self._confusion(head) for head in self._heads}
        if self._asked is not None:
            return {"confusion": tables}
        return {"confusion": tables.get("", {})}

    def settings(self) -> dict[str, Any]:
        """Return where the questions come from; `None` for records of a model that is asked none."""
        return {"questions": self._asked}

    def _rank_head(self, head: str) -> dict[int, _Ranked]:
        """The right class of a head and its rank, of each record that has one."""
        ranked = {}
        for row, record in enumerate(self.records):
            label = _references(record)[head]
            if label is not None:
                classes = [item["class"] for item in _answers(record)[head]]
                ranked[row] = _Ranked(label, _place(label, classes))
        return ranked

    def _rank_combinations(self) -> dict[int, _Ranked]:
        """The right combination and its rank, of each record whose classes are all known."""
        ranked = {}
        numbers: dict[tuple[int, ...], int] = {}
        for row, record in enumerate(self.records):
            wanted = {head: _references(record)[head] for head in self._heads}
            if None in wanted.values():
                continue
            combination = tuple(label for label in wanted.values() if label is not None)
            number = numbers.setdefault(combination, len(numbers))
            classes = [item["class"] for item in record["answer"]["combinations"]]
            ranked[row] = _Ranked(number, _place(wanted, classes))
        return ranked

    def _confusion(self, head: str) -> dict[str, dict[str, int]]:
        names = self._names(head)
        predicted = []
        wanted = []
        for row, ranked in self._parts[head].items():
            predicted.append(names[_answers(self.records[row])[head][0]["class"]])
            wanted.append(names[ranked.label])
        return confusion(predicted, wanted)

    def _names(self, head: str) -> dict[int, str]:
        """The name of each class that occurs, with its number where another class has the same name."""
        names: dict[int, str] = {}
        for row, ranked in self._parts[head].items():
            name = self.records[row].get("reference_name")
            if isinstance(name, Mapping):
                name = name.get(head)
            if name:
                names.setdefault(ranked.label, name)
        for row in self._parts[head]:
            for item in _answers(self.records[row])[head]:
                names.setdefault(item["class"], item["label"])
        for ranked in self._parts[head].values():
            names.setdefault(ranked.label, str(ranked.label))
        seen: dict[str, int] = {}
        for number, name in sorted(names.items()):
            if seen.setdefault(name, number) != number:
                names[number] = f"{name} ({number})"
        return names


def _answers(record: Record) -> Mapping[str, list[dict[str, Any]]]:
    """The predicted classes by head; the one head of a model that is asked nothing has no name."""
    if isinstance(record["answer"], Mapping):
        return record["answer"]["heads"]
    return {"": record["answer"]}


def _references(record: Record) -> Mapping[str, int | None]:
    """The right classes by head."""
    if isinstance(record["answer"], Mapping):
        return record["reference"]
    return {"": record["reference"]}


def _place(wanted: Any, classes: Sequence[Any]) -> int:
    """The place of the right class, from 0 on; after the last one, and after any that is counted, where it is none."""
    if wanted in classes:
        return classes.index(wanted)
    return max(len(classes), 5)


def _only_heads(records: Sequence[Record]) -> list[str]:
    """The heads of records, which must be the same ones."""
    heads: list[str] | None = None
    for record in records:
        found = list(_answers(record))
        if heads is not None and set(found) != set(heads):
            raise ValueError(f"records must be of the same heads, got {heads} and {found} in record {record['id']}")
        heads = heads or found
    return heads or []


def _only_questions(records: Sequence[Record]) -> str | None:
    """Where the questions of records come from, which must be one source; `None` where nothing can be asked."""
    found = set()
    for record in records:
        asked = record.get("questions")
        found.add(None if asked is None else describe(asked["source"], asked["hide_words"]))
    if len(found) > 1:
        raise ValueError(f"records must have questions of one source, got {sorted(map(str, found))}")
    return next(iter(found), None)
