"""Run the whole 7B H-MBA once in bfloat16 with random weights, check its size, and print what it took.

    python benchmarks/full_size.py [--released] [--new_tokens 2]

A clip of five frames goes through CLIP ViT-L/14, the adapter, the projector and the 7B Llama. The weights are random,
so the answer means nothing. The memory and the shapes are those of the real model. `--quick` makes a model of the same
parts with small sizes, which shows that the program runs.
"""

import argparse
import platform
import resource
import sys
import time

import torch
from transformers import AutoModelForImageTextToText, GenerationConfig

from hmba_hf import HMBAConfig

PARAMETERS = {
    "vision_tower": 303_179_776,
    "multi_modal_projector": 4_198_400,
    "language_model": 6_607_355_904,
    "lm_head": 131_084_288,
}
ADAPTER_PARAMETERS = {False: 77_554_736, True: 21_055_490}  # of the paper's preset and of the released one
_WIDTHS = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL = {
    "vision_config": {"model_type": "clip_vision_model", **_WIDTHS, "image_size": 56, "patch_size": 14},
    "text_config": {"model_type": "llama", **_WIDTHS, "vocab_size": 256},
    "video_token_id": 255,
    "adapter_num_heads": 4,
}


def main() -> None:
    """Build, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--released", action="store_true", help="the released preset instead of the paper's")
    parser.add_argument("--new_tokens", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="small sizes, whose parameters are not compared")
    args = parser.parse_args()
    options = {}
    if args.quick:
        options = SMALL
    config = HMBAConfig.released(**options) if args.released else HMBAConfig(**options)

    start = time.perf_counter()
    print("drawing random weights ...", flush=True)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).eval()
    built = time.perf_counter()
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    prompt = torch.tensor([[1, *range(100, 150), *[config.video_token_id] * patches, *range(200, 230)]])
    pixels = torch.randn(1, config.num_frames, 3, vision.image_size, vision.image_size)
    with torch.no_grad():
        output = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pixel_values_videos=pixels,
            generation_config=GenerationConfig(max_new_tokens=args.new_tokens, do_sample=False, pad_token_id=0),
        )
    done = time.perf_counter()

    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.model.named_children()}
    counts["lm_head"] = model.lm_head.weight.numel()
    expected = {**PARAMETERS, "temporal_adapter": ADAPTER_PARAMETERS[args.released]}
    assert args.quick or counts == expected, f"expected {expected} parameters, got {counts}"
    for name, count in {**counts, "all": sum(counts.values())}.items():
        print(f"{name:>22} {count:>15,} parameters")
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    print(
        f"prompt of {prompt.shape[1]} tokens, {output.shape[1] - prompt.shape[1]} generated, bfloat16, random weights"
    )
    print(f"built in {built - start:.0f} s, answered in {done - built:.0f} s, peak resident memory {peak:.1f} GiB")
    assert peak < 22, f"expected less than 22 GiB of resident memory, got {peak:.1f} GiB"
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
