"""What does a clip cost in VideoMamba, next to video transformers of like width and depth?

    python benchmarks/video_backbones.py [--frames 8 16 32 64] [--backward] [--memory] [--output_dir runs/backbones]
    python benchmarks/video_backbones.py --frames 8 --sizes 224 320 448      # longer by larger frames
    python benchmarks/video_backbones.py --alone_by_length                  # does a frame of a long clip cost more?
    python benchmarks/video_backbones.py --quick                            # tiny sizes, to see that all is well

All models have random weights, the same width, patches of 16 pixels and one frame a token. A transformer has as many
layers as VideoMamba has blocks, unless `--blocks` and `--peer_layers` set other numbers; half as many layers as blocks
give both about as many parameters. Calls run in turns. On one thread the time is the processor's, which other work on
the machine stretches less than that of the wall.

`scan in torch` is the same VideoMamba with the plain torch scan and convolution of transformers' Mamba. It is slow, so
it runs with `--scan_layers` blocks, beside ours with as many; both must give the same features. With gradients its
time grows with the square of the length, so it runs once in a process of its own, and `--scan_seconds` end it: the
table then holds a lower bound. `scans for free` is VideoMamba with as many blocks, whose scans and convolutions do
nothing: no scan, however fast, can make the products of matrices that are left cheaper.

A candidate that would need more memory than there is, or more time than `--max_seconds` a call, is left out by name.
`--memory` measures each peak in a process of its own.
"""

import argparse
import json
import resource
import signal
import statistics
import subprocess
import sys
import time
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
FREE_SCAN = "scans for free"
SHORT = (OURS_SHORT, TORCH_SCAN, FREE_SCAN)  # with `scan_layers` blocks
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
    FREE_SCAN: lambda sizes: build_videomamba(sizes, sizes.scan_layers),
}
BASES = {name: OURS_SHORT if name in SHORT else OURS for name in MODELS}


@contextmanager
def replaced_ops(scan: Callable[..., Any], convolve: Callable[..., Any]) -> Iterator[None]:
    """Put other functions in the place of the scan and of the convolution."""
    ours = layers_state_space.selective_scan, layers_state_space.causal_conv1d
    layers_state_space.selective_scan = scan
    layers_state_space.causal_conv1d = convolve
    try:
        yield
    finally:
        layers_state_space.selective_scan, layers_state_space.causal_conv1d = ours


def free_scan() -> Any:
    """Let scans and convolutions hand on what they get."""
    return replaced_ops(lambda u, *_, **__: (u, None), lambda x, *_, **__: (x, None))


def torch_scan() -> Any:
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

    return replaced_ops(scan, convolve)


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

    other_ops = {TORCH_SCAN: torch_scan, FREE_SCAN: free_scan}.get(name)
    if other_ops is None:
        return run

    def run_on_other_ops() -> Tensor:
        with other_ops():
            return run()

    return run_on_other_ops


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


def measured_alone(name: str, sizes: Sizes, *options: str) -> str | None:
    """Measure one call in a process of its own, and return the last line it prints; `None` if it died.

    Args:
        name: of the model.
        sizes: of it.
        options: `--backward`, and with `--scan_seconds` its time is measured, else its peak memory.
    """
    words = [sys.executable, __file__, "--alone", name, json.dumps(vars(sizes)), *options]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode not in (0, -signal.SIGXCPU, -signal.SIGKILL, 1):
        raise RuntimeError(done.stderr)
    return done.stdout.splitlines()[-1] if done.returncode == 0 else None


def seconds_until(limit: float, run: Callable[[], Any]) -> float:
    """Return the processor's time of one call; the system ends this process if it takes longer."""
    before = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (int(before + limit), resource.RLIM_INFINITY))
    run()
    return time.process_time() - before


def compare(args: argparse.Namespace, sizes: Sizes) -> list[dict[str, Any]]:
    """Time all candidates in turns, and measure their memory, at one clip length and frame size."""
    records = []
    for backward in (False, True) if args.backward else (False,):
        calls = {}
        for name in args.models:
            if backward and name in (TORCH_SCAN, FREE_SCAN):
                continue
            call = call_of(name, sizes, backward)
            try:
                with time_limit(args.max_seconds):
                    call()
                    calls[name] = call
            except (TimeoutError, RuntimeError, MemoryError) as error:
                print(f"{name}, {sizes.frames} frames of {sizes.side}: left out, {type(error).__name__}: {error}")
        times = in_turns(calls, args.repeats, clock=clock_of(args))
        is_bound = False
        if backward and TORCH_SCAN in args.models:
            words = ("--backward", "--threads", str(args.threads), "--scan_seconds", str(args.scan_seconds))
            found = measured_alone(TORCH_SCAN, sizes, *words)
            is_bound = found is None
            times[TORCH_SCAN] = [args.scan_seconds if found is None else float(found)]
        for name, taken in times.items():
            base = times.get(BASES[name])
            record = {"model": name, "frames": sizes.frames, "side": sizes.side, "backward": backward}
            record |= {"times": taken, "ratio": ratio(taken, base) if base else None}
            record["is_bound"] = is_bound and name == TORCH_SCAN
            record["layers"] = layers_of(name, sizes)
            record["memory"] = None
            if args.memory:
                found = measured_alone(name, sizes, *(["--backward"] if backward else []))
                record["memory"] = None if found is None else float(found)
            records.append(record)
    return records


def compare_lengths(args: argparse.Namespace, lengths: list[Sizes]) -> list[dict[str, Any]]:
    """Time VideoMamba alone at all lengths in turns; a ratio is of the time of a frame, to that of the shortest."""
    records = []
    for backward in (False, True) if args.backward else (False,):
        calls = {str(sizes.frames): call_of(OURS, sizes, backward) for sizes in lengths}
        for call in calls.values():  # compiles what is to be compiled
            call()
        times = in_turns(calls, args.repeats, clock=clock_of(args))
        shortest = min(lengths, key=lambda sizes: sizes.frames)
        for sizes in lengths:
            taken = times[str(sizes.frames)]
            record = {"model": OURS, "frames": sizes.frames, "side": sizes.side, "backward": backward}
            by_frames = shortest.frames / sizes.frames
            record |= {"times": taken, "ratio": by_frames * ratio(taken, times[str(shortest.frames)])}
            record |= {"is_bound": False, "layers": sizes.blocks, "memory": None}
            records.append(record)
    return records


def layers_of(name: str, sizes: Sizes) -> int:
    """Return how many blocks or layers a model has."""
    if name in SHORT:
        return sizes.scan_layers
    return sizes.blocks if name == OURS else sizes.peer_layers


def clock_of(args: argparse.Namespace) -> Callable[[], float]:
    """Return the clock: the processor's on one thread, else that of the wall."""
    return time.process_time if args.threads == 1 else time.perf_counter


def row_of(record: dict[str, Any]) -> dict[str, Any]:
    """Write a record as a row."""
    memory = record["memory"]
    more = "> " if record["is_bound"] else ""
    return {
        "model": record["model"],
        "layers": record["layers"],
        "frames": record["frames"],
        "side": record["side"],
        "pass": "forward, backward" if record["backward"] else "forward",
        "median": more + milliseconds(record["times"]),
        "a frame": milliseconds([seconds / record["frames"] for seconds in record["times"]]),
        "x ours": "" if record["ratio"] is None else f"{more}{record['ratio']:.2f}",
        "extra memory": "" if memory is None else f"{memory / MIB:.0f} MiB",
    }


def draw(records: list[dict[str, Any]], backward: bool, axis: Any) -> None:
    """Draw the time of a clip by its number of tokens."""
    for name in MODELS:
        points = [r for r in records if r["model"] == name and r["backward"] == backward]
        if points:
            tokens = [r["frames"] * (r["side"] // PATCH) ** 2 for r in points]
            axis.plot(tokens, [statistics.median(r["times"]) for r in points], "o-", label=name)
    axis.set(xscale="log", yscale="log", xlabel="patches of a clip", ylabel="seconds a clip, batch 1")
    axis.legend()


def main() -> None:
    """Check, time, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", nargs="+", type=int, default=[8, 16, 32, 64])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224], help="sides of a frame in pixels")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--blocks", type=int, help="of VideoMamba; those of its size when absent")
    parser.add_argument("--peer_layers", type=int, help="VideoMamba's number of blocks when absent")
    parser.add_argument("--scan_layers", type=int, default=1)
    parser.add_argument("--backward", action="store_true", help="also with gradients")
    parser.add_argument("--memory", action="store_true", help="also peak memory, each in a process of its own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max_seconds", type=float, default=300, help="of one call")
    parser.add_argument("--scan_seconds", type=float, help="limit of the torch scan with gradients; 60 when absent")
    parser.add_argument("--alone_by_length", action="store_true", help="VideoMamba alone, all lengths in turns")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--output_dir", help="write results.json and plots here")
    parser.add_argument("--alone", nargs=2, metavar=("MODEL", "SIZES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        name, sizes = args.alone
        torch.set_num_threads(args.threads)
        call = call_of(name, Sizes(**json.loads(sizes)), args.backward)
        print(seconds_until(args.scan_seconds, call) if args.scan_seconds else extra_memory(call))
        return
    args.scan_seconds = args.scan_seconds or 60
    keep_memory()
    torch.set_num_threads(args.threads)
    width, blocks = (2 * HEAD, 2) if args.quick else SIZES[args.size]
    blocks = args.blocks or blocks
    frames, sides = ([2], [2 * PATCH]) if args.quick else (args.frames, args.sizes)
    peer_layers = args.peer_layers or blocks
    print(f"{hardware()}; {args.threads} threads; width {width}, {blocks} blocks, {peer_layers} layers, batch 1\n")
    lengths = []
    for side in sides:
        for count in frames:
            sizes = Sizes(frames=count, side=side, width=width)
            sizes.blocks = blocks
            sizes.peer_layers = peer_layers
            sizes.scan_layers = args.scan_layers
            lengths.append(sizes)
    if args.alone_by_length:
        records = compare_lengths(args, lengths)
    else:
        records = []
        if TORCH_SCAN in args.models:
            print(f"largest difference of features from the torch scan's: {check(lengths[0]):.0e}")
        for sizes in lengths:
            records += compare(args, sizes)
            keep(args, records)  # a run that is ended early leaves what it has measured
    keep(args, records)
    print(markdown([row_of(record) for record in records]))


def keep(args: argparse.Namespace, records: list[dict[str, Any]]) -> None:
    """Save the records and their plots."""
    plots = {"forward": partial(draw, records, False)}
    if args.backward:
        plots["backward"] = partial(draw, records, True)
    save(args.output_dir, {"hardware": hardware(), "arguments": vars(args), "records": records}, plots)


if __name__ == "__main__":
    main()
