"""How far a model is from its teacher on clips that it has not learned from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from ...evaluation.predicting import SplitArguments
from ...evaluation.splits import Splits, load_splits
from ...evaluation.task import CardMetric, Record, Scorer, Scores
from ...files import check_fields
from ...metrics.bootstrap import bootstrap_interval
from ...models.layers_alignment import alignment_distance
from ...models.layers_video_masks import MASKINGS, Masking
from ...models.modeling_videomamba import visible_tokens
from ...training.clip_teacher import ClipTeacher
from .arguments import TEACHER
from .encoding import ClipEncoder, join, world_of

CARD_METRICS = {"distance": CardMetric("distance", "distance from the teacher")}


@dataclass
class DistanceArguments(SplitArguments):
    """Which model is compared with which teacher, and on which patches of which clips."""

    teacher: str = field(default=TEACHER, metadata={"help": "folder or Hub id of the CLIP that it has learned from"})
    teacher_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of it on the Hub"})
    teacher_interval: int = field(default=1, metadata={"help": "distance between the teacher's layers"})
    masking: str = field(default="attention", metadata={"help": "what is hidden", "choices": MASKINGS})
    mask_ratio: float = field(default=0.8, metadata={"help": "share of the patches that is hidden"})

    def recipe(self) -> dict[str, Any]:
        """The options that distances depend on."""
        return {**super().recipe(), **self.options()}

    def options(self) -> dict[str, Any]:
        """The options of `measure_distances`."""
        names = ("teacher", "teacher_revision", "teacher_interval", "masking", "mask_ratio")
        return {name: getattr(self, name) for name in names}


def load_clips(arguments: DistanceArguments, model: Any, processor: Any) -> Splits:
    """Load the clips that options name, drawn ones as the model reads them."""
    world = world_of(arguments.dataset_name, arguments, processor)
    return load_splits(
        arguments.dataset_name, arguments.split, arguments.max_samples, limits=arguments.limits, **world
    )


def encode_clips(samples: Sequence[Any], processor: Any) -> dict[str, torch.Tensor]:
    """Turn samples into clips and the seeds of their masks, without augmentation."""
    encoder = ClipEncoder(processor)
    return join([encoder.encode(sample) for sample in samples])


def measure_distances(
    model: Any, processor: Any, inputs: Mapping[str, torch.Tensor], options: Mapping[str, Any]
) -> list[float]:
    """Return the mean distance of the visible patches of each clip from a teacher's features.

    Args:
        model: a `VideoMambaForPreTraining`.
        processor: of the model.
        inputs: of `encode_clips`.
        options: of `DistanceArguments`.

    Raises:
        ValueError: if the model could not learn from this teacher.
    """
    config = model.config
    teacher = _load_teacher(
        options["teacher"], config.num_alignment_layers, options["teacher_interval"], options["teacher_revision"]
    )
    teacher.check_fits(config)
    masking = Masking(options["masking"], options["mask_ratio"])
    pixels = inputs["pixel_values_videos"].to(model.device)
    told = teacher.to(model.device)(pixels)
    mask = masking.draw(inputs["mask_seed"], pixels.shape[1], teacher.grid, told.attention).to(model.device)
    features = model(pixels, bool_masked_pos=mask).aligned_features  # (k, b, visible, c)
    tokens = visible_tokens(mask, (len(mask), mask.shape[1]))
    wanted = told.features.take_along_dim(tokens[None, ..., None], dim=2)
    distances = []
    for number in range(len(pixels)):
        distance = alignment_distance(features[:, number], wanted[:, number], config.alignment_loss)
        distances.append(float(distance))
    return distances


@cache
def _load_teacher(checkpoint: str, num_layers: int, interval: int, revision: str | None) -> ClipTeacher:
    """Load a teacher once for all batches."""
    return ClipTeacher.from_pretrained(checkpoint, num_layers, interval, revision)


def clip_record(sample: Any) -> Record:
    """Return what scoring needs of a sample, as plain values."""
    return {"id": sample.id, "task": "pretraining", "reference": None, "tags": list(sample.tags)}


def check_record(record: Record) -> None:
    """Raise a `ValueError` that names the record unless its prediction is a distance."""
    check_fields(record, f"record {record.get('id')}", answer=(float, int))


class DistanceScorer(Scorer):
    """The mean of the distances of clips from the teacher."""

    def score(self, rows: Sequence[int]) -> Scores:
        """Average the distances of a group of records."""
        distances = [float(self.records[row]["answer"]) for row in rows]
        low, high = bootstrap_interval(distances, **vars(self.bootstrap))
        return Scores({"distance": sum(distances) / len(distances)}, {"distance": (low, high)}, {})

    def each(self) -> list[dict[str, float]]:
        """Return the distance of every record."""
        return [{"distance": float(record["answer"])} for record in self.records]
