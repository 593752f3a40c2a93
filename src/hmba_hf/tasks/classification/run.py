"""Training a model that classifies, from its options to its history."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel, set_seed

from ...data.actions.questioned import ACTION_HEAD
from ...data.bad_samples import BadSamples
from ...data.encoded_samples import EncodedSamples, evaluation_samples
from ...data.loading import load_samples
from ...data.mixing import MixedSamples
from ...evaluation.results import package_versions
from ...hub import CardDetails
from ...hub.checkpoints import check_base
from ...training.arguments import TrainedModelArguments, recipe
from ...training.parts import learn
from ...training.run import begin, draw_example, train_to_end
from .arguments import (
    DataArguments,
    FinetuningArguments,
    ModelArguments,
    check_options,
    mixing_of,
    scale_learning_rate,
)
from .base_model import load_base, load_teacher
from .encoding import ClipEncoder, clip_processor, join
from .heads import Classes, Heads, check_class_names, dataset_heads
from .prediction import drawn_options, predict_clips
from .rates import layer_scale
from .trainer import ClassificationTrainer

_PACKAGES = ("hmba-hf", "torch", "transformers", "accelerate")
Samples = Sequence[Any]


def _as_they_are(samples: Samples) -> Samples:
    """Ask nothing about samples."""
    return samples


class Start(NamedTuple):
    """What a family brings to a run.

    Attributes:
        model: that learns.
        processor: of its clips, and of its questions if it is asked any.
        options: of `ClassificationTrainer`, which the family alone has.
        asked: makes samples, which are asked about, of the samples of a dataset.
        with_answers: whether the right answers are learned as texts, too.
        pad_token_id: of its texts.
    """

    model: PreTrainedModel
    processor: Any
    options: Mapping[str, Any]
    asked: Callable[[Samples], Samples] = _as_they_are
    with_answers: bool = False
    pad_token_id: int = 0

    def encoder(self, **options: Any) -> ClipEncoder:
        """Return what encodes its samples; options are of `ClipEncoder`."""
        return ClipEncoder(self.processor, Heads.of(self.model.config), with_answers=self.with_answers, **options)


StartRun = Callable[[Classes | None, Path, bool], Start]
"""Starts a run, of the classes of its first dataset by head, its folder, and whether it is resumed."""


def finetune(model_args: ModelArguments, data_args: DataArguments, args: FinetuningArguments) -> ClassificationTrainer:
    """Train a VideoMamba; see `train`.

    Raises:
        ValueError: if an option is wrong or does not go with another, or as `train`.
        OSError: as `train`.
    """
    check_options(model_args, data_args, args)
    scale_learning_rate(args, data_args.num_draws)
    return train(model_args, data_args, args, partial(_start, model_args))


def _start(arguments: ModelArguments, classes: Classes | None, run: Path, is_resumed: bool) -> Start:
    """Load a VideoMamba with a head for the classes, and its teacher."""
    names = arguments.class_names
    if names is None and classes is not None and ACTION_HEAD in classes:
        names = list(classes[ACTION_HEAD])
    teacher = load_teacher(arguments)
    model, processor = load_base(arguments, names, teacher, run, is_resumed)
    config: Any = model.config
    scale = layer_scale(arguments.layer_decay, arguments.layer_decay_kind, config.num_hidden_layers)
    return Start(model, processor, {"teacher": teacher, "layer_scale": scale})


def train(
    model_args: TrainedModelArguments, data_args: DataArguments, args: FinetuningArguments, start: StartRun
) -> ClassificationTrainer:
    """Train, or resume from the last whole checkpoint in the folder of the run, and leave model and history there.

    A run that SIGTERM has stopped, with `--enable_jit_checkpoint`, leaves a checkpoint alone.

    Args:
        model_args, data_args, args: that go together.
        start: brings the model.

    Raises:
        ValueError: if an option cannot hold for model and data, if the folder holds checkpoints of another recipe, if
            datasets have other classes, or if a sample cannot be learned from and the run is to stop then.
        OSError: if something cannot be written, as on a full disk; the last whole checkpoint stays.
    """
    wanted = recipe(model_args, data_args, args)
    run, checkpoint, bad = begin(args, wanted, data_args.on_error)
    sources = load_sources(data_args, data_args.train_split, data_args.max_train_samples)
    set_seed(args.seed)  # for a head that starts fresh
    begun = start(dataset_heads(sources[0]), run, checkpoint is not None)
    clip_processor(begun.processor).set_source_rules(**data_args.rules)
    for source in sources:
        check_class_names(dataset_heads(source), begun.model.config)
    learning, counts = learn(begun.model, model_args.learns)
    if args.push_to_hub:
        check_base(learning)  # before the work, not after it
    trainer = ClassificationTrainer(
        model=learning,
        args=args,
        train_dataset=training_dataset(data_args, args, [begun.asked(source) for source in sources], begun, bad),
        eval_dataset=evaluation_dataset(data_args, args, begun, bad),
        data_collator=partial(join, pad_token_id=begun.pad_token_id),
        processing_class=begun.processor,
        mixing=mixing_of(data_args, args),
        recipe=wanted,
        predict=predict_clips,
        card=CardDetails(license=args.hub_license, training=wanted, environment=package_versions(*_PACKAGES)),
        **begun.options,
    )
    options = {**vars(model_args), **vars(data_args), **args.to_sanitized_dict()}
    has_ended = train_to_end(trainer, checkpoint, counts, options, bad)
    if has_ended and args.push_to_hub:
        load = partial(first_held_out, data_args, begun)
        trainer.card = replace(trainer.card, picture=draw_example(trainer, data_args.dataset_name, load))
        trainer.push_to_hub("Model save")
    return trainer


def load_sources(arguments: DataArguments, split: str, size: int | None) -> list[Samples]:
    """Load a split of each dataset."""
    sources = []
    for name in arguments.dataset_name:
        options = drawn_options(name, arguments.world_seed, arguments.motion)
        sources.append(load_samples(name, split, size, limits=arguments.limits, **options))
    return sources


def training_dataset(
    arguments: DataArguments, args: FinetuningArguments, sources: Sequence[Samples], begun: Start, bad: BadSamples
) -> EncodedSamples:
    """Build the clips to learn from, mixed and changed at random as the options say."""
    seed = args.seed if args.data_seed is None else args.data_seed
    samples: Any = sources[0]
    if len(sources) > 1 or arguments.dataset_weights is not None:
        samples = MixedSamples(sources, arguments.dataset_weights, seed)
    names: list[str] = []
    for of_head in Heads.of(begun.model.config).classes.values():
        names += of_head
    encoder = begun.encoder(augmentation=arguments.augmentation(names), num_draws=arguments.num_draws)
    return EncodedSamples(samples, encoder, bad, seed=seed)


def evaluation_dataset(
    arguments: DataArguments, args: FinetuningArguments, begun: Start, bad: BadSamples
) -> EncodedSamples | None:
    """Build the clips to evaluate on, those of all datasets that can be read; `None` for a run without evaluations."""
    if args.eval_strategy == "no":
        return None
    sources = load_sources(arguments, arguments.eval_split, arguments.max_eval_samples)
    for source in sources:
        check_class_names(dataset_heads(source), begun.model.config)
    asked: Any = [begun.asked(source) for source in sources]
    return evaluation_samples(MixedSamples(asked), begun.encoder(), bad, arguments.eval_split)


def first_held_out(arguments: DataArguments, begun: Start, name: str) -> Any:
    """Load the first clip of a dataset's evaluation split, as it is asked about."""
    named = replace(arguments, dataset_name=[name])
    (samples,) = load_sources(named, named.eval_split, 1)
    return begun.asked(samples)[0]
