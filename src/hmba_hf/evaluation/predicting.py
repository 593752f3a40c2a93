"""Predictions for whole splits, in any number of processes, that survive a kill.

Samples go through the model in batches that depend on the recipe alone, and a batch counts when all of its lines are
on disk. So the predictions match those of an undisturbed run.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoProcessor
from transformers.utils import find_adapter_config_file

from ..data.bad_samples import POLICIES
from ..data.loading import MICRO_WORLD, TWO_TASKS
from ..data.micro_world.world import MOTIONS
from ..data.samples import Sample
from ..data.video_options import VideoOptions
from ..digests import fingerprint
from ..families import TASK_OF_VERSION_0_1, find_task, load_model, read_family
from ..files import parse_json, split_lines
from ..messages import logger
from ..quantisation import HELP, QUANTIZATIONS, quantising_options
from ..repositories import check_revision
from .batches import Outcome, predict_batches, split_batches
from .prediction_files import PredictionFolder
from .recipes import dataset_revision, settings
from .splits import Splits
from .task import Record, Task

# A process that has finished waits this long for the slowest one.
_PATIENCE = timedelta(days=7)


@dataclass
class SplitArguments(VideoOptions):
    """Which model predicts about which clips, and where the predictions go."""

    model: str | None = field(default=None, metadata={"help": "folder or Hub id"})
    model_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of it on the Hub"})
    dataset_name: str = field(
        default=MICRO_WORLD, metadata={"help": "folder, Hub id (org/name, org/name@revision) or micro-world"}
    )
    split: list[str] = field(default_factory=lambda: ["test"], metadata={"help": "one or more, such as: test"})
    max_samples: int | None = field(default=None, metadata={"help": "only this many from the start of each split"})
    motion: str = field(default="symmetric", metadata={"help": "of the micro-world", "choices": MOTIONS})
    world_seed: int = field(default=0, metadata={"help": "of the micro-world"})
    batch_size: int = field(default=32, metadata={"help": "clips that go through the model at once"})
    dtype: str = field(default="auto", metadata={"help": "of the weights, such as bfloat16"})
    device_map: str | None = field(
        default=None, metadata={"help": "where the model runs, such as cpu or auto; each process's device when absent"}
    )
    quantization: str | None = field(default=None, metadata={"help": HELP, "choices": QUANTIZATIONS})
    on_error: str = field(
        default="stop", metadata={"help": "what a clip that cannot be read does", "choices": POLICIES}
    )
    output_dir: str = field(default="predictions", metadata={"help": "folder of the predictions"})
    overwrite: bool = field(default=False, metadata={"help": "drop the predictions of another recipe in output_dir"})

    def options(self) -> dict[str, Any]:
        """The options of `Task.predict`."""
        return {}

    def recipe(self) -> dict[str, Any]:
        """The options that predictions depend on; `on_error` may change between runs."""
        names = ["model", "dataset_name", "split", "max_samples", "batch_size", "dtype"]
        if self.dataset_name in (MICRO_WORLD, TWO_TASKS):
            names += ["motion", "world_seed"]
        names += [name for name in ("model_revision", "quantization") if getattr(self, name) is not None]
        return {name: getattr(self, name) for name in names} | self.stated()


def find_task_of_words(words: Sequence[str]) -> Task:
    """Return the task of the model that the words of a command line name; that of version 0.1 if they name none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model")
    parser.add_argument("--model_revision")
    named, _ = parser.parse_known_args(words)
    if named.model is None:
        return find_task(TASK_OF_VERSION_0_1)
    arguments = SplitArguments(model=named.model, model_revision=named.model_revision)
    return find_task(read_family(named.model, **_revision(arguments)).task)


def predict_splits(arguments: SplitArguments, task: Task) -> Path:
    """Predict for the splits that options name; see `write_predictions`.

    Args:
        arguments: of the class `task.arguments`.
        task: with `load`.

    Raises:
        ValueError: if the task has no `load`, if two samples of a split have the same id, or as `load_predictor` and
            `write_predictions`.
    """
    if task.load is None:
        raise ValueError(f"task {task.name!r} must have load to predict for splits by their names, got None")
    model, processor = load_predictor(arguments)
    samples = task.load(arguments, model, processor)
    return write_predictions(arguments, task, model, processor, samples, arguments.options())


def load_predictor(arguments: SplitArguments) -> tuple[Any, Any]:
    """Load the model that predicts onto the device of this process, and its processor, which reads files by the rules.

    Raises:
        ValueError: if no model is named, if the processor takes no rules, or as `load_model` and `quantising_options`.
    """
    if arguments.model is None:
        raise ValueError("model must be a folder or Hub id, got None")
    state = _processes()
    device_map = arguments.device_map or str(state.device)
    options = {"dtype": arguments.dtype, "device_map": device_map, **_revision(arguments)}
    options |= quantising_options(arguments.model, arguments.quantization, **_revision(arguments))
    model = load_model(arguments.model, **options)
    processor = AutoProcessor.from_pretrained(arguments.model, revision=arguments.model_revision)
    reader = getattr(processor, "video_processor", processor)
    if hasattr(reader, "set_source_rules"):
        reader.set_source_rules(**arguments.rules)
    elif stated := arguments.stated():
        raise ValueError(f"rules for files must be absent for a processor that reads none, got {stated}")
    return model, processor


def write_predictions(
    arguments: SplitArguments,
    task: Task,
    model: Any,
    processor: Any,
    samples: Splits,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Predict for all samples, in as many processes as Accelerate has launched, and return the file of predictions.

    What the folder holds of the same recipe is kept, also if it was written by another number of processes; a sample
    that could not be read is tried again.

    Args:
        arguments: of the run.
        task: makes predictions and records.
        model, processor, samples: of `load_predictor` and `load_splits`.
        options: of `task.predict`.

    Raises:
        ValueError: if the folder holds the predictions of another recipe or dataset, if a sample cannot be read and
            `on_error` is `"stop"`, or if none can be read.
    """
    state = _processes()
    folder = PredictionFolder(arguments.output_dir)
    recipe = {**arguments.recipe(), "weights": fingerprint(model), **settings(model, processor)}
    recipe["num_samples"] = len(samples)
    recipe["dataset_revision"] = dataset_revision(samples.splits[0])
    if state.is_main_process:
        folder.claim(recipe, arguments.overwrite)
    state.wait_for_everyone()
    records = folder.read()
    _check_ids(samples, records)
    batches = split_batches(len(samples), arguments.batch_size)
    predicted = {index for index, record in records.items() if record["error"] is None}
    missing = [batch for batch in batches if not predicted.issuperset(batch)]
    if state.is_main_process:
        logger.info(f"{len(missing)} of {len(batches)} batches to predict, processes: {state.num_processes}")
    state.wait_for_everyone()  # all have read the same before anyone writes

    def encode(read: Sequence[Sample]) -> Any:
        return task.encode(read, processor)

    def predict(inputs: Any) -> Sequence[Any]:
        return task.predict(model, processor, inputs, options)

    share = missing[state.process_index :: state.num_processes]
    for outcomes in predict_batches(
        model, samples, share, encode=encode, predict=predict, on_error=arguments.on_error
    ):
        folder.append(to_record(outcome, samples, task, processor) for outcome in outcomes)
    state.wait_for_everyone()
    if state.is_main_process:
        _report(folder.merge(len(samples)))
    state.wait_for_everyone()
    return folder.predictions_file


def to_record(outcome: Outcome, samples: Splits, task: Task, processor: Any = None) -> Record:
    """Return all that scoring a prediction needs, of the processor, too, if there is one, as plain values.

    The prediction is `answer`, the name that records have had since version 0.1; `None` where there is an `error`.
    """
    sample = outcome.sample
    place, _ = samples.locate(outcome.index)
    record: Record = {
        "index": outcome.index,
        "id": None,
        "task": task.name,
        "split": samples.names[place],
        "answer": outcome.prediction,
        "error": outcome.error,
    }
    if sample is None:
        return record
    if processor is not None:
        record |= task.reading(sample, processor)
    return record | task.record(sample)


def _processes() -> PartialState:
    """The processes of the run; without `cpu`, those on a machine without an accelerator would not meet."""
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)


def _revision(arguments: SplitArguments) -> dict[str, Any]:
    """How `from_pretrained` is asked for a revision; that of low-rank updates is none of the base that they name."""
    name, revision = str(arguments.model), arguments.model_revision
    if revision is None:
        return {}
    check_revision(name, revision)
    if find_adapter_config_file(name, revision=revision) is None:
        return {"revision": revision}
    return {"adapter_kwargs": {"revision": revision}}


def _check_ids(samples: Splits, records: dict[int, Record]) -> None:
    """Compare the ids of the first and the last sample that has a prediction with those of the dataset."""
    predicted = sorted(index for index, record in records.items() if record["error"] is None)
    for index in predicted[:1] + predicted[-1:]:
        held = records[index].get("id")
        if samples[index].id != held:
            raise ValueError(
                f"the dataset has changed: sample {index} is {samples[index].id}, and the predictions that are there "
                f"have {held}; choose another output_dir"
            )


def _report(predictions: Path) -> None:
    """Log how many samples have no prediction; that none has one is an error."""
    records = [parse_json(line) for _, line in split_lines(predictions)]
    errors = [record for record in records if record["error"] is not None]
    if errors:
        logger.info(f"skipped {len(errors)} of {len(records)}: they cannot be read, see {predictions}")
    if len(errors) == len(records):
        raise ValueError(f"none of {len(records)} samples could be read; the first one: {errors[0]['error']}")
