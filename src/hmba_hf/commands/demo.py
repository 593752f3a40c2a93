"""`make demo`: teach H-MBA motion on the micro-world, then let it answer about videos it has not seen.

It starts from the micro base, a tiny image model that names road users and prints their boxes but knows
nothing of motion. It prints the commands that it runs. With real weights and data they are the same, without the
options that keep a tiny model on the CPU.

    hmba demo [--video clip.mp4] [--steps 300] [--output_dir runs/demo]

The model's answers about real roads are worth nothing.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoModel

from hmba_hf import decode_frames
from hmba_hf.commands.parsing import command_parser
from hmba_hf.commands.study import learn_and_score, run
from hmba_hf.data.micro_world.parquet import write_video
from hmba_hf.data.micro_world.world import RISK_QUESTION, MicroWorld, MicroWorldConfig
from hmba_hf.data.video_options import VideoOptions
from hmba_hf.visualization import write_report

DISCLAIMER = (
    "This model is tiny and has only ever seen the micro-world, a drawn world of coloured shapes. Its numbers are the "
    "micro-world's. Its answers about real roads are worth nothing."
)


def main(words: Sequence[str] | None = None) -> None:
    """Fine-tune, evaluate, answer, report."""
    parser = command_parser(VideoOptions, program="hmba demo", description=__doc__)
    parser.add_argument("--video", default=None, help="a video of yours to ask about as well")
    parser.add_argument("--steps", type=int, default=300, help="of fine-tuning, for the adapter and for the baseline")
    parser.add_argument("--clips", type=int, default=200, help="held-out clips to evaluate on")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/demo"))
    options, args = parser.parse_args_into_dataclasses(words)
    if args.video is not None:
        try:
            decode_frames(args.video, **options.rules)
        except (OSError, ValueError) as error:
            parser.error(f"--video: {error}")
    args.output_dir.mkdir(parents=True, exist_ok=True)

    scores = {}
    for name, adapter in (("current frame only", "none"), ("H-MBA", "mamba")):
        model = args.output_dir / f"{adapter}-{args.steps}"
        scores[name] = learn_and_score(model, {"adapter": adapter}, seed=0, steps=args.steps, clips=args.clips)
    loaded = AutoModel.from_pretrained(model)
    print(f"\n{model} loads as {type(loaded).__name__} with {loaded.num_parameters():,} parameters")
    pictures = describe_held_out_clips(model, args.output_dir)
    if args.video is not None:
        try:
            picture = describe(model, args.video, args.output_dir / "your_video.png", **options.stated())
            pictures[f"Your video: {Path(args.video).name}"] = picture
        except subprocess.CalledProcessError as error:
            print(f"{args.video} is left out of the report: {error}")
    report = write_demo_report(args.output_dir / "report.html", model / "loss.png", scores, pictures)
    for name, score in scores.items():
        print(f"{name:>20}: mIoU {score['mean_iou']:.3f}, Acc@0.5 {score['accuracy']:.3f} (micro-world)")
    print(f"{DISCLAIMER}\nreport: {report}")


def describe_held_out_clips(model: Path, folder: Path, number: int = 3) -> dict[str, Path]:
    """Write held-out clips as MP4 files, larger than the model was trained on, and ask it about each."""
    world = MicroWorld(MicroWorldConfig(frame_size=256), "test", number)
    pictures = {}
    for index in range(number):
        video = folder / f"held_out_{index}.mp4"
        scene = world.scene(index)
        write_video(video, world[index].frames or [], world.config.fps)
        title = f"Held-out clip {index}: the risk is the {scene.users[scene.risk].name}"
        pictures[title] = describe(model, str(video), video.with_suffix(".png"))
    return pictures


def describe(model: Path, video: str, picture: Path, **options: Any) -> Path:
    """Ask about the end of a video; return the picture of the answer."""
    run("describe", model=model, video=video, question=RISK_QUESTION, output=picture, **options)
    return picture


def write_demo_report(path: Path, loss: Path, scores: dict[str, dict], pictures: dict[str, Path]) -> Path:
    """Put scores, loss and answers on one page."""
    columns = ("mean_iou", "accuracy", "picked", "unparsed", "count")
    rows = []
    for name, score in scores.items():
        rows.append({"model": name, **{column: score[column] for column in columns}})
    sections: dict[str, list] = {
        "What this is": [DISCLAIMER],
        "Grounding on held-out clips of the micro-world": [rows],
    }
    for title, picture in {"Training loss of H-MBA": loss, **pictures}.items():
        sections[title] = [Image.open(picture)]
    return write_report(path, "H-MBA on the micro-world", sections)


if __name__ == "__main__":
    main()
