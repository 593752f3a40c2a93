"""Answers to whole splits as files: shared among processes, kept whenever they are killed, and gone on with later.

A folder of predictions holds `recipe.json`, the options that its answers depend on; while it grows, one file
`answers-*.jsonl` of each process and run; and in the end `predictions.jsonl`, a line for each sample in the order of
the dataset. Samples are answered in batches that depend on the recipe alone, and a batch counts when all of its lines
are there: so whatever happens in between, the answers are those of a run that nothing has disturbed.
"""

import json
import os
import re
import time
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from accelerate import PartialState
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import find_adapter_config_file

from .data.loading import MICRO_WORLD, TWO_TASKS, RowSamples, load_samples
from .data.micro_world.world import MOTIONS
from .data.samples import Sample, SampleSequence
from .data.video_options import VideoOptions
from .digests import digest_text, fingerprint
from .evaluation import ON_ERROR, Outcome, answer_batches, sample_record, split_batches
from .files import (
    check_fields,
    differences,
    explained_write_errors,
    parse_json,
    read_json_object,
    split_lines,
    write_json,
    written_whole,
)
from .messages import logger
from .repositories import check_revision
from .weight_files import find_weights

# A process that has finished waits this long for the slowest one.
_PATIENCE = timedelta(days=7)


@dataclass
class PredictionArguments(VideoOptions):
    """Which model answers about which clips, and where the answers go."""

    model: str | None = field(default=None, metadata={"help": "folder or Hub id"})
    model_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of it on the Hub"})
    dataset_name: str = field(
        default=MICRO_WORLD, metadata={"help": "folder, Hub id (org/name, org/name@revision) or micro-world"}
    )
    split: list[str] = field(default_factory=lambda: ["test"], metadata={"help": "one or more, such as: test"})
    max_samples: int | None = field(default=None, metadata={"help": "only this many from the start of each split"})
    motion: str = field(default="symmetric", metadata={"help": "of the micro-world", "choices": MOTIONS})
    world_seed: int = field(default=0, metadata={"help": "of the micro-world"})
    batch_size: int = field(default=32, metadata={"help": "clips that are answered at once"})
    max_new_tokens: int = field(default=128, metadata={"help": "longest answer"})
    dtype: str = field(default="auto", metadata={"help": "of the weights, such as bfloat16"})
    device_map: str | None = field(
        default=None, metadata={"help": "where the model runs, such as cpu or auto; each process's device when absent"}
    )
    on_error: str = field(
        default="stop", metadata={"help": "what a clip that cannot be read does", "choices": ON_ERROR}
    )
    output_dir: str = field(default="predictions", metadata={"help": "folder of the answers"})
    overwrite: bool = field(default=False, metadata={"help": "drop the answers of another recipe in output_dir"})

    def recipe(self) -> dict[str, Any]:
        """The options that decide what the answers are; how a broken clip is met may change on the way."""
        names = ["model", "dataset_name", "split", "max_samples", "batch_size", "max_new_tokens", "dtype"]
        if self.dataset_name in (MICRO_WORLD, TWO_TASKS):
            names += ["motion", "world_seed"]
        if self.model_revision is not None:
            names.append("model_revision")
        return {name: getattr(self, name) for name in names} | self.stated()


class Splits(SampleSequence):
    """Several splits of a dataset, by name, one after the other."""

    def __init__(self, splits: Mapping[str, Sequence[Sample]]):
        self.names = list(splits)
        self.splits = list(splits.values())
        self._ends = list(accumulate(len(split) for split in self.splits))

    def __len__(self) -> int:
        return self._ends[-1]

    def read_sample(self, index: int) -> Sample:
        """Read sample `index`."""
        place, number = self.locate(index)
        return self.splits[place][number]

    def locate(self, index: int) -> tuple[int, int]:
        """The number of the split that sample `index` is in, and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(f"expected an index from 0 to {len(self) - 1}, got {index}")
        place = bisect(self._ends, index)
        if place == 0:
            return 0, index
        return place, index - self._ends[place - 1]


class PredictionFolder:
    """The files of one set of predictions, which any number of processes write at once."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.recipe_file = self.folder / "recipe.json"
        self.predictions_file = self.folder / "predictions.jsonl"
        self._own_file = self.folder / f"answers-{time.time_ns():020}-{uuid4().hex}.jsonl"  # in the order of the runs

    def claim(self, recipe: dict[str, Any], overwrite: bool = False) -> None:
        """Take the folder for the answers of a recipe.

        Raises:
            ValueError: if it holds those of another one and is not to be overwritten.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for unfinished in self.folder.glob("_*.json*"):  # left by a run that was killed
            unfinished.unlink()
        answers = self._answer_files()
        if self.predictions_file.exists():
            answers.append(self.predictions_file)
        there = {}
        if self.recipe_file.exists():
            there = read_json_object(self.recipe_file)
        if answers and there != recipe:
            if not overwrite:
                raise ValueError(
                    f"{self.folder} holds answers of another recipe: {', '.join(differences(there, recipe))}; choose "
                    "another output_dir, or pass overwrite"
                )
            for path in answers:
                path.unlink()
        write_json(self.recipe_file, recipe)

    def read(self) -> dict[int, dict[str, Any]]:
        """All records that are there, by the index of their sample; a line that was torn is not.

        An answer goes before an error: the sample has been tried again. Of two answers the later one counts: the first
        may have been given without the others of its batch.
        """
        records: dict[int, dict[str, Any]] = {}
        new: list[dict[str, Any]] = []
        for path in self._answer_files():
            if path.exists():
                new += self._read_file(path)
        merged: list[dict[str, Any]] = []
        if self.predictions_file.exists():  # read last: it may just be taking over
            merged += self._read_file(self.predictions_file)
        for record in merged + new:
            if record["error"] is None or record["index"] not in records:
                records[record["index"]] = record
        return records

    def _read_file(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the records of a file whose lines end.

        Raises:
            ValueError: if a line is JSON, but no record.
        """
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n"), 1):
            try:
                record = parse_json(line)
            except ValueError:  # torn: its sample is answered again
                continue
            check_fields(record, f"{path}, line {number}", index=int, error=(str, type(None)))
            yield record

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Add the records of one batch; when this returns, they are on disk."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        safe = "All earlier answers are safe: make room, and the same command goes on."
        with explained_write_errors(self._own_file, safe), open(self._own_file, "ab") as file:
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())

    def merge(self, count: int) -> Path:
        """Put the records of all `count` samples in order into one file, and remove those that they came from."""
        records = self.read()
        missing = sorted(set(range(count)) - set(records))
        if missing or len(records) != count:
            raise RuntimeError(f"expected one record for each of {count} samples in {self.folder}, missing {missing}")
        safe = "All answers are safe: make room, and the same command puts them together."
        with explained_write_errors(self.predictions_file, safe), written_whole(self.predictions_file) as unfinished:
            unfinished.write_text("".join(json.dumps(records[index]) + "\n" for index in range(count)))
        for path in self._answer_files():
            path.unlink()
        return self.predictions_file

    def _answer_files(self) -> list[Path]:
        return sorted(self.folder.glob("answers-*.jsonl"))


def predict(arguments: PredictionArguments) -> Path:
    """Answer all samples, in as many processes as Accelerate has launched, and return the file of the answers.

    What the folder holds of the same recipe is kept, also if it was written by another number of processes; a sample
    that could not be read is tried again.

    Raises:
        ValueError: if the folder holds the answers of another recipe or dataset, if two samples of a split have the
            same id, if a sample cannot be read and `on_error` is `"stop"`, or if none can be read.
    """
    if arguments.model is None:
        raise ValueError("expected a model to answer with, got model=None")
    # Without `cpu` processes on a machine without an accelerator would not know of each other.
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)
    device_map = arguments.device_map or str(state.device)
    model = load_model(arguments.model, dtype=arguments.dtype, device_map=device_map, **_revision(arguments))
    processor = AutoProcessor.from_pretrained(arguments.model, revision=arguments.model_revision)
    processor.video_processor.set_source_rules(**arguments.rules)
    samples = _load_splits(arguments, processor.video_processor.size["height"], model.config.num_frames)
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
    answered = {index for index, record in records.items() if record["error"] is None}
    missing = [batch for batch in batches if not answered.issuperset(batch)]
    if state.is_main_process:
        logger.info(f"{len(missing)} of {len(batches)} batches to answer, processes: {state.num_processes}")
    state.wait_for_everyone()  # all have read the same before anyone writes
    share = missing[state.process_index :: state.num_processes]
    options = {"on_error": arguments.on_error, "max_new_tokens": arguments.max_new_tokens}
    for outcomes in answer_batches(model, processor, samples, share, **options):  # type: ignore[arg-type]
        folder.append(to_record(outcome, samples) for outcome in outcomes)
    state.wait_for_everyone()
    if state.is_main_process:
        _report(folder.merge(len(samples)))
    state.wait_for_everyone()
    return folder.predictions_file


def load_model(checkpoint: str | Path, **options: Any) -> Any:
    """Load the model that answers; `options` are of `from_pretrained`.

    Raises:
        FileNotFoundError: if a file of its weights is missing.
        ValueError: if their index names none, or if a weight is missing.
    """
    if Path(checkpoint).is_dir():
        find_weights(Path(checkpoint))  # says what is wrong with files that transformers would load nothing of
    return AutoModelForImageTextToText.from_pretrained(checkpoint, **options)


def to_record(outcome: Outcome, samples: Splits) -> dict[str, Any]:
    """All that scoring an answer needs, as plain values; `answer` is `None` where there is an `error`."""
    sample = outcome.sample
    place, _ = samples.locate(outcome.index)
    record: dict[str, Any] = {
        "index": outcome.index,
        "id": None,
        "split": samples.names[place],
        "answer": outcome.answer,
        "error": outcome.error,
    }
    if sample is None:
        return record
    return record | sample_record(sample)


def settings(model: Any, processor: Any) -> dict[str, str]:
    """Tell apart what answers depend on besides the weights: the files of a checkpoint that may be edited.

    Returns:
        A short digest of each of `"config"`, `"generation_config"` and `"processor"`, which is that of frames, prompts
        and tokens.
    """
    parts = {
        "config": model.config.to_dict(),
        "generation_config": model.generation_config.to_dict(),
        "processor": {
            **processor.to_dict(),
            "chat_template": processor.chat_template,
            "vocabulary": processor.tokenizer.get_vocab(),
        },
    }
    return {name: _digest(part) for name, part in parts.items()}


def _digest(part: Mapping[str, Any]) -> str:
    text = json.dumps(_without_origin(part), sort_keys=True, default=str)
    return digest_text(text)[:16]


def _without_origin(part: Any) -> Any:
    """Leave out where a configuration was loaded from, and which version wrote it."""
    if isinstance(part, Mapping):
        kept = {}
        for name, value in part.items():
            if name not in ("auto_map", "transformers_version") and not str(name).startswith("_"):
                kept[str(name)] = _without_origin(value)
        return kept
    if isinstance(part, list | tuple):
        return [_without_origin(value) for value in part]
    return part


def dataset_revision(samples: Any) -> str | None:
    """The commit at which `load_samples` read a dataset of the Hub, as its cache has it; `None` for any other."""
    files = getattr(getattr(samples, "rows", None), "cache_files", ())
    for file in files:
        folder = Path(file["filename"]).parent.name
        if re.fullmatch("[0-9a-f]{40}", folder):
            return folder
    return None


def _revision(arguments: PredictionArguments) -> dict[str, Any]:
    """How `from_pretrained` is asked for a revision; that of low-rank updates is none of the base that they name."""
    name, revision = str(arguments.model), arguments.model_revision
    if revision is None:
        return {}
    check_revision(name, revision)
    if find_adapter_config_file(name, revision=revision) is None:
        return {"revision": revision}
    return {"adapter_kwargs": {"revision": revision}}


def _load_splits(arguments: PredictionArguments, frame_size: int, num_frames: int) -> Splits:
    world: dict[str, Any] = {
        "seed": arguments.world_seed,
        "motion": arguments.motion,
        "frame_size": frame_size,
        "num_frames": num_frames,
    }
    splits = {}
    for name in arguments.split:
        samples = load_samples(arguments.dataset_name, name, arguments.max_samples, limits=arguments.limits, **world)
        if isinstance(samples, RowSamples):
            _check_unique(samples.ids(), name)
        splits[name] = samples
    return Splits(splits)


def _check_unique(ids: Sequence[str | None], split: str) -> None:
    """Raise a `ValueError` if two samples of a split have the same id, under which both would be scored."""
    first: dict[str, int] = {}
    for index, name in enumerate(ids):
        if name is not None and first.setdefault(name, index) != index:
            raise ValueError(
                f"each sample of a split is wanted once, got {name!r} of {split!r} in rows {first[name]} and {index}"
            )


def _check_ids(samples: Splits, records: dict[int, dict[str, Any]]) -> None:
    """Compare the ids of the first and the last sample that is answered with those of the dataset."""
    answered = sorted(index for index, record in records.items() if record["error"] is None)
    for index in answered[:1] + answered[-1:]:
        held = records[index].get("id")
        if samples[index].id != held:
            raise ValueError(
                f"the dataset has changed: sample {index} is {samples[index].id}, and the answers that are there "
                f"have {held}; choose another output_dir"
            )


def _report(predictions: Path) -> None:
    """Say how many samples have no answer; that none has one is an error."""
    records = [parse_json(line) for _, line in split_lines(predictions)]
    errors = [record for record in records if record["error"] is not None]
    if errors:
        logger.info(f"skipped {len(errors)} of {len(records)}: they cannot be read, see {predictions}")
    if len(errors) == len(records):
        raise ValueError(f"none of {len(records)} samples could be read; the first one: {errors[0]['error']}")
