"""The options of training a model that answers, and the published recipes as presets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...families import FAMILIES, Family
from ...training.arguments import (
    CHECKPOINTING,
    LowRankModelArguments,
    ResumableArguments,
    SourceArguments,
    StreamableDataArguments,
    check_data_options,
    check_run_options,
    parse_options,
)

_PUBLISHED: dict[str, Any] = {
    "max_length": 4096,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 2e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "weight_decay": 0.0,
    CHECKPOINTING: True,
    "save_strategy": "steps",
    "save_steps": 2000,
    "save_total_limit": 1,
    "dataloader_num_workers": 4,
    "seed": 42,
}
PRESETS: dict[str, dict[str, Any]] = {
    "drama": {**_PUBLISHED, "num_frames": 5},
    "bddx": {**_PUBLISHED, "num_frames": 8},
}
"""The released training configurations; bfloat16 comes on top where the machine has it.

Source: github.com/Sranc3/H-MBA at 1482623, `config/`; 8 frames are what its BDD-X loader gives.
"""
_PARTS = list(dict.fromkeys(part for family in FAMILIES if family.task == "answering" for part in family.parts))


@dataclass
class ModelArguments(LowRankModelArguments):
    """Which model, which adapter on it, and what of it learns; what is not given stays as the checkpoint has it."""

    adapter: str | None = field(default=None, metadata={"help": "mamba, none, mean or transformer"})
    fusion: str | None = field(default=None, metadata={"help": "query, cosine, add or concat"})
    branches: list[str] | None = field(default=None, metadata={"help": "scans that the adapter reads"})
    temporal_strides: list[int] | None = field(default=None, metadata={"help": "such as: --temporal_strides 1 2"})
    num_frames: int | None = field(default=None, metadata={"help": "frames of a clip"})
    time_format: str | None = field(
        default=None,
        metadata={
            "help": "text behind each video with the time of its current frame, such as: ' at {seconds} s. '; "
            "empty for none"
        },
    )
    boxes_dialect: str | None = field(
        default=None,
        metadata={"help": "how a vision-language model writes boxes, such as unit_square; its own way when absent"},
    )
    learns: list[str] = field(
        default_factory=list,
        metadata={
            "help": f"what learns, of {', '.join(_PARTS)}, and lora or qlora, which are the language model by "
            "low-rank updates, its own weights in 4 bits for qlora; when absent, all of an H-MBA but its vision "
            "tower, and the adapter alone on a vision-language model"
        },
    )
    adapter_learning_rate: float | None = field(
        default=None, metadata={"help": "of adapter and projector; the learning rate when absent"}
    )
    gate_learning_rate: float | None = field(
        default=None, metadata={"help": "of the adapter's gate, which starts at zero; that of the adapter when absent"}
    )

    def config(self) -> dict[str, Any]:
        """Return the options that change the model's configuration."""
        names = ("adapter", "fusion", "branches", "temporal_strides", "num_frames")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class ClipArguments(SourceArguments):
    """Which clips a model answers about in training."""

    stream_frames: int = field(
        default=0,
        metadata={"help": "most past frames, those of other clips before a clip, for a model of video streams"},
    )


@dataclass
class DataArguments(StreamableDataArguments, ClipArguments):
    """Which clips to learn from and to evaluate on, and how."""

    max_new_tokens: int = field(default=128, metadata={"help": "most tokens of an answer in an evaluation"})
    max_length: int | None = field(
        default=None, metadata={"help": "most tokens of a sample; a longer one is bad, nothing is cut off"}
    )
    feature_cache: str | None = field(
        default=None,
        metadata={"help": "folder of `hmba cache-features`, whose features are then not computed in training"},
    )
    keep_features: float = field(
        default=0.0,
        metadata={
            "help": "gigabytes of memory for the features of a frozen vision tower, so that a later epoch neither "
            "reads nor encodes a clip again; what does not fit is encoded at each visit"
        },
    )
    keep_clips: float = field(
        default=0.0,
        metadata={
            "help": "gigabytes of memory for prepared clips, where the vision tower learns, so that a later epoch "
            "does not read a clip again; what does not fit is read at each visit"
        },
    )

    def recipe(self, is_best_chosen: bool) -> dict[str, Any]:
        """Return what a result depends on; arguments as in `StreamableDataArguments`."""
        kept = super().recipe(is_best_chosen)
        del kept["feature_cache"]  # the same result, faster
        del kept["keep_features"], kept["keep_clips"]  # likewise
        if not is_best_chosen:
            del kept["max_new_tokens"]
        return kept


@dataclass
class FinetuningArguments(ResumableArguments):
    """`TrainingArguments` with the published batch size, learning rate, schedule and epochs as defaults."""

    output_dir: str = "hmba-finetuned"
    num_train_epochs: float = 3
    per_device_train_batch_size: int = 8
    learning_rate: float = 2e-5
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.03


def parse_arguments(
    description: str, words: Sequence[str] | None = None, program: str | None = None
) -> tuple[ModelArguments, DataArguments, FinetuningArguments]:
    """Read a command line, with `PRESETS`; arguments as in `parse_options`."""
    kinds = (ModelArguments, DataArguments, FinetuningArguments)
    model_args, data_args, args = parse_options(kinds, PRESETS, description, words, program)
    return model_args, data_args, args


def check_options(
    model_args: ModelArguments, data_args: DataArguments, args: FinetuningArguments, family: Family
) -> None:
    """Raise a `ValueError` for options that do not go together in training a model of a family."""
    check_data_options(data_args, args)
    if data_args.max_new_tokens < 1:  # the first evaluation would find it out
        raise ValueError(f"max_new_tokens must be at least 1, got {data_args.max_new_tokens}")
    if data_args.streaming and (data_args.feature_cache or data_args.stream_frames):
        raise ValueError("--feature_cache and --stream_frames need datasets that are held, not --streaming")
    if data_args.feature_cache and family.encodes_frames in model_args.learns:
        raise ValueError("the features of a vision tower that learns cannot be cached: leave out one of the two")
    _check_kept(model_args, data_args, args, family)
    check_run_options(args)


def _check_kept(
    model_args: ModelArguments, data_args: DataArguments, args: FinetuningArguments, family: Family
) -> None:
    """Raise a `ValueError` if clips or features cannot be kept in memory."""
    of_both = {
        "--streaming": data_args.streaming,
        "--feature_cache": data_args.feature_cache is not None,
        f"--dataloader_num_workers {args.dataloader_num_workers}": args.dataloader_num_workers > 0,
    }
    of_features = {
        "a vision tower that learns": family.encodes_frames in model_args.learns,
        "a model that is spread over processes": bool(args.fsdp or args.deepspeed),
        "a vision-language model, whose features `hmba cache-features` keeps in files": family.model_type != "hmba",
    }
    of_clips = {f"--keep_features {data_args.keep_features}": data_args.keep_features > 0}
    reasons = {"keep_features": of_both | of_features, "keep_clips": of_both | of_clips}
    for name, why in reasons.items():
        wanted = getattr(data_args, name)
        if not wanted >= 0:  # NaN is no number of gigabytes, either
            raise ValueError(f"{name} must be gigabytes from 0 on, got {wanted}")
        for reason, is_so in why.items():
            if wanted and is_so:
                raise ValueError(f"{name} must be 0 with {reason}, got {wanted}")
