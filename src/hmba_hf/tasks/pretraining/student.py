"""The model that a pre-training starts from: drawn anew in one of the paper's sizes, or a checkpoint."""

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
    rules = BaseRules(task="pretraining", may_lack=("head",), check=_accept, prepare=_prepare)
    return base_model.load_base(arguments, run, is_resumed, rules)


def _accept(model: Any, loading: dict[str, Any], arguments: Any, path: str) -> None:
    """Take heads of any shape: those that do not fit the teacher are drawn anew."""


def _prepare(processor: Any, model: Any, arguments: Any) -> None:
    """Let the processor take the frames of the model."""
    processor.num_frames = model.config.num_frames
