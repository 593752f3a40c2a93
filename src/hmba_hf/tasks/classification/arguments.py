"""The options of training a model that classifies, and the published recipes as presets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...data.micro_world.actions import MICRO_ACTIONS
from ...families import FAMILIES
from ...training.arguments import (
    ResumableArguments,
    RunDataArguments,
    TrainedModelArguments,
    check_data_options,
    check_run_options,
    parse_options,
)
from .augmentation import Augmentation, names_direction
from .mixing import Mixing
from .rand_augment import RandAugment
from .rates import DECAYS

_PARTS = list(next(family.parts for family in FAMILIES if family.model_type == "videomamba"))
_BATCH = 256  # clips that base learning rates are for


@dataclass
class ModelArguments(TrainedModelArguments):
    """Which model, and what of it learns; what is not given stays as the checkpoint has it."""

    learns: list[str] = field(
        default_factory=lambda: list(_PARTS), metadata={"help": f"what learns, of {', '.join(_PARTS)}"}
    )
    num_frames: int | None = field(
        default=None, metadata={"help": "frames of a clip; the table of times is interpolated for another number"}
    )
    image_size: int | None = field(
        default=None,
        metadata={"help": "side of a frame in pixels; the table of places is interpolated for another one"},
    )
    drop_path_rate: float | None = field(
        default=None, metadata={"help": "share of samples that skip the last block in training"}
    )
    class_names: list[str] | None = field(
        default=None, metadata={"help": "in the order of their numbers; those of the first dataset when absent"}
    )
    layer_decay: float = field(
        default=1.0, metadata={"help": "factor of the learning rate from one block to the one before it"}
    )
    layer_decay_kind: str = field(
        default="released",
        metadata={
            "help": "'released' slows the embeddings alone, as the released code does, 'blocks' each block, too",
            "choices": DECAYS,
        },
    )
    teacher: str | None = field(
        default=None, metadata={"help": "folder or Hub id of a smaller model whose features are learned, too"}
    )
    teacher_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of it on the Hub"})


@dataclass
class DataArguments(RunDataArguments):
    """Which clips to learn from and to evaluate on, and how they are changed at random."""

    dataset_name: list[str] = field(
        default_factory=lambda: [MICRO_ACTIONS],
        metadata={"help": f"one or more of: a folder, a Hub id (org/name, org/name@revision), {MICRO_ACTIONS}"},
    )
    num_draws: int = field(
        default=1, metadata={"help": "clips that are drawn of each video; a batch holds so many times as many clips"}
    )
    min_area: float = field(default=0.08, metadata={"help": "least share of a frame that a random crop keeps"})
    flip: float | None = field(
        default=None,
        metadata={"help": "probability of a mirrored clip; when absent 0.5, and 0 where a class names a direction"},
    )
    rand_augment: float = field(
        default=0.0, metadata={"help": "magnitude of RandAugment, from 0, which is none, to 10"}
    )
    rand_augment_operations: int = field(default=4, metadata={"help": "operations of RandAugment"})
    rand_augment_spread: float = field(default=0.5, metadata={"help": "standard deviation of the magnitude"})
    erasing: float = field(default=0.0, metadata={"help": "probability of a rectangle of noise"})
    mixup: float = field(default=0.0, metadata={"help": "parameter of mixup's distribution; 0 for none"})
    cutmix: float = field(default=0.0, metadata={"help": "parameter of cutmix's distribution; 0 for none"})

    def augmentation(self, names: Sequence[str]) -> Augmentation:
        """Return how single clips of classes of these names are changed.

        Raises:
            ValueError: if a value is out of range.
        """
        flip = self.flip
        if flip is None:
            flip = 0.0 if names_direction(names) else 0.5
        operations = None
        if self.rand_augment:
            operations = RandAugment(self.rand_augment, self.rand_augment_operations, self.rand_augment_spread)
        return Augmentation(self.min_area, flip, operations, self.erasing)


@dataclass
class FinetuningArguments(ResumableArguments):
    """`TrainingArguments` with the batch size and schedule of the paper's K400 recipe as defaults."""

    output_dir: str = "videomamba-finetuned"
    num_train_epochs: float = 50
    per_device_train_batch_size: int = 8
    learning_rate: float = 2e-4
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.1
    weight_decay: float = 0.05
    base_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": f"for {_BATCH} clips a step; it sets the learning rate in proportion to the clips of a step"
        },
    )


def scale_learning_rate(args: FinetuningArguments, num_draws: int) -> None:
    """Set the learning rate by `base_learning_rate`, if it is given, to the number of clips of a step.

    Source: recipes of OpenGVLab/VideoMamba, where each video gives two clips.
    """
    if args.base_learning_rate is None:
        return
    videos = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    args.learning_rate = args.base_learning_rate * videos * num_draws / _BATCH


def mixing_of(data_args: DataArguments, args: FinetuningArguments) -> Mixing:
    """Return how batches are mixed and labels smoothed.

    Raises:
        ValueError: if a value is out of range.
    """
    return Mixing(data_args.mixup, data_args.cutmix, args.label_smoothing_factor)


def parse_arguments(
    description: str, words: Sequence[str] | None = None, program: str | None = None
) -> tuple[ModelArguments, DataArguments, FinetuningArguments]:
    """Read a command line, with `PRESETS`; arguments as in `parse_options`."""
    kinds = (ModelArguments, DataArguments, FinetuningArguments)
    model_args, data_args, args = parse_options(kinds, PRESETS, description, words, program)
    return model_args, data_args, args


def check_options(model_args: ModelArguments, data_args: DataArguments, args: FinetuningArguments) -> None:
    """Raise a `ValueError` for options that are out of range or do not go together."""
    check_clip_options(data_args, args)
    if model_args.teacher is None and model_args.teacher_revision is not None:
        raise ValueError(f"teacher_revision must come with a teacher, got {model_args.teacher_revision!r} alone")
    names = model_args.class_names
    if names is not None and len({*names}) < len(names):
        raise ValueError(f"class_names must name each class once, got {names}")


def check_clip_options(data_args: DataArguments, args: FinetuningArguments) -> None:
    """Raise a `ValueError` for options of clips and of the run that no model could have."""
    check_data_options(data_args, args)
    check_run_options(args)
    if data_args.num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {data_args.num_draws}")
    if data_args.rand_augment < 0:
        raise ValueError(f"rand_augment must be at least 0, got {data_args.rand_augment}")
    data_args.augmentation(())
    mixing = mixing_of(data_args, args)
    clips = args.per_device_train_batch_size * data_args.num_draws
    if (mixing.mixup or mixing.cutmix) and clips < 2:
        raise ValueError(f"mixup and cutmix must have at least 2 clips in a batch, got {clips}")


def _schedule(epochs: int, base_rate: float, warmup: int = 5, least: float = 1e-6) -> dict[str, Any]:
    """A warm-up from the least rate to the full one, then half a cosine back to it."""
    return {
        "num_train_epochs": epochs,
        "base_learning_rate": base_rate,
        "lr_scheduler_type": "cosine_warmup_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": least / base_rate, "warmup_lr_rate": least / base_rate},
        "warmup_steps": warmup / epochs,
    }


def _recipe(
    epochs: int, base_rate: float, drop_path_rate: float, weight_decay: float = 0.05, **others: Any
) -> dict[str, Any]:
    """One column of the paper's table of recipes for videos."""
    return {
        **_VIDEO,
        **_schedule(epochs, base_rate),
        "drop_path_rate": drop_path_rate,
        "weight_decay": weight_decay,
        **others,
    }


_VIDEO: dict[str, Any] = {
    "num_draws": 2,
    "rand_augment": 7.0,
    "rand_augment_operations": 4,
    "rand_augment_spread": 0.5,
    "erasing": 0.25,
    "mixup": 0.8,
    "cutmix": 1.0,
    "label_smoothing_factor": 0.1,
    "layer_decay": 0.75,
    "adam_beta2": 0.999,
    "max_grad_norm": 0.0,
    "per_device_train_batch_size": 8,
    "save_strategy": "epoch",
}
_TINY: dict[str, Any] = {"rand_augment": 5.0, "rand_augment_operations": 2, "rand_augment_spread": 0.25}
_MASKED: dict[str, Any] = {"layer_decay": 0.8}  # from masked pre-training
_DIRECTED: dict[str, Any] = {"flip": 0.0}


def _of_pictures(warmup: int, drop_path_rate: float, weight_decay: float = 0.05, **others: Any) -> dict[str, Any]:
    """One column of the paper's table of recipes for ImageNet."""
    return {
        **_VIDEO,
        "num_frames": 1,
        "num_draws": 3,
        "num_train_epochs": 100,
        "base_learning_rate": 2.5e-4,
        "lr_scheduler_type": "cosine_warmup_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": 1e-5, "warmup_lr_rate": 1e-3},
        "warmup_steps": warmup / 300,
        "rand_augment": 9.0,
        "rand_augment_operations": 2,
        "layer_decay": 1.0,
        "max_grad_norm": 5.0,
        "drop_path_rate": drop_path_rate,
        "weight_decay": weight_decay,
        **others,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "k400-tiny": _recipe(70, 2e-4, 0.1, 0.1, **_TINY),
    "k400-small": _recipe(50, 2e-4, 0.35),
    "k400-middle": _recipe(50, 1e-4, 0.8),
    "k400-middle-8-frames": _recipe(50, 2e-4, 0.8),
    "k400-middle-masked": _recipe(45, 1e-4, 0.4, **_MASKED),
    "ssv2-tiny": _recipe(35, 4e-4, 0.1, 0.1, **_TINY, **_DIRECTED),
    "ssv2-small": _recipe(30, 4e-4, 0.35, **_DIRECTED),
    "ssv2-middle": _recipe(30, 4e-4, 0.8, **_DIRECTED),
    "ssv2-middle-masked": _recipe(30, 1e-4, 0.4, **_MASKED, **_DIRECTED),
    "breakfast-tiny": _recipe(70, 2e-4, 0.1, 0.1, **_TINY),
    "breakfast-small": _recipe(50, 2e-4, 0.4),
    "breakfast-middle": _recipe(50, 2e-4, 0.8),
    "breakfast-middle-masked": _recipe(45, 2e-4, 0.4, **_MASKED),
    "coin-tiny": _recipe(40, 2e-4, 0.1, **_TINY),
    "coin-small": _recipe(35, 2e-4, 0.4),
    "coin-middle": _recipe(30, 2e-4, 0.8),
    "coin-middle-masked": _recipe(30, 2e-4, 0.4, **_MASKED),
    "lvu-tiny": _recipe(70, 4e-4, 0.15, **_TINY),
    "imagenet-tiny": _of_pictures(
        5, 0.0, 0.1, num_draws=1, num_train_epochs=300, rand_augment=7.0, rand_augment_spread=0.0
    ),
    "imagenet-small": _of_pictures(5, 0.15),
    "imagenet-middle": _of_pictures(20, 0.5),
    "imagenet-base": _of_pictures(20, 0.5),
}
"""The released recipes, by dataset and size; bfloat16 comes on top where the machine has it.

Base learning rates are for 256 clips a step, two of each video. Those for ImageNet learn three draws of a picture in a
step, and so 100 epochs are its 300.

Source: scripts of OpenGVLab/VideoMamba at f3427e4, and arXiv:2403.06977, appendix.
"""
