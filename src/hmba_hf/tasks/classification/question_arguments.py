"""The options of training a model that reads questions, and the published recipes as presets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...data.actions.questioned import GENERIC
from ...data.micro_world.questions import MICRO_QUESTIONS
from ...families import FAMILIES
from ...training.arguments import TrainedModelArguments, parse_options
from .arguments import DataArguments, FinetuningArguments, check_clip_options
from .questions import QUESTIONS, check_asking

_PARTS = next(family.parts for family in FAMILIES if family.model_type == "mambavl")
_JOINED = ("fusion", "share_A", "text_features", "initialization", "ignore_text_mask")  # values of a new model alone


@dataclass
class QuestionModelArguments(TrainedModelArguments):
    """Which model learns: one that reads questions, or a video and a text model that are joined."""

    model: str | None = field(  # type: ignore[assignment]  # two halves may stand for it
        default=None, metadata={"help": "folder or Hub id of a MambaVL"}
    )
    vision: str | None = field(
        default=None, metadata={"help": "instead: folder or Hub id of a model of videos or pictures"}
    )
    text: str | None = field(default=None, metadata={"help": "with --vision: folder or Hub id of a text model"})
    learns: list[str] = field(
        default_factory=lambda: [part for part in _PARTS if part != "text_model"],
        metadata={"help": f"what learns, of {', '.join(_PARTS)}; the text model is frozen when absent, as released"},
    )
    heads: list[str] | None = field(
        default=None, metadata={"help": "of those of the first dataset, such as verb noun; all when absent"}
    )
    generic_questions: list[str] | None = field(
        default=None, metadata={"help": "one text for each head, in their order; those of the processor when absent"}
    )
    num_frames: int | None = field(default=None, metadata={"help": "frames of a clip"})
    answer_loss_weight: float | None = field(
        default=None, metadata={"help": "of the objective that features match the texts of the right answers"}
    )
    fusion: str | None = field(default=None, metadata={"help": "of a joined model: mamba, transformer or mlp"})
    share_A: bool | None = field(
        default=None, metadata={"help": "of a joined model: whether both mixers share their decays"}
    )
    text_features: str | None = field(default=None, metadata={"help": "of a joined model: embeddings or contextual"})
    initialization: str | None = field(default=None, metadata={"help": "of a joined model: mamba or released"})
    ignore_text_mask: bool | None = field(
        default=None, metadata={"help": "of a joined model: read padding as text, as the released code does"}
    )
    video_learning_rate: float | None = field(
        default=None, metadata={"help": "of the video model; the learning rate when absent"}
    )
    mamba_learning_rate: float | None = field(
        default=None, metadata={"help": "of the mixers of the fusion; the learning rate when absent"}
    )
    rate_drops: list[float] = field(
        default_factory=list,
        metadata={"help": "shares of the training after which a constant learning rate falls to a tenth"},
    )

    @property
    def learning_rates(self) -> dict[str, float]:
        """The learning rates of their own, by the names of `Family.rates`."""
        rates = {"video": self.video_learning_rate, "mamba": self.mamba_learning_rate}
        return {name: rate for name, rate in rates.items() if rate is not None}

    def joining(self) -> dict[str, Any]:
        """Return the values of a new configuration."""
        names = (*_JOINED, "answer_loss_weight")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class QuestionDataArguments(DataArguments):
    """Which clips to learn from and to evaluate on, and what is asked about them."""

    dataset_name: list[str] = field(
        default_factory=lambda: [MICRO_QUESTIONS],
        metadata={"help": "one or more of: a folder, a Hub id (org/name, org/name@revision), a drawn dataset"},
    )
    questions: str = field(
        default=GENERIC,
        metadata={
            "help": "what is asked: nothing, or questions of a source; those of annotations are made from the right "
            "answers",
            "choices": QUESTIONS,
        },
    )
    hide_words: bool = field(
        default=False, metadata={"help": "hide the words of a clip's other labels in questions of annotations"}
    )


@dataclass
class QuestionTrainingArguments(FinetuningArguments):
    """`TrainingArguments` for models that read questions."""

    output_dir: str = "mambavl-finetuned"
    learning_rate: float = 1e-4


def parse_arguments(
    description: str, words: Sequence[str] | None = None, program: str | None = None
) -> tuple[QuestionModelArguments, QuestionDataArguments, QuestionTrainingArguments]:
    """Read a command line, with `PRESETS`; arguments as in `parse_options`."""
    kinds = (QuestionModelArguments, QuestionDataArguments, QuestionTrainingArguments)
    model_args, data_args, args = parse_options(kinds, PRESETS, description, words, program)
    return model_args, data_args, args


def check_options(
    model_args: QuestionModelArguments, data_args: QuestionDataArguments, args: QuestionTrainingArguments
) -> None:
    """Raise a `ValueError` for options that are out of range or do not go together."""
    check_clip_options(data_args, args)
    is_joined = model_args.vision is not None and model_args.text is not None
    if is_joined == (model_args.model is not None) or (model_args.vision is None) != (model_args.text is None):
        raise ValueError(
            "one of --model and of --vision with --text must be given, got "
            f"{model_args.model!r}, {model_args.vision!r} and {model_args.text!r}"
        )
    if model_args.model is None and model_args.model_revision is not None:
        raise ValueError(f"model_revision must come with --model, got {model_args.model_revision!r} alone")
    if not is_joined:
        for name in _JOINED:
            if getattr(model_args, name) is not None:
                raise ValueError(f"{name} must come with --vision and --text, got {getattr(model_args, name)!r}")
    heads = model_args.heads
    if heads is not None and (not heads or len({*heads}) < len(heads)):
        raise ValueError(f"heads must name each head once, got {heads}")
    check_asking(data_args.questions, data_args.hide_words)
    if any(not 0 < share < 1 for share in model_args.rate_drops):
        raise ValueError(f"rate_drops must be shares above 0 and below 1, got {model_args.rate_drops}")
    if model_args.rate_drops and args.lr_scheduler_type != "constant":
        raise ValueError(f"rate_drops must come with --lr_scheduler_type constant, got {args.lr_scheduler_type!s}")
    if args.base_learning_rate is not None and model_args.learning_rates:
        raise ValueError(
            "base_learning_rate must be absent beside learning rates of parts, which it does not scale, got "
            f"{args.base_learning_rate} and {model_args.learning_rates}: give learning_rate"
        )


_SHARED: dict[str, Any] = {
    "num_frames": 16,
    "label_smoothing_factor": 0.1,
    "max_grad_norm": 0.0,
    "save_strategy": "epoch",
    "seed": 0,
}
_EPOCHS = {"recognition": 100, "anticipation": 50}

PRESETS: dict[str, dict[str, Any]] = {
    "epic-recognition": {
        **_SHARED,
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "learning_rate": 1e-3,
        "video_learning_rate": 1e-3,
        "mamba_learning_rate": 3e-3,
        "num_train_epochs": _EPOCHS["recognition"],
        "lr_scheduler_type": "cosine_warmup_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.03, "warmup_lr_rate": 0.003},
        "warmup_steps": 2 / _EPOCHS["recognition"],
        "weight_decay": 4e-5,
        "per_device_train_batch_size": 8,
        "mixup": 0.8,
        "cutmix": 1.0,
        "min_area": 0.5,
    },
    "epic-anticipation": {
        **_SHARED,
        "optim": "adamw_torch",
        "learning_rate": 2e-5,
        "video_learning_rate": 1e-5,
        "mamba_learning_rate": 2e-4,
        "num_train_epochs": _EPOCHS["anticipation"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0.0,
        "rate_drops": [19 / _EPOCHS["anticipation"], 40 / _EPOCHS["anticipation"]],
        "weight_decay": 5e-2,
        "per_device_train_batch_size": 3,
        "rand_augment": 7.0,
        "rand_augment_operations": 4,
    },
}
"""The released recipes; bfloat16 comes on top where the machine has it. Batches are those of one of eight devices.

`epic-recognition` is that of both AVION models, and `epic-anticipation` that of Motionformer. Neither says what is
asked: `--questions annotation --hide_words` is the released training.

Source: configurations of Dongzhikang/MambaVL at 601b789, arXiv:2409.11513; mixtures are PySlowFast's defaults.
Differs: labels are smoothed and mixed in one soft cross entropy, where the released recipe of the large model mixes
labels that its loss cannot take. Each learning rate warms up to its own value, and `A_log` is not decayed.
"""
