"""Training a model that classifies, from its options to its history."""

from collections.abc import Sequence
from typing import Any

from transformers import set_seed

from ...data.actions.samples import ActionSample
from ...data.bad_samples import BadSamples
from ...data.encoded_samples import EncodedSamples, evaluation_samples
from ...data.loading import load_samples
from ...data.mixing import MixedSamples
from ...evaluation.results import package_versions
from ...hub import CardDetails
from ...hub.checkpoints import check_base
from ...training.arguments import recipe
from ...training.parts import learn
from ...training.run import begin, train_to_end
from .arguments import (
    DataArguments,
    FinetuningArguments,
    ModelArguments,
    check_options,
    mixing_of,
    scale_learning_rate,
)
from .base_model import load_base, load_teacher
from .encoding import ClipEncoder, join
from .prediction import check_class_names, class_names, drawn_options
from .rates import layer_scale
from .trainer import ClassificationTrainer

_PACKAGES = ("hmba-hf", "torch", "transformers", "accelerate")


def finetune(model_args: ModelArguments, data_args: DataArguments, args: FinetuningArguments) -> ClassificationTrainer:
    """Train, or resume from the last whole checkpoint in the folder of the run, and leave model and history there.

    A run that SIGTERM has stopped, with `--enable_jit_checkpoint`, leaves a checkpoint alone.

    Raises:
        ValueError: if an option is wrong or does not go with another, if the folder holds checkpoints of another
            recipe, if datasets have other classes, or if a sample cannot be learned from and the run is to stop then.
        OSError: if something cannot be written, as on a full disk; the last whole checkpoint stays.
    """
    check_options(model_args, data_args, args)
    scale_learning_rate(args, data_args.num_draws)
    wanted = recipe(model_args, data_args, args)
    run, checkpoint, bad = begin(args, wanted, data_args.on_error)
    sources = load_sources(data_args, data_args.train_split, data_args.max_train_samples)
    names = model_args.class_names or class_names(sources[0])
    teacher = load_teacher(model_args)
    set_seed(args.seed)  # for a head that starts fresh
    model, processor = load_base(model_args, names, teacher, run, checkpoint is not None)
    processor.set_source_rules(**data_args.rules)
    config: Any = model.config
    for source in sources:
        check_class_names(class_names(source), config)
    learning, counts = learn(model, model_args.learns)
    if args.push_to_hub:
        check_base(learning)  # before the work, not after it
    trainer = ClassificationTrainer(
        model=learning,
        args=args,
        train_dataset=training_dataset(data_args, args, sources, processor, config, bad),
        eval_dataset=evaluation_dataset(data_args, args, processor, config, bad),
        data_collator=join,
        processing_class=processor,
        mixing=mixing_of(data_args, args),
        teacher=teacher,
        layer_scale=layer_scale(model_args.layer_decay, model_args.layer_decay_kind, config.num_hidden_layers),
        recipe=wanted,
        card=CardDetails(license=args.hub_license, training=wanted, environment=package_versions(*_PACKAGES)),
    )
    options = {**vars(model_args), **vars(data_args), **args.to_sanitized_dict()}
    has_ended = train_to_end(trainer, checkpoint, counts, options, bad)
    if has_ended and args.push_to_hub:
        trainer.push_to_hub("Model save")
    return trainer


def load_sources(arguments: DataArguments, split: str, size: int | None) -> list[Sequence[Any]]:
    """Load a split of each dataset."""
    sources = []
    for name in arguments.dataset_name:
        options = drawn_options(name, arguments.world_seed, arguments.motion)
        sources.append(load_samples(name, split, size, limits=arguments.limits, **options))
    return sources


def training_dataset(
    arguments: DataArguments,
    args: FinetuningArguments,
    sources: Sequence[Sequence[ActionSample]],
    processor: Any,
    config: Any,
    bad: BadSamples,
) -> EncodedSamples:
    """Build the clips to learn from, mixed and changed at random as the options say."""
    seed = args.seed if args.data_seed is None else args.data_seed
    samples: Any = sources[0]
    if len(sources) > 1 or arguments.dataset_weights is not None:
        samples = MixedSamples(sources, arguments.dataset_weights, seed)  # type: ignore[arg-type]
    augmentation = arguments.augmentation(list(config.id2label.values()))
    encoder = ClipEncoder(processor, config.num_labels, augmentation, arguments.num_draws)
    return EncodedSamples(samples, encoder, bad, seed=seed)


def evaluation_dataset(
    arguments: DataArguments, args: FinetuningArguments, processor: Any, config: Any, bad: BadSamples
) -> EncodedSamples | None:
    """Build the clips to evaluate on, those of all datasets that can be read; `None` for a run without evaluations."""
    if args.eval_strategy == "no":
        return None
    sources = load_sources(arguments, arguments.eval_split, arguments.max_eval_samples)
    for source in sources:
        check_class_names(class_names(source), config)
    encoder = ClipEncoder(processor, config.num_labels)
    return evaluation_samples(MixedSamples(sources), encoder, bad, arguments.eval_split)
