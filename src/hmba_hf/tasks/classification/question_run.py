"""Training a model that reads questions: loaded, or joined of a video and a text model, with heads for the data."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ...families import family_of, read_config
from ...messages import logger
from ...models.modeling_mambavl import MambaVLForVideoClassification
from ...models.processing_mambavl import GENERIC_QUESTIONS, MambaVLProcessor
from ...training import base_model
from ...training.base_model import BaseRules
from .arguments import scale_learning_rate
from .base_model import draw_head
from .heads import Classes, dataset_heads, has_head_for
from .question_arguments import (
    QuestionDataArguments,
    QuestionModelArguments,
    QuestionTrainingArguments,
    check_options,
)
from .questions import AskedSamples, Asking
from .run import Samples, Start, train
from .trainer import ClassificationTrainer


@dataclass
class _NamedArguments(QuestionModelArguments):
    """The options of a run whose base has a name, with what they and its data change in its configuration."""

    model: str = field(default="")
    changes: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        return self.changes


def finetune(
    model_args: QuestionModelArguments, data_args: QuestionDataArguments, args: QuestionTrainingArguments
) -> ClassificationTrainer:
    """Train a MambaVL; see `hmba_hf.tasks.classification.run.train`.

    Raises:
        ValueError: if an option is wrong or does not go with another, or as there.
        OSError: as there.
    """
    check_options(model_args, data_args, args)
    scale_learning_rate(args, data_args.num_draws)
    return train(model_args, data_args, args, partial(_start, model_args, data_args))


def _start(
    arguments: QuestionModelArguments,
    data_args: QuestionDataArguments,
    classes: Classes | None,
    run: Path,
    is_resumed: bool,
) -> Start:
    """Load or join a MambaVL with a head for each of those of the data that are asked for, and its processor."""
    chosen = choose_heads(classes, arguments.heads)
    model: Any
    if arguments.model is None:
        model, processor = join_base(arguments, chosen)
    else:
        model, processor = load_base(arguments, chosen, run, is_resumed)
    weight = model.config.answer_loss_weight
    if weight and (data_args.mixup or data_args.cutmix):
        raise ValueError(
            f"answer_loss_weight of a model must be 0 with mixup or cutmix, whose clips have two answers, got {weight}"
        )
    if arguments.num_frames is not None:
        set_num_frames(model, processor, arguments.num_frames)
    frozen = {"vision_model", "text_model"} - set(arguments.learns)
    return Start(
        model,
        processor,
        options={
            "learning_rates": arguments.learning_rates,
            "rate_drops": arguments.rate_drops,
            "at_rest": [f"mambavl.{part}" for part in sorted(frozen)],
        },
        asked=partial(_ask, data_args, model.config, processor),
        with_answers=weight > 0,
        pad_token_id=processor.tokenizer.pad_token_id,
    )


def _ask(arguments: QuestionDataArguments, config: Any, processor: Any, samples: Samples) -> Samples:
    """Ask about the samples of a dataset as the options say."""
    classes = dataset_heads(samples)
    asking = Asking.of(config, processor, arguments.questions, arguments.hide_words, classes=classes)
    return AskedSamples(samples, asking)


def choose_heads(classes: Classes | None, wanted: list[str] | None) -> Classes:
    """Return the classes of the wanted heads of a dataset, in the order in which they are wanted.

    Raises:
        ValueError: if the dataset names no classes, or if it lacks a head.
    """
    if classes is None:
        raise ValueError("the dataset must name the classes of each head, got none")
    if wanted is None:
        return classes
    if unknown := [head for head in wanted if head not in classes]:
        raise ValueError(f"heads must be of {list(classes)}, as in the dataset, got {unknown}")
    return {head: classes[head] for head in wanted}


def generic_questions(heads: list[str], wanted: list[str] | None, held: dict[str, str]) -> dict[str, str]:
    """Return a generic question for each head that has one: as wanted, of the processor, or as released.

    Raises:
        ValueError: if there are not as many wanted ones as heads.
    """
    if wanted is not None:
        if len(wanted) != len(heads):
            raise ValueError(f"generic_questions must be one for each of the heads {heads}, got {wanted}")
        return dict(zip(heads, wanted, strict=True))
    known = {**GENERIC_QUESTIONS, **held}
    return {head: known[head] for head in heads if head in known}


def join_base(arguments: QuestionModelArguments, classes: Classes) -> tuple[PreTrainedModel, Any]:
    """Join a video and a text model, with new heads.

    Raises:
        ValueError: as `MambaVLForVideoClassification.from_vision_text_pretrained`, and that of its processor.
    """
    vision = str(arguments.vision)
    text = str(arguments.text)
    heads = {head: list(names) for head, names in classes.items()}
    model = MambaVLForVideoClassification.from_vision_text_pretrained(vision, text, heads=heads, **arguments.joining())
    questions = generic_questions(list(heads), arguments.generic_questions, {})
    processor = MambaVLProcessor.from_vision_text_pretrained(
        vision, text, heads=heads, questions=questions, pads_to_max_length=model.config.ignore_text_mask
    )
    return model, processor


def load_base(
    arguments: QuestionModelArguments, classes: Classes, run: Path, is_resumed: bool
) -> tuple[PreTrainedModel, Any]:
    """Load a MambaVL and its processor; other arguments as in `hmba_hf.training.base_model.load_base`.

    A head for other classes gives way to a new one.

    Raises:
        ValueError: if it is of another family, if a weight is missing that is of no head, or if sizes do not fit.
    """
    held = read_config(str(arguments.model), revision=arguments.model_revision)
    if not hasattr(held, "heads"):
        raise ValueError(
            f"model must be of a family that reads questions, got {family_of(held).name}, {arguments.model}: join it "
            "with a text model by --vision and --text"
        )
    heads = {head: list(names) for head, names in classes.items()}
    changes: dict[str, Any] = {"heads": heads}
    if arguments.answer_loss_weight is not None:
        changes["answer_loss_weight"] = arguments.answer_loss_weight
    new = [head for head, names in heads.items() if not has_head_for(held, head, names)]
    rules = BaseRules(
        task="classification", may_lack=("head",), check=partial(_draw_heads, new), prepare=_take_processor
    )
    named = _NamedArguments(**vars(arguments), changes=changes)
    model, processor, _ = base_model.load_base(named, run, is_resumed, rules)
    questions = generic_questions(list(heads), arguments.generic_questions, processor.questions)
    asked = MambaVLProcessor(
        processor.video_processor,
        processor.tokenizer,
        heads=heads,
        questions=questions,
        max_text_length=processor.max_text_length,
        pads_to_max_length=model.config.ignore_text_mask,
    )
    return model, asked


def set_num_frames(model: Any, processor: Any, num_frames: int) -> None:
    """Let a model and its processor take clips of a number of frames.

    Raises:
        ValueError: if its video model takes another number, and cannot be changed.
    """
    vision = model.mambavl.vision_model
    if hasattr(vision, "resize_clips"):
        vision.resize_clips(num_frames, None)
        model.config.vision_config.num_frames = num_frames
    held = getattr(vision.config, "num_frames", None) or getattr(vision.config, "frames_per_clip", None)
    if held not in (None, num_frames):
        raise ValueError(f"num_frames must be that of the video model, {held}, got {num_frames}")
    model.config.num_frames = num_frames
    processor.video_processor.num_frames = num_frames


def _draw_heads(
    new: list[str], model: Any, loading: dict[str, Any], arguments: QuestionModelArguments, path: str
) -> None:
    """Draw the heads of other classes anew."""
    for head in new:
        draw_head(model.classifiers[head], model.config.initializer_range)
        logger.info(f"the classes of {head} in {path} are others, and a new head takes the place of its own")


def _take_processor(processor: Any, model: Any, arguments: Any) -> None:
    """Leave a processor as it is."""
