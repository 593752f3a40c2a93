"""Answers to whole splits of a dataset."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...data.schemas import QUESTIONS
from ...evaluation.predicting import SplitArguments, predict_splits
from ...evaluation.splits import Splits, load_splits
from ...families import find_task


@dataclass
class PredictionArguments(SplitArguments):
    """Which model answers about which clips, and where the answers go."""

    max_new_tokens: int = field(default=128, metadata={"help": "longest answer"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")

    def recipe(self) -> dict[str, Any]:
        """The options that decide what the answers are."""
        return {**super().recipe(), **self.options()}

    def options(self) -> dict[str, Any]:
        """The options of generation."""
        return {"max_new_tokens": self.max_new_tokens}


def predict(arguments: PredictionArguments) -> Path:
    """Answer all samples, in as many processes as Accelerate has launched, and return the file of the answers.

    Raises:
        ValueError: if two samples of a split have the same id, or as `write_predictions`.
    """
    return predict_splits(arguments, find_task("answering"))


def load_clips(arguments: PredictionArguments, model: Any, processor: Any) -> Splits:
    """Load the clips that options name, those of the micro-world as the model reads them."""
    world = {**world_options(arguments, processor), "num_frames": model.config.num_frames}
    return load_splits(
        arguments.dataset_name,
        arguments.split,
        arguments.max_samples,
        limits=arguments.limits,
        schemas=QUESTIONS,
        **world,
    )


def world_options(arguments: Any, processor: Any) -> dict[str, Any]:
    """Return the options of the micro-world: frames as a processor makes them, or as they are drawn if it keeps them.

    Args:
        arguments: have `world_seed` and `motion`.
    """
    sampling = processor.video_processor
    world = {"seed": arguments.world_seed, "motion": arguments.motion, "num_frames": sampling.num_frames}
    if sampling.do_resize:
        world["frame_size"] = sampling.size["height"]
    return world
