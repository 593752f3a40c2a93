"""Records of answers to scores with intervals: boxes, captions, each split, each tag, and results for a model card."""

import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from .data.samples import BDDX_PARTS, BDDX_QUESTION, BOX_MARKER, check_box
from .evaluation import answer_box
from .files import check_fields, parse_json, split_lines
from .metrics.bootstrap import DEFAULT_BOOTSTRAP, Bootstrap, bootstrap_interval
from .metrics.caption_tokens import best_tokenizer, java_version, tokenize_captions
from .metrics.captioning import ComparedCaptions, compare_tokens
from .metrics.grounding import Box, mean_iou, pair_ious, picked_object
from .models.processing_hmba import HMBAProcessor, strip_boxes
from .repositories import split_revision

Record = dict[str, Any]
REQUIRED_KEYS = ("id", "answer", "reference")
CAPTION_SCORES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "meteor", "spice")
_VERSION = re.compile(r'[\w.+" -]*')
# What a card shows, with the Hub's word for the kind of metric and the name that people know.
CARD_METRICS = {
    "mean_iou": ("mean_iou", "mIoU"),
    "accuracy": ("accuracy", "Acc@0.5"),
    "unparsed": ("unparsed", "answers without a readable box"),
    "picked": ("accuracy", "right object"),
    "bleu_1": ("bleu", "BLEU-1"),
    "bleu_2": ("bleu", "BLEU-2"),
    "bleu_3": ("bleu", "BLEU-3"),
    "bleu_4": ("bleu", "BLEU-4"),
    "meteor": ("meteor", "METEOR"),
    "rouge_l": ("rouge", "ROUGE-L"),
    "cider": ("cider", "CIDEr"),
    "spice": ("spice", "SPICE"),
}


def read_records(path: str | Path) -> list[Record]:
    """Read predictions, one JSON object a line.

    A record needs `id`, and the texts `answer` and `reference`. For boxes it needs `boxes`, fractions of the frame,
    and `size`, see `Sample`; `split`, `question`, `parts` and `tags`, `others` (boxes of what else could have been
    meant) and `error` are optional.

    Raises:
        ValueError: if a line is no such object, if two have the same id in the same split, be it
            a number or a text, or if there is none.
    """
    records: list[Record] = []
    seen: dict[tuple[Any, Any], int] = {}
    for number, line in split_lines(path):
        where = f"{path}, line {number}"
        shown = line.decode(errors="replace").strip()[:80]
        try:
            record = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{where}: expected a JSON object, got {shown!r}") from error
        if not isinstance(record, dict) or not (record.get("error") or record.keys() >= set(REQUIRED_KEYS)):
            raise ValueError(f"{where}: expected a record with {REQUIRED_KEYS}, got {shown!r}")
        try:
            _check_record(record)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        split = record.get("split")
        name = record.get("id")
        key = (split, str(name))  # an id is a text, also where it was written as a number
        if name is not None and seen.setdefault(key, number) != number:
            raise ValueError(
                f"{where}: each sample of a split is wanted once, got {name!r} of {split!r} in line {seen[key]}, too"
            )
        records.append(record)
    if not records:
        raise ValueError(f"{path}: expected at least one record, got none")
    return records


def _check_record(record: Record) -> None:
    """Raise a `ValueError` that names the record if it does not hold what scoring reads."""
    optional: dict[str, tuple[type, ...]] = {
        "id": (str, int),
        "split": (str,),
        "question": (str,),
        "index": (int,),
        "error": (str,),
    }
    name = f"record {record.get('id')}"
    is_answered = not record.get("error")
    fields = {key: (*kinds, type(None)) for key, kinds in optional.items() if key in record}
    if is_answered:
        fields |= {"id": (str, int), "answer": (str,), "reference": (str,)}
        for key in ("boxes", "others", "parts", "size"):
            if key in record:
                fields[key] = (list, type(None))
    check_fields(record, name, **fields)
    if not is_answered:
        return
    for box in [*(record.get("boxes") or ()), *(record.get("others") or ())]:
        if not isinstance(box, list) or not all(map(_is_number, box)):
            raise ValueError(f"{name}: a box must be [x1, y1, x2, y2], got {box!r}")
        check_box(box, record["id"])
    size = record.get("size")
    if size is not None and not (len(size) == 2 and all(map(_is_number, size)) and min(size) >= 1):
        raise ValueError(f"{name}: size must be [height, width] of at least one pixel, got {size!r}")
    for key in ("tags", "parts"):
        texts = record.get(key)
        if texts is not None and not _are_texts(texts):
            raise ValueError(f"{name}: {key} must be a list of texts, got {texts!r}")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_number(value: Any) -> bool:
    """Tell a number that a float holds from everything else that JSON may have, such as `true` or `NaN`."""
    limit = sys.float_info.max
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -limit <= value <= limit


def caption_parts(record: Record) -> dict[str, tuple[str, str]]:
    """The captions of a record as pairs of what was generated and what it should be, without any box.

    Box text is cut out of both as `strip_boxes` does it, and the marker `<box>` out of the reference. A caption is one
    part, `""`. An answer of which the record names `parts` has one for each line, `"action_"` and `"justification_"`
    for BDD-X's, which the literature scores apart; the last one takes all that remains.
    """
    answer = strip_boxes(record["answer"])
    reference = strip_boxes(record["reference"].replace(BOX_MARKER, ""))
    parts = record.get("parts")
    if parts is None and record.get("question") == BDDX_QUESTION:  # a record of version 0.1, which names no parts
        parts = BDDX_PARTS
    if not parts:
        return {"": (answer, reference)}
    last = len(parts) - 1
    answers = [*answer.split("\n", last), *[""] * last]
    references = [*reference.split("\n", last), *[""] * last]
    return {f"{part}_": (answers[row], references[row]) for row, part in enumerate(parts)}


class ScoredRecords:
    """Answers compared with what they should be, to be scored as a whole and in groups.

    Records with an `error` are left out. Boxes are scored where a record has `boxes`, captions where the reference
    has a word. References with letters in which the tokenizer finds no word are named in `absent`.

    Args:
        records: as in `read_records`.
        tokenizer: as in `compare_captions`.
        bootstrap: how intervals are drawn.

    Raises:
        ValueError: if a record with boxes does not tell the size of its frame.
    """

    def __init__(
        self, records: Sequence[Record], tokenizer: str | None = None, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
    ):
        self.given = records
        self.records = [record for record in records if not record.get("error")]
        self.tokenizer = tokenizer
        self.bootstrap = bootstrap
        self.absent: dict[str, str] = {}
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

    def scores(self, rows: Sequence[int] | None = None) -> dict[str, Any]:
        """Score all records, or a slice of them, as `{"scores": {name: value}, "intervals": {name: [low, high]}}`."""
        if rows is not None:
            return self._score(rows)[0]
        scores, absent = self._score(range(len(self.records)))
        self.absent |= absent
        return scores

    def _score(self, rows: Sequence[int]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return what `scores` does, and why a score is not there."""
        values, intervals = self._grounding([row for row in rows if row in self.boxes])
        absent = {}
        wanted = set(rows)
        for part, (places, captions) in self.captions.items():
            numbers = [number for number, row in enumerate(places) if row in wanted]
            if not numbers:
                continue
            found = asdict(captions.scores(numbers, self.bootstrap))
            for name, interval in found["intervals"].items():
                intervals[part + name] = interval
            for name in CAPTION_SCORES:
                if found[name] is not None:
                    values[part + name] = found[name]
            for name, reason in found["absent"].items():
                if name in captions.absent:  # whatever captions it would compare
                    absent[name] = reason
                else:
                    absent[part + name] = part + reason
        scores = {"scores": values, "intervals": {name: list(interval) for name, interval in intervals.items()}}
        return scores, absent

    def summary(self) -> dict[str, Any]:
        """Score the records as a whole, by tag and by split.

        Returns:
            `scores` and `intervals` by name, empty where there is nothing to score; `absent`, why a score is not
            there; `tokenizer` and `bootstrap`; the number of `samples` that were answered, skipped, and scored;
            `tags`, with scores, intervals and what is absent of each; and, of more than one split, `splits`, all of
            this for each. A split is a corpus of its own. A tag is a slice of the corpus, whose n-gram weights CIDEr
            keeps.
        """
        splits: dict[str | None, list[Record]] = {}
        for record in self.given:
            if record.get("split") or not record.get("error"):  # what could not be read may not tell its split
                splits.setdefault(record.get("split"), []).append(record)
        tokenizer = None
        with_reference: set[int] = set()
        for rows, compared in self.captions.values():
            tokenizer = compared.tokenizer  # of all parts
            with_reference.update(rows)
        result = {
            **self.scores(),
            "absent": self.absent,
            "tokenizer": tokenizer,
            "bootstrap": asdict(self.bootstrap),
            "samples": {
                "answered": len(self.records),
                "skipped": len(self.given) - len(self.records),
                "with_box": len(self.boxes),
                "with_reference": len(with_reference),
            },
            "tags": self._tags(),
        }
        if len(splits) > 1:
            result["splits"] = {}
            for split, part in splits.items():
                result["splits"][split] = ScoredRecords(part, self.tokenizer, self.bootstrap).summary()
        return result

    def _tags(self) -> dict[str, Any]:
        """Score each tag, and tell what it lacks that all records together have."""
        tags: dict[str, list[int]] = {}
        for row, record in enumerate(self.records):
            for tag in dict.fromkeys(record.get("tags") or ()):  # a record counts once, however often it says so
                tags.setdefault(tag, []).append(row)
        found = {}
        for tag, rows in sorted(tags.items()):
            scores, missing = self._score(rows)
            found[tag] = {"samples": len(rows), **scores}
            own = {name: reason for name, reason in missing.items() if name not in self.absent}
            if own:
                found[tag]["absent"] = own
        return found

    def each(self) -> list[Record]:
        """The scores of every record by itself."""
        scores: list[Record] = [{"index": record.get("index"), "id": record.get("id")} for record in self.records]
        for row, (predicted, target) in self.boxes.items():
            scores[row]["iou"] = float(pair_ious([predicted], [target])[0])
        for part, (rows, captions) in self.captions.items():
            for name, values in captions.each().items():
                for row, value in zip(rows, values.tolist(), strict=True):
                    scores[row][part + name] = value if np.isfinite(value) else None
        return scores

    def _grounding(self, rows: Sequence[int]) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
        if not rows:
            return {}, {}
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
        return values, intervals


def _boxes(record: Record) -> tuple[Box | None, Box]:
    """The box that a record's answer gives, and the true one."""
    if record.get("size") is None:
        raise ValueError(f"record {record['id']}: scoring its box needs size=[height, width] of the original frame")
    height, width = record["size"]
    return answer_box(record["answer"], HMBAProcessor, (height, width)), record["boxes"][-1]


def to_eval_results(
    metrics: dict[str, Any], dataset: str, split: str, revision: str | None = None
) -> list[EvalResult]:
    """Write a summary of `ScoredRecords` as results for a model card, one for each score of `CARD_METRICS`.

    Args:
        metrics: of one split.
        dataset: its Hub id, or the name of its folder.
        revision: of the dataset, where it is known.
    """
    results = []
    for name, value in metrics["scores"].items():
        part, metric = _take_apart(name)
        if metric not in CARD_METRICS:
            continue
        kind, title = CARD_METRICS[metric]
        arguments = dict(metrics["bootstrap"])
        if name in metrics["intervals"]:  # else the score is defined in none of the resampled corpora
            arguments["interval"] = metrics["intervals"][name]
        arguments["answered"] = metrics["samples"]["answered"]
        arguments["skipped"] = metrics["samples"]["skipped"]
        if metrics["tokenizer"] is not None and kind in ("bleu", "meteor", "rouge", "cider", "spice"):
            arguments["tokenizer"] = metrics["tokenizer"]
        results.append(
            EvalResult(
                task_type="video-text-to-text",
                dataset_type=dataset,
                dataset_name=dataset.rpartition("/")[2] or dataset,
                dataset_split=split,
                dataset_revision=revision,
                metric_type=kind,
                metric_name=f"{part} {title}".strip(),
                metric_value=value,
                metric_args=arguments,
            )
        )
    return results


def run_metrics(scored: ScoredRecords, arguments: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Write a summary with all that made it: what `evaluate.py` stores, and a card tells.

    Args:
        arguments: of the evaluation, with the recipe of its answers where they are of `predict`; `dataset` and `split`
            are `None` where nothing tells them.
        command: as it was given.
    """
    dataset, _ = split_revision(arguments.get("dataset_name") or "")
    if Path(dataset).exists():  # a folder here, not a Hub id
        dataset = Path(dataset).name
    splits = [record["split"] for record in scored.records if record.get("split")]
    splits += arguments.get("split", [])
    return {
        **scored.summary(),
        "dataset": dataset or None,
        "split": next(iter(splits), None),
        "arguments": dict(arguments),
        "versions": {
            **package_versions("hmba-hf", "torch", "transformers", "pycocoevalcap"),
            "java": java_version(),
        },
        "command": command,
    }


def card_results(metrics: Mapping[str, Any]) -> list[EvalResult]:
    """Write what `run_metrics` returns as results for a model card, split by split, each with what made it."""
    results = []
    made_by = {"command": metrics["command"], "environment": format_versions(metrics["versions"])}
    revision = metrics["arguments"].get("dataset_revision")
    for split, group in metrics.get("splits", {metrics["split"]: metrics}).items():
        for result in to_eval_results(group, metrics["dataset"], split, revision=revision):
            result.metric_args = {**(result.metric_args or {}), **made_by}
            results.append(result)
    return results


def package_versions(*packages: str) -> dict[str, str | None]:
    """Tell the versions of Python and of packages, `None` for one that is not there."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def format_versions(versions: Mapping[str, str | None]) -> str:
    """Write versions in a line, without those of what is not there.

    What is no version is left out, too: runs of 0.1 may hold there what Java tells of options in the environment.
    """
    held = []
    for name, number in versions.items():
        if number is not None and _VERSION.fullmatch(number):
            held.append(f"{name} {number}")
    return ", ".join(held)


def _take_apart(name: str) -> tuple[str, str]:
    """Split `"action_bleu_4"` into `("action", "bleu_4")`."""
    for metric in CAPTION_SCORES:
        if name.endswith(f"_{metric}"):
            return name.removesuffix(f"_{metric}"), metric
    return "", name


def to_model_index(model_name: str, results: Sequence[EvalResult]) -> dict[str, Any]:
    """Results as the metadata of a card holds them; `model_index_to_eval_results` reads them back."""
    return {"model-index": eval_results_to_model_index(model_name, list(results)) if results else []}


def format_table(metrics: dict[str, Any]) -> str:
    """Scores with their intervals as lines for people, then those of splits and tags, and what is absent and why."""
    confidence = f"{metrics['bootstrap']['confidence'] * 100:g} %"
    lines = _format_scores(metrics)
    for split, group in metrics.get("splits", {}).items():
        lines += ["", f"{split}: {group['samples']['answered']} samples", *_format_scores(group)]
    for tag, group in metrics["tags"].items():
        lines += ["", f"{tag}: {group['samples']} of {metrics['samples']['answered']} samples", *_format_scores(group)]
    if metrics["samples"]["skipped"]:
        lines += ["", f"{metrics['samples']['skipped']} samples could not be read and are not in the scores"]
    lines += ["", f"{confidence} intervals of {metrics['bootstrap']['draws']} resampled corpora"]
    if metrics["tokenizer"] is not None:
        lines.append(f"captions in words of the tokenizer {metrics['tokenizer']!r}")
    return "\n".join([*lines, *metrics["absent"].values()])


def _format_scores(group: dict[str, Any]) -> list[str]:
    lines = []
    for name, value in group["scores"].items():
        line = f"{name:>22}  {_format_score(value)}"
        if group["intervals"].get(name) is not None:
            low, high = group["intervals"][name]
            line += f"  {low:.3f} to {high:.3f}"
        lines.append(line)
    return lines


def _format_score(value: Any) -> str:
    if value is None:
        return "undefined"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)
