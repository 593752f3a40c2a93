"""Stored runs of `hmba evaluate`, checked on reading: a number on a card must be the score of its predictions."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from ..digests import fingerprint
from ..evaluation.records import read_records
from ..evaluation.results import card_results
from ..evaluation.scoring import ScoredRecords, only_task
from ..families import TASK_OF_VERSION_0_1, find_task, load_model
from ..metrics.bootstrap import Bootstrap
from ..quantisation import quantising_options
from ..repositories import split_revision

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.jsonl"
RECIPE_FILE = "recipe.json"
_WANTED = ("scores", "intervals", "samples", "bootstrap", "arguments", "versions", "command", "dataset", "split")
_COMPARED = ("scores", "intervals", "samples", "splits")


class StoredRun:
    """A folder of `hmba evaluate`, whose predictions have been scored again with the same outcome.

    Args:
        folder: with `metrics.json`. The predictions, `predictions.jsonl` with its `recipe.json`, are in the same
            folder or in the one of which `metrics.json` has the path.

    Raises:
        ValueError: if a file is missing or malformed, or if the predictions have other scores.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.metrics = self._read_json(self.folder / METRICS_FILE)
        missing = [name for name in _WANTED if name not in self.metrics]
        if missing:
            raise ValueError(f"{self.folder / METRICS_FILE} must be of `hmba evaluate`, got one without {missing}")
        for name in ("scores", "intervals", "samples", "bootstrap", "arguments", "versions"):
            value = self.metrics[name]
            if not isinstance(value, dict):
                raise ValueError(f"{self.folder / METRICS_FILE}: {name} must be a JSON object, got {value!r}")
        predictions = self.folder / PREDICTIONS_FILE
        if not predictions.exists():
            predictions = Path(self.metrics["arguments"].get("predictions") or predictions)
        self.recipe = self._read_json(predictions.parent / RECIPE_FILE)
        self._check_recipe()
        self._check_scores(predictions)

    @property
    def results(self) -> list[EvalResult]:
        """Its scores as a card holds them."""
        return card_results(self.metrics)

    def check_model(self, folder: str | Path) -> None:
        """Load a checkpoint as `predict` does.

        Raises:
            ValueError: if it is not the model that made the predictions.
        """
        bits = quantising_options(folder, self.recipe.get("quantization"))
        model = load_model(folder, dtype=self.recipe["dtype"], device_map="cpu", **bits)
        found = fingerprint(model)
        if found != self.recipe["weights"]:
            raise ValueError(
                f"{self.folder} must hold scores of this checkpoint, whose weights are {found}, got scores of the "
                f"weights {self.recipe['weights']}"
            )

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text())
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(
                f"results must come from a folder that `hmba evaluate` has written, got {self.folder}: {error}"
            ) from error
        if not isinstance(content, dict):
            raise ValueError(f"{path} must be a JSON object, got {type(content).__name__}")
        return content

    def _check_recipe(self) -> None:
        arguments = self.metrics["arguments"]
        for name in ("weights", "dtype", "dataset_name", "split", "num_samples"):
            if name not in self.recipe:
                raise ValueError(f"{self.folder} must hold predictions of `hmba predict`, got a recipe without {name}")
        different = _differences(arguments, self.recipe, self.recipe)
        if different:
            raise ValueError(
                f"{self.folder}: {METRICS_FILE} must be of the predictions of {RECIPE_FILE}, got {different}"
            )
        dataset, _ = split_revision(self.recipe["dataset_name"])
        known = {"dataset": [dataset, Path(dataset).name], "split": self.recipe["split"]}
        for name, wanted in known.items():
            if self.metrics[name] not in wanted:
                raise ValueError(
                    f"{self.folder}: the {name} of the scores must be that of the predictions, {wanted[0]!r}, "
                    f"got {self.metrics[name]!r}"
                )

    def _check_scores(self, predictions: Path) -> None:
        records = read_records(predictions)
        if len(records) != self.recipe["num_samples"]:
            raise ValueError(f"{predictions} must hold {self.recipe['num_samples']} predictions, got {len(records)}")
        try:
            bootstrap = Bootstrap(**self.metrics["bootstrap"])
        except TypeError as error:
            raise ValueError(
                f"{self.folder / METRICS_FILE}: bootstrap must be that of `hmba evaluate`: {error}"
            ) from error
        task = only_task(records)
        held = self.metrics.get("task", TASK_OF_VERSION_0_1)
        if held != task.name:
            raise ValueError(
                f"{self.folder / METRICS_FILE}: task must be {task.name!r}, that of the predictions, got {held!r}"
            )
        settings = {name: self.metrics.get(name) for name in task.settings}
        scored = ScoredRecords(records, bootstrap, **settings)
        found = json.loads(json.dumps(scored.summary()))
        for part in _COMPARED:
            held = self.metrics.get(part, {})
            again = found.get(part, {})
            different = _differences(held, again, {**held, **again})
            if different:
                reasons = " ".join(["", *found["absent"].values()])
                raise ValueError(
                    f"{self.folder / METRICS_FILE} must hold the scores of the predictions, got {part} where "
                    f"{different}.{reasons}"
                )


def read_runs(folders: Sequence[str | Path]) -> list[StoredRun]:
    """Read runs, each of a dataset and split of its own, or with other settings of its task, such as other questions.

    Raises:
        ValueError: if two are of the same, or as `StoredRun`.
    """
    if isinstance(folders, (str, Path)):
        raise ValueError(f"results must be a list of folders of `hmba evaluate`, got {folders!r}")
    for folder in folders:
        if not isinstance(folder, (str, Path)):
            raise ValueError(f"results must be folders that `hmba evaluate` has written, got {type(folder).__name__}")
    runs = [StoredRun(folder) for folder in folders]
    seen: dict[tuple, Path] = {}
    for run in runs:
        task = find_task(run.metrics.get("task", TASK_OF_VERSION_0_1))
        settings = tuple(run.metrics.get(name) for name in task.settings)
        for place in {(result.dataset_type, result.dataset_split) for result in run.results}:
            if (place, settings) in seen:
                raise ValueError(
                    f"results must be of one run for each split, got {seen[place, settings]} and {run.folder} for "
                    f"{place}"
                )
            seen[place, settings] = run.folder
    return runs


def _differences(held: Mapping[str, Any], found: Mapping[str, Any], names: Mapping[str, Any]) -> str:
    """Write the names for which two mappings have different values, and these values."""
    lines = []
    for name in sorted(names):
        if not _agree(held.get(name), found.get(name)):
            lines.append(f"{name} is {held.get(name)!r} and should be {found.get(name)!r}")
    return "; ".join(lines)


def _agree(held: Any, found: Any) -> bool:
    """Compare values of JSON, numbers up to the rounding of sums in another order."""
    if isinstance(held, dict) and isinstance(found, dict):
        return held.keys() == found.keys() and all(_agree(held[name], found[name]) for name in held)
    if isinstance(held, list) and isinstance(found, list):
        return len(held) == len(found) and all(map(_agree, held, found))
    if isinstance(held, float) and isinstance(found, float):
        return math.isclose(held, found, rel_tol=1e-9, abs_tol=1e-12)
    return held == found
