"""The model that a pre-training starts from: drawn anew in one of the paper's sizes, or a checkpoint."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ...models.configuration_videomamba import SIZES, VideoMambaConfig
from ...models.modeling_videomamba import VideoMambaForPreTraining
from ...models.video_processing_videomamba import VideoMambaVideoProcessor
from ...training import base_model
from ...training.base_model import BaseRules
from .arguments import ModelArguments


def load_student(arguments: ModelArguments, run: Path, is_resumed: bool) -> tuple[PreTrainedModel, Any, str | None]:
    """Draw or load the model and its processor; arguments and errors as in `training.base_model.load_base`.

    A checkpoint may be a classifier, too: it lacks the heads, and they are drawn anew.
    """
    if arguments.model in SIZES:
        config = VideoMambaConfig.of_size(arguments.model, **arguments.config())
        height, width = config.frame_size
        processor = VideoMambaVideoProcessor(
            num_frames=config.num_frames,
            size={"shortest_edge": max(height, width)},
            crop_size={"height": height, "width": width},
        )
        return VideoMambaForPreTraining(config), processor, None
    # The tables of a checkpoint are those that it holds, until they are resized.
    held = replace(arguments, num_frames=None, image_size=None)
    check = partial(_resize, wanted=arguments)
    rules = BaseRules(task="pretraining", may_lack=("head",), check=check, prepare=_prepare)
    return base_model.load_base(held, run, is_resumed, rules)


def _resize(model: Any, loading: dict[str, Any], arguments: Any, path: str, wanted: ModelArguments) -> None:
    """Let a model take the clips of the run; heads that do not fit the teacher have been drawn anew."""
    if wanted.num_frames is not None or wanted.image_size is not None:
        model.base_model.resize_clips(wanted.num_frames, wanted.image_size)


def _prepare(processor: Any, model: Any, arguments: Any) -> None:
    """Let the processor make the clips that the model takes."""
    processor.num_frames = model.config.num_frames
    height, width = model.config.frame_size
    if (processor.crop_size["height"], processor.crop_size["width"]) != (height, width):
        processor.crop_size = {"height": height, "width": width}
        processor.size = {"shortest_edge": max(height, width)}
