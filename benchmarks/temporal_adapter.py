"""What does the adapter cost, next to the same mathematics without its shortcuts, and next to the vision tower?

    python benchmarks/temporal_adapter.py [--frames 5 64] [--backward] [--threads 2] [--output_dir runs/adapter]
    python benchmarks/temporal_adapter.py --quick      # tiny sizes, to see that all is well

Every branch is read at the current frame alone, so the adapter lets earlier frames move the state of its forward scans
and computes nothing else of them. The full form scans all tokens in both directions, reads all of them out and keeps
the last frame; it has the same weights and the same scan kernel, and must give the same features, which is checked
first. Then both run in turns. The second table sets the adapter beside CLIP ViT-L/14's time for one frame: the next
frame of a stream, passed without read-out or read, and a whole clip of five. Weights are random.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measuring import hardware, in_turns, keep_memory, markdown, milliseconds, ratio, save, seconds
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from hmba_hf import AdapterState, HMBAConfig, HMBAModel
from hmba_hf.models.layers_state_space import CausalConv1d
from hmba_hf.models.layers_strided_mamba import StridedMambaMixer
from hmba_hf.models.layers_temporal_adapter import ContextMamba, TemporalAdapter

PRESETS: dict[str, Callable[..., HMBAConfig]] = {"paper": HMBAConfig, "released": HMBAConfig.released}
CLIP: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
CLIP |= {"image_size": 224, "patch_size": 14}
TINY_CLIP: dict[str, Any] = {
    **CLIP,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "image_size": 56,
}
TINY_TEXT: dict[str, Any] = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}
TINY_TEXT |= {"model_type": "llama", "vocab_size": 8, "pad_token_id": 0}
TOLERANCE = 1e-4  # float32, of the largest element of each context, and of the change that the adapter makes
MOST_FRAMES_BACKWARD = 8  # the full form keeps gigabytes for each second of video


def build_adapter(preset: str, clip: dict[str, Any]) -> TemporalAdapter:
    """Build a model around nothing but the adapter, and open what starts at zero."""
    vision = {"model_type": "clip_vision_model", **clip, "num_hidden_layers": 2}
    model = HMBAModel(PRESETS[preset](vision_config=vision, text_config=TINY_TEXT, video_token_id=7))
    adapter = model.temporal_adapter
    assert isinstance(adapter, TemporalAdapter)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if not parameter.any():
                parameter.normal_(std=0.5 if name == "gate" else 0.02)
    return adapter.eval()


def both_ways(pair: Any, x: Tensor, norm: nn.Module) -> Tensor:
    """Scan all of `x`, `(b, l, d)`, from each end and return all steps."""
    y = norm(pair.forward_mixer(x)[0])
    return y if pair.reverse_mixer is None else y + norm(pair.reverse_mixer(x, reverse=True)[0])


def full_contexts(context: ContextMamba, frames: Tensor) -> dict[tuple[str, int], Tensor]:
    """Compute what `ContextMamba` does for every frame in every branch, then read the last one."""
    (b, t, p, _), read, shared = frames.shape, {}, context.share_mixers
    for branch, stride in context.contexts:
        steps = sorted(range(t - 1, -1, -stride))
        x = frames[:, steps]
        norm = context.norms["shared" if shared else f"{branch}_stride_{stride}"]
        if branch == "temporal":
            read[branch, stride] = both_ways(context.mixers["temporal"], x.mean(2), norm)[:, -1:]
        elif branch == "divided_space_time":
            tracks = x.transpose(1, 2).flatten(0, 1)  # (b * p, t, d)
            over_time = both_ways(context.mixers["divided_time"], tracks, norm).unflatten(0, (b, p))
            mixed = (x + over_time.transpose(1, 2)).flatten(0, 1)  # (b * t, p, d)
            pair = context.mixers["space" if shared else "divided_space"]
            read[branch, stride] = both_ways(pair, mixed, norm).view_as(x)[:, -1]
        else:
            table = context.temporal_position_embedding
            tokens = (x + table[torch.tensor(steps).clamp(max=len(table) - 1)][:, None]).flatten(1, 2)
            pair = context.mixers["space" if shared else f"joint_stride_{stride}"]
            read[branch, stride] = norm(both_ways(pair, tokens, norm)).view_as(x)[:, -1]
    return read


def full_form(adapter: TemporalAdapter, frames: Tensor) -> Tensor:
    """Compute `TemporalAdapter` through `full_contexts`."""
    current = frames[:, -1]
    update = adapter.query(current, full_contexts(adapter.context, frames))[0]
    return current + (update if adapter.gate is None else adapter.gate * update)


@torch.no_grad()
def check(adapter: TemporalAdapter, frames: Tensor) -> float:
    """Raise an `AssertionError` unless both forms agree; return the largest relative error.

    Besides the output, it compares the contexts: the released constants leave little of them in the output.
    """
    current, contexts, wanted = frames[:, -1], adapter.context(frames)[0], full_contexts(adapter.context, frames)
    pairs = [(contexts[key], wanted[key]) for key in wanted]
    pairs.append((adapter(frames)[0] - current, full_form(adapter, frames) - current))
    errors = [((got - want).abs().max() / want.abs().max()).item() for got, want in pairs]
    assert all(error <= TOLERANCE for error in errors), f"expected errors of at most {TOLERANCE:g}, got {errors}"
    return max(errors)


def call(form: Callable[[Tensor], Any], adapter: TemporalAdapter, frames: Tensor, backward: bool) -> Callable[[], Any]:
    """Return a call that runs one form, without gradients or with those of all parameters."""
    if not backward:
        return lambda: torch.no_grad()(form)(frames)

    def both() -> None:
        output = form(frames)
        output = output[0] if isinstance(output, tuple) else output
        torch.autograd.grad(output.sum(), list(adapter.parameters()), allow_unused=True)

    return both


def shares(adapter: TemporalAdapter, frames: Tensor, repeats: int) -> dict[str, float]:
    """Split the forward time over scan, convolution, linear layers and the rest.

    The scan is what a mixer takes beyond its layers.
    """
    spent: Counter[str] = Counter()
    starts: list[float] = []
    handles = []

    def leave(names: list[str], *_: Any) -> None:
        took = time.perf_counter() - starts.pop()
        spent.update({names[0]: took})
        spent.subtract(dict.fromkeys(names[1:], took))

    pairs = [m for m in adapter.modules() if isinstance(m, StridedMambaMixer)]
    mixers = [*pairs, *(m for m in [adapter.query.latent_mixer] if m is not None)]
    mixed = {x for mixer in mixers for x in mixer.modules()}
    leaves = [m for m in adapter.modules() if isinstance(m, (CausalConv1d, nn.Linear))]
    for module in (*mixers, *leaves):
        name = "convolution" if isinstance(module, CausalConv1d) else "linear layers"
        names = ["scan"] if module in mixers else [name, "scan"] if module in mixed else [name]
        handles.append(module.register_forward_pre_hook(lambda *_: starts.append(time.perf_counter())))
        handles.append(module.register_forward_hook(partial(leave, names)))
    with torch.no_grad():
        total = sum(seconds(lambda: adapter(frames)) for _ in range(repeats))
    for handle in handles:
        handle.remove()
    parts = {name: spent[name] / total for name in ("scan", "convolution", "linear layers")}
    return {**parts, "rest": 1 - sum(parts.values())}


def compare_forms(args: argparse.Namespace, clip: dict[str, Any], patches: int) -> list[dict[str, Any]]:
    """Check, then time both forms at every clip length."""
    records = []
    for preset in PRESETS:
        adapter = build_adapter(preset, clip)
        forms: dict[str, Callable[[Tensor], Any]] = {"pruned": adapter, "full": partial(full_form, adapter)}
        for t in args.frames:
            frames = torch.randn(1, t, patches, clip["hidden_size"])
            error = check(adapter, frames)
            for what in ("forward", "backward") if args.backward and t <= MOST_FRAMES_BACKWARD else ("forward",):
                calls = {name: call(form, adapter, frames, what == "backward") for name, form in forms.items()}
                slowest = max(seconds(run) for run in calls.values())
                repeats = max(1, min(args.repeats, int(args.max_seconds / slowest)))
                times = in_turns(calls, repeats)
                record = {"preset": preset, "frames": t, "pass": what, "error": error}
                records.append({**record, **times, "ratio": ratio(times["full"], times["pruned"])})
    return records


def compare_tower(args: argparse.Namespace, clip: dict[str, Any], patches: int) -> list[dict[str, Any]]:
    """Time both adapters at a stream's next frame and at a clip in turns with the vision tower at one frame."""
    tower = CLIPVisionModel(CLIPVisionConfig(**clip)).eval()
    pixels = torch.randn(1, 3, clip["image_size"], clip["image_size"])
    calls: dict[str, Callable[[], Any]] = {"tower": lambda: torch.no_grad()(tower)(pixel_values=pixels)}
    adapters = {preset: build_adapter(preset, clip) for preset in PRESETS}
    frame, five = (torch.randn(1, t, patches, clip["hidden_size"]) for t in (1, 5))
    for preset, adapter in adapters.items():
        state = torch.no_grad()(adapter)(five, AdapterState()).state
        calls[f"{preset} passed"] = call(partial(adapter, state=state, read_out=False), adapter, frame, backward=False)
        calls[f"{preset} read"] = call(partial(adapter, state=state), adapter, frame, backward=False)
        calls[f"{preset} clip"] = call(adapter, adapter, five, backward=False)
    for run in calls.values():
        run()
    times = in_turns(calls, args.repeats)
    records = []
    for preset, adapter in adapters.items():
        record: dict[str, Any] = {name: times[f"{preset} {name}"] for name in ("passed", "read", "clip")}
        record |= {"preset": preset, "tower": times["tower"]}
        records.append({**record, "shares": shares(adapter, five, args.repeats)})
    return records


def form_row(record: dict[str, Any]) -> dict[str, Any]:
    """Write a record of `compare_forms` as a row."""
    return {
        **{key: record[key] for key in ("preset", "frames", "pass")},
        "pruned (ours)": milliseconds(record["pruned"]),
        "full": milliseconds(record["full"]),
        "full / pruned": f"{record['ratio']:.2f}",
        "difference": f"{record['error']:.0e}",
        "runs": len(record["full"]),
    }


def tower_row(record: dict[str, Any]) -> dict[str, str]:
    """Write a record of `compare_tower` as a row."""
    percent = {key: f"{100 * ratio(record[key], record['tower']):.1f} %" for key in ("passed", "read", "clip")}
    return {
        "preset": record["preset"],
        "tower, a frame": milliseconds(record["tower"]),
        "next frame, passed": f"{milliseconds(record['passed'])} = {percent['passed']} of the tower",
        "next frame, read": f"{milliseconds(record['read'])} = {percent['read']} of the tower",
        "adapter, clip of 5": f"{milliseconds(record['clip'])} = {percent['clip']} of the tower",
        **{f"of it {name}": f"{100 * share:.0f} %" for name, share in record["shares"].items()},
    }


def draw_forms(records: list[dict[str, Any]], axis: Any) -> None:
    """Draw the time of both forms."""
    names = [f"{r['preset']}\n{r['frames']} frames\n{r['pass']}" for r in records]
    for offset, form in ((-0.2, "full"), (0.2, "pruned")):
        heights = [statistics.median(record[form]) * 1e3 for record in records]
        axis.bar([i + offset for i in range(len(records))], heights, 0.4, label=form)
    axis.set_xticks(range(len(records)), names)
    axis.set(yscale="log", ylabel="milliseconds", title="Temporal adapter, one clip")
    axis.legend()


def main() -> None:
    """Check, time, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", nargs="+", type=int, default=[5, 64])
    parser.add_argument(
        "--backward", action="store_true", help=f"also with gradients, to {MOST_FRAMES_BACKWARD} frames"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max_seconds", type=float, default=60, help="for all runs of one form in one row")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--output_dir", help="write results.json and a plot here")
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    clip = TINY_CLIP if args.quick else CLIP
    patches = (clip["image_size"] // clip["patch_size"]) ** 2
    machine = f"{hardware()}; {args.threads} threads; d {clip['hidden_size']}, {patches} patches, float32, batch 1"
    print(f"{machine}; at most {args.repeats} runs in turns\n")
    forms = compare_forms(args, clip, patches)
    print(markdown([form_row(record) for record in forms]) + "\n")
    tower = compare_tower(args, clip, patches)
    print(markdown([tower_row(record) for record in tower]))
    results = {"hardware": machine, "arguments": vars(args), "forms": forms, "tower": tower}
    save(args.output_dir, results, {"forms": partial(draw_forms, forms)})


if __name__ == "__main__":
    main()
