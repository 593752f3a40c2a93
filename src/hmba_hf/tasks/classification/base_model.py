"""The base of a run that classifies: its head for the classes of the data, its tables for the clips of the run."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ...data.actions.questioned import ACTION_HEAD
from ...families import family_of, load_model, read_config
from ...messages import logger
from ...models.video_processing_videomamba import VideoMambaVideoProcessor
from ...training import base_model
from ...training.base_model import BaseRules
from .arguments import ModelArguments
from .heads import has_head_for

_TRAINED = "VideoMambaForVideoClassification"  # whatever class of the base


@dataclass
class _ChangedArguments(ModelArguments):
    """The options of a run, with what they and its data change in the configuration of the model."""

    changes: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        return self.changes


def load_base(
    arguments: ModelArguments, names: list[str] | None, teacher: PreTrainedModel | None, run: Path, is_resumed: bool
) -> tuple[PreTrainedModel, Any]:
    """Load the base and its processor; other arguments as in `hmba_hf.training.base_model.load_base`.

    Pictures are clips of one frame. A head for other classes gives way to a new one. The head for a teacher's features
    is always new.

    Args:
        arguments: of the run.
        names: of the classes; those of the base when absent.
        teacher: whose features are learned, too, if there is one.

    Raises:
        ValueError: if a weight is missing that is of no head, or if sizes do not fit.
    """
    held = read_config(arguments.model, revision=arguments.model_revision)
    if hasattr(held, "heads"):
        raise ValueError(
            f"model must be of a family that is asked nothing, got {family_of(held).name}, {arguments.model}: "
            "`hmba finetune questions` trains it"
        )
    changes: dict[str, Any] = {"distillation_size": None, "architectures": [_TRAINED]}
    if arguments.drop_path_rate is not None:
        changes["drop_path_rate"] = arguments.drop_path_rate
    if teacher is not None:
        changes["distillation_size"] = teacher.config.hidden_size
    if names is not None:
        changes["id2label"] = dict(enumerate(names))
        changes["label2id"] = {name: number for number, name in enumerate(names)}
    is_kept = names is None or has_head_for(held, ACTION_HEAD, names)
    check = partial(_prepare_model, is_head_kept=is_kept)
    rules = BaseRules(task="classification", may_lack=("head",), check=check, prepare=_prepare_processor)
    changed = _ChangedArguments(**vars(arguments), changes=changes)
    model, processor, _ = base_model.load_base(changed, run, is_resumed, rules)
    if not isinstance(processor, VideoMambaVideoProcessor):  # of a model of pictures
        processor = VideoMambaVideoProcessor()
        _prepare_processor(processor, model, arguments)
    return model, processor


def load_teacher(arguments: ModelArguments) -> PreTrainedModel | None:
    """Load the model whose features are learned, without its head, if the options name one.

    Raises:
        ValueError: if it is of another task.
    """
    if arguments.teacher is None:
        return None
    model = load_model(arguments.teacher, revision=arguments.teacher_revision)
    if family_of(model).task != "classification":
        raise ValueError(f"teacher must be a model that classifies, got one for {family_of(model).task}")
    return model.base_model


def draw_head(classifier: torch.nn.Linear, std: float) -> None:
    """Draw a head anew."""
    with torch.no_grad():
        torch.nn.init.trunc_normal_(classifier.weight, std=std)
        classifier.bias.zero_()


def _prepare_model(
    model: Any, loading: dict[str, Any], arguments: ModelArguments, path: str, is_head_kept: bool
) -> None:
    """Draw the head of other classes anew, and let the model take the clips of the run."""
    if not is_head_kept:
        draw_head(model.classifier, model.config.initializer_range)
        logger.info(f"the classes of {path} are others, and a new head takes the place of its own")
    if arguments.num_frames is not None or arguments.image_size is not None:
        model.base_model.resize_clips(arguments.num_frames, arguments.image_size)


def _prepare_processor(processor: Any, model: Any, arguments: ModelArguments) -> None:
    """Let a processor of clips make those that the model takes."""
    if not isinstance(processor, VideoMambaVideoProcessor):
        return
    processor.num_frames = model.config.num_frames
    height, width = model.config.frame_size
    if (processor.crop_size["height"], processor.crop_size["width"]) != (height, width):
        processor.crop_size = {"height": height, "width": width}
        processor.size = {"shortest_edge": max(height, width)}
