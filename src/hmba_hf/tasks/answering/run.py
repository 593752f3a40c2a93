"""Training a model that answers, from its options to its history."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, PrinterCallback, ProgressCallback, TrainerCallback, set_seed

from ...data.bad_samples import BadSamples
from ...data.dataset_streams import open_stream
from ...data.encoded_samples import EncodedSamples, EncodedStream, evaluation_samples
from ...data.feature_cache.keeping import KeptClips, KeptFeatures
from ...data.feature_cache.reading import CachedSamples, FeatureCache
from ...data.loading import load_samples
from ...data.mixing import MixedSamples
from ...data.past_frames import SamplesWithPast
from ...data.samples import Sample
from ...data.schemas import QUESTIONS
from ...digests import digest_text
from ...evaluation.results import package_versions
from ...evaluation.scoring import ScoredRecords
from ...families import family_of
from ...files import differences
from ...hub import CardDetails
from ...hub.checkpoints import check_base
from ...metrics.bootstrap import Bootstrap
from ...training.arguments import recipe
from ...training.parts import gathered, learn
from ...training.run import begin, draw_example, train_to_end
from ...training.updates import find_updates
from .arguments import ClipArguments, DataArguments, FinetuningArguments, ModelArguments, check_options
from .base_model import load_base, read_family_of_base
from .boxes import box_reading
from .collator import SampleCollator
from .features import frame_features
from .prediction import world_options
from .records import sample_record
from .trainer import AdapterTrainer, ScoreAnswers

_PACKAGES = ("hmba-hf", "torch", "transformers", "accelerate", "peft")


def finetune(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: FinetuningArguments,
    clips: KeptFeatures | None = None,
    progress: TrainerCallback | None = None,
) -> AdapterTrainer:
    """Train, or resume from the last whole checkpoint in the folder of the run, and leave model and history there.

    A run that SIGTERM has stopped, with `--enable_jit_checkpoint`, leaves a checkpoint alone.

    Args:
        model_args, data_args, args: options.
        clips: the `train_dataset` of an earlier run of this process with the same clips and `keep_features`, whose
            features serve again.
        progress: shows how far the run is, in the place of the bar of `Trainer`.

    Raises:
        ValueError: if an option is wrong or does not go with another, if the folder holds checkpoints of another
            recipe, if `clips` hold other features, or if a sample cannot be learned from and the run is to stop then.
        OSError: if something cannot be written, as on a full disk; the last whole checkpoint stays.
    """
    family = read_family_of_base(model_args)
    if not model_args.learns:
        model_args = replace(model_args, learns=list(family.learns))
    check_options(model_args, data_args, args, family)
    wanted = recipe(model_args, data_args, args)
    run, checkpoint, bad = begin(args, wanted, data_args.on_error)
    set_seed(args.seed)  # for an adapter that starts fresh
    model, processor, commit = load_base(model_args, run, checkpoint is not None)
    processor.video_processor.set_source_rules(**data_args.rules)
    cache = open_cache(data_args.feature_cache, model, processor, args)
    collator = SampleCollator(processor, data_args.max_length)
    set_seed(args.seed)  # low-rank updates start equal in all processes
    learning, counts = choose_what_learns(model_args, args, model, commit)
    dataset: Any = training_dataset(data_args, args, collator, bad, cache)
    if data_args.keep_clips:
        dataset = KeptClips(dataset, data_args.keep_clips)
    if data_args.keep_features:
        dataset = keep_features(dataset, model, processor, data_args, args, clips)
    trainer = AdapterTrainer(
        model=learning,
        args=args,
        train_dataset=dataset,
        eval_dataset=None if args.eval_strategy == "no" else evaluation_dataset(data_args, collator, bad),
        data_collator=collator,
        processing_class=processor,
        adapter_learning_rate=model_args.adapter_learning_rate,
        gate_learning_rate=model_args.gate_learning_rate,
        recipe=wanted,
        score_answers=scoring_for(processor),
        max_new_tokens=data_args.max_new_tokens,
        card=CardDetails(license=args.hub_license, training=wanted, environment=package_versions(*_PACKAGES)),
    )
    if progress is not None:
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(progress)
    options = {**vars(model_args), **vars(data_args), **args.to_sanitized_dict()}
    has_ended = train_to_end(trainer, checkpoint, counts, options, bad)
    if has_ended and args.push_to_hub:
        load = partial(first_held_out, data_args, processor)
        trainer.card = replace(trainer.card, picture=draw_example(trainer, data_args.dataset_name, load))
        trainer.push_to_hub("Model save")
    return trainer


def choose_what_learns(
    model_args: ModelArguments, args: FinetuningArguments, model: PreTrainedModel, commit: str | None
) -> tuple[Any, dict[str, int]]:
    """Make the parts that the options name trainable; return the model and the number of parameters of each part.

    Raises:
        ValueError: as `learn`, or if updates could not be pushed.
    """
    learning, counts = learn(model, model_args.learns, replace(model_args.lora, base_commit=commit))
    updates = find_updates(model_args.model, model_args.model_revision)
    if updates is not None and model_args.low_rank:
        updates.go_on(learning)
    if counts.get("adapter") == 0 and model_args.adapter is None:
        warnings.warn("the base has no adapter, and none learns: name one, as --adapter mamba", stacklevel=3)
    if family_of(model).encodes_frames in counts and args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = True  # layers after the one that is read have no gradient
    if args.push_to_hub:
        check_base(learning)  # before the work, not after it
    return learning, counts


def training_sources(arguments: ClipArguments, seed: int, processor: Any) -> list[Sequence[Sample]]:
    """Load the training clips of each dataset, with past frames where the options ask for them."""
    sources = _named_samples(arguments, arguments.train_split, arguments.max_train_samples, processor)
    if arguments.stream_frames:
        return [SamplesWithPast(source, arguments.stream_frames, seed) for source in sources]
    return sources


def training_dataset(
    arguments: DataArguments,
    args: FinetuningArguments,
    collator: SampleCollator,
    bad: BadSamples,
    cache: FeatureCache | None = None,
) -> EncodedSamples | EncodedStream:
    """Build the training samples: held or streamed, mixed, with pictures or cached features."""
    names = arguments.dataset_name
    weights = arguments.dataset_weights
    seed = args.seed if args.data_seed is None else args.data_seed
    if arguments.streaming:
        share = {"process_index": args.process_index, "num_processes": args.world_size}
        options: dict[str, Any] = {**share, "seed": seed, "limits": arguments.limits, "schemas": QUESTIONS}
        stream = open_stream(names, arguments.train_split, weights, arguments.max_train_samples, **options)
        return EncodedStream(stream, collator, bad)
    sources = training_sources(arguments, args.seed, collator.processor)
    if cache is not None:
        sources = [CachedSamples(source, cache) for source in sources]
    samples = sources[0] if len(sources) == 1 else MixedSamples(sources, weights, seed)
    return EncodedSamples(samples, collator, bad)


def evaluation_dataset(arguments: DataArguments, collator: SampleCollator, bad: BadSamples) -> EncodedSamples:
    """Build the samples to evaluate on, those of all datasets that can be read."""
    sources = _named_samples(
        arguments, arguments.eval_split, arguments.max_eval_samples, collator.processor, arguments.streaming
    )
    return evaluation_samples(MixedSamples(sources), collator, bad, arguments.eval_split)


def open_cache(
    folder: str | None, model: PreTrainedModel, processor: Any, args: FinetuningArguments
) -> FeatureCache | None:
    """Open cached features, which must be what the model's tower would compute in this run; `None` for no folder."""
    if folder is None:
        return None
    features = frame_features(model, processor)
    computes_in = _computes_in(features.dtype, args)
    with gathered(features.parameters()):
        cache = FeatureCache(folder, features.key(computes_in))
    if processor.time_format is not None:
        cache.check_times()
    return cache


def keep_features(
    samples: EncodedSamples,
    model: PreTrainedModel,
    processor: Any,
    data_args: DataArguments,
    args: FinetuningArguments,
    clips: KeptFeatures | None = None,
) -> KeptFeatures:
    """Keep the features of samples in memory, or go on with those of `clips`.

    Raises:
        ValueError: if `clips` hold features of another tower or other clips.
    """
    features = frame_features(model, processor)
    computes_in = _computes_in(features.dtype, args)
    prompts = digest_text(repr((data_args, args.seed, processor)))
    key = {**features.key(computes_in), "clips and prompts": prompts}

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(args.device.type, computes_in, enabled=computes_in != features.dtype):
            return features.encode(pixels).to(computes_in)

    if clips is None:
        return KeptFeatures(samples, encode, key, data_args.keep_features)
    stale = differences(clips.key, key)
    if stale:
        raise ValueError(f"clips must be kept with the features of this run, got other ones: {'; '.join(stale)}")
    return clips


def _computes_in(dtype: torch.dtype, args: FinetuningArguments) -> torch.dtype:
    """Return the dtype in which a model of some dtype computes while it learns."""
    if args.bf16:
        return torch.bfloat16
    if args.fp16:
        return torch.float16
    return dtype


def scoring_for(processor: Any) -> ScoreAnswers:
    """Return how answers are scored while a model learns; the boxes of H-MBA need no processor."""
    if box_reading(processor, None):
        return partial(answer_metrics, processor=processor)
    return answer_metrics


def answer_metrics(answers: Sequence[str], samples: Sequence[Sample], processor: Any = None) -> dict[str, float]:
    """Score answers while a model learns, by the names of `ScoredRecords`: boxes, and captions without Java.

    Boxes are read as the processor writes them, and as H-MBA's if there is none.

    For the numbers that are published, `hmba evaluate` scores a model.
    """
    records = []
    for answer, sample in zip(answers, samples, strict=True):
        # Objects to pick from and tags are left to `hmba evaluate`, as the names of what is logged are.
        known = sample_record(replace(sample, others=(), tags=()))
        records.append({**known, **box_reading(processor, sample.size), "answer": answer})
    scores = ScoredRecords(records, Bootstrap(draws=1), tokenizer="words").scores()["scores"]
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def first_held_out(arguments: DataArguments, processor: Any, name: str) -> Sample:
    """Load the first clip of a dataset's evaluation split."""
    named = replace(arguments, dataset_name=[name])
    (samples,) = _named_samples(named, named.eval_split, 1, processor, named.streaming)
    return samples[0]


def _named_samples(
    arguments: ClipArguments, split: str, size: int | None, processor: Any, streaming: bool = False
) -> list[Sequence[Sample]]:
    world = world_options(arguments, processor)
    sources = []
    for name in arguments.dataset_name:
        sources.append(load_samples(name, split, size, streaming, arguments.limits, QUESTIONS, **world))
    return sources
