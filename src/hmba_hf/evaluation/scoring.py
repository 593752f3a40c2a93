"""The frame of scoring, the same for every task: a whole, its splits and its tags, with intervals."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..families import TASK_OF_VERSION_0_1, find_task
from ..metrics.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap
from .task import Record, Scorer, Scores, Task


class ScoredRecords:
    """Predictions compared with what they should be, to be scored as a whole and in groups.

    Records with an `error` are left out.

    Args:
        records: of one task, as in `read_records`.
        bootstrap: how intervals are drawn.
        settings: of the task's scorer, such as `tokenizer`.

    Attributes:
        task: of the records.
        absent: why a score is absent from all groups, by name.

    Raises:
        ValueError: if the records are of several tasks, or if one lacks what its scores need.
    """

    def __init__(self, records: Sequence[Record], bootstrap: Bootstrap = DEFAULT_BOOTSTRAP, **settings: Any):
        self.given = records
        self.records = [record for record in records if not record.get("error")]
        self.bootstrap = bootstrap
        self.task = only_task(records)
        self._settings = settings
        self._scorer: Scorer = self.task.scorer(self.records, bootstrap, **settings)
        self.absent = self._scorer.absent

    def scores(self, rows: Sequence[int] | None = None) -> dict[str, Any]:
        """Score all records, or a slice of them, as `{"scores": {name: value}, "intervals": {name: [low, high]}}`."""
        if rows is not None:
            return _listed(self._score(rows))
        scores = self._score(range(len(self.records)))
        self.absent |= scores.absent
        return _listed(scores)

    def summary(self) -> dict[str, Any]:
        """Score the records as a whole, by tag and by split.

        Returns:
            `task`; `scores` and `intervals` by name, empty where there is nothing to score; `absent`, why a score is
            not there; the task's settings and details, and `bootstrap`; the number of `samples` that were answered,
            skipped, and scored; `tags`, with scores, intervals and what is absent of each; and, of more than one
            split, `splits`, all of this for each. A split is a corpus of its own. A tag is a slice of the corpus,
            whose n-gram weights CIDEr keeps.
        """
        splits: dict[str | None, list[Record]] = {}
        for record in self.given:
            if record.get("split") or not record.get("error"):  # what could not be read may lack its split
                splits.setdefault(record.get("split"), []).append(record)
        result = {
            "task": self.task.name,
            **self.scores(),
            "absent": self.absent,
            **self._scorer.settings(),
            **self._scorer.details(),
            "bootstrap": asdict(self.bootstrap),
            "samples": {
                "answered": len(self.records),
                "skipped": len(self.given) - len(self.records),
                **self._scorer.counts(),
            },
            "tags": self._tags(),
        }
        if len(splits) > 1:
            result["splits"] = {}
            for split, part in splits.items():
                result["splits"][split] = ScoredRecords(part, self.bootstrap, **self._settings).summary()
        return result

    def _score(self, rows: Sequence[int]) -> Scores:
        if not rows:
            return Scores({}, {}, {})
        return self._scorer.score(rows)

    def _tags(self) -> dict[str, Any]:
        """Score each tag, and name what it lacks that all records together have."""
        tags: dict[str, list[int]] = {}
        for row, record in enumerate(self.records):
            for tag in dict.fromkeys(record.get("tags") or ()):  # a record counts once, however often it has the tag
                tags.setdefault(tag, []).append(row)
        found = {}
        for tag, rows in sorted(tags.items()):
            scores = self._score(rows)
            found[tag] = {"samples": len(rows), **_listed(scores)}
            own = {name: reason for name, reason in scores.absent.items() if name not in self.absent}
            if own:
                found[tag]["absent"] = own
        return found

    def each(self) -> list[Record]:
        """The scores of every record by itself."""
        scored = []
        for record, scores in zip(self.records, self._scorer.each(), strict=True):
            scored.append({"index": record.get("index"), "id": record.get("id"), **scores})
        return scored


def _listed(scores: Scores) -> dict[str, Any]:
    intervals = {name: list(interval) for name, interval in scores.intervals.items()}
    return {"scores": scores.values, "intervals": intervals}


def only_task(records: Sequence[Record]) -> Task:
    """Return the task of records; those of version 0.1 name none.

    Raises:
        ValueError: if they are of several tasks, or of none that is known.
    """
    names = {record["task"] for record in records if record.get("task")}
    if any(not record.get("task") and not record.get("error") for record in records):
        names.add(TASK_OF_VERSION_0_1)
    if len(names) > 1:
        raise ValueError(f"records must be of one task, got {sorted(names)}")
    return find_task(next(iter(names), TASK_OF_VERSION_0_1))
