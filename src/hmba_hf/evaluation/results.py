"""Scores with all that made them: what is stored, results for a model card, and a table for people."""

import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from ..families import TASK_OF_VERSION_0_1, find_task
from ..repositories import split_revision
from .scoring import ScoredRecords
from .task import CardMetric, Task

_VERSION = re.compile(r'[\w.+" -]*')


def to_eval_results(
    metrics: dict[str, Any], dataset: str, split: str, revision: str | None = None
) -> list[EvalResult]:
    """Write a summary of `ScoredRecords` as results for a model card, one for each score that its task shows.

    Args:
        metrics: of one split.
        dataset: its Hub id, or the name of its folder.
        revision: of the dataset, where it is known.
    """
    task = _task_of(metrics)
    results = []
    for name, value in metrics["scores"].items():
        part, metric = _take_apart(name, task)
        if metric is None:
            continue
        arguments = dict(metrics["bootstrap"])
        if name in metrics["intervals"]:  # else the score is defined in none of the resampled corpora
            arguments["interval"] = metrics["intervals"][name]
        arguments["answered"] = metrics["samples"]["answered"]
        arguments["skipped"] = metrics["samples"]["skipped"]
        for setting in metric.settings:
            if metrics.get(setting) is not None:  # runs that are older than the setting lack it
                arguments[setting] = metrics[setting]
        results.append(
            EvalResult(
                task_type=task.hub_task,
                dataset_type=dataset,
                dataset_name=dataset.rpartition("/")[2] or dataset,
                dataset_split=split,
                dataset_revision=revision,
                metric_type=metric.kind,
                metric_name=f"{part} {metric.title}".strip(),
                metric_value=value,
                metric_args=arguments,
            )
        )
    return results


def run_metrics(scored: ScoredRecords, arguments: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Write a summary with all that made it, as `hmba evaluate` stores it.

    Args:
        arguments: of the evaluation, with the recipe of its predictions where it is known. Without it, `dataset` and
            `split` are `None`.
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
            **package_versions("hmba-hf", "torch", "transformers"),
            **scored.task.versions(),
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
    """Return the versions of Python and of packages, `None` for one that is not there."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def format_versions(versions: Mapping[str, str | None]) -> str:
    """Write versions in a line, without those of what is not there.

    Texts that are no versions are left out: runs of 0.1 may hold a notice of Java instead.
    """
    held = []
    for name, number in versions.items():
        if number is not None and _VERSION.fullmatch(number):
            held.append(f"{name} {number}")
    return ", ".join(held)


def _task_of(metrics: Mapping[str, Any]) -> Task:
    return find_task(metrics.get("task", TASK_OF_VERSION_0_1))


def _take_apart(name: str, task: Task) -> tuple[str, CardMetric | None]:
    """Split `"action_bleu_4"` into `"action"` and how a card shows `"bleu_4"`, if it does."""
    if name in task.metrics:
        return "", task.metrics[name]
    for ending in sorted(task.metrics, key=len, reverse=True):  # one may end in another
        if name.endswith(f"_{ending}"):
            return name.removesuffix(f"_{ending}"), task.metrics[ending]
    return "", None


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
    for setting, wording in _task_of(metrics).settings.items():
        if metrics.get(setting) is not None:
            lines.append(wording.format(metrics[setting]))
    return "\n".join([*lines, *metrics["absent"].values()])


def _format_scores(group: dict[str, Any]) -> list[str]:
    lines = []
    width = max([22, *map(len, group["scores"])])
    for name, value in group["scores"].items():
        line = f"{name:>{width}}  {_format_score(value)}"
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
