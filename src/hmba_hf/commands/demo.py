"""Teach H-MBA motion on the micro-world, then let it answer about videos it has not seen.

    hmba demo [--video clip.mp4] [--steps 250] [--output_dir runs/demo]

The first answer is by a model that comes with the package. Then `hmba finetune` teaches the micro base, a tiny image
model that names road users and prints their boxes but knows nothing of motion, once with H-MBA and once with the
current frame only. The report compares them. A demo that was stopped goes on when it is started again.

H-MBA has one of its three scans here, divided space-time: it learns the micro-world with this one as well as with all,
and faster. `hmba study branches` compares them.

With real weights and data the command is the same, without the options for a tiny model on the CPU. The model's
answers about real roads are worth nothing.
"""

import logging
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import AutoProcessor, TrainerCallback, pipeline
from transformers.utils import logging as transformers_logging

from hmba_hf import decode_frames
from hmba_hf.commands.describe import Description, describe
from hmba_hf.commands.parsing import check_counts, command_parser
from hmba_hf.commands.study import BASE, base_digest
from hmba_hf.data.micro_world.parquet import write_video
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.samples import RISK_QUESTION, Sample
from hmba_hf.data.video_options import VideoOptions
from hmba_hf.evaluation.batches import split_batches
from hmba_hf.families import load_model
from hmba_hf.files import read_json_object, write_json
from hmba_hf.messages import INTERRUPTED, run_command
from hmba_hf.tasks.answering.arguments import parse_arguments
from hmba_hf.tasks.answering.boxes import score_grounding, share_picked
from hmba_hf.tasks.answering.generation import encode_questions, generate_answers
from hmba_hf.tasks.answering.run import finetune
from hmba_hf.visualization import plot_curves, write_report

TUNED = Path(__file__).parents[1] / "micro_tuned"
RUNS = {"H-MBA": "mamba", "current frame only": "none"}
FOLDERS = {"none": "current_frame_only", "mamba": "model"}
DISCLAIMER = (
    "This model is tiny and has only ever seen the micro-world, a drawn world of coloured shapes. Its numbers are the "
    "micro-world's. Its answers about real roads are worth nothing."
)
RECORD = "demo.json"  # beside each model
_AT_ONCE = 100  # clips that are asked about together


def main(words: Sequence[str] | None = None) -> None:
    """Answer at once, fine-tune, evaluate, answer, report."""
    parser = command_parser(VideoOptions, program="hmba demo", description=__doc__)
    parser.add_argument("--video", default=None, help="a video of yours to ask about as well")
    parser.add_argument("--steps", type=int, default=250, help="of fine-tuning, for the adapter and for the baseline")
    parser.add_argument("--clips", type=int, default=200, help="held-out clips to evaluate on")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/demo"), help="for models, clips and the report")
    options, args = parser.parse_args_into_dataclasses(words)
    check_counts(parser, args, "steps", "clips")
    if args.video is not None:
        try:
            decode_frames(args.video, **options.rules)
        except (OSError, ValueError) as error:
            parser.error(f"--video: {error}")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    try:
        with quiet():
            show_all(args, options)
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)


def show_all(args: Any, options: VideoOptions) -> None:
    """Go the whole way; `args` and `options` are those of the command."""
    folder: Path = args.output_dir
    print("H-MBA on the micro-world, a drawn world in which only motion shows the risk\n")
    print("First answer, by a model that was tuned before:")
    videos = write_held_out_clips(folder)
    title, video = next(iter(videos.items()))
    first = describe(open_pipeline(TUNED), str(video), RISK_QUESTION)
    show(title, first, folder / "first_answer.png")

    print(f"\nFine-tuning {BASE.name} twice, {args.steps} steps each. With H-MBA the command is:")
    print(f"$ hmba finetune {shlex.join(finetuning_words(folder, 'mamba', args.steps))}", flush=True)
    scores = compare(folder, args.steps, args.clips)
    for name, score in scores.items():
        print(f"{name:>20}: mIoU {score['mIoU']:.3f}, Acc@0.5 {score['Acc@0.5']:.3f} (micro-world)")

    model = folder / FOLDERS["mamba"]
    print(f"\nAnswers of {model}:")
    pipe = open_pipeline(model)
    pictures = {}
    for title, video in videos.items():
        pictures[title] = show(title, describe(pipe, str(video), RISK_QUESTION), video.with_suffix(".png"))
    if args.video is not None:
        title = f"Your video: {Path(args.video).name}"
        pipe.processor.video_processor.set_source_rules(**options.rules)
        try:
            pictures[title] = show(title, describe(pipe, args.video, RISK_QUESTION), folder / "your_video.png")
        except (OSError, ValueError) as error:
            print(f"{args.video} is left out of the report: {error}")
    report = write_demo_report(folder, scores, pictures)
    print(f"\n{DISCLAIMER}\nreport: {report}")


@contextmanager
def quiet() -> Iterator[None]:
    """Let libraries print errors alone: what matters of a demo stands in its own lines and its one bar."""
    levels = {name: logging.getLogger(name).level for name in ("transformers", "hmba_hf")}
    shows_bars = transformers_logging.is_progress_bar_enabled()
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if shows_bars:
            transformers_logging.enable_progress_bar()


def write_held_out_clips(folder: Path, number: int = 3) -> dict[str, Path]:
    """Write held-out clips as MP4 files, larger than the models were trained on; return them by their titles."""
    world = MicroWorld(MicroWorldConfig(frame_size=256), "test", number)
    videos = {}
    for index in range(number):
        video = folder / f"held_out_{index}.mp4"
        scene = world.scene(index)
        write_video(video, world[index].frames or [], world.config.fps)
        videos[f"Held-out clip {index}: the risk is the {scene.users[scene.risk].name}"] = video
    return videos


def open_pipeline(model: Path) -> Any:
    """Return the pipeline of a model on the CPU."""
    task: Any = "video-text-to-text"  # which transformers learns by importing this package
    return pipeline(task, model=str(model), dtype=torch.float32, device="cpu")


def show(title: str, described: Description, picture: Path) -> Path:
    """Save the picture of an answer and print both."""
    described.page.save(picture)
    print(f"  {title}\n    {described.text}\n    picture: {picture}", flush=True)
    return picture


def finetuning_options(adapter: str, steps: int) -> dict[str, Any]:
    """Return the options of `hmba finetune` for one of the models, but for its places."""
    options: dict[str, Any] = {
        "adapter": adapter,
        "max_steps": steps,
        "max_train_samples": 4000,
        "keep_features": 0.5,
        "per_device_train_batch_size": 32,
        "learning_rate": 7e-4,
        "adapter_learning_rate": 3e-3,
        "warmup_steps": 20,
        "logging_steps": 10,
        "save_steps": 100,
        "seed": 0,
        "use_cpu": True,
    }
    if adapter == "mamba":
        options["branches"] = "divided_space_time"
        options["gate_learning_rate"] = 0.1
    return options


def finetuning_words(folder: Path, adapter: str, steps: int) -> list[str]:
    """Return the words behind `hmba finetune` for one of the models."""
    places = {"model": BASE, "output_dir": folder / FOLDERS[adapter]}
    words = []
    for name, value in {**places, **finetuning_options(adapter, steps)}.items():
        words += [f"--{name}", str(value)]
    return words


def compare(folder: Path, steps: int, clips: int) -> dict[str, dict[str, Any]]:
    """Fine-tune and score both models, as far as that is not done; return their scores."""
    held_out = [*MicroWorld(MicroWorldConfig(), "test", clips)[:]]
    scores = {}
    kept = None
    batches = len(split_batches(clips, _AT_ONCE))
    with tqdm(total=len(RUNS) * (steps + batches), unit="step", dynamic_ncols=True) as bar:
        for name, adapter in RUNS.items():
            bar.set_description(f"{name}, learning")
            kept = learn(folder, adapter, steps, bar, kept)
            bar.set_description(f"{name}, asked about {clips} clips")
            scores[name] = score(folder / FOLDERS[adapter], held_out, bar)
    return scores


def learn(folder: Path, adapter: str, steps: int, bar: Any, kept: Any = None) -> Any:
    """Fine-tune the micro base with an adapter, unless that is done.

    Args:
        folder: of the demo.
        adapter: `"mamba"` or `"none"`.
        steps: of fine-tuning.
        bar: moves with the steps.
        kept: clips and their features, of an earlier call.

    Returns:
        The clips and their features; `kept` where there was nothing to learn.
    """
    recipe = {**finetuning_options(adapter, steps), "base": base_digest()}
    run = folder / FOLDERS[adapter]
    record = run / RECORD
    begun: dict[str, Any] = {}
    if record.exists():
        begun = read_json_object(record, recipe=dict)
    if begun.get("is_done") and begun["recipe"] == recipe:
        bar.update(steps)
        return kept
    if begun and begun["recipe"] != recipe:  # of other options: it is the demo's own folder
        shutil.rmtree(run)
    run.mkdir(parents=True, exist_ok=True)
    write_json(record, {"recipe": recipe, "is_done": False})
    trainer = finetune(
        *parse_arguments("", finetuning_words(folder, adapter, steps)), clips=kept, progress=StepsOnBar(bar)
    )
    for checkpoint in run.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    write_json(record, {"recipe": recipe, "is_done": True})
    return trainer.train_dataset


class StepsOnBar(TrainerCallback):
    """Moves a bar with the steps of a training, and shows its loss."""

    def __init__(self, bar: Any):
        self.bar = bar
        self.seen = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar by the steps of an earlier start."""
        self.on_step_end(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar by a step."""
        self.bar.update(state.global_step - self.seen)
        self.seen = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the loss."""
        if logs and "loss" in logs:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.2f}")


def score(model: Path, held_out: Sequence[Sample], bar: Any) -> dict[str, Any]:
    """Ask a model about held-out clips, unless that is done, and score its answers."""
    kept = model / f"scores-{len(held_out)}.json"
    record = read_json_object(model / RECORD, recipe=dict)
    if kept.exists():
        known = read_json_object(kept, recipe=dict, scores=dict)
        if known["recipe"] == record["recipe"]:
            bar.update(len(split_batches(len(held_out), _AT_ONCE)))
            return known["scores"]
    scores = ask(model, held_out, bar)
    write_json(kept, {"recipe": record["recipe"], "scores": scores})
    return scores


def ask(model: Path, held_out: Sequence[Sample], bar: Any) -> dict[str, Any]:
    """Ask a model about held-out clips, on the CPU in float32, and score its answers."""
    loaded = load_model(model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(model)
    answers: list[str] = []
    for batch in split_batches(len(held_out), _AT_ONCE):
        inputs = encode_questions([held_out[index] for index in batch], processor)
        with torch.no_grad():
            answers += generate_answers(loaded, processor, inputs, {"max_new_tokens": 64})
        bar.update()
    boxes = score_grounding(answers, held_out, processor)
    return {
        "mIoU": boxes.mean_iou,
        "Acc@0.5": boxes.accuracy,
        "right road user": share_picked(answers, held_out, processor),
        "without a box": boxes.unparsed,
        "clips": len(held_out),
    }


def write_demo_report(folder: Path, scores: dict[str, dict[str, Any]], pictures: dict[str, Path]) -> Path:
    """Put scores, loss and answers on one page."""
    rows = [{"model": name, **score} for name, score in scores.items()]
    sections: dict[str, list] = {
        "What this is": [DISCLAIMER, "H-MBA has one of its three scans here, divided space-time."],
        "Held-out clips of the micro-world": [
            rows,
            "In each clip four road users are seen and one of them moves into the way. The current frame is the same "
            "whoever moves: with that frame only, one in four is right by chance.",
        ],
    }
    losses = {}
    for name, adapter in RUNS.items():
        loss = read_json_object(folder / FOLDERS[adapter] / "history.json", loss=list)["loss"]
        losses[name] = [(step, value) for step, value in loss if step > loss[-1][0] / 4]  # where the two part
    try:
        sections["Loss in training"] = [plot_curves(losses, "Loss after the first quarter of the steps")]
    except ImportError as error:
        print(f"the report has no curve of the loss: {error}")
    for title, picture in pictures.items():
        sections[title] = [Image.open(picture)]
    return write_report(folder / "report.html", "H-MBA on the micro-world", sections)


if __name__ == "__main__":
    run_command(main)
