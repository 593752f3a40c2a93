"""Scores of answers: their boxes, and their captions part by part."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...data.samples import Box
from ...evaluation.task import CardMetric, Record, Scorer, Scores
from ...metrics.bootstrap import Bootstrap, bootstrap_interval
from ...metrics.caption_tokens import best_tokenizer, tokenize_captions
from ...metrics.captioning import ComparedCaptions, compare_tokens
from ...metrics.grounding import mean_iou, pair_ious, picked_object
from .boxes import RecordedBoxes, answer_box
from .records import caption_parts

CAPTION_SCORES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "meteor", "spice")
_IN_WORDS = ("tokenizer",)
CARD_METRICS = {
    "mean_iou": CardMetric("mean_iou", "mIoU"),
    "accuracy": CardMetric("accuracy", "Acc@0.5"),
    "unparsed": CardMetric("unparsed", "answers without a readable box"),
    "picked": CardMetric("accuracy", "right object"),
    "bleu_1": CardMetric("bleu", "BLEU-1", _IN_WORDS),
    "bleu_2": CardMetric("bleu", "BLEU-2", _IN_WORDS),
    "bleu_3": CardMetric("bleu", "BLEU-3", _IN_WORDS),
    "bleu_4": CardMetric("bleu", "BLEU-4", _IN_WORDS),
    "meteor": CardMetric("meteor", "METEOR", _IN_WORDS),
    "rouge_l": CardMetric("rouge", "ROUGE-L", _IN_WORDS),
    "cider": CardMetric("cider", "CIDEr", _IN_WORDS),
    "spice": CardMetric("spice", "SPICE", _IN_WORDS),
}


class AnswerScorer(Scorer):
    """Answers compared with what they should be.

    Boxes are scored where a record has `boxes`, captions where the reference has a word. References with letters in
    which the tokenizer finds no word are named in `absent`.

    Args:
        records: without an error.
        bootstrap: how intervals are drawn.
        tokenizer: as in `compare_captions`.

    Raises:
        ValueError: if a record with boxes lacks the size of its frame.
    """

    def __init__(self, records: Sequence[Record], bootstrap: Bootstrap, tokenizer: str | None = None):
        super().__init__(records, bootstrap)
        self.tokenizer = tokenizer
        self.boxes: dict[int, tuple[Box | None, Box]] = {}
        for row, record in enumerate(self.records):
            if record.get("boxes"):
                self.boxes[row] = _boxes(record)
        self.captions: dict[str, tuple[list[int], ComparedCaptions]] = {}
        try:
            self._compare_captions()
        except ImportError as reason:
            self.absent["captions"] = f"captions were left out: {reason}"

    def _compare_captions(self) -> None:
        answers: dict[str, dict[int, str]] = {}
        references: dict[str, dict[int, str]] = {}
        for row, record in enumerate(self.records):
            for part, (answer, reference) in caption_parts(record).items():
                if any(map(str.isalnum, reference)):
                    answers.setdefault(part, {})[row] = answer
                    references.setdefault(part, {})[row] = reference
        emptied: list[str] = []
        for part in answers:
            emptied += self._compare_part(part, answers[part], references[part])
        if emptied:
            names = ", ".join(dict.fromkeys(emptied))
            reason = f"the tokenizer finds no word in the reference of {names}"
            self.absent["references"] = f"captions were left out: {reason}"

    def _compare_part(self, part: str, answers: dict[int, str], references: dict[int, str]) -> list[str]:
        """Compare the captions of one part, by row; return the ids of those whose reference has no word."""
        tokenizer = self.tokenizer or best_tokenizer()
        words = tokenize_captions([*answers.values(), *references.values()], tokenizer)
        half = len(answers)
        rows: list[int] = []
        candidates: list[str] = []
        targets: list[list[str]] = []
        emptied: list[str] = []
        for row, candidate, target in zip(answers, words[:half], words[half:], strict=True):
            if target:
                rows.append(row)
                candidates.append(candidate)
                targets.append([target])
            else:
                emptied.append(str(self.records[row]["id"]))
        if rows:
            self.captions[part] = (rows, compare_tokens(candidates, targets, tokenizer))
        return emptied

    def score(self, rows: Sequence[int]) -> Scores:
        """Score the boxes of a group of records, and their captions part by part."""
        scores = self._score_boxes([row for row in rows if row in self.boxes])
        wanted = set(rows)
        for part, (places, captions) in self.captions.items():
            numbers = [number for number, row in enumerate(places) if row in wanted]
            if numbers:
                self._score_part(part, captions, numbers, scores)
        return scores

    def _score_boxes(self, rows: Sequence[int]) -> Scores:
        if not rows:
            return Scores({}, {}, {})
        predictions: list[Box | None] = []
        targets: list[Box] = []
        picked: list[bool] = []
        for row in rows:
            predicted, target = self.boxes[row]
            predictions.append(predicted)
            targets.append(target)
            others = self.records[row].get("others")
            if others:
                picked.append(picked_object(predicted, [target, *others]) == 0)
        values = asdict(mean_iou(predictions, targets, self.bootstrap))
        intervals = values.pop("intervals")
        if picked:
            values["picked"] = sum(picked) / len(picked)
            intervals["picked"] = bootstrap_interval(picked, **asdict(self.bootstrap))
        return Scores(values, intervals, {})

    def _score_part(self, part: str, captions: ComparedCaptions, numbers: Sequence[int], scores: Scores) -> None:
        """Add the scores of the captions of one part, given by their numbers."""
        found = asdict(captions.scores(numbers, self.bootstrap))
        for name, interval in found["intervals"].items():
            scores.intervals[part + name] = interval
        for name in CAPTION_SCORES:
            if found[name] is not None:
                scores.values[part + name] = found[name]
        for name, reason in found["absent"].items():
            if name in captions.absent:  # whatever captions it would compare
                scores.absent[name] = reason
            else:
                scores.absent[part + name] = part + reason

    def each(self) -> list[dict[str, Any]]:
        """Score every record by itself."""
        scores: list[dict[str, Any]] = [{} for _ in self.records]
        for row, (predicted, target) in self.boxes.items():
            scores[row]["iou"] = float(pair_ious([predicted], [target])[0])
        for part, (rows, captions) in self.captions.items():
            for name, values in captions.each().items():
                for row, value in zip(rows, values.tolist(), strict=True):
                    scores[row][part + name] = value if np.isfinite(value) else None
        return scores

    def counts(self) -> dict[str, int]:
        """Count records with a box, and with a reference that has a word."""
        with_reference: set[int] = set()
        for rows, _ in self.captions.values():
            with_reference.update(rows)
        return {"with_box": len(self.boxes), "with_reference": len(with_reference)}

    def settings(self) -> dict[str, Any]:
        """Return the tokenizer of captions; `None` where there is none."""
        tokenizers = [captions.tokenizer for _, captions in self.captions.values()]
        return {"tokenizer": tokenizers[0] if tokenizers else None}


def _boxes(record: Record) -> tuple[Box | None, Box]:
    """The box that a record's answer gives, and the true one."""
    if record.get("size") is None:
        raise ValueError(f"record {record['id']}: scoring its box needs size=[height, width] of the original frame")
    height, width = record["size"]
    return answer_box(record["answer"], RecordedBoxes(record), (height, width)), record["boxes"][-1]
