"""Training a model of videos and texts, from its options to its history."""

from collections.abc import Sequence
from typing import Any

from transformers import set_seed

from ...data.bad_samples import BadSamples
from ...data.encoded_samples import EncodedSamples, evaluation_samples
from ...data.loading import load_samples
from ...data.micro_world.actions import MICRO_ACTIONS
from ...data.mixing import MixedSamples
from ...evaluation.results import package_versions
from ...hub import CardDetails
from ...training.arguments import recipe
from ...training.clip_teacher import ClipTeacher
from ...training.parts import learn
from ...training.run import begin, train_to_end
from .arguments import DataArguments, ModelArguments, RetrievalArguments, check_options
from .base_model import load_base
from .encoding import PairCollator, PairEncoder
from .trainer import RetrievalTrainer

_PACKAGES = ("hmba-hf", "torch", "transformers", "accelerate")


def train(model_args: ModelArguments, data_args: DataArguments, args: RetrievalArguments) -> RetrievalTrainer:
    """Train, or resume from the last whole checkpoint in the folder of the run, and leave model and history there.

    A run that SIGTERM has stopped, with `--enable_jit_checkpoint`, leaves a checkpoint alone.

    Raises:
        ValueError: if an option is wrong or does not go with another, if model and teacher do not fit, if the folder
            holds checkpoints of another recipe, or if a sample cannot be read and the run is to stop then.
        OSError: if something cannot be written, as on a full disk; the last whole checkpoint stays.
    """
    check_options(model_args, data_args, args)
    wanted = recipe(model_args, data_args, args)
    run, checkpoint, bad = begin(args, wanted, data_args.on_error)
    set_seed(args.seed)  # for what is new between two halves
    model, processor = load_base(model_args, run, checkpoint is not None)
    processor.video_processor.set_source_rules(**data_args.rules)
    teacher = None
    if model_args.teacher is not None:
        config: Any = model.config
        layers = config.vision_config.num_alignment_layers
        teacher = ClipTeacher.from_pretrained(model_args.teacher, layers, revision=model_args.teacher_revision)
    if args.ddp_find_unused_parameters is None:
        # Heads of losses that this run does not have get no gradient.
        args.ddp_find_unused_parameters = teacher is None or not data_args.hidden_words
    learning, counts = learn(model, model_args.learns)
    encoder = PairEncoder(processor, data_args.hidden_words, data_args.flip)
    trainer = RetrievalTrainer(
        model=learning,
        args=args,
        train_dataset=training_dataset(data_args, args, encoder, bad),
        eval_dataset=None if args.eval_strategy == "no" else evaluation_dataset(data_args, encoder, bad),
        data_collator=PairCollator(processor.tokenizer.pad_token_id),
        processing_class=processor,
        teacher=teacher,
        masking=data_args.chosen_masking,
        recipe=wanted,
        card=CardDetails(license=args.hub_license, training=wanted, environment=package_versions(*_PACKAGES)),
    )
    options = {**vars(model_args), **vars(data_args), **args.to_sanitized_dict()}
    has_ended = train_to_end(trainer, checkpoint, counts, options, bad)
    if has_ended and args.push_to_hub:
        trainer.push_to_hub("Model save")
    return trainer


def training_dataset(
    data_args: DataArguments, args: RetrievalArguments, encoder: PairEncoder, bad: BadSamples
) -> EncodedSamples:
    """Build the pairs to learn from."""
    seed = args.seed if args.data_seed is None else args.data_seed
    sources = load_sources(data_args, data_args.train_split, data_args.max_train_samples, encoder.processor)
    samples: Any = sources[0]
    if len(sources) > 1 or data_args.dataset_weights is not None:
        samples = MixedSamples(sources, data_args.dataset_weights, seed)
    return EncodedSamples(samples, encoder, bad, seed=seed)


def evaluation_dataset(data_args: DataArguments, encoder: PairEncoder, bad: BadSamples) -> EncodedSamples:
    """Build the pairs to evaluate on, those that can be read.

    Raises:
        ValueError: if none can.
    """
    sources = load_sources(data_args, data_args.eval_split, data_args.max_eval_samples, encoder.processor)
    return evaluation_samples(MixedSamples(sources), encoder, bad, data_args.eval_split)


def load_sources(data_args: DataArguments, split: str, size: int | None, processor: Any) -> list[Sequence[Any]]:
    """Load a split of each dataset, drawn ones in the size of the model's frames."""
    sources = []
    for name in data_args.dataset_name:
        world: dict[str, Any] = {}
        if name == MICRO_ACTIONS:
            world["seed"] = data_args.world_seed
            world["frame_size"] = processor.video_processor.crop_size["height"]
        sources.append(load_samples(name, split, size, limits=data_args.limits, **world))
    return sources
