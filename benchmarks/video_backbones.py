"""What does a clip cost in VideoMamba, next to video transformers of like width and depth?

    python benchmarks/video_backbones.py [--frames 8 16 32 64] [--backward] [--memory] [--output_dir runs/backbones]
    python benchmarks/video_backbones.py --frames 8 --sizes 224 320 448      # longer by larger frames
    python benchmarks/video_backbones.py --quick                            # tiny sizes, to see that all is well

All models have random weights, the same width, patches of 16 pixels and one frame a token. A transformer has as many
layers as VideoMamba has blocks: `--peer_layers` sets another number, and half as many give both about as many
parameters. Calls run in turns. `scan in torch` is the same VideoMamba with the plain torch scan and convolution of
transformers' Mamba. It is slow, so it runs with `--scan_layers` blocks, beside ours with as many; both must give the
same features. A candidate that would need more memory than there is, or more time than `--max_seconds` a call, is left
out by name. `--memory` measures each peak in a process of its own.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from measuring import (
    MIB,
    extra_memory,
    hardware,
    in_turns,
    keep_memory,
    markdown,
    milliseconds,
    ratio,
    save,
    time_limit,
)
from scan_peers import load_transformers
from torch import Tensor
from transformers import (
    TimesformerConfig,
    TimesformerModel,
    VideoMAEConfig,
    VideoMAEModel,
    VivitConfig,
    VivitModel,
    VJEPA2Config,
    VJEPA2Model,
)

from hmba_hf.models import layers_state_space
from hmba_hf.models.configuration_videomamba import SIZES, VideoMambaConfig
from hmba_hf.models.modeling_videomamba import VideoMambaModel

PATCH = 16
HEAD = 64  # channels of an attention head
OURS = "VideoMamba"
TORCH_SCAN = "scan in torch"
OURS_SHORT = "VideoMamba, few blocks"  # beside the one above
TOLERANCE = 1e-4


class Sizes(argparse.Namespace):
    """What every model of a row shares."""

    frames: int
    side: int
    width: int
    blocks: int
    peer_layers: int
    scan_layers: int


def build_videomamba(sizes: Sizes, blocks: int) -> Callable[[Tensor], Tensor]:
    """Build VideoMamba with some number of blocks."""
    config = VideoMambaConfig(
        hidden_size=sizes.width, num_hidden_layers=blocks, image_size=sizes.side, num_frames=sizes.frames
    )
    torch.manual_seed(0)
    return VideoMambaModel(config)


def build_timesformer(sizes: Sizes, attention_type: str) -> Any:
    """Build a TimeSformer."""
    return TimesformerModel(
        TimesformerConfig(
            attention_type=attention_type,
            image_size=sizes.side,
            patch_size=PATCH,
            num_frames=sizes.frames,
            **_transformer(sizes),
        )
    )


def build_videomae(sizes: Sizes) -> Any:
    """Build the encoder of VideoMAE."""
    return VideoMAEModel(
        VideoMAEConfig(
            image_size=sizes.side, patch_size=PATCH, num_frames=sizes.frames, tubelet_size=1, **_transformer(sizes)
        )
    )


def build_vivit(sizes: Sizes) -> Any:
    """Build ViViT."""
    return VivitModel(
        VivitConfig(
            image_size=sizes.side, num_frames=sizes.frames, tubelet_size=[1, PATCH, PATCH], **_transformer(sizes)
        )
    )


def build_vjepa2(sizes: Sizes) -> Any:
    """Build the encoder of V-JEPA 2."""
    layers = _transformer(sizes)
    del layers["intermediate_size"]
    model = VJEPA2Model(
        VJEPA2Config(
            crop_size=sizes.side, patch_size=PATCH, frames_per_clip=sizes.frames, tubelet_size=1, mlp_ratio=4, **layers
        )
    )
    del model.predictor
    return model


def _transformer(sizes: Sizes) -> dict[str, Any]:
    return {
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.peer_layers,
        "num_attention_heads": max(1, sizes.width // HEAD),
        "intermediate_size": 4 * sizes.width,
    }


MODELS: dict[str, Callable[[Sizes], Any]] = {
    OURS: lambda sizes: build_videomamba(sizes, sizes.blocks),
    "TimeSformer, joint": lambda sizes: build_timesformer(sizes, "joint_space_time"),
    "TimeSformer, divided": lambda sizes: build_timesformer(sizes, "divided_space_time"),
    "VideoMAE": build_videomae,
    "ViViT": build_vivit,
    "V-JEPA 2": build_vjepa2,
    OURS_SHORT: lambda sizes: build_videomamba(sizes, sizes.scan_layers),
    TORCH_SCAN: lambda sizes: build_videomamba(sizes, sizes.scan_layers),
}
BASES = {name: OURS_SHORT if name == TORCH_SCAN else OURS for name in MODELS}


@contextmanager
def torch_scan() -> Iterator[None]:
    """Compute state spaces with the plain torch scan of transformers' Mamba, and torch's convolution."""
    plain_scan = load_transformers()

    def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, **others: Any) -> tuple[Tensor, None]:
        reverse = others["reverse"]
        columns = []
        for x in (u, delta, B, C, others["z"]):
            column = x.transpose(1, 2)
            columns.append(column.flip(-1) if reverse else column)
        u, delta, B, C, z = columns
        y = plain_scan(u, delta, A, B, C, others["D"], z, others["delta_bias"])
        y = y[0] if isinstance(y, tuple) else y
        return (y.flip(-1) if reverse else y).transpose(1, 2), None

    def convolve(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool = False, **_: Any) -> tuple[Tensor, None]:
        column = x.transpose(1, 2)
        column = column.flip(-1) if reverse else column
        taps = weight.shape[-1]
        y = F.silu(F.conv1d(F.pad(column, (taps - 1, 0)), weight[:, None], bias, groups=len(weight)))
        return (y.flip(-1) if reverse else y).transpose(1, 2), None

    ours = layers_state_space.selective_scan, layers_state_space.causal_conv1d
    layers_state_space.selective_scan, layers_state_space.causal_conv1d = scan, convolve  # type: ignore[assignment]
    try:
        yield
    finally:
        layers_state_space.selective_scan, layers_state_space.causal_conv1d = ours


def call_of(name: str, sizes: Sizes, backward: bool) -> Callable[[], Any]:
    """Build a model and return a call of it on a random clip."""
    model = MODELS[name](sizes).train(backward)
    model.requires_grad_(backward)
    clip = torch.rand(1, sizes.frames, 3, sizes.side, sizes.side, generator=torch.Generator().manual_seed(0))
    options = {"skip_predictor": True} if name == "V-JEPA 2" else {}
    if name == "ViViT":
        options["interpolate_pos_encoding"] = False

    def run() -> Tensor:
        features = model(clip, **options).last_hidden_state
        if backward:
            features.sum().backward()
            model.zero_grad(set_to_none=True)
        return features.detach()

    def run_on_torch_scan() -> Tensor:
        with torch_scan():
            return run()

    return run_on_torch_scan if name == TORCH_SCAN else run


def check(sizes: Sizes) -> float:
    """Return the largest difference of the features of ours and of the torch scan.

    Raises:
        AssertionError: if it is beyond rounding.
    """
    ours = call_of(OURS_SHORT, sizes, backward=False)()
    theirs = call_of(TORCH_SCAN, sizes, backward=False)()
    error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    assert error <= TOLERANCE, f"expected an error of at most {TOLERANCE:g}, got {error}"
    return error


def measured_alone(name: str, sizes: Sizes, backward: bool) -> float | None:
    """Return the peak memory of one call in a process of its own, in bytes; `None` if the process died."""
    words = [sys.executable, __file__, "--alone", name, json.dumps(vars(sizes)), *(["--backward"] if backward else [])]
    done = subprocess.run(words, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def compare(args: argparse.Namespace, sizes: Sizes) -> list[dict[str, Any]]:
    """Time all candidates in turns, and measure their memory, at one clip length and frame size."""
    records = []
    for backward in (False, True) if args.backward else (False,):
        calls = {}
        for name in args.models:
            call = call_of(name, sizes, backward)
            try:
                with time_limit(args.max_seconds):
                    call()
                    calls[name] = call
            except (TimeoutError, RuntimeError, MemoryError) as error:
                print(f"{name}, {sizes.frames} frames of {sizes.side}: left out, {type(error).__name__}: {error}")
        times = in_turns(calls, args.repeats)
        for name, taken in times.items():
            base = times.get(BASES[name])
            record = {"model": name, "frames": sizes.frames, "side": sizes.side, "backward": backward}
            record |= {"times": taken, "ratio": ratio(taken, base) if base else None}
            record["memory"] = measured_alone(name, sizes, backward) if args.memory else None
            records.append(record)
    return records


def row_of(record: dict[str, Any]) -> dict[str, Any]:
    """Write a record as a row."""
    memory = record["memory"]
    return {
        "model": record["model"],
        "frames": record["frames"],
        "side": record["side"],
        "pass": "forward, backward" if record["backward"] else "forward",
        "median": milliseconds(record["times"]),
        "a frame": milliseconds([seconds / record["frames"] for seconds in record["times"]]),
        "x ours": "" if record["ratio"] is None else f"{record['ratio']:.2f}",
        "extra memory": "" if memory is None else f"{memory / MIB:.0f} MiB",
    }


def draw(records: list[dict[str, Any]], backward: bool, axis: Any) -> None:
    """Draw the time of a clip by its number of tokens."""
    for name in MODELS:
        points = [r for r in records if r["model"] == name and r["backward"] == backward]
        if points:
            tokens = [r["frames"] * (r["side"] // PATCH) ** 2 for r in points]
            axis.plot(tokens, [sorted(r["times"])[len(r["times"]) // 2] for r in points], "o-", label=name)
    axis.set(xscale="log", yscale="log", xlabel="patches of a clip", ylabel="seconds a clip, batch 1")
    axis.legend()


def main() -> None:
    """Check, time, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", nargs="+", type=int, default=[8, 16, 32, 64])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224], help="sides of a frame in pixels")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--peer_layers", type=int, help="VideoMamba's number of blocks when absent")
    parser.add_argument("--scan_layers", type=int, default=1)
    parser.add_argument("--backward", action="store_true", help="also with gradients")
    parser.add_argument("--memory", action="store_true", help="also peak memory, each in a process of its own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max_seconds", type=float, default=300, help="of one call")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--output_dir", help="write results.json and plots here")
    parser.add_argument("--alone", nargs=2, metavar=("MODEL", "SIZES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        name, sizes = args.alone
        call = call_of(name, Sizes(**json.loads(sizes)), args.backward)
        print(extra_memory(call))
        return
    keep_memory()
    torch.set_num_threads(args.threads)
    width, blocks = (2 * HEAD, 2) if args.quick else SIZES[args.size]
    frames, sides = ([2], [2 * PATCH]) if args.quick else (args.frames, args.sizes)
    peer_layers = args.peer_layers or blocks
    print(f"{hardware()}; {args.threads} threads; width {width}, {blocks} blocks, {peer_layers} layers, batch 1\n")
    records = []
    for side in sides:
        for count in frames:
            sizes = Sizes(
                frames=count,
                side=side,
                width=width,
                blocks=blocks,
                peer_layers=peer_layers,
                scan_layers=args.scan_layers,
            )
            if count == min(frames) and side == min(sides) and TORCH_SCAN in args.models:
                print(f"largest difference of features from the torch scan's: {check(sizes):.0e}")
            records += compare(args, sizes)
            keep(args, records)  # a run that is ended early leaves what it has measured
    print(markdown([row_of(record) for record in records]))


def keep(args: argparse.Namespace, records: list[dict[str, Any]]) -> None:
    """Save the records and their plots."""
    plots = {"forward": partial(draw, records, False)}
    if args.backward:
        plots["backward"] = partial(draw, records, True)
    save(args.output_dir, {"hardware": hardware(), "arguments": vars(args), "records": records}, plots)


if __name__ == "__main__":
    main()
