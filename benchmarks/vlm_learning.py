"""Does H-MBA find motion on a base of another family, a tiny Qwen3-VL that has learned from single pictures?

    python benchmarks/vlm_learning.py [--output_dir runs/vlm_learning]
    python benchmarks/vlm_learning.py --quick      # two steps, a few clips, to see that all is well

`examples/train_micro_vlm.py` makes the base from random weights. It names road users of one picture and prints their
boxes. The clips of the micro-world ask which of four road users is the risk, and only motion distinguishes them. The
vision tower and what joins it to the language model stay as they are, so the features of each frame are computed once.

A base or a run on disk is not made again. Numbers of the micro-world do not transfer to real roads.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import hardware, markdown, save
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import TrainingArguments, set_seed

from hmba_hf import HMBAVLMForConditionalGeneration, HMBAVLMProcessor
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.samples import fill_boxes
from hmba_hf.models.batching_hmba_vlm import join_inputs
from hmba_hf.tasks.answering.boxes import score_grounding, share_picked
from hmba_hf.tasks.answering.trainer import AdapterTrainer
from hmba_hf.training import set_trainable

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.append(str(EXAMPLES))
from train_micro_vlm import ChatCollator, answer, ask, reply, show, write_box  # noqa: E402

CHANCE = 1 / MicroWorldConfig().num_objects


@dataclass(frozen=True)
class Variant:
    """One row: the adapter on the base, and the parts that learn."""

    adapter: str
    learns: tuple[str, ...]


VARIANTS = {
    "base alone": Variant("none", ("language_model",)),
    "mean of the frames": Variant("mean", ("adapter", "language_model")),
    "attention over time": Variant("transformer", ("adapter", "language_model")),
    "H-MBA": Variant("mamba", ("adapter", "language_model")),
    "H-MBA, language model frozen": Variant("mamba", ("adapter",)),
}


class Clips(torch.utils.data.Dataset):
    """Clips to learn from: inputs of their current frames, encoded once, with the features of all frames."""

    def __init__(self, world: MicroWorld, features: Tensor, processor: Any):
        self.world = world
        self.features = features
        self.collate = ChatCollator(processor)
        self.encoded: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.world)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index not in self.encoded:
            sample = self.world[index]
            box = write_box(self.collate.processor, sample.size, sample.boxes[0])
            chat = [ask(sample.question), reply(fill_boxes(sample.answer, [box]))]
            self.encoded[index] = self.collate([show(sample.frames[-1:], chat)])
        return {**self.encoded[index], "frame_features": [self.features[index].float()]}


def make_base(folder: Path, args: argparse.Namespace) -> Path:
    """Train the base unless that is done; return its folder."""
    if not (folder / "README.md").exists():
        words = ["--output_dir", str(folder), "--use_cpu", "True", *args.base_options]
        subprocess.run([sys.executable, str(EXAMPLES / "train_micro_vlm.py"), *words], check=True)
    return folder


@torch.no_grad()
def encode_frames(base: Path, world: MicroWorld, file: Path) -> Tensor:
    """Return the features of all frames, `(clips, t, p, d)` in half precision, of a file if it has them."""
    if not file.exists():
        model = HMBAVLMForConditionalGeneration.from_base_pretrained(str(base), adapter="none")
        processor = HMBAVLMProcessor.from_base_pretrained(str(base))
        parts = []
        for start in tqdm(range(0, len(world), 50), desc="features"):
            clips = [list(world[index].frames) for index in range(start, min(start + 50, len(world)))]
            pictures = processor.frame_inputs([frame for clip in clips for frame in clip])
            rows = torch.stack(model.get_frame_features(**pictures))
            parts.append(rows.unflatten(0, (len(clips), -1)).half())
        save_file({"features": torch.cat(parts)}, file)
    return load_file(file)["features"]


def learn(base: Path, clips: Clips, variant: Variant, seed: int, args: argparse.Namespace) -> Any:
    """Put a fresh adapter on the base, and train it on clips."""
    set_seed(seed)
    values = {"adapter": variant.adapter, "state_size": 8, "expand": 1}  # as small as the rest
    model = HMBAVLMForConditionalGeneration.from_base_pretrained(str(base), **values)
    set_trainable(model, variant.learns)
    options = TrainingArguments(
        output_dir=str(args.output_dir / "training"),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=5e-4,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        use_cpu=True,
        seed=seed,
    )
    rates = {}
    if variant.adapter in ("mamba", "transformer"):
        rates["gate_learning_rate"] = 0.1
    if variant.adapter != "none":
        rates["adapter_learning_rate"] = 2e-3
    trainer = AdapterTrainer(
        model=model,
        args=options,
        train_dataset=clips,
        data_collator=partial(
            join_inputs, pad_token_id=model.config.get_text_config().pad_token_id, padding_side="right"
        ),
        **rates,
    )
    trainer.train()
    return model


def score(model: Any, processor: Any, world: MicroWorld) -> dict[str, float]:
    """Ask about all clips, and score the boxes of the answers."""
    answers = answer(model, processor, world)
    scores = score_grounding(answers, world, processor)
    return {
        "mean_iou": scores.mean_iou,
        "accuracy": scores.accuracy,
        "picked": share_picked(answers, world, processor),
        "unparsed": scores.unparsed,
    }


def run_variant(
    name: str, base: Path, processor: Any, clips: Clips, seed: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Train and ask one model; with a gate, ask it a second time with the gate at zero."""
    world = MicroWorld(MicroWorldConfig(), "test", args.clips)
    model = learn(base, clips, VARIANTS[name], seed, args)
    record = {"variant": name, "seed": seed, **score(model, processor, world)}
    gate = getattr(model.model.temporal_adapter, "gate", None)
    if gate is not None:
        with torch.no_grad():
            gate.zero_()
        record["picked_without"] = score(model, processor, world)["picked"]
    return record


def spread(records: Sequence[dict[str, Any]], name: str) -> str:
    """Write mean and standard deviation over the seeds."""
    values = [record[name] for record in records if name in record]
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def tabulate(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write a row for each variant."""
    rows = []
    for name in VARIANTS:
        mine = [record for record in records if record["variant"] == name]
        if not mine:
            continue
        rows.append(
            {
                "model": name,
                "right object": spread(mine, "picked"),
                "by seed": ", ".join(f"{record['picked']:.3f}" for record in mine),
                "gate at zero": spread(mine, "picked_without"),
                "mIoU": spread(mine, "mean_iou"),
                "Acc@0.5": spread(mine, "accuracy"),
                "unparsed": spread(mine, "unparsed"),
                "seeds": len(mine),
            }
        )
    return rows


def draw(records: Sequence[dict[str, Any]], axis: Any) -> None:
    """Draw the share of right objects of each run."""
    names = [name for name in VARIANTS if any(record["variant"] == name for record in records)]
    for record in records:
        axis.plot(record["picked"], names.index(record["variant"]), "o", color="C0")
    axis.axvline(CHANCE, color="grey", linestyle=":", label="a guess among four")
    axis.set(xlim=(0, 1), yticks=range(len(names)), yticklabels=names, xlabel="right object")
    axis.legend()


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["base alone", "H-MBA"], metavar="VARIANT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--train_clips", type=int, default=10000)
    parser.add_argument("--clips", type=int, default=500, help="held-out clips to ask about")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/vlm_learning"), help="for all that is made")
    args = parser.parse_args()
    args.base_options = []
    if args.quick:
        args.seeds = [0]
        args.steps = 2
        args.batch_size = 2
        args.train_clips = 4
        args.clips = 4
        args.base_options = "--tower_steps 1 --max_steps 1 --num_pictures 64 --per_device_train_batch_size 2".split()
    return args


def main() -> None:
    """Make what is missing, then print and save the table."""
    args = parse_arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    base = make_base(args.output_dir / "base", args)
    train = MicroWorld(MicroWorldConfig(), "train", args.train_clips)
    features = encode_frames(base, train, args.output_dir / f"features-{args.train_clips}.safetensors")
    processor = HMBAVLMProcessor.from_base_pretrained(str(base))
    clips = Clips(train, features, processor)
    file = args.output_dir / f"runs-{args.steps}-{args.batch_size}-{args.train_clips}-{args.clips}.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(record["variant"], record["seed"]) for record in records}
    for name in args.variants:
        for seed in args.seeds:
            if (name, seed) not in done:
                print(f"\n{name}, seed {seed}", flush=True)
                records.append(run_variant(name, base, processor, clips, seed, args))
                with file.open("a") as lines:
                    lines.write(json.dumps(records[-1]) + "\n")
    records.sort(key=lambda record: record["seed"])
    print(f"\n{hardware()}; {args.steps} steps of {args.batch_size}, {args.clips} held-out clips, micro-world\n")
    print(markdown(tabulate(records)))
    print(f"\nChance is {CHANCE}: a guess among the road users of a clip.")
    kept = {name: value for name, value in vars(args).items() if name != "output_dir"}
    save(str(args.output_dir), {"arguments": kept, "records": records}, {"learning": lambda axis: draw(records, axis)})


if __name__ == "__main__":
    main()
