"""Do VideoMambas learn what only motion tells? Tiny models on drawn actions, from new weights.

    python benchmarks/action_learning.py                            # what stands in results/action_learning.md
    python benchmarks/action_learning.py --only orders --seeds 0 1 2 3 4 --steps 2000
    python benchmarks/action_learning.py --quick --output_dir QUICK # a few steps, to see that all is well

Each of the ten actions has an opposite, whose clips are those of the first run backwards. So one frame is worth 10 %,
and all frames in an unknown order are worth 50 %. Among clips whose pair of actions is found, a model that does not
see motion gets the direction right in 50 %.

- motion: clips as they are, and with the frames of each clip shuffled.
- pretraining: few labelled clips, with masked pre-training on unlabelled ones before and without; and all clips in the
  released order, likewise. There are no weights of a CLIP here: the teacher is a tiny CLIP tower that has learned to
  tell colours, place, turn and growth of a disc.
- teacher: a model with the features of a narrower one, which has learned before, and without.
- orders: the seven orders of scanning, alike in all else.
- reach: the orders again, with convolutions so long that each sees a place in four frames, whatever the order; and
  scans over time with convolutions of one tap, which see one frame.
- two: two actions alone, by convolutions of four taps, on clips that are shifted at random around the edges. A shift
  changes no action of this world. A frame, and all frames in unknown order, are worth 50 %.

A run that is in `runs.jsonl` of the output folder is not made again. Several processes, such as one for each seed, can
share the folder. All runs are on the CPU.

Differs: the paper compares scan orders after ImageNet pre-training, on Something-Something V2.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from drawn_teacher import CLIP_SIZE, PATCH, SIDE, as_pixels, train_tower
from filelock import FileLock
from measuring import hardware, markdown, save
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import trange
from transformers import TrainingArguments, set_seed

from hmba_hf.data.micro_world.actions import ACTION_NAMES, MicroActions, MicroActionsConfig
from hmba_hf.models.configuration_videomamba import SCAN_TYPES, VideoMambaConfig
from hmba_hf.models.layers_video_masks import Masking
from hmba_hf.models.modeling_videomamba import VideoMambaForPreTraining, VideoMambaForVideoClassification
from hmba_hf.tasks.classification.mixing import Mixing
from hmba_hf.tasks.classification.trainer import ClassificationTrainer
from hmba_hf.tasks.pretraining.encoding import join
from hmba_hf.tasks.pretraining.trainer import PretrainingTrainer
from hmba_hf.training.clip_teacher import ClipTeacher

PARTS = ("motion", "pretraining", "teacher", "orders", "reach", "two")
TAPS = 4  # of the convolutions, as released
# With them the convolution of a scan frame by frame sees a place in four frames, as one of four taps does over time.
FAR_TAPS = 3 * (SIDE // PATCH) ** 2 + 1
ORDER = "temporal_first"  # of all models but those that compare orders
RELEASED_ORDER = "spatial_first"
TITLE = "drawn world, tiny models"
COLUMNS = {"top_1": "top-1", "pair": "pair of actions", "direction": "direction within a right pair"}
QUICK = {
    "seeds": [0],
    "steps": 2,
    "pretraining_steps": 2,
    "tower_steps": 2,
    "batch": 4,
    "depth": 1,
    "clips": 32,
    "few": 4,
    "test_clips": 8,
    "pictures": 8,
}
# Options that the scores of all runs depend on, and further ones.
OPTIONS = ("steps", "batch", "width", "depth", "clips", "test_clips", "learning_rate")
OF_TOWER = ("tower_steps", "pictures")
OF_PRETRAINING = (*OF_TOWER, "pretraining_steps", "mask_ratio")

Scores = Mapping[str, float]


class HeldClips(Dataset):
    """Clips of a split, drawn once and held as pixels.

    Args:
        clips: `(n, t, 3, h, w)`.
        labels: their classes, `(n,)`.
        are_shuffled: give the frames of a clip in an order that is drawn for each reading.
        are_labelled: give classes; else seeds of masks, which are drawn for each reading.
        are_shifted: shift a clip around the edges, by steps that are drawn for each reading.
    """

    def __init__(
        self,
        clips: Tensor,
        labels: Tensor,
        are_shuffled: bool = False,
        are_labelled: bool = True,
        are_shifted: bool = False,
    ):
        self.clips = clips
        self.labels = labels
        self.are_shuffled = are_shuffled
        self.are_labelled = are_labelled
        self.are_shifted = are_shifted

    @classmethod
    def draw(cls, split: str, count: int) -> "HeldClips":
        """Draw the clips of a split."""
        samples = MicroActions(MicroActionsConfig(frame_size=SIDE), split, count)
        clips = []
        labels = []
        for index in trange(count, desc=f"drawing {split}", leave=False):
            sample: Any = samples[index]
            clips.append(as_pixels(sample.video))
            labels.append(sample.label)
        return cls(torch.stack(clips), torch.tensor(labels))

    def shuffled(self) -> "HeldClips":
        """Return the same clips, their frames in any order."""
        return HeldClips(self.clips, self.labels, are_shuffled=True)

    def first(self, count: int) -> "HeldClips":
        """Return fewer clips."""
        return HeldClips(self.clips[:count], self.labels[:count])

    def of_two(self, are_shifted: bool) -> "HeldClips":
        """Return the clips of the first pair of actions."""
        is_kept = self.labels < 2
        return HeldClips(self.clips[is_kept], self.labels[is_kept], are_shifted=are_shifted)

    def unlabelled(self) -> "HeldClips":
        """Return the same clips for masked pre-training."""
        return HeldClips(self.clips, self.labels, are_labelled=False)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        clip = self.clips[index]
        if self.are_shuffled:
            clip = clip[torch.randperm(len(clip))]
        if self.are_shifted:
            clip = clip.roll(torch.randint(SIDE, (2,)).tolist(), dims=(-2, -1))
        if self.are_labelled:
            return {"pixel_values_videos": clip, "labels": self.labels[index]}
        return {"pixel_values_videos": clip, "mask_seed": torch.randint(2**62, ())}


class Lesson:
    """The runs: the same clips, steps and rates for every model.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.folder = Path(args.output_dir)

    @cached_property
    def clips(self) -> HeldClips:
        """Clips to learn from."""
        return HeldClips.draw("train", self.args.clips)

    @cached_property
    def tests(self) -> HeldClips:
        """Clips to score on."""
        return HeldClips.draw("test", self.args.test_clips)

    def config(self, order: str, width: int, taps: int = TAPS) -> VideoMambaConfig:
        """Return the configuration of a model."""
        return VideoMambaConfig(
            hidden_size=width,
            num_hidden_layers=self.args.depth,
            state_size=8,
            conv_kernel=taps,
            image_size=SIDE,
            patch_size=PATCH,
            scan_type=order,
            step_initialization="mamba",
            alignment_size=CLIP_SIZE,
            align_last_output=True,
            num_labels=len(ACTION_NAMES),
        )

    def options(self, seed: int, steps: int, folder: str) -> TrainingArguments:
        """Return the options of a training."""
        return TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=self.args.batch,
            per_device_eval_batch_size=100,
            learning_rate=self.args.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            weight_decay=0.05,
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            use_cpu=True,
        )

    def learn(self, seed: int, model: Any, clips: HeldClips, tests: HeldClips, teacher: Any = None) -> Scores:
        """Train a classifier, and score it."""
        with tempfile.TemporaryDirectory() as folder:
            trainer = ClassificationTrainer(
                model=model,
                args=self.options(seed, self.args.steps, folder),
                train_dataset=clips,
                data_collator=join,
                mixing=Mixing(smoothing=0.1),
                teacher=teacher,
            )
            trainer.train()
            set_seed(seed)  # for the order of shuffled frames
            told: Any = trainer.predict(tests)
        return score(told.predictions.argmax(axis=-1), told.label_ids)

    def classify(self, seed: int, order: str = ORDER, taps: int = TAPS) -> Scores:
        """Train from new weights."""
        set_seed(seed)
        model = VideoMambaForVideoClassification(self.config(order, self.args.width, taps))
        return self.learn(seed, model, self.clips, self.tests)

    def classify_shuffled(self, seed: int) -> Scores:
        """Train and test on clips whose frames are shuffled."""
        set_seed(seed)
        model = VideoMambaForVideoClassification(self.config(ORDER, self.args.width))
        return self.learn(seed, model, self.clips.shuffled(), self.tests.shuffled())

    def classify_two(self, seed: int, order: str) -> Scores:
        """Train on shifted clips of two actions."""
        set_seed(seed)
        model = VideoMambaForVideoClassification(self.config(order, self.args.width))
        return self.learn(seed, model, self.clips.of_two(are_shifted=True), self.tests.of_two(are_shifted=False))

    def classify_few(self, seed: int) -> Scores:
        """Train from new weights on few clips."""
        set_seed(seed)
        model = VideoMambaForVideoClassification(self.config(ORDER, self.args.width))
        return self.learn(seed, model, self.clips.first(self.args.few), self.tests)

    def classify_pretrained(self, seed: int, order: str, labelled: int) -> Scores:
        """Pre-train on all clips without their labels, then train on the first ones with theirs."""
        config = self.config(order, self.args.width)
        set_seed(seed)
        student = VideoMambaForPreTraining(config)
        with tempfile.TemporaryDirectory() as folder:
            trainer = PretrainingTrainer(
                model=student,
                args=self.options(seed, self.args.pretraining_steps, folder),
                train_dataset=self.clips.unlabelled(),
                data_collator=join,
                teacher=ClipTeacher.from_pretrained(str(self.folder / "clip")),
                masking=Masking("attention", self.args.mask_ratio),
            )
            trainer.train()
        set_seed(seed)
        model = VideoMambaForVideoClassification(config)
        model.base_model.load_state_dict(student.base_model.state_dict())
        return self.learn(seed, model, self.clips.first(labelled), self.tests)

    def classify_narrow(self, seed: int) -> Scores:
        """Train a narrow model, and keep it as a teacher."""
        set_seed(seed)
        model = VideoMambaForVideoClassification(self.config(ORDER, self.args.teacher_width))
        scores = self.learn(seed, model, self.clips, self.tests)
        model.save_pretrained(self.folder / f"narrow-{seed}")
        return scores

    def classify_taught(self, seed: int) -> Scores:
        """Train on the features of a narrow model, too."""
        teacher = VideoMambaForVideoClassification.from_pretrained(self.folder / f"narrow-{seed}")
        config = self.config(ORDER, self.args.width)
        config.distillation_size = teacher.config.hidden_size
        set_seed(seed)
        model = VideoMambaForVideoClassification(config)
        return self.learn(seed, model, self.clips, self.tests, teacher.base_model)

    def train_tower(self) -> Scores:
        """Train the CLIP tower, and keep it; return what it tells about new pictures."""
        return train_tower(self.folder / "clip", self.args.tower_steps, self.args.pictures)


def score(told: np.ndarray, labels: np.ndarray) -> Scores:
    """Return the shares of right actions, of right pairs, and of right actions among right pairs."""
    has_pair = told // 2 == labels // 2  # opposite actions are neighbours
    is_right = told == labels
    return {
        "top_1": float(is_right.mean()),
        "pair": float(has_pair.mean()),
        "direction": float(is_right[has_pair].mean()) if has_pair.any() else math.nan,
    }


class Run(NamedTuple):
    """A model to be trained with one seed, by the name of its row.

    Attributes:
        name: of the row.
        seed: of weights, batches and masks.
        make: trains and scores it.
        options: that its scores depend on.
    """

    name: str
    seed: int
    make: Callable[[], Scores]
    options: Sequence[str] = OPTIONS


def runs_of(part: str, lesson: Lesson, seed: int) -> list[Run]:
    """Return the runs of a part, those that others need first."""
    in_order = Run(ORDER, seed, partial(lesson.classify, seed))
    if part == "motion":
        return [in_order, Run("frames shuffled", seed, partial(lesson.classify_shuffled, seed))]
    if part == "pretraining":
        args = lesson.args
        return [
            Run("CLIP tower", 0, lesson.train_tower, OF_TOWER),
            Run("few labels, from new weights", seed, partial(lesson.classify_few, seed), (*OPTIONS, "few")),
            Run(
                "few labels, pre-trained",
                seed,
                partial(lesson.classify_pretrained, seed, ORDER, args.few),
                (*OPTIONS, *OF_PRETRAINING, "few"),
            ),
            Run(RELEASED_ORDER, seed, partial(lesson.classify, seed, RELEASED_ORDER)),
            Run(
                f"{RELEASED_ORDER}, pre-trained",
                seed,
                partial(lesson.classify_pretrained, seed, RELEASED_ORDER, args.clips),
                (*OPTIONS, *OF_PRETRAINING),
            ),
        ]
    if part == "teacher":
        options = (*OPTIONS, "teacher_width")
        return [
            Run("the narrow teacher", seed, partial(lesson.classify_narrow, seed), options),
            in_order,
            Run("with the teacher", seed, partial(lesson.classify_taught, seed), options),
        ]
    if part == "orders":
        return [Run(order, seed, partial(lesson.classify, seed, order)) for order in SCAN_TYPES]
    if part == "two":
        orders = (RELEASED_ORDER, ORDER)
        return [Run(f"{order}, two actions", seed, partial(lesson.classify_two, seed, order)) for order in orders]
    runs = [Run(f"{ORDER}, 1 tap", seed, partial(lesson.classify, seed, ORDER, 1))]
    for order in SCAN_TYPES:
        runs.append(Run(f"{order}, {FAR_TAPS} taps", seed, partial(lesson.classify, seed, order, FAR_TAPS)))
    return runs


class Record:
    """The scores of runs, a line of JSON for each, in a folder that processes share.

    Args:
        folder: for `runs.jsonl`.
        args: of the command line. Runs of other options are made again.
    """

    def __init__(self, folder: Path, args: argparse.Namespace):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / "runs.jsonl"
        self.args = args

    def name(self, run: Run) -> dict[str, Any]:
        """Return what tells a run from others."""
        recipe = {option: getattr(self.args, option) for option in run.options}
        return {"name": run.name, "seed": run.seed, "recipe": recipe}

    def find(self, run: Run) -> Scores | None:
        """Return the scores of a run that has been made."""
        if not self.path.exists():
            return None
        for line in self.path.read_text().splitlines():
            held = json.loads(line)
            if self.name(run).items() <= held.items():
                return held["scores"]
        return None

    def score(self, run: Run) -> Scores:
        """Return the scores of a run, which is made unless it has been, or is being made by another process."""
        with FileLock(self.folder / f"{run.name}-{run.seed}.lock"):
            if (held := self.find(run)) is not None:
                return held
            start = time.process_time()
            scores = run.make()
            seconds = round(time.process_time() - start, 1)
            line = {**self.name(run), "scores": scores, "cpu_seconds": seconds}
            with FileLock(self.folder / "runs.lock"), self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return scores


def spread(values: Sequence[float]) -> str:
    """Write a mean in percent, and the range."""
    mean = f"{100 * statistics.mean(values):.1f} %"
    if len(values) == 1:
        return mean
    return f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def rows(scores: Mapping[str, Sequence[Scores]]) -> list[dict[str, Any]]:
    """Write the scores of models as rows of a table."""
    written = []
    for name, seeds in scores.items():
        row: dict[str, Any] = {"model": name}
        names = COLUMNS if "top_1" in seeds[0] else {}
        for column, title in names.items():
            row[title] = spread([one[column] for one in seeds])
        row["seeds"] = len(seeds)
        written.append(row)
    return written


def draw(parts: Mapping[str, Mapping[str, Sequence[Scores]]], axis: Any) -> None:
    """Draw the score of each seed, a row for each model."""
    models: dict[str, list[float]] = {}
    for scores in parts.values():
        for name, seeds in scores.items():
            models[name] = [one["top_1"] for one in seeds]
    for place, values in enumerate(models.values()):
        axis.plot(values, [place] * len(values), "o", color="C0", alpha=0.6)
        axis.plot([statistics.mean(values)], [place], "|", color="C1", markersize=20)
    for share, name in ((0.1, "one frame"), (0.5, "all frames, in unknown order")):
        axis.axvline(share, linestyle="--", color="grey")
        axis.text(share + 0.005, -0.9, name, color="grey")
    axis.set_yticks(range(len(models)), list(models))
    axis.set_ylim(len(models) - 0.5, -1.2)
    axis.set(xlabel="held-out clips that are right, by seed; the bar is their mean", xlim=(0, 1), title=TITLE)


def main() -> None:
    """Make the runs that are missing, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="some of the comparisons")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500, help="of a classifier")
    parser.add_argument("--pretraining_steps", type=int, default=500)
    parser.add_argument("--tower_steps", type=int, default=4000, help="of the CLIP tower, on 64 pictures each")
    parser.add_argument("--batch", type=int, default=32, help="clips of a step")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--teacher_width", type=int, default=32)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--clips", type=int, default=2000, help="to learn from")
    parser.add_argument("--few", type=int, default=500, help="labelled clips beside pre-training")
    parser.add_argument("--test_clips", type=int, default=500)
    parser.add_argument("--pictures", type=int, default=8000, help="that the CLIP tower learns from")
    parser.add_argument("--mask_ratio", type=float, default=0.5, help="of the patches that pre-training hides")
    parser.add_argument("--learning_rate", type=float, default=5e-3)
    parser.add_argument("--quick", action="store_true", help="one seed, two steps")
    parser.add_argument("--output_dir", default="runs/actions", help="for runs.jsonl, models, results.json and a plot")
    args = parser.parse_args()
    if args.quick:
        vars(args).update(QUICK)
    print(f"{hardware()}; {torch.get_num_threads()} threads; {TITLE}\n")
    lesson = Lesson(args)
    record = Record(lesson.folder, args)
    runs = [(part, run) for seed in args.seeds for part in args.only for run in runs_of(part, lesson, seed)]
    results: dict[str, dict[str, list[Scores]]] = {part: {} for part in args.only}
    tower: Scores = {}
    for number, (part, run) in enumerate(runs, start=1):
        print(f"run {number} of {len(runs)}: {part}, {run.name}, seed {run.seed}", flush=True)
        scores = record.score(run)
        if run.name == "CLIP tower":
            tower = scores
        else:
            results[part].setdefault(run.name, []).append(scores)
    for part, models in results.items():
        print(f"\n{part}\n\n{markdown(rows(models))}")
    if tower:
        told = ", ".join(f"{name} {share:.2f}" for name, share in tower.items())
        print(f"\nCLIP tower, on new pictures: {told} (right colours, variance explained)")
    everything = {"arguments": vars(args), "tower": tower, **results}
    save(args.output_dir, everything, {"action_learning": partial(draw, results)})


if __name__ == "__main__":
    main()
