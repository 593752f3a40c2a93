"""Let a fine-tuned H-MBA answer about held-out clips and score its boxes.

    python examples/evaluate.py --model hmba-drama --dataset_name org/drama --split test --output_dir hmba-drama/test

Writes `predictions.jsonl` and `metrics.json`, and prints a table: the mean IoU with its 95 % interval, and for the
micro-world the share of clips in which the right road user is picked. Samples without boxes are answered, not scored.
The micro-world's numbers say nothing about real roads.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import AutoModelForImageTextToText, AutoProcessor

import hmba_hf  # noqa: F401 - registers the model
from hmba_hf.data.loading import load_samples
from hmba_hf.data.micro_world import MOTIONS, MicroWorld
from hmba_hf.evaluation import score_grounding, share_picked, stream_answers


def main() -> None:
    """Answer, score, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id")
    parser.add_argument("--dataset_name", default="micro-world", help="folder, Hub id or micro-world")
    parser.add_argument("--split", default="test")
    parser.add_argument("--max_samples", type=int, default=None, help="only this many from the start")
    parser.add_argument("--motion", default="symmetric", choices=MOTIONS, help="of the micro-world")
    parser.add_argument("--world_seed", type=int, default=0, help="of the micro-world")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--dtype", default="auto", help="of the weights, such as bfloat16")
    parser.add_argument("--device_map", default="auto", help="where the model runs, such as cpu or auto")
    parser.add_argument("--output_dir", type=Path, default=Path("evaluation"))
    args = parser.parse_args()

    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=args.dtype, device_map=args.device_map)
    processor = AutoProcessor.from_pretrained(args.model)
    samples = load_samples(
        args.dataset_name,
        args.split,
        args.max_samples,
        seed=args.world_seed,
        motion=args.motion,
        frame_size=processor.video_processor.size["height"],
        num_frames=model.config.num_frames,
    )

    args.output_dir.mkdir(parents=True, exist_ok=True)
    answers, answered = [], []
    options = {"batch_size": args.batch_size, "max_new_tokens": args.max_new_tokens}
    with open(args.output_dir / "predictions.jsonl", "w") as file:
        for sample, answer in stream_answers(model, processor, samples, **options):
            record = {"id": sample.id, "answer": answer, "reference": sample.answer, "boxes": sample.boxes}
            file.write(json.dumps(record) + "\n")
            answers.append(answer)
            answered.append(replace(sample, frames=None, video=b""))  # its pictures have been seen
    scores: dict[str, Any] | None = None
    if any(sample.boxes for sample in answered):
        scores = asdict(score_grounding(answers, answered, processor))
        if isinstance(samples, MicroWorld):
            scores["picked"] = share_picked(answers, samples, processor)
    metrics = {"arguments": {name: str(value) for name, value in vars(args).items()}, "scores": scores}
    (args.output_dir / "metrics.json").write_text(json.dumps(metrics, indent=1))
    if scores is None:
        print(f"No sample has a box to score; the answers are in {args.output_dir / 'predictions.jsonl'}.")
    for name, value in (scores or {}).items():
        print(f"{name:>17}  {write_score(value)}")


def write_score(value: Any) -> str:
    """Write a number or the numbers of an interval, with three decimals where it has any."""
    if isinstance(value, tuple):
        return " to ".join(map(write_score, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
