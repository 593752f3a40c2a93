"""What does it cost to fuse a clip with questions: by Mamba, by attention, by a perceptron?

    python benchmarks/question_fusion.py [--tokens 196 392 784 1568 3136] [--output_dir runs/fusion]
    python benchmarks/question_fusion.py --count            # only parameters and operations, which take no time
    python benchmarks/question_fusion.py --quick            # tiny sizes, to see that all is well

Forward and backward of a fusion alone, for a clip of so many tokens and two questions of 40, in turns. A ratio is the
median over the turns; wanted of Mamba at 1,568 tokens: at least 2 times faster than attention. `--memory` measures
each peak in a process of its own. Counts are of whole models at 16 frames of 224 pixels, on the meta device; those of
RoBERTa's word embeddings, 39.0 M, are left out. The paper has 413 G and 157 M for Mamba, and 413.5 G and 242 M for
attention.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measuring import MIB, extra_memory, hardware, in_turns, keep_memory, markdown, milliseconds, ratio, save
from transformers import RobertaConfig

from hmba_hf import MambaVLConfig, MambaVLForVideoClassification
from hmba_hf.flops import count_flops
from hmba_hf.models.configuration_mambavl import FUSIONS, MambaVLMotionformerConfig, MambaVLVisionConfig
from hmba_hf.models.modeling_mambavl import build_fusion

AVION = "AVION's CLIP ViT-B/16"
VIDEO_MODELS: dict[str, Any] = {AVION: MambaVLVisionConfig, "ORViT-Motionformer": MambaVLMotionformerConfig}
QUESTIONS = 2
WORDS = 40
FRAMES = 16
SIDE = 224


def fusion_of(name: str, width: int) -> Any:
    """Build a fusion as a model has it."""
    torch.manual_seed(0)
    config = MambaVLConfig(hidden_size=width, fusion=name)
    fusion = build_fusion(config)
    for parameter in fusion.parameters():
        if parameter.ndim > 1:
            torch.nn.init.trunc_normal_(parameter, std=0.02)
    return fusion.train()


def call_of(name: str, width: int, tokens: int) -> Callable[[], None]:
    """Return a forward and backward pass of a fusion over so many tokens of a clip."""
    fusion = fusion_of(name, width)
    draw = torch.Generator().manual_seed(0)
    video = torch.randn(1, tokens, width, generator=draw, requires_grad=True)
    text = torch.randn(1, QUESTIONS, WORDS, width, generator=draw, requires_grad=True)
    mask = torch.ones(1, QUESTIONS, WORDS, dtype=torch.bool)

    def run() -> None:
        _, features = fusion(video, text, mask)
        features.square().sum().backward()
        fusion.zero_grad()

    return run


def measured_alone(name: str, width: int, tokens: int) -> float:
    """Return the peak memory of one call in a process of its own, in bytes."""
    command = [sys.executable, __file__, "--alone", name, str(width), str(tokens)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time all fusions in turns, at each length of a clip."""
    records = []
    for tokens in args.tokens:
        times = in_turns({name: call_of(name, args.width, tokens) for name in FUSIONS}, args.repeats)
        for name, taken in times.items():
            memory = measured_alone(name, args.width, tokens) if args.memory else None
            found = {"fusion": name, "tokens": tokens, "times": taken, "ratio": ratio(taken, times["mamba"])}
            records.append({**found, "memory": memory})
            print(row_of(records[-1]), flush=True)  # a run that is ended early leaves what it has measured
    return records


def row_of(record: dict[str, Any]) -> dict[str, Any]:
    """Write a record as a row."""
    memory = record["memory"]
    return {
        "tokens": record["tokens"],
        "fusion": record["fusion"],
        "forward, backward": milliseconds(record["times"]),
        "x Mamba": f"{record['ratio']:.2f}",
        "extra memory": "" if memory is None else f"{memory / MIB:.0f} MiB",
    }


def counts(video: str, name: str, quick: bool) -> dict[str, Any]:
    """Count parameters and operations of a whole model, by its video model and its fusion."""
    sizes: dict[str, Any] = {"num_hidden_layers": 1, "object_layers": ()} if quick else {}
    if video == AVION:
        sizes.pop("object_layers", None)
    config = MambaVLConfig(
        vision_config=VIDEO_MODELS[video](num_frames=FRAMES, image_size=SIDE, patch_size=16, **sizes),
        text_config=RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
        fusion=name,
    )
    with torch.device("meta"):
        model = MambaVLForVideoClassification(config)
        clips = torch.empty(1, FRAMES, 3, SIDE, SIDE)
        questions = torch.ones(1, QUESTIONS, WORDS, dtype=torch.long)
    whole = count_flops(model, clips, questions)
    of_video = count_flops(model.mambavl.vision_model, clips)
    parts = model.mambavl
    modules = {
        "video model": parts.vision_model,
        "text projection": parts.text_projection,
        "fusion itself": parts.fusion,
        "heads": model.classifiers,
    }
    numbers = {part: sum(parameter.numel() for parameter in module.parameters()) for part, module in modules.items()}
    return {
        "video model and fusion": f"{video}, {name}",
        **{part: f"{number / 1e6:.1f} M" for part, number in numbers.items()},
        "sum": f"{sum(numbers.values()) / 1e6:.1f} M",
        "multiply-adds": f"{whole / 2e9:.1f} G",
        "of them after the video model": f"{(whole - of_video) / 2e9:.1f} G",
    }


def draw(records: list[dict[str, Any]], axis: Any) -> None:
    """Draw the time of a fusion by the tokens of a clip."""
    for name in FUSIONS:
        mine = [record for record in records if record["fusion"] == name]
        medians = [sorted(record["times"])[len(record["times"]) // 2] for record in mine]
        axis.plot([record["tokens"] for record in mine], medians, "o-", label=name)
    axis.set(xscale="log", yscale="log", xlabel="tokens of a clip", ylabel="seconds, forward and backward")
    axis.legend()


def main() -> None:
    """Count, time, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", nargs="+", type=int, default=[98, 196, 392, 784, 1568, 3136], help="of a clip")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--memory", action="store_true", help="also peak memory, each in a process of its own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--count", action="store_true", help="only count")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--output_dir", help="write results.json and a plot here")
    parser.add_argument("--alone", nargs=3, metavar=("FUSION", "WIDTH", "TOKENS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        name, width, tokens = args.alone
        print(extra_memory(call_of(name, int(width), int(tokens))))
        return
    keep_memory()
    torch.set_num_threads(args.threads)
    if args.quick:
        args.width, args.tokens, args.repeats = 16, [4], 1
    counted = [counts(video, name, args.quick) for video in VIDEO_MODELS for name in FUSIONS]
    print(f"{hardware()}; {args.threads} threads; width {args.width}, {QUESTIONS} questions of {WORDS} tokens\n")
    print(markdown(counted))
    if args.count:
        return
    records = compare(args)
    print()
    print(markdown([row_of(record) for record in records]))
    results = {"hardware": hardware(), "arguments": vars(args), "counts": counted, "records": records}
    save(args.output_dir, results, {"fusion": partial(draw, records)})


if __name__ == "__main__":
    main()
