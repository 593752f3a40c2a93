"""A pre-training, from its options to its history."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import set_seed

from ...data.bad_samples import BadSamples
from ...data.encoded_samples import EncodedSamples, evaluation_samples
from ...data.loading import load_samples
from ...data.mixing import MixedSamples
from ...evaluation.results import package_versions
from ...hub import CardDetails
from ...training.arguments import recipe
from ...training.clip_teacher import ClipTeacher
from ...training.parts import learn
from ...training.run import begin, train_to_end
from ...training.teacher_cache import TeacherCache
from .arguments import DataArguments, ModelArguments, PretrainingArguments, check_options
from .encoding import ClipEncoder, join, world_of
from .student import load_student
from .trainer import PretrainingTrainer

_PACKAGES = ("hmba-hf", "torch", "transformers", "accelerate")


def pretrain(model_args: ModelArguments, data_args: DataArguments, args: PretrainingArguments) -> PretrainingTrainer:
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
    set_seed(args.seed)  # for a model that is drawn anew
    student, processor, _ = load_student(model_args, run, checkpoint is not None)
    processor.set_source_rules(**data_args.rules)
    teacher = load_teacher(model_args, student.config)
    if args.ddp_find_unused_parameters is None and not student.config.align_last_output:
        args.ddp_find_unused_parameters = True  # the last block and the last norm have no gradient
    learning, counts = learn(student, model_args.learns)
    cache = open_cache(data_args.teacher_cache, teacher, args)
    encoder = make_encoder(data_args, args, processor, is_cached=cache is not None)
    trainer = PretrainingTrainer(
        model=learning,
        args=args,
        train_dataset=training_dataset(data_args, args, encoder, bad),
        eval_dataset=None if args.eval_strategy == "no" else evaluation_dataset(data_args, encoder, bad),
        data_collator=join,
        processing_class=processor,
        teacher=teacher,
        masking=data_args.chosen_masking,
        cache=cache,
        recipe=wanted,
        card=CardDetails(license=args.hub_license, training=wanted, environment=package_versions(*_PACKAGES)),
    )
    options = {**vars(model_args), **vars(data_args), **args.to_sanitized_dict()}
    has_ended = train_to_end(trainer, checkpoint, counts, options, bad)
    if has_ended and args.push_to_hub:
        trainer.push_to_hub("Model save")
    return trainer


def load_teacher(model_args: ModelArguments, config: Any) -> ClipTeacher:
    """Load the teacher of a student of a configuration.

    Raises:
        ValueError: if it is no CLIP, or if the student could not learn from it.
    """
    teacher = ClipTeacher.from_pretrained(
        model_args.teacher, config.num_alignment_layers, model_args.teacher_interval, model_args.teacher_revision
    )
    teacher.check_fits(config)
    return teacher


def open_cache(folder: str | None, teacher: ClipTeacher, args: PretrainingArguments) -> TeacherCache | None:
    """Open the cache of what a teacher tells in this run; `None` for no folder."""
    if folder is None:
        return None
    dtype = torch.float32
    if args.bf16:
        dtype = torch.bfloat16
    elif args.fp16:
        dtype = torch.float16
    return TeacherCache(folder, teacher.key(dtype))


def make_encoder(data_args: DataArguments, args: PretrainingArguments, processor: Any, is_cached: bool) -> ClipEncoder:
    """Return what turns samples into inputs."""
    return ClipEncoder(
        processor,
        augmentation=data_args.augmentation,
        num_views=data_args.num_views,
        seed=args.seed,
        with_digests=is_cached,
    )


def training_dataset(
    data_args: DataArguments, args: PretrainingArguments, encoder: ClipEncoder, bad: BadSamples
) -> EncodedSamples:
    """Build the clips to learn from."""
    seed = args.seed if args.data_seed is None else args.data_seed
    sources = _named_samples(data_args, data_args.train_split, data_args.max_train_samples, encoder.processor)
    samples = sources[0] if len(sources) == 1 else MixedSamples(sources, data_args.dataset_weights, seed)
    return EncodedSamples(samples, encoder, bad, seed=seed)


def evaluation_dataset(data_args: DataArguments, encoder: ClipEncoder, bad: BadSamples) -> EncodedSamples:
    """Build the clips to evaluate on, those that can be read."""
    sources = _named_samples(data_args, data_args.eval_split, data_args.max_eval_samples, encoder.processor)
    return evaluation_samples(MixedSamples(sources), encoder, bad, data_args.eval_split)


def _named_samples(data_args: DataArguments, split: str, size: int | None, processor: Any) -> list[Sequence[Any]]:
    sources = []
    for name in data_args.dataset_name:
        world = world_of(name, data_args, processor)
        sources.append(load_samples(name, split, size, limits=data_args.limits, **world))
    return sources
