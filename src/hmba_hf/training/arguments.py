"""The options of training, the published recipes as presets, and what of them a result depends on."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.utils import is_torch_bf16_gpu_available

from ..data.bad_samples import POLICIES
from ..data.loading import MICRO_WORLD
from ..data.micro_world.world import MOTIONS
from ..data.video_options import VideoOptions
from ..messages import logger
from .parts import LOW_RANK, PARTS, LoraSettings

_KNOWN = {option.name for option in dataclasses.fields(TrainingArguments)}
# transformers 5.23 has renamed it.
CHECKPOINTING = "activation_checkpointing" if "activation_checkpointing" in _KNOWN else "gradient_checkpointing"
_PUBLISHED: dict[str, Any] = {
    "learns": ["adapter", "projector", "language_model"],
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

# What the trained weights depend on; the other options of `TrainingArguments` say when and where things are written.
_RECIPE = """
num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps learning_rate lr_scheduler_type
lr_scheduler_kwargs warmup_steps weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm optim optim_args seed
data_seed bf16 fp16 label_smoothing_factor neftune_noise_alpha dataloader_drop_last train_sampling_strategy
average_tokens_across_devices ignore_data_skip load_best_model_at_end
""".split()
_CHOICE_OF_THE_BEST = """
metric_for_best_model greater_is_better eval_strategy eval_steps save_strategy save_steps
""".split()


@dataclass
class ModelArguments:
    """Which model, which adapter on it, and what of it learns; what is not given stays as the checkpoint has it."""

    model: str = field(metadata={"help": "folder or Hub id of an H-MBA model or base"})
    model_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of it on the Hub"})
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
    learns: list[str] = field(
        default_factory=lambda: ["adapter", "projector", "language_model"],
        metadata={
            "help": f"what learns, of {', '.join(PARTS)}, and lora or qlora, which are the language model by low-rank "
            "updates, its own weights in 4 bits for qlora"
        },
    )
    lora_rank: int = field(default=16, metadata={"help": "of the low-rank updates"})
    lora_alpha: float = field(default=32.0, metadata={"help": "updates are scaled by it over the rank"})
    lora_dropout: float = field(default=0.0, metadata={"help": "of what goes into the low-rank updates"})
    lora_targets: list[str] | None = field(
        default=None, metadata={"help": "linear layers that get updates, such as q_proj v_proj; all when absent"}
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

    @property
    def low_rank(self) -> str | None:
        """The way of `LOW_RANK` in which the language model learns, if it is one."""
        return next((name for name in self.learns if name in LOW_RANK), None)

    @property
    def lora(self) -> LoraSettings:
        """The options of the low-rank updates."""
        return LoraSettings(self.lora_rank, self.lora_alpha, self.lora_dropout, tuple(self.lora_targets or ()))


@dataclass
class ClipArguments(VideoOptions):
    """Which clips a model sees."""

    dataset_name: list[str] = field(
        default_factory=lambda: [MICRO_WORLD],
        metadata={"help": "one or more of: a folder, a Hub id (org/name, org/name@revision), micro-world"},
    )
    train_split: str = field(default="train", metadata={"help": "split to learn from"})
    max_train_samples: int | None = field(default=None, metadata={"help": "only this many of each, from the start"})
    on_error: str = field(
        default="stop",
        metadata={"help": "whether one that cannot be read ends the run or is left out", "choices": POLICIES},
    )
    motion: str = field(default="symmetric", metadata={"help": "of the micro-world", "choices": MOTIONS})
    world_seed: int = field(default=0, metadata={"help": "of the micro-world"})
    stream_frames: int = field(
        default=0, metadata={"help": "up to so many frames of other clips before a clip, for a model that streams"}
    )


@dataclass
class DataArguments(ClipArguments):
    """Which clips to learn from and to evaluate on, and how."""

    dataset_weights: list[float] | None = field(
        default=None, metadata={"help": "the share drawn from each dataset; without it each sample is drawn once"}
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "read the datasets as they come in; needs --max_steps; what is evaluated on is held in memory"
        },
    )
    eval_split: str = field(default="validation", metadata={"help": "split to evaluate on, with --eval_strategy"})
    max_eval_samples: int | None = field(default=None, metadata={"help": "only this many of each, from the start"})
    max_new_tokens: int = field(default=128, metadata={"help": "most tokens of an answer in an evaluation"})
    max_length: int | None = field(
        default=None, metadata={"help": "most tokens of a sample; a longer one is bad, nothing is cut off"}
    )
    feature_cache: str | None = field(
        default=None, metadata={"help": "folder of cache_features.py; the vision tower is then not run in training"}
    )


@dataclass
class FinetuningArguments(TrainingArguments):
    """`TrainingArguments` with the published batch size, learning rate, schedule and epochs as defaults."""

    output_dir: str = "hmba-finetuned"
    num_train_epochs: float = 3
    per_device_train_batch_size: int = 8
    learning_rate: float = 2e-5
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.03
    remove_unused_columns: bool = False
    logging_first_step: bool = True
    report_to: str = "none"
    dataloader_pin_memory: bool = False
    save_total_limit: int = 1
    hub_license: str | None = field(
        default=None, metadata={"help": "of the weights, for the card of --push_to_hub, such as apache-2.0"}
    )


def parse_arguments(
    description: str, words: Sequence[str] | None = None
) -> tuple[ModelArguments, DataArguments, FinetuningArguments]:
    """Read a command line; `--preset` gives defaults, which are printed, and what is said besides wins over them.

    Args:
        description: what `--help` says first.
        words: of the command line; those of the program when absent.
    """
    parser = HfArgumentParser(
        [ModelArguments, DataArguments, FinetuningArguments],  # type: ignore[list-item]
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for chosen in (first, parser):
        chosen.add_argument("--preset", choices=sorted(PRESETS), default=None, help="the published hyper-parameters")
    name = first.parse_known_args(words)[0].preset
    if name is not None:
        preset = {**PRESETS[name], "bf16": is_torch_bf16_gpu_available()}
        parser.set_defaults(**preset)
        logger.info(f"preset {name}: {preset}")
    model_args, data_args, args, _ = parser.parse_args_into_dataclasses(words)
    return model_args, data_args, args


def recipe(model_args: ModelArguments, data_args: DataArguments, args: TrainingArguments) -> dict[str, Any]:
    """Return everything that a result depends on, by the names of the options."""
    data = dataclasses.asdict(data_args)
    del data["feature_cache"]  # the same result, faster
    del data["on_error"]  # until one is met, it changes nothing; after that one may choose
    names = [*_RECIPE, *(["dataloader_num_workers"] if data_args.streaming else [])]
    if args.load_best_model_at_end:
        names += _CHOICE_OF_THE_BEST
    else:
        del data["eval_split"], data["max_eval_samples"], data["max_new_tokens"]
    training = {name: getattr(args, name) for name in names}
    for option in dataclasses.fields(VideoOptions):
        del data[option.name]
    data |= data_args.stated()
    return {**dataclasses.asdict(model_args), **data, **training, **_rare(args), "processes": args.world_size}


def _rare(args: TrainingArguments) -> dict[str, Any]:
    """Return what few ask for, as far as it is not the default, which recipes of version 0.1 do not tell."""
    rare: dict[str, Any] = {}
    if args.optim_target_modules is not None:
        rare["optim_target_modules"] = args.optim_target_modules
    if args.auto_find_batch_size:
        rare["auto_find_batch_size"] = True
    default = AcceleratorConfig().to_dict()
    options: Any = args.accelerator_config
    changed = {name: value for name, value in options.to_dict().items() if value != default[name]}
    if changed:
        rare["accelerator_config"] = changed
    return rare
