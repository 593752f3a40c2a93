"""Runs of `evaluate.py` as they are stored, read with suspicion: a number on a card must be one that answers score."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from ..digests import fingerprint
from ..metrics.bootstrap import Bootstrap
from ..prediction import load_model
from ..repositories import split_revision
from ..scoring import ScoredRecords, card_results, read_records

METRICS_FILE, PREDICTIONS_FILE, RECIPE_FILE = "metrics.json", "predictions.jsonl", "recipe.json"
_WANTED = ("scores", "intervals", "samples", "bootstrap", "arguments", "versions", "command", "dataset", "split")
_COMPARED = ("scores", "intervals", "samples", "splits")


class StoredRun:
    """What `evaluate.py` has left in a folder, once its answers have been scored again with the same outcome.

    Args:
        folder: with `metrics.json`. The answers, `predictions.jsonl` and the `recipe.json` beside it, are in the same
            folder, or where they were scored from.

    Raises:
        ValueError: if a file is missing or not that of such a run, or if the answers score something else.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.metrics = self._read_json(self.folder / METRICS_FILE)
        if missing := [name for name in _WANTED if name not in self.metrics]:
            raise ValueError(f"{self.folder / METRICS_FILE}: metrics of evaluate.py are wanted, these lack {missing}")
        for name in ("scores", "intervals", "samples", "bootstrap", "arguments", "versions"):
            if not isinstance(value := self.metrics[name], dict):
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
            ValueError: if it is not the model that gave the answers.
        """
        model = load_model(folder, dtype=self.recipe["dtype"], device_map="cpu")
        if (found := fingerprint(model)) != self.recipe["weights"]:
            raise ValueError(
                f"{self.folder} holds the scores of another model: its answers are of the weights "
                f"{self.recipe['weights']}, and those of this checkpoint are {found}"
            )

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text())
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(
                f"results come from a folder that examples/evaluate.py has written, and {self.folder} is none: {error}"
            ) from error
        if not isinstance(content, dict):
            raise ValueError(f"{path}: a JSON object is wanted, got {type(content).__name__}")
        return content

    def _check_recipe(self) -> None:
        arguments = self.metrics["arguments"]
        for name in ("weights", "dtype", "dataset_name", "split", "num_samples"):
            if name not in self.recipe:
                raise ValueError(f"{self.folder}: answers of predict.py are wanted, the recipe of these lacks {name}")
        if different := _differences(arguments, self.recipe, self.recipe):
            raise ValueError(f"{self.folder}: {METRICS_FILE} is of other answers than {RECIPE_FILE}: {different}")
        dataset, _ = split_revision(self.recipe["dataset_name"])
        for name, told, wanted in (
            ("dataset", self.metrics["dataset"], [dataset, Path(dataset).name]),
            ("split", self.metrics["split"], self.recipe["split"]),
        ):
            if told not in wanted:
                raise ValueError(
                    f"{self.folder}: the {name} of these answers is {wanted[0]!r}, and the scores tell of {told!r}"
                )

    def _check_scores(self, predictions: Path) -> None:
        records = read_records(predictions)
        if len(records) != self.recipe["num_samples"]:
            raise ValueError(f"{predictions}: {self.recipe['num_samples']} answers are wanted, got {len(records)}")
        try:
            bootstrap = Bootstrap(**self.metrics["bootstrap"])
        except TypeError as error:
            raise ValueError(
                f"{self.folder / METRICS_FILE}: bootstrap must be that of evaluate.py: {error}"
            ) from error
        scored = ScoredRecords(records, self.metrics.get("tokenizer"), bootstrap)
        found = json.loads(json.dumps(scored.summary()))
        for part in _COMPARED:
            held, again = self.metrics.get(part, {}), found.get(part, {})
            if different := _differences(held, again, {**held, **again}):
                reasons = " ".join(found["absent"].values())
                raise ValueError(
                    f"{self.folder / METRICS_FILE}: a number must be what the answers score, but in {part} {different}"
                    f"{' (' + reasons + ')' if reasons else ''}"
                )


def read_runs(folders: Sequence[str | Path]) -> list[StoredRun]:
    """Read runs, each of which must tell about a dataset and split that no other one tells about.

    Raises:
        ValueError: if two do, or as `StoredRun`.
    """
    if isinstance(folders, (str, Path)):
        raise ValueError(f"a list of folders of evaluate.py is wanted, got {folders!r}")
    for folder in folders:
        if not isinstance(folder, (str, Path)):
            raise ValueError(
                f"results are folders that examples/evaluate.py has written, not numbers: got {type(folder).__name__}"
            )
    runs = [StoredRun(folder) for folder in folders]
    seen: dict[tuple, Path] = {}
    for run in runs:
        for place in {(result.dataset_type, result.dataset_split) for result in run.results}:
            if place in seen:
                raise ValueError(
                    f"one run for each split is wanted, {seen[place]} and {run.folder} are both of {place}"
                )
            seen[place] = run.folder
    return runs


def _differences(held: Mapping[str, Any], found: Mapping[str, Any], names: Mapping[str, Any]) -> str:
    """Write which of some names two mappings have different values for."""
    return "; ".join(
        f"{name} is {held.get(name)!r} and should be {found.get(name)!r}"
        for name in sorted(names)
        if not _agree(held.get(name), found.get(name))
    )


def _agree(held: Any, found: Any) -> bool:
    """Compare values of JSON, numbers up to the order in which another processor may have added them."""
    if isinstance(held, dict) and isinstance(found, dict):
        return held.keys() == found.keys() and all(_agree(held[name], found[name]) for name in held)
    if isinstance(held, list) and isinstance(found, list):
        return len(held) == len(found) and all(map(_agree, held, found))
    if isinstance(held, float) and isinstance(found, float):
        return math.isclose(held, found, rel_tol=1e-9, abs_tol=1e-12)
    return held == found
