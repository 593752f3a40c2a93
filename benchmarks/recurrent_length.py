"""Does an adapter that carries its state on still find the risk after a thousand frames?

    python benchmarks/recurrent_length.py [--output_dir runs/recurrent]
    python benchmarks/recurrent_length.py --quick      # two steps, a few clips, to see that all is well

Two models are fine-tuned from `examples/micro_base`: on clips of five frames, and on the same clips after up to
`--stream_frames` past frames. Both are then asked about held-out clips at the end of video streams:
the clip alone (5 frames), or the clip after frames of other clips. `window` is the same question in window mode, which
sees the clip alone, however long the video stream is. A model on disk is not trained again. Numbers of the
micro-world do not transfer to real roads.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import hardware, markdown, save
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from hmba_hf import AdapterState
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.tasks.answering.boxes import score_grounding, share_picked
from hmba_hf.tasks.answering.generation import encode_questions

EXAMPLES = Path(__file__).parents[1] / "examples"
PART = 50  # frames of the past that are read at once


def train(folder: Path, stream_frames: int, args: argparse.Namespace) -> Path:
    """Fine-tune the base unless that is done."""
    if not (folder / "model.safetensors").exists():
        words = f"--adapter mamba --max_steps {args.steps} --per_device_train_batch_size {args.batch_size}".split()
        words += "--learning_rate 5e-4 --adapter_learning_rate 2e-3 --gate_learning_rate 0.1 --warmup_steps 20".split()
        words += "--logging_steps 10 --save_strategy no --dataloader_num_workers 1 --use_cpu True".split()
        paths = ["--model", str(EXAMPLES / "micro_base"), "--output_dir", str(folder)]
        command = [sys.executable, str(EXAMPLES / "finetune.py"), *paths, *words]
        subprocess.run([*command, "--stream_frames", str(stream_frames), "--seed", str(args.seed)], check=True)
    return folder


class Streams:
    """Held-out clips at the end of streams, read by one model."""

    def __init__(self, folder: Path, clips: int):
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        side = self.processor.video_processor.size["height"]
        self.world = MicroWorld(MicroWorldConfig(frame_size=side), "test", clips)
        self.samples = [self.world[i] for i in range(clips)]
        self.clips = self.encode(self.samples)  # (clips, 5, p, d)
        others = MicroWorld(MicroWorldConfig(frame_size=side), "validation", min(200, 10 * clips))
        self.past = self.encode([others[i] for i in range(len(others))])

    @torch.no_grad()
    def encode(self, samples: list[Any]) -> Tensor:
        """Run the vision tower on the frames of samples."""
        parts = []
        for i in range(0, len(samples), 50):
            frames = [list(sample.frames) for sample in samples[i : i + 50]]
            pixels = self.processor.video_processor(frames, return_tensors="pt")["pixel_values_videos"]
            parts.append(self.model.get_frame_features(pixels))
        return torch.cat(parts)

    @torch.no_grad()
    def answer(self, length: int | None) -> list[str]:
        """Answer about every clip after `length` frames with its own, or in window mode."""
        generator, answers = np.random.default_rng(0), []
        for i in tqdm(range(0, len(self.samples), 50), desc=f"{length or 'window'}", leave=False):
            state, clip = (None if length is None else AdapterState()), self.clips[i : i + 50]
            left = 0 if length is None else length - clip.shape[1]
            while left > 0:
                scenes = generator.integers(len(self.past), size=(len(clip), PART // clip.shape[1]))
                frames = self.past[torch.from_numpy(scenes)].flatten(1, 2)[:, : min(PART, left)]
                state = self.model.adapt_frame_features(frames, state, read_out=False).adapter_state
                left -= frames.shape[1]
            video = self.model.adapt_frame_features(clip, state)
            inputs = encode_questions(self.samples[i : i + 50], self.processor)
            texts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            features = {"video": {"pooler_output": video.pooler_output}}
            generated = self.model.generate(**texts, mm_encoder_outputs=features, max_new_tokens=64, do_sample=False)
            answers += self.processor.batch_decode(
                generated[:, texts["input_ids"].shape[1] :], skip_special_tokens=True
            )
        return answers

    def score(self, length: int | None) -> dict[str, Any]:
        """Answer, and score the boxes."""
        answers = self.answer(length)
        scores = score_grounding(answers, self.samples, self.processor)
        return {"mean_iou": scores.mean_iou, "picked": share_picked(answers, self.world, self.processor)}


def draw(records: list[dict[str, Any]], axis: Any) -> None:
    """Draw how the share of right objects goes with the length of the stream."""
    for model in dict.fromkeys(record["model"] for record in records):
        mine = [r for r in records if r["model"] == model and r["frames"] != "window"]
        axis.plot([r["frames"] for r in mine], [r["picked"] for r in mine], "o-", label=f"learned on {model}")
    axis.axhline(0.25, color="grey", linestyle=":", label="a guess among four")
    axis.set(xscale="log", ylim=(0, 1), xlabel="frames of the stream", ylabel="right object", title="Recurrent mode")
    axis.legend()


def main() -> None:
    """Train what is missing, answer, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=[5, 20, 100, 1000])
    parser.add_argument("--stream_frames", type=int, default=15)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output_dir", default="runs/recurrent", help="for the models, results.json and a plot")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.batch_size, args.clips, args.lengths = 2, 2, 4, [5, 60]
    folder, records = Path(args.output_dir), []
    for name, stream_frames in (("clips", 0), ("streams", args.stream_frames)):
        streams = Streams(train(folder / name, stream_frames, args), args.clips)
        for length in [None, *args.lengths]:
            records.append({"model": name, "frames": length or "window", **streams.score(length)})
    rows = [{k: f"{v:.3f}" if isinstance(v, float) else v for k, v in record.items()} for record in records]
    print(f"{hardware()}; {args.steps} steps, {args.clips} held-out clips, micro-world\n")
    print(
        markdown(
            [
                {"learned on": r["model"], "frames": r["frames"], "mIoU": r["mean_iou"], "right object": r["picked"]}
                for r in rows
            ]
        )
    )
    save(str(folder), {"arguments": vars(args), "records": records}, {"recurrent": lambda axis: draw(records, axis)})


if __name__ == "__main__":
    main()
