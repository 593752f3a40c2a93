"""Does a VideoMamba learn what only motion tells? Scan orders, and a smaller teacher, on drawn actions.

    python benchmarks/action_learning.py --output_dir runs/actions     # what stands in results/action_learning.md
    python benchmarks/action_learning.py --only orders --seeds 5 --steps 2000 --output_dir runs/actions
    python benchmarks/action_learning.py --quick                       # a few steps, to see that all is well

Each of the ten actions has an opposite, whose clips are those of the first run backwards. So one frame is worth 10 %,
and all frames in an unknown order are worth 50 %. The clips are held in memory, and models start from new weights.
With --output_dir, a run that is there is not made again.

- orders: three orders of scanning, alike in all else.
- teacher: a model with and without the features of a narrower one that has learned before.

Differs: the paper compares scan orders after ImageNet pre-training, on Something-Something V2.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import hardware, markdown, save
from torch.utils.data import Dataset
from transformers import TrainingArguments, set_seed

from hmba_hf.data.micro_world.actions import ACTION_NAMES, MicroActions, MicroActionsConfig
from hmba_hf.models.configuration_videomamba import VideoMambaConfig
from hmba_hf.models.modeling_videomamba import VideoMambaForVideoClassification
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor
from hmba_hf.tasks.classification.encoding import ClipEncoder, join
from hmba_hf.tasks.classification.mixing import Mixing
from hmba_hf.tasks.classification.trainer import ClassificationTrainer

SIDE = 32
WIDTH = 64
TEACHER_WIDTH = 32
ORDERS = ("temporal_first", "spatial_first", "alternating")
SURE = "temporal_first"  # the order of the comparison with a teacher
PARTS = ("orders", "teacher")


class HeldClips(Dataset):
    """Clips of a split, drawn and encoded once."""

    def __init__(self, split: str, count: int):
        size = {"height": SIDE, "width": SIDE}
        processor = VideoMambaVideoProcessor(size={"shortest_edge": SIDE}, crop_size=size)
        encoder = ClipEncoder(processor, len(ACTION_NAMES))
        clips = MicroActions(MicroActionsConfig(frame_size=SIDE), split, count)
        self.clips = [encoder.encode(clip) for clip in clips]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.clips[index]


class Lesson:
    """One way to learn: the same clips, steps and rates for every model.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.clips = HeldClips("train", args.clips)
        self.tests = HeldClips("test", args.test_clips)

    def learn(self, seed: int, order: str, width: int, teacher: Any = None) -> ClassificationTrainer:
        """Train a new model."""
        set_seed(seed)
        config = VideoMambaConfig(
            hidden_size=width,
            num_hidden_layers=self.args.depth,
            state_size=8,
            image_size=SIDE,
            patch_size=8,
            scan_type=order,
            step_initialization="mamba",
            num_labels=len(ACTION_NAMES),
            distillation_size=None if teacher is None else teacher.config.hidden_size,
        )
        with tempfile.TemporaryDirectory() as folder:
            options = TrainingArguments(
                output_dir=folder,
                max_steps=self.args.steps,
                per_device_train_batch_size=self.args.batch,
                per_device_eval_batch_size=50,
                learning_rate=self.args.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=0.05,
                weight_decay=0.05,
                seed=seed,
                save_strategy="no",
                report_to="none",
                remove_unused_columns=False,
                disable_tqdm=True,
                use_cpu=self.args.cpu,
            )
            trainer = ClassificationTrainer(
                model=VideoMambaForVideoClassification(config),
                args=options,
                train_dataset=self.clips,
                eval_dataset=self.tests,
                data_collator=join,
                mixing=Mixing(smoothing=0.1),
                teacher=teacher,
            )
            trainer.train()
        return trainer

    def score(self, seed: int, order: str, width: int = WIDTH) -> float:
        """Return the share of test clips that a new model gets right."""
        return self.learn(seed, order, width).evaluate()["eval_top_1"]

    def score_with_teacher(self, seed: int) -> float:
        """Return the share that a model gets right that has learned the features of a narrower one, too."""
        narrow: Any = self.learn(seed, SURE, TEACHER_WIDTH).model
        return self.learn(seed, SURE, WIDTH, narrow.base_model).evaluate()["eval_top_1"]


class Record:
    """The scores of runs by their names, on disk if there is a folder."""

    def __init__(self, folder: str | None):
        self.path = None if folder is None else Path(folder) / "runs.json"
        self.scores: dict[str, float] = {}
        if self.path is not None and self.path.is_file():
            self.scores = json.loads(self.path.read_text())

    def score(self, name: str, run: Callable[[], float]) -> float:
        """Return the score of a run, which is made unless it is there."""
        if name not in self.scores:
            self.scores[name] = run()
            print(f"{name}: {self.scores[name]:.3f}", flush=True)
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.write_text(json.dumps(self.scores, indent=1) + "\n")
        return self.scores[name]


def compare_orders(lesson: Lesson, record: Record) -> dict[str, list[float]]:
    """Return the scores of each order, seed by seed."""
    scores: dict[str, list[float]] = {order: [] for order in ORDERS}
    for seed in range(lesson.args.seeds):
        for order in ORDERS:
            scores[order].append(record.score(f"{order}, seed {seed}", partial(lesson.score, seed, order)))
    return scores


def compare_teacher(lesson: Lesson, record: Record) -> dict[str, list[float]]:
    """Return the scores with and without a teacher, seed by seed, and those of the teachers."""
    teachers = []
    alone = []
    taught = []
    for seed in range(lesson.args.seeds):
        teachers.append(record.score(f"teacher, seed {seed}", partial(lesson.score, seed, SURE, TEACHER_WIDTH)))
        alone.append(record.score(f"{SURE}, seed {seed}", partial(lesson.score, seed, SURE)))
        taught.append(record.score(f"with teacher, seed {seed}", partial(lesson.score_with_teacher, seed)))
    return {"the narrow teacher": teachers, "without a teacher": alone, "with the teacher": taught}


def rows(scores: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Write scores as rows of a table."""
    written = []
    for name, values in scores.items():
        row: dict[str, Any] = {"model": name, "mean": f"{100 * statistics.mean(values):.1f} %"}
        for seed, value in enumerate(values):
            row[f"seed {seed}"] = f"{100 * value:.1f} %"
        written.append(row)
    return written


def draw(scores: dict[str, list[float]], axis: Any) -> None:
    """Draw the score of each seed."""
    for place, values in enumerate(scores.values()):
        axis.plot([place] * len(values), values, "o")
    axis.axhline(0.5, linestyle="--", color="grey")
    axis.text(-0.4, 0.51, "all frames, order unknown")
    axis.set_xticks(range(len(scores)), list(scores))
    axis.set(ylabel="share of held-out clips that are right", ylim=(0, 1), title="Drawn actions, from new weights")


def main() -> None:
    """Train, evaluate, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one of the comparisons")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--clips", type=int, default=2000, help="to learn from")
    parser.add_argument("--test_clips", type=int, default=300)
    parser.add_argument("--learning_rate", type=float, default=4e-3)
    parser.add_argument("--cpu", action="store_true", help="also where there is a GPU")
    parser.add_argument("--quick", action="store_true", help="one seed, two steps")
    parser.add_argument("--output_dir", help="write runs.json, results.json and a plot here")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.steps, args.batch, args.clips, args.test_clips, args.depth = 1, 2, 4, 8, 8, 1
    print(f"{hardware()}\n")
    lesson = Lesson(args)
    record = Record(args.output_dir)
    results: dict[str, dict[str, list[float]]] = {}
    if args.only != "teacher":
        results["orders"] = compare_orders(lesson, record)
    if args.only != "orders":
        results["teacher"] = compare_teacher(lesson, record)
    for scores in results.values():
        print(f"\n{markdown(rows(scores))}")
    everything: dict[str, list[float]] = {}
    for scores in results.values():
        everything |= scores
    save(args.output_dir, {"arguments": vars(args), **results}, {"scores": partial(draw, everything)})


if __name__ == "__main__":
    main()
