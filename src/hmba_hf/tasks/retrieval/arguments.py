"""The options of training a model of videos and texts, and the published recipes as presets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...families import FAMILIES
from ...models.layers_video_masks import MASKINGS, Masking
from ...training.arguments import (
    ResumableArguments,
    RunDataArguments,
    TrainedModelArguments,
    check_data_options,
    check_run_options,
    parse_options,
)

_PARTS = list(next(family.parts for family in FAMILIES if family.task == "retrieval"))
_OPTIMIZER = {"weight_decay": 0.05, "max_grad_norm": 0.0, "save_strategy": "epoch"}
PRESETS: dict[str, dict[str, Any]] = {
    "published": {
        **_OPTIMIZER,
        "num_train_epochs": 10,
        "learning_rate": 4e-4,
        "warmup_steps": 0.1,  # of all steps: one epoch
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.01},
        "per_device_train_batch_size": 128,
        "drop_path_rate": 0.25,
        "masking": "attention",
        "mask_ratio": 0.8,
        "teacher": "openai/clip-vit-base-patch16",
    },
    "unmasked": {
        **_OPTIMIZER,
        "num_train_epochs": 1,
        "learning_rate": 8e-5,
        "warmup_steps": 0.2,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.01},
        "per_device_train_batch_size": 128,
        "drop_path_rate": 0.25,
    },
    "msrvtt": {
        **_OPTIMIZER,
        "num_train_epochs": 5,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.01},
        "num_frames": 12,
        "hidden_words": 0.0,
    },
}
"""The paper's recipes; bfloat16 comes on top where the machine has it. `unmasked` follows `published`.

16 devices make its batch of 2048 pairs.

Source: Li et al. 2024, arXiv:2403.06977, appendix; OpenGVLab/VideoMamba, `video_mm/exp_pt` and `exp_zs`.
"""


@dataclass
class ModelArguments(TrainedModelArguments):
    """Which model learns: one of videos and texts, or two halves that are joined."""

    model: str | None = field(  # type: ignore[assignment]  # two halves may stand for it
        default=None, metadata={"help": "folder or Hub id of a model of videos and texts"}
    )
    vision: str | None = field(
        default=None, metadata={"help": "instead: folder or Hub id of a VideoMamba of masked pre-training"}
    )
    text: str | None = field(default=None, metadata={"help": "with --vision: folder or Hub id of a BERT"})
    learns: list[str] = field(
        default_factory=lambda: list(_PARTS), metadata={"help": f"what learns, of {', '.join(_PARTS)}"}
    )
    num_frames: int | None = field(
        default=None, metadata={"help": "frames of a clip; the table of times is interpolated for another number"}
    )
    drop_path_rate: float | None = field(default=None, metadata={"help": "share of samples that skip the last block"})
    teacher: str | None = field(
        default=None, metadata={"help": "folder or Hub id of a CLIP, whose features of visible patches are learned"}
    )
    teacher_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of it on the Hub"})


@dataclass
class DataArguments(RunDataArguments):
    """Which pairs to learn from and to evaluate on, and what of them is hidden."""

    hidden_words: float = field(default=0.5, metadata={"help": "share of a text's tokens that are guessed"})
    flip: float = field(default=0.5, metadata={"help": "probability of a mirrored clip; 0 where texts name sides"})
    masking: str = field(
        default="attention", metadata={"help": "what is hidden of clips, with --teacher", "choices": MASKINGS}
    )
    mask_ratio: float = field(default=0.8, metadata={"help": "share of the patches that is hidden, with --teacher"})

    @property
    def chosen_masking(self) -> Masking:
        """How clips are masked."""
        return Masking(self.masking, self.mask_ratio)


@dataclass
class RetrievalArguments(ResumableArguments):
    """`TrainingArguments` for pairs of videos and texts."""

    output_dir: str = "videomamba-retrieval"
    learning_rate: float = 4e-4


def parse_arguments(
    description: str, words: Sequence[str] | None = None, program: str | None = None
) -> tuple[ModelArguments, DataArguments, RetrievalArguments]:
    """Read a command line, with `PRESETS`; arguments as in `parse_options`."""
    kinds = (ModelArguments, DataArguments, RetrievalArguments)
    model_args, data_args, args = parse_options(kinds, PRESETS, description, words, program)
    return model_args, data_args, args


def check_options(model_args: ModelArguments, data_args: DataArguments, args: RetrievalArguments) -> None:
    """Raise a `ValueError` for options that do not go together, or that are out of range."""
    check_data_options(data_args, args)
    check_run_options(args)
    is_joined = model_args.vision is not None and model_args.text is not None
    if is_joined == (model_args.model is not None) or (model_args.vision is None) != (model_args.text is None):
        raise ValueError(
            "one of --model and of --vision with --text must be given, got "
            f"{model_args.model!r}, {model_args.vision!r} and {model_args.text!r}"
        )
    for name in ("model", "teacher"):
        revision = getattr(model_args, f"{name}_revision")
        if getattr(model_args, name) is None and revision is not None:
            raise ValueError(f"{name}_revision must come with --{name}, got {revision!r} alone")
    if model_args.teacher is None and data_args.chosen_masking != Masking():
        raise ValueError(
            "masking and mask_ratio must be left out without a teacher, whose features visible patches learn, got "
            f"{data_args.masking!r} and {data_args.mask_ratio}"
        )
    if args.per_device_train_batch_size < 2:
        raise ValueError(
            "per_device_train_batch_size must be at least 2, since each pair needs one that does not match, got 1"
        )
