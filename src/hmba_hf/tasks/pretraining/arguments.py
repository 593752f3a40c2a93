"""The options of masked pre-training, and the published recipe as a preset."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...models.configuration_videomamba import ALIGNMENT_LOSSES, SCAN_TYPES, SIZES
from ...models.layers_video_masks import MASKINGS, Masking
from ...training.arguments import (
    ResumableArguments,
    RunDataArguments,
    TrainedModelArguments,
    check_data_options,
    check_run_options,
    parse_options,
)
from .augmentation import SCALES, MultiScaleCrop

TEACHER = "openai/clip-vit-base-patch16"
PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        "model": "middle",
        "num_frames": 8,
        "drop_path_rate": 0.4,
        "masking": "attention",
        "mask_ratio": 0.8,
        "num_train_epochs": 800,
        "warmup_steps": 0.05,  # of all steps: 40 epochs
        "per_device_train_batch_size": 32,
        "base_learning_rate": 1.5e-4,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 1e-5 / 1.5e-4},
        "weight_decay": 0.05,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "max_grad_norm": 0.0,  # no clipping
        "dataloader_num_workers": 8,
        "save_strategy": "epoch",
    }
}
"""The paper's recipe; bfloat16 comes on top where the machine has it.

64 devices make its batch of 2048 clips; the learning rate goes with the batch. For Something-Something the released
models had 200 epochs, and the paper mirrors no clip (`--flip False`), while the released scripts do.

Source: Li et al. 2024, arXiv:2403.06977, appendix; OpenGVLab/VideoMamba, `video_sm/exp_clip`.
"""
_RATED_BATCH = 256  # clips; what base_learning_rate is for


@dataclass
class ModelArguments(TrainedModelArguments):
    """Which model learns, from which teacher; what is not given stays as the checkpoint or the size has it."""

    model: str = field(
        default="middle",
        metadata={"help": f"{', '.join(SIZES)}, drawn anew, or a folder or Hub id of a VideoMamba"},
    )
    teacher: str = field(
        default=TEACHER,
        metadata={"help": "folder or Hub id of a CLIP whose vision tower is learned from"},
    )
    teacher_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of it on the Hub"})
    learns: list[str] = field(
        default_factory=lambda: ["embeddings", "encoder", "head"], metadata={"help": "parts that learn"}
    )
    num_frames: int | None = field(default=None, metadata={"help": "frames of a clip"})
    image_size: int | None = field(default=None, metadata={"help": "side of a frame in pixels"})
    drop_path_rate: float | None = field(default=None, metadata={"help": "share of samples that skip the last block"})
    scan_type: str | None = field(default=None, metadata={"help": f"of {', '.join(SCAN_TYPES)}"})
    num_alignment_layers: int | None = field(default=None, metadata={"help": "layers that learn from as many"})
    alignment_interval: int | None = field(default=None, metadata={"help": "distance between these layers"})
    alignment_size: int | None = field(default=None, metadata={"help": "channels of the teacher's features"})
    alignment_loss: str | None = field(default=None, metadata={"help": f"of {', '.join(ALIGNMENT_LOSSES)}"})
    align_last_output: bool | None = field(
        default=None,
        metadata={"help": "align what the last block gives, and not, as the released code, what it is given"},
    )
    teacher_interval: int = field(default=1, metadata={"help": "distance between the teacher's layers"})

    def config(self) -> dict[str, Any]:
        """Return the options that change the model's configuration."""
        names = (
            *("num_frames", "image_size", "drop_path_rate", "scan_type", "num_alignment_layers"),
            *("alignment_interval", "alignment_size", "alignment_loss", "align_last_output"),
        )
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class DataArguments(RunDataArguments):
    """Which clips to learn from and to evaluate on, how they are cropped, and what of them is hidden."""

    masking: str = field(default="attention", metadata={"help": "what is hidden", "choices": MASKINGS})
    mask_ratio: float = field(default=0.8, metadata={"help": "share of the patches that is hidden"})
    augment: bool = field(default=True, metadata={"help": "crop clips at random, from random frames"})
    crop_scales: list[float] = field(
        default_factory=lambda: list(SCALES), metadata={"help": "sides of random crops, of the short side of a frame"}
    )
    flip: bool = field(default=True, metadata={"help": "mirror half of the clips"})
    num_views: int | None = field(
        default=None, metadata={"help": "different crops of each clip; any number when absent"}
    )
    teacher_cache: str | None = field(
        default=None,
        metadata={"help": "folder of what the teacher tells; needs --augment False or --num_views"},
    )

    @property
    def chosen_masking(self) -> Masking:
        """How clips are masked."""
        return Masking(self.masking, self.mask_ratio)

    @property
    def augmentation(self) -> MultiScaleCrop | None:
        """How clips are cropped and mirrored in training."""
        if not self.augment:
            return None
        return MultiScaleCrop(tuple(self.crop_scales), 0.5 if self.flip else 0.0)

    def recipe(self, is_best_chosen: bool) -> dict[str, Any]:
        """Return what a result depends on; arguments as in `RunDataArguments`."""
        kept = super().recipe(is_best_chosen)
        del kept["teacher_cache"]  # the same result but for rounding, faster
        return kept


@dataclass
class PretrainingArguments(ResumableArguments):
    """`TrainingArguments` with a learning rate that goes with the batch."""

    output_dir: str = "videomamba-pretrained"
    base_learning_rate: float | None = field(
        default=None,
        metadata={"help": f"for {_RATED_BATCH} clips a step; it takes the place of --learning_rate"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_learning_rate is not None:
            clips = self.train_batch_size * self.gradient_accumulation_steps * self.world_size
            self.learning_rate = self.base_learning_rate * clips / _RATED_BATCH


def parse_arguments(
    description: str, words: Sequence[str] | None = None, program: str | None = None
) -> tuple[ModelArguments, DataArguments, PretrainingArguments]:
    """Read a command line, with `PRESETS`; arguments as in `parse_options`."""
    kinds = (ModelArguments, DataArguments, PretrainingArguments)
    model_args, data_args, args = parse_options(kinds, PRESETS, description, words, program)
    return model_args, data_args, args


def check_options(model_args: ModelArguments, data_args: DataArguments, args: PretrainingArguments) -> None:
    """Raise a `ValueError` for options that do not go together, or that are out of range."""
    check_data_options(data_args, args)
    check_run_options(args)
    if data_args.num_views is not None and (data_args.num_views < 1 or not data_args.augment):
        raise ValueError(
            f"num_views must be at least 1 and come with --augment True, got {data_args.num_views} and "
            f"{data_args.augment}"
        )
    if data_args.teacher_cache and data_args.augment and data_args.num_views is None:
        raise ValueError(
            "teacher_cache needs clips that come again, --augment False or --num_views, got crops that are always new"
        )
    if not data_args.augment and (not data_args.flip or tuple(data_args.crop_scales) != SCALES):
        raise ValueError(
            "flip and crop_scales must be left out with --augment False, got "
            f"{data_args.flip} and {data_args.crop_scales}"
        )
    _ = data_args.chosen_masking  # raises for a wrong one
    _ = data_args.augmentation
