"""The model that a run of retrieval starts from: one of videos and texts, or two halves that are joined."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel

from ...models.processing_videomamba import VideoMambaProcessor
from ...models.retrieving_videomamba import VideoMambaForVideoTextRetrieval
from ...models.video_processing_videomamba import VideoMambaVideoProcessor
from ...training import base_model
from ...training.base_model import BaseRules
from .arguments import ModelArguments


@dataclass
class _NamedArguments(ModelArguments):
    """The options of a run whose base has a name."""

    model: str = field(default="")


def load_base(arguments: ModelArguments, run: Path, is_resumed: bool) -> tuple[PreTrainedModel, Any]:
    """Load or join the model, and its processor; arguments as in `training.base_model.load_base`.

    Raises:
        ValueError: if a half lacks weights, if the tokenizer has no mask, or as there.
    """
    model: Any
    if arguments.model is None:
        model = VideoMambaForVideoTextRetrieval.from_vision_text_pretrained(arguments.vision, arguments.text)
        video_processor = VideoMambaVideoProcessor.from_pretrained(arguments.vision)
        processor: Any = VideoMambaProcessor(video_processor, AutoTokenizer.from_pretrained(arguments.text))
    else:
        named = _NamedArguments(**vars(replace(arguments)))
        rules = BaseRules(task="retrieval", may_lack=(), check=_take_any, prepare=_take_any)
        model, processor, _ = base_model.load_base(named, run, is_resumed, rules)
    if processor.tokenizer.mask_token_id is None:
        raise ValueError("the tokenizer must have a mask, such as BERT's, got one without")
    set_drop_path(model, arguments.drop_path_rate)
    if arguments.num_frames is not None:
        model.vision_model.base_model.resize_clips(arguments.num_frames, None)
        processor.video_processor.num_frames = arguments.num_frames
    return model, processor


def set_drop_path(model: Any, rate: float | None) -> None:
    """Set the stochastic depth of a model's vision half; `None` leaves it as it is.

    Raises:
        ValueError: if the rate is out of range.
    """
    if rate is not None:
        model.config.vision_config.drop_path_rate = rate
        model.config.vision_config.check()
        model.vision_model.videomamba.encoder.set_drop_path(rate)


def _take_any(*_: Any) -> None:
    """Check nothing, and change nothing."""
