"""Options that every kind of training has, presets of them, and what of them a result depends on."""

import argparse
import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError
from typing import Any

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.utils import is_torch_bf16_gpu_available

from ..data.bad_samples import POLICIES
from ..data.loading import MICRO_WORLD
from ..data.micro_world.world import MOTIONS
from ..data.mixing import shares
from ..data.video_options import VideoOptions
from ..files import parse_json
from ..installation import missing_package
from ..messages import HelpFormatter, logger
from ..models.loading_transformers import CHECKPOINTING as CHECKPOINTING  # for the tasks
from .parts import LOW_RANK, LoraSettings

# What the trained weights depend on; the other options of `TrainingArguments` decide when and where files are written.
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
class TrainedModelArguments:
    """Which model, and what of it learns; a task adds what it may change."""

    model: str = field(metadata={"help": "folder or Hub id of a model or base"})
    model_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of it on the Hub"})
    learns: list[str] = field(default_factory=list, metadata={"help": "parts that learn"})

    def __post_init__(self) -> None:
        _check_rates(self)

    def config(self) -> dict[str, Any]:
        """Return the options that change the model's configuration."""
        return {}

    @property
    def low_rank(self) -> str | None:
        """The way of `LOW_RANK` in which a part learns, if one does."""
        return None


@dataclass
class LowRankModelArguments(TrainedModelArguments):
    """Which model, and what of it learns, maybe by low-rank updates."""

    lora_rank: int = field(default=16, metadata={"help": "of the low-rank updates"})
    lora_alpha: float = field(default=32.0, metadata={"help": "updates are scaled by it over the rank"})
    lora_dropout: float = field(default=0.0, metadata={"help": "of what goes into the low-rank updates"})
    lora_targets: list[str] | None = field(
        default=None, metadata={"help": "linear layers that get updates, such as q_proj v_proj; all when absent"}
    )

    @property
    def low_rank(self) -> str | None:
        """The way of `LOW_RANK` in which a part learns, if one does."""
        return next((name for name in self.learns if name in LOW_RANK), None)

    @property
    def lora(self) -> LoraSettings:
        """The options of the low-rank updates."""
        return LoraSettings(self.lora_rank, self.lora_alpha, self.lora_dropout, tuple(self.lora_targets or ()))


@dataclass
class SourceArguments(VideoOptions):
    """Which clips a model learns from."""

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


@dataclass
class RunDataArguments(SourceArguments):
    """Which clips a model learns from and is evaluated on, and how they are drawn."""

    dataset_weights: list[float] | None = field(
        default=None, metadata={"help": "the share drawn from each dataset; without it each sample is drawn once"}
    )
    eval_split: str = field(default="validation", metadata={"help": "split to evaluate on, with --eval_strategy"})
    max_eval_samples: int | None = field(default=None, metadata={"help": "only this many of each, from the start"})

    def recipe(self, is_best_chosen: bool) -> dict[str, Any]:
        """Return what a result depends on.

        Args:
            is_best_chosen: whether evaluations choose the checkpoint that the run ends with.
        """
        kept = dataclasses.asdict(self)
        del kept["on_error"]  # until a sample cannot be read, it changes nothing; after that one may choose
        if not is_best_chosen:
            del kept["eval_split"]
            del kept["max_eval_samples"]
        for option in dataclasses.fields(VideoOptions):
            del kept[option.name]
        return kept | self.stated()


@dataclass
class StreamableDataArguments(RunDataArguments):
    """Which clips a model learns from, held or streamed."""

    streaming: bool = field(
        default=False,
        metadata={
            "help": "read the datasets as they come in; needs --max_steps; what is evaluated on is held in memory"
        },
    )


# Numbers of which a training needs one or more, and `TrainingArguments` takes any.
_AT_LEAST_ONE = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
# Variables of the environment in which launchers put the number of processes and the place of each among them.
_NUMBERS_OF_LAUNCHERS = ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS")


@dataclass
class ResumableArguments(TrainingArguments):
    """`TrainingArguments` with defaults for runs that are resumed, on samples that are no rows of a table."""

    remove_unused_columns: bool = False
    logging_first_step: bool = True
    report_to: str = "none"
    dataloader_pin_memory: bool = False
    save_total_limit: int = 1
    hub_license: str | None = field(
        default=None, metadata={"help": "of the weights, for the card of --push_to_hub, such as apache-2.0"}
    )

    def __post_init__(self) -> None:
        """Check the options, and let processes on CPUs train together.

        Without `use_cpu` Accelerate would have each of them train by itself.

        Raises:
            ValueError: if an option is out of its range, or does not go with another one.
            ImportError: if an option needs a package that is not there.
        """
        _check_numbers_of_launchers()
        is_alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
        if not (is_alone or torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"):
            self.use_cpu = True
        self._check_numbers()
        self._check_mappings()
        try:
            super().__post_init__()
        except ValueError as error:
            raise ValueError(f"options of a training must go together, each in its range: {error}") from error
        except PackageNotFoundError as error:
            raise missing_package("--deepspeed needs", "deepspeed") from error

    def _check_numbers(self) -> None:
        """Check numbers that `TrainingArguments` takes as they come."""
        for name in _AT_LEAST_ONE:
            count = getattr(self, name)
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be from 0 to {2**32 - 1}, got {self.seed}")
        _check_rates(self)

    def _check_mappings(self) -> None:
        """Check texts that `TrainingArguments` takes for mappings; one without a brace may be the name of a file."""
        for option in fields(self):
            text = getattr(self, option.name)
            is_mapping = option.name.endswith(("_kwargs", "_config", "deepspeed")) and isinstance(text, str)
            if is_mapping and (text.startswith("{") or option.name.endswith("_kwargs")):
                found = _read_object(option.name, text)
                unknown = sorted(found.keys() - AcceleratorConfig.__dataclass_fields__)
                if option.name == "accelerator_config" and unknown:
                    known = ", ".join(AcceleratorConfig.__dataclass_fields__)
                    raise ValueError(f"accelerator_config must have options among {known}, got {unknown}")
        for pair in (self.optim_args or "=").split(","):
            if pair.count("=") != 1:
                raise ValueError(f"optim_args must be pairs such as a=1,b=2, got {self.optim_args!r}")


def _read_object(name: str, text: str) -> dict[str, Any]:
    """Return the object of JSON in a text; raise a `ValueError` where `TrainingArguments` would read none."""
    wanted = f'{name} must be an object of JSON, such as {{"a": 1}}, got {text!r}'
    if not text.startswith("{"):
        raise ValueError(wanted)
    try:
        found: dict[str, Any] = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{wanted}: {error}") from error
    return found


def _check_rates(options: Any) -> None:
    """Check the learning rates among the fields of a dataclass; an absent one is as it must be."""
    for option in fields(options):
        rate = getattr(options, option.name)
        if option.name.endswith("learning_rate") and rate is not None and not 0 <= rate < math.inf:
            raise ValueError(f"{option.name} must be finite, zero or more, got {rate}")


def _check_numbers_of_launchers() -> None:
    """Unset empty variables of the environment that Accelerate reads as numbers, and refuse what is no number."""
    for name in _NUMBERS_OF_LAUNCHERS:
        value = os.environ.get(name)
        if value is None:
            continue
        if not value.strip():
            del os.environ[name]
        elif not re.fullmatch(r"\s*-?\d+\s*", value):
            raise ValueError(f"{name} in the environment must be a whole number or absent, got {value!r}")


def parse_options(
    kinds: Sequence[type],
    presets: Mapping[str, Mapping[str, Any]],
    description: str,
    words: Sequence[str] | None = None,
    program: str | None = None,
) -> tuple[Any, ...]:
    """Read a command line; `--preset` gives defaults, which are printed, and other options override them.

    Args:
        kinds: dataclasses of options.
        presets: values of options, by the name of the preset.
        description: the first text of `--help`.
        words: of the command line; those of the program when absent.
        program: its name in `--help` and errors.

    Returns:
        An object of each kind.

    Raises:
        ValueError: for options that none of them has.
    """
    parser = HfArgumentParser(
        kinds,  # type: ignore[arg-type]  # mypy has no type of data classes
        prog=program,
        usage="%(prog)s [options]",  # all of them are a page of names
        description=description,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    _describe_changed_options(parser)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for chosen in (first, parser):
        chosen.add_argument("--preset", choices=sorted(presets), default=None, help="the published hyper-parameters")
    name = first.parse_known_args(words)[0].preset
    if name is not None:
        preset = {**presets[name], "bf16": is_torch_bf16_gpu_available()}
        parser.set_defaults(**preset)
        logger.info(f"preset {name}: {preset}")
    *found, unknown = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
    _refuse_unknown(unknown)
    return tuple(found[: len(kinds)])


def _describe_changed_options(parser: argparse.ArgumentParser) -> None:
    """Describe options of `TrainingArguments` that have other defaults here in the words of that class."""
    words = {option.name: option.metadata.get("help") for option in fields(TrainingArguments)}
    for action in parser._actions:
        action.help = action.help or words.get(action.dest)


def _refuse_unknown(words: Sequence[str]) -> None:
    """Raise a `ValueError` for words of a command line that no option takes."""
    if any(word.partition("=")[0] == "--streaming" for word in words):
        raise ValueError(
            "streaming must be absent, for this task draws its clips by their numbers, which a stream does not have, "
            f"got {' '.join(words)}"
        )
    if words:
        raise ValueError(f"options must be among those of --help, got {' '.join(words)}")


def recipe(model_args: TrainedModelArguments, data_args: RunDataArguments, args: TrainingArguments) -> dict[str, Any]:
    """Return everything that a result depends on, by the names of the options."""
    names = list(_RECIPE)
    if is_streamed(data_args):
        names.append("dataloader_num_workers")
    if args.load_best_model_at_end:
        names += _CHOICE_OF_THE_BEST
    return {
        **dataclasses.asdict(model_args),
        **data_args.recipe(is_best_chosen=args.load_best_model_at_end),
        **{name: getattr(args, name) for name in names},
        **_rare(args),
        "processes": args.world_size,
    }


def check_run_options(args: TrainingArguments) -> None:
    """Raise a `ValueError` for options with which a run could not be resumed."""
    if args.save_only_model:
        raise ValueError("save_only_model must be False, got True: no run could resume from what it leaves")
    if args.resume_from_checkpoint in (True, "True", "true"):
        raise ValueError("resume_from_checkpoint must be a folder, got True: the same command resumes by itself")


def is_streamed(data_args: RunDataArguments) -> bool:
    """Return whether a run reads its datasets as they come in."""
    return isinstance(data_args, StreamableDataArguments) and data_args.streaming


def check_data_options(data_args: RunDataArguments, args: TrainingArguments) -> None:
    """Raise a `ValueError` for options of the clips that do not go together."""
    if is_streamed(data_args) and args.max_steps < 1:
        raise ValueError("a streamed dataset has no length: --streaming needs --max_steps")
    if data_args.dataset_weights is not None:
        shares(data_args.dataset_weights, len(data_args.dataset_name))  # raises for wrong ones


def _rare(args: TrainingArguments) -> dict[str, Any]:
    """Return rare options that are not at their defaults; recipes of version 0.1 lack them."""
    rare: dict[str, Any] = {}
    if args.optim_target_modules is not None:
        rare["optim_target_modules"] = args.optim_target_modules
    if args.auto_find_batch_size:
        rare["auto_find_batch_size"] = True
    of_launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if of_launcher != "no" and not (args.bf16 or args.fp16):  # the run computes in it, and no other option says so
        rare["mixed_precision"] = of_launcher
    default = AcceleratorConfig().to_dict()
    options: Any = args.accelerator_config
    changed = {name: value for name, value in options.to_dict().items() if value != default[name]}
    if changed:
        rare["accelerator_config"] = changed
    return rare
