"""Fine-tune H-MBA: the vision tower frozen, the adapter, the projector and the language model learning.

    accelerate launch examples/finetune.py --model_name_or_path org/hmba-base --dataset_name org/drama \\
        --output_dir hmba-drama

`--dataset_name` is a folder or Hub id in the DRAMA or the BDD-X schema, or `micro-world`, which needs no download and
says nothing about real roads. Every option of `TrainingArguments` is accepted too.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    HfArgumentParser,
    PreTrainedModel,
    TrainingArguments,
    set_seed,
)

import hmba_hf  # noqa: F401 - registers the model
from hmba_hf.data.collator import SampleCollator
from hmba_hf.data.loading import load_samples
from hmba_hf.data.micro_world import MOTIONS
from hmba_hf.data.streamed_samples import StreamedSamples
from hmba_hf.training import AdapterTrainer, set_trainable
from hmba_hf.visualization import plot_curves


@dataclass
class ModelArguments:
    """Which model, which adapter on it, and what of it learns; what is not given stays as the checkpoint has it."""

    model_name_or_path: str = field(metadata={"help": "folder or Hub id of an H-MBA model or base"})
    adapter: str | None = field(default=None, metadata={"help": "mamba, none, mean or transformer"})
    fusion: str | None = field(default=None, metadata={"help": "query, cosine, add or concat"})
    branches: list[str] | None = field(default=None, metadata={"help": "scans that the adapter reads"})
    temporal_strides: list[int] | None = field(default=None, metadata={"help": "such as: --temporal_strides 1 2"})
    num_frames: int | None = field(default=None, metadata={"help": "frames of a clip"})
    learns: list[str] = field(
        default_factory=lambda: ["adapter", "projector", "language_model"],
        metadata={"help": "parts that learn, of vision_tower, adapter, projector, language_model"},
    )
    adapter_learning_rate: float | None = field(
        default=None, metadata={"help": "of adapter and projector; the learning rate when absent"}
    )
    gate_learning_rate: float | None = field(
        default=None, metadata={"help": "of the adapter's gate, which starts at zero; that of the adapter when absent"}
    )

    def config(self) -> dict:
        """The options that change the model's configuration."""
        names = ("adapter", "fusion", "branches", "temporal_strides", "num_frames")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class DataArguments:
    """Which clips to learn from."""

    dataset_name: str = field(default="micro-world", metadata={"help": "folder, Hub id or micro-world"})
    train_split: str = field(default="train", metadata={"help": "split to learn from"})
    max_train_samples: int | None = field(default=None, metadata={"help": "only this many from the start"})
    motion: str = field(default="symmetric", metadata={"help": "of the micro-world", "choices": MOTIONS})
    world_seed: int = field(default=0, metadata={"help": "of the micro-world"})
    stream_frames: int = field(
        default=0, metadata={"help": "up to so many frames of other clips before a clip, for a model that streams"}
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


def main() -> None:
    """Load, train, save, and plot the loss."""
    parser = HfArgumentParser([ModelArguments, DataArguments, FinetuningArguments])
    model_args, data_args, args = parser.parse_args_into_dataclasses()
    set_seed(args.seed)
    model = load_model(model_args)
    processor = AutoProcessor.from_pretrained(model_args.model_name_or_path)
    processor.video_processor.num_frames = model.config.num_frames
    counts = set_trainable(model, model_args.learns)
    samples = load_samples(
        data_args.dataset_name,
        data_args.train_split,
        data_args.max_train_samples,
        seed=data_args.world_seed,
        motion=data_args.motion,
        frame_size=processor.video_processor.size["height"],
        num_frames=model.config.num_frames,
    )
    if data_args.stream_frames:
        samples = StreamedSamples(samples, data_args.stream_frames, args.seed)
    trainer = AdapterTrainer(
        model=model,
        args=args,
        train_dataset=samples,
        data_collator=SampleCollator(processor),
        processing_class=processor,
        adapter_learning_rate=model_args.adapter_learning_rate,
        gate_learning_rate=model_args.gate_learning_rate,
    )
    if trainer.is_world_process_zero():
        print(f"{len(samples)} clips; parameters that learn: {counts}")
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.save_model()
    if trainer.is_world_process_zero():
        arguments = {**asdict(model_args), **asdict(data_args), **args.to_sanitized_dict()}
        save_history(trainer, Path(args.output_dir), arguments)


def load_model(arguments: ModelArguments) -> PreTrainedModel:
    """Load the base with the adapter that is asked for; one that the base holds must fit."""
    path = arguments.model_name_or_path
    config = AutoConfig.from_pretrained(path)
    config = type(config).from_dict({**config.to_dict(), **arguments.config()})  # checks the changed values, too
    model, loading = AutoModelForImageTextToText.from_pretrained(
        path, config=config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    for name, held, wanted in sorted(loading["mismatched_keys"]):
        raise ValueError(
            f"{name} must be {tuple(wanted)} for {arguments.config()}, got {tuple(held)} from {path}: leave out what "
            "differs from its adapter, or start from a base without one"
        )
    return model


def save_history(trainer: AdapterTrainer, folder: Path, arguments: dict) -> None:
    """Write how the loss fell, as numbers and, with matplotlib, as a picture, with the arguments that made it."""
    history = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    record = {"arguments": arguments, "loss": history}
    (folder / "history.json").write_text(json.dumps(record, indent=1))
    try:
        plot_curves({"loss": history}, "Training loss").save(folder / "loss.png")
    except ImportError as error:
        print(f"no picture of the loss: {error}")


if __name__ == "__main__":
    main()
