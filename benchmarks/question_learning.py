"""What do questions add to a video model? Tiny MambaVLs on drawn clips, with the choices of the paper and its leaks.

    python benchmarks/question_learning.py                            # what stands in results/mambavl_questions.md
    python benchmarks/question_learning.py --only fusions --seeds 0   # processes may share the folder
    python benchmarks/question_learning.py --quick --output_dir QUICK # a few steps, to see that all is well

A tiny VideoMamba learns the two heads of `micro-questions` without questions, once for each seed. It is frozen then,
and its features of other clips are what every model of the seed learns from and is scored on.

- sources: no questions, generic ones, predicted ones, and those made from the annotation, with the label's words and
  with these hidden; and the questions alone, of clips that are all zeros.
- fusions: Mamba with shared and with separate decays, attention, a perceptron.
- answers: the question-answering objective, and none.
- one_head: a head of all verbs and nouns. Each clip is asked two questions, and the question decides what is right.
- two_discs: two clips, a token each: the mean of its features. The question names the colour of one disc. Models learn
  three times as long, without dropout.
- driving: the sources once more, on `micro-driving`.

A run that is in `runs.jsonl` of the output folder is not made again. All runs are on the CPU.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from action_learning import Record, Run
from drawn_teacher import SIDE, as_pixels
from filelock import FileLock
from measuring import hardware, markdown, save
from question_texts import HIDDEN, NONE, SOURCES, Texts, best_from_question
from torch import Tensor
from tqdm import trange
from transformers import RobertaConfig, get_cosine_schedule_with_warmup, set_seed

from hmba_hf.data.actions.questioned import ANNOTATION, GENERIC, PREDICTED
from hmba_hf.data.loading import load_samples
from hmba_hf.data.micro_world.questions import HEADS, MICRO_DRIVING, MICRO_QUESTIONS
from hmba_hf.models.configuration_mambavl import MambaVLConfig
from hmba_hf.models.configuration_videomamba import VideoMambaConfig
from hmba_hf.models.modeling_mambavl import MambaVLForVideoClassification

PARTS = ("sources", "fusions", "answers", "one_head", "two_discs", "driving")
TITLE = "micro-world, tiny models"
FUSIONS: Mapping[str, Mapping[str, Any]] = {
    "mamba, shared A": {},
    "mamba, separate A": {"share_A": False},
    "transformer": {"fusion": "transformer"},
    "mlp": {"fusion": "mlp"},
}
PLAIN = ("cosine", "shift by clip", "masked: change", "masked: change from none")  # scores that are no shares
QUICK = {
    "seeds": [0],
    "steps": 2,
    "backbone_steps": 2,
    "batch": 4,
    "backbone_clips": 8,
    "clips": 8,
    "test_clips": 50,
}
OF_BACKBONE = ("backbone_steps", "backbone_clips", "test_clips", "width", "bond")
OPTIONS = (*OF_BACKBONE, "steps", "batch", "clips", "learning_rate", "predictor_errors")

Inputs = Mapping[str, Tensor]
Scores = Mapping[str, float]


class Clips(NamedTuple):
    """Drawn clips of a split as a frozen backbone sees them.

    Attributes:
        features: `(n, tokens, d)`.
        labels: classes, `(n, heads)`.
        names: of the classes of each clip by head.
        questions: of each clip by source and head.
    """

    features: Tensor
    labels: Tensor
    names: Sequence[Mapping[str, str]]
    questions: Sequence[Mapping[str, Mapping[str, str]]]


class Lesson:
    """What all runs of one seed share: the backbone, the clips, the way of learning.

    Args:
        args: of the command line.
        seed: of weights and batches.
    """

    def __init__(self, args: argparse.Namespace, seed: int):
        self.args = args
        self.seed = seed
        self.folder = Path(args.output_dir)
        self.backbone = cache(self._backbone)
        self.clips = cache(self._clips)
        self.texts = cache(Texts)
        self._inputs = cache(self._make_inputs)

    def config(self, dataset: str, heads: Mapping[str, Sequence[str]], **options: Any) -> MambaVLConfig:
        """Return the configuration of a model with some heads."""
        width = self.args.width
        vision = VideoMambaConfig(
            hidden_size=width,
            num_hidden_layers=2,
            state_size=8,
            image_size=SIDE,
            patch_size=SIDE // 2,
            num_frames=num_frames(dataset),
            scan_type="temporal_first",
            step_initialization="mamba",
        )
        text = RobertaConfig(
            vocab_size=len(self.texts(dataset).tokenizer),
            hidden_size=width,
            num_attention_heads=2,
            intermediate_size=width,
            num_hidden_layers=1,
            max_position_embeddings=64,
            pad_token_id=self.texts(dataset).tokenizer.pad_token_id,
        )
        # New linear layers keep the size of what comes in: 0.02 is for widths of hundreds.
        return MambaVLConfig(
            vision_config=vision,
            text_config=text,
            heads={head: list(names) for head, names in heads.items()},
            state_size=8,
            fusion_layers=2,
            initializer_range=width**-0.5,
            **options,
        )

    def _backbone(self, dataset: str) -> tuple[Any, Scores]:
        """Train a backbone without questions, unless it has been; return its video model and its scores."""
        folder = self.folder / f"backbone-{dataset}-{self.seed}"
        with FileLock(f"{folder}.lock"):
            if not (folder / "model.safetensors").exists():
                self._train_backbone(dataset).save_pretrained(folder)
        model = MambaVLForVideoClassification.from_pretrained(folder).eval()
        pixels, samples = self._draw(dataset, "test", self.args.test_clips, self.args.bond)
        labels = torch.tensor([list(sample.labels.values()) for sample in samples])
        with torch.inference_mode():
            logits = model(pixel_values_videos=pixels).head_logits
        return model.mambavl.vision_model, share_right(logits, labels)

    def _train_backbone(self, dataset: str) -> Any:
        pixels, samples = self._draw(dataset, "train", self.args.backbone_clips, self.args.bond)
        labels = torch.tensor([list(sample.labels.values()) for sample in samples])
        set_seed(self.seed)
        # By the mean of its tokens, so that no fusion is the one that it learned beside.
        model = MambaVLForVideoClassification(self.config(dataset, HEADS[dataset], fusion="mlp", fusion_dropout=0.0))
        steps = self.args.backbone_steps
        if dataset == MICRO_DRIVING:
            steps = max(1, steps // 8)  # whole steps make all of it right
        self.learn(model, {"pixel_values_videos": pixels, "labels": labels}, steps, 32, 5e-3)
        return model

    def _draw(self, dataset: str, split: str, count: int, bond: float) -> tuple[Tensor, list[Any]]:
        """Draw clips of a split as pixels, `(n, t, 3, h, w)`, and as samples."""
        options: dict[str, Any] = {"predictor_errors": self.args.predictor_errors}
        if dataset == MICRO_QUESTIONS:
            options["bond"] = bond
        world = load_samples(dataset, split, count, frame_size=SIDE, num_frames=num_frames(dataset), **options)
        samples = []
        pixels = []
        for number in trange(count, desc=f"drawing {split}", leave=False):
            sample = world[number]
            pixels.append(as_pixels(sample.video))
            samples.append(sample)
        return torch.stack(pixels), samples

    def _clips(self, dataset: str, split: str, bond: float) -> Clips:
        """Draw clips that the backbone has not learned from, and let it see them."""
        count = self.args.test_clips if split == "test" else self.args.clips
        pixels, samples = self._draw(dataset, split, count, bond)
        backbone, _ = self.backbone(dataset)
        with torch.inference_mode():
            features = torch.cat([backbone(some).last_hidden_state for some in pixels.split(100)])
        questions = []
        for sample in samples:
            questions.append({source: sample.questions_from(source) for source in (PREDICTED, ANNOTATION)})
        return Clips(
            features.clone(),
            torch.tensor([list(sample.labels.values()) for sample in samples]),
            [sample.label_names for sample in samples],
            questions,
        )

    def inputs(self, dataset: str, split: str, source: str, bond: float | None = None) -> dict[str, Tensor]:
        """Return clips, their classes, their questions of a source and the right answers as a model takes them."""
        return dict(self._inputs(dataset, split, source, self.args.bond if bond is None else bond))

    def _make_inputs(self, dataset: str, split: str, source: str, bond: float) -> dict[str, Tensor]:
        clips = self.clips(dataset, split, bond)
        texts = self.texts(dataset)
        inputs = {"video_features": clips.features, "labels": clips.labels, **texts.answers(clips.names)}
        if source == GENERIC:
            inputs |= texts.ask([texts.generic] * len(clips.names))
        elif source != NONE:
            asked = [questions[PREDICTED if source == PREDICTED else ANNOTATION] for questions in clips.questions]
            inputs |= texts.ask(asked, hidden=clips.names if source == HIDDEN else None)
        return inputs

    def learn(self, model: Any, inputs: Inputs, steps: int, batch: int, rate: float) -> None:
        """Train a model with AdamW, its rate going up for a tenth of the steps and down to zero."""
        set_seed(self.seed)
        optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
        schedule = get_cosine_schedule_with_warmup(optimizer, max(1, steps // 10), steps)
        model.train()
        for _ in trange(steps, desc="training", leave=False):
            chosen = torch.randint(len(inputs["labels"]), (batch,))
            model(**{name: values[chosen] for name, values in inputs.items()}).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        model.eval()

    def fitted(
        self, dataset: str, heads: Mapping[str, Sequence[str]], inputs: Inputs, effort: int = 1, **options: Any
    ) -> Any:
        """Return a model that has learned from features, for so many times the steps, each with as many more clips."""
        set_seed(self.seed)
        model = MambaVLForVideoClassification(self.config(dataset, heads, **options))
        if not model.config.answer_loss_weight:
            inputs = {name: values for name, values in inputs.items() if not name.startswith("answer")}
        steps = effort * self.args.steps
        self.learn(model, inputs, steps, effort * self.args.batch, self.args.learning_rate / effort)
        return model


def num_frames(dataset: str) -> int:
    """Return the frames of a clip: as many as its world draws unless asked."""
    return 5 if dataset == MICRO_DRIVING else 8


@torch.inference_mode()
def told(model: Any, inputs: Inputs) -> Any:
    """Return the outputs for clips; answers are not shown."""
    return model(
        **{name: inputs[name] for name in ("video_features", "input_ids", "attention_mask") if name in inputs}
    )


def share_right(logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
    """Return the share of right classes of each head, and of clips on which all heads are right."""
    is_right = torch.stack([of_head.argmax(dim=-1) for of_head in logits.values()], dim=1) == labels
    scores = {head: float(is_right[:, number].float().mean()) for number, head in enumerate(logits)}
    scores["both"] = float(is_right.all(dim=1).float().mean())
    return scores


def score_source(lesson: Lesson, dataset: str, source: str, sees: bool = True, **options: Any) -> Scores:
    """Train with questions of a source; test with the same, and with generic ones."""
    train = lesson.inputs(dataset, "validation", source)
    tests = {"": lesson.inputs(dataset, "test", source)}
    if source not in (NONE, GENERIC) and sees:
        tests["generic: "] = lesson.inputs(dataset, "test", GENERIC)
    if not sees:
        for inputs in (train, tests[""]):
            inputs["video_features"] = torch.zeros_like(inputs["video_features"])
    model = lesson.fitted(dataset, HEADS[dataset], train, **options)
    scores = {}
    for prefix, inputs in tests.items():
        for head, share in share_right(told(model, inputs).head_logits, inputs["labels"]).items():
            scores[prefix + head] = share
    return scores


def score_backbone(lesson: Lesson, dataset: str) -> Scores:
    """Train the backbone, and score what it was trained with."""
    return lesson.backbone(dataset)[1]


def one_head_inputs(lesson: Lesson, split: str) -> dict[str, Tensor]:
    """Return all clips asked for the verb, then all asked for the noun, with classes of one head."""
    inputs = lesson.inputs(MICRO_QUESTIONS, split, GENERIC)
    verbs, nouns = inputs["labels"].unbind(dim=1)
    return {
        "video_features": inputs["video_features"].repeat(2, 1, 1),
        "input_ids": inputs["input_ids"].transpose(0, 1).flatten(0, 1)[:, None],
        "attention_mask": inputs["attention_mask"].transpose(0, 1).flatten(0, 1)[:, None],
        "labels": torch.cat([verbs, nouns + len(HEADS[MICRO_QUESTIONS]["verb"])]),
    }


def score_one_head(lesson: Lesson, asks: bool = True, **options: Any) -> Scores:
    """Train a head of all verbs and nouns, and compare what two questions about one clip change."""
    names = [name for classes in HEADS[MICRO_QUESTIONS].values() for name in classes]
    train = one_head_inputs(lesson, "validation")
    inputs = one_head_inputs(lesson, "test")
    if not asks:
        train = {name: train[name] for name in ("video_features", "labels")}
    model = lesson.fitted(MICRO_QUESTIONS, {"answer": names}, train, **options)
    masked = told(model, {**inputs, "attention_mask": torch.zeros_like(inputs["attention_mask"])})
    silent = told(model, {"video_features": inputs["video_features"]})
    asked = told(model, inputs) if asks else silent
    scores = right_by_question(asked, inputs["labels"], "")
    if not asks:
        return scores
    scores |= right_by_question(masked, inputs["labels"], "masked: ")
    about_verb, about_noun = asked.head_features[:, 0].chunk(2)
    scores["cosine"] = float(torch.cosine_similarity(about_verb, about_noun, dim=-1).mean())
    first, second = masked.logits.chunk(2)
    scores["masked: change"] = float((first - second).abs().max())
    scores["masked: change from none"] = float((masked.logits - silent.logits).abs().max())
    verb_logits, noun_logits = asked.logits.chunk(2)
    shift = verb_logits - noun_logits
    # 0 where a question shifts all clips alike, near 1 where the shift depends on the clip alone.
    scores["shift by clip"] = float((shift - shift.mean(dim=0)).norm() / shift.norm())
    return scores


def right_by_question(outputs: Any, labels: Tensor, prefix: str) -> dict[str, float]:
    """Return the share of right answers to the first question of all clips, and to the second."""
    is_right = (outputs.logits.argmax(dim=-1) == labels).float().chunk(2)
    return {f"{prefix}verb": float(is_right[0].mean()), f"{prefix}noun": float(is_right[1].mean())}


def two_disc_inputs(lesson: Lesson, split: str) -> dict[str, Tensor]:
    """Return pairs of clips whose verbs and nouns both differ, a token for each clip, and ask for the verb of one.

    Verbs and nouns are drawn apart from each other, so a question alone tells nothing about its answer. `other` is the
    verb of the disc that is not asked for.
    """
    inputs = lesson.inputs(MICRO_QUESTIONS, split, GENERIC, bond=0.0)
    texts = lesson.texts(MICRO_QUESTIONS)
    features = inputs["video_features"].mean(dim=1)
    labels = inputs["labels"]
    generator = torch.Generator().manual_seed(lesson.seed)
    first = torch.randint(len(labels), (4 * len(labels),), generator=generator)
    second = torch.randint(len(labels), (4 * len(labels),), generator=generator)
    differs = (labels[first] != labels[second]).all(dim=1)
    pairs = torch.stack([first[differs], second[differs]], dim=1)[: 2 * len(labels)]
    asked = torch.randint(2, (len(pairs), 1), generator=generator)
    wanted = pairs.gather(1, asked)[:, 0]
    nouns = HEADS[MICRO_QUESTIONS]["noun"]
    questions = [{"verb": f"What does the {nouns[int(noun)]} do?"} for noun in labels[wanted, 1]]
    return {
        "video_features": features[pairs],
        "labels": labels[wanted, 0],
        "other": labels[pairs.gather(1, 1 - asked)[:, 0], 0],
        **texts.ask(questions),
    }


def score_two_discs(lesson: Lesson, **options: Any) -> Scores:
    """Train on two discs, of which the question names one."""
    heads = {"verb": HEADS[MICRO_QUESTIONS]["verb"]}
    train = two_disc_inputs(lesson, "validation")
    train.pop("other")
    model = lesson.fitted(MICRO_QUESTIONS, heads, train, effort=3, fusion_dropout=0.0, **options)
    inputs = two_disc_inputs(lesson, "test")
    chosen = told(model, inputs).logits.argmax(dim=-1)
    is_right = chosen == inputs["labels"]
    is_other = chosen == inputs["other"]
    return {
        "right": float(is_right.float().mean()),
        "of either": float((is_right | is_other).float().mean()),
        "right of either": float(is_right.sum() / (is_right | is_other).sum().clamp(min=1)),
    }


def runs_of(part: str, lesson: Lesson) -> dict[str, Run]:
    """Return the runs of a part by the names of their rows; parts share runs."""

    def run(make: Callable[..., Scores], *args: Any, **options: Any) -> Run:
        words = [make.__name__, *map(str, args), *(f"{name}={value}" for name, value in options.items())]
        return Run(" ".join(words), lesson.seed, partial(make, lesson, *args, **options), OPTIONS)

    runs: dict[str, Run] = {}
    if part in ("sources", "driving"):
        dataset = MICRO_DRIVING if part == "driving" else MICRO_QUESTIONS
        runs["the backbone"] = run(score_backbone, dataset)
        for source in SOURCES:
            runs[source] = run(score_source, dataset, source)
        for source in SOURCES[2:]:
            runs[f"{source}, no clip"] = run(score_source, dataset, source, sees=False)
    elif part == "answers":
        for source in (GENERIC, PREDICTED):
            runs[f"{source}, without"] = run(score_source, MICRO_QUESTIONS, source)
            runs[f"{source}, with"] = run(score_source, MICRO_QUESTIONS, source, answer_loss_weight=1.0)
    elif part == "fusions":
        for source in (GENERIC, PREDICTED):
            for name, options in FUSIONS.items():
                runs[f"{source}, {name}"] = run(score_source, MICRO_QUESTIONS, source, **options)
    elif part == "one_head":
        runs["no question"] = run(score_one_head, asks=False)
        for name, options in FUSIONS.items():
            runs[name] = run(score_one_head, **options)
    else:
        for name, options in FUSIONS.items():
            if "share_A" not in options:
                runs[name] = run(score_two_discs, **options)
    return runs


def spread(column: str, values: Sequence[float]) -> str:
    """Write a mean and a standard deviation over seeds, of shares in percent."""
    mean = statistics.mean(values)
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    if column in PLAIN:
        return f"{mean:.2g} ± {deviation:.1g}" if mean else "0"
    return f"{100 * mean:.1f} ± {100 * deviation:.1f}"


def reference(part: str, name: str) -> str:
    """Return the row that a row is compared with, seed by seed, since seeds differ by their backbones."""
    if part in ("sources", "driving"):
        return NONE
    source = name.split(", ")[0]
    return {"answers": f"{source}, without", "fusions": f"{source}, mamba, shared A"}.get(part, "mamba, shared A")


def rows(part: str, scores: Mapping[str, Sequence[Scores]]) -> list[dict[str, Any]]:
    """Write the scores of a part as rows of a table."""
    columns = dict.fromkeys(column for seeds in scores.values() for column in seeds[0])
    first = next(iter(columns))
    written = []
    for name, seeds in scores.items():
        row = {"model": name}
        for column in columns:
            row[column] = spread(column, [one[column] for one in seeds]) if column in seeds[0] else ""
        others = scores[reference(part, name)]
        differences = [one[first] - other[first] for one, other in zip(seeds, others, strict=True)]
        row[f"{first}, difference"] = spread(first, differences)
        row["seeds"] = str(len(seeds))
        written.append(row)
    return written


def draw(parts: Mapping[str, Mapping[str, Sequence[Scores]]], axis: Any) -> None:
    """Draw the share of right verbs of each seed, or of right actions, a row for each model."""
    names: list[str] = []
    for part, models in parts.items():
        for name, seeds in models.items():
            for color, columns in (("C0", ("verb", "right", "action")), ("C1", ("generic: verb", "generic: action"))):
                values = [one[column] for one in seeds for column in columns if column in one]
                axis.plot(values, [len(names)] * len(values), "o", color=color, alpha=0.6)
            names.append(f"{part}: {name}")
    axis.set_yticks(range(len(names)), names, fontsize=6)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set(
        xlabel="held-out clips that are right, by seed; orange: asked generic questions", xlim=(0, 1), title=TITLE
    )


def main() -> None:
    """Make the runs that are missing, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="some of the comparisons")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500, help="of every model on the frozen features")
    parser.add_argument("--batch", type=int, default=32, help="clips of a step")
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--backbone_steps", type=int, default=1000)
    parser.add_argument("--backbone_clips", type=int, default=4000, help="that the backbone learns from")
    parser.add_argument("--clips", type=int, default=3000, help="that all else learns from")
    parser.add_argument("--test_clips", type=int, default=1000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--bond", type=float, default=0.5, help="share of clips whose colour is that of their verb")
    parser.add_argument("--predictor_errors", type=float, default=0.3, help="of predicted questions")
    parser.add_argument("--quick", action="store_true", help="one seed, two steps")
    parser.add_argument("--output_dir", default="runs/questions", help="for runs.jsonl, results.json and a plot")
    args = parser.parse_args()
    if args.quick:
        vars(args).update(QUICK)
    print(f"{hardware()}; {torch.get_num_threads()} threads; {TITLE}\n")
    record = Record(Path(args.output_dir), args)
    runs = []
    for seed in args.seeds:
        lesson = Lesson(args, seed)
        runs += [(part, name, run) for part in args.only for name, run in runs_of(part, lesson).items()]
    results: dict[str, dict[str, list[Scores]]] = {part: {} for part in args.only}
    for number, (part, name, run) in enumerate(runs, start=1):
        print(f"run {number} of {len(runs)}: {part}, {name}, seed {run.seed}", flush=True)
        results[part].setdefault(name, []).append(record.score(run))
    for part, models in results.items():
        print(f"\n{part}\n\n{markdown(rows(part, models))}")
    alone = {}
    for source in SOURCES[2:]:
        alone[source] = best_from_question(source, args.bond, args.predictor_errors)
    print(f"\nBest from a question alone, by construction: {alone}")
    everything = {"arguments": vars(args), "best from a question alone": alone, **results}
    save(args.output_dir, everything, {"mambavl_questions": partial(draw, results)})


if __name__ == "__main__":
    main()
