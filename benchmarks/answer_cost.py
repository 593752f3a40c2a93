"""What does an answer about many frames cost, if a vision-language model reads all of them, and with H-MBA?

    python benchmarks/answer_cost.py [--output_dir runs/answer_cost]
    python benchmarks/answer_cost.py --quick      # tiny sizes, to see that all is well

The same model with the same weights answers both ways. In its own way its language model reads the tokens of all
frames: as pictures, or as a video where it has a way for videos. With H-MBA it reads those of one picture. The models
have the proportions of real ones (`scaled_bases.py`) and random weights, and both ways are checked first.

The time is that to the first token of an answer, from pixels (`cold`) or from what the tower has made of each frame
before (`stream`); no processor runs. On one thread, it is the processor's time, which other work on the machine
stretches less than that of the wall. Calls run in turns. Memory is the peak above that of the weights, the inputs
included, in a process for each point. Recurrent streams are asked after few frames and many, and never hold more than
the adapter's state. The last lines compare ratios to what is demanded, and the exit status is 1 if one falls short.
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from measuring import MIB, extra_memory, hardware, in_turns, keep_memory, markdown, milliseconds, ratio, save
from scaled_bases import BASES, Base
from torch import Tensor, nn
from torch.testing import assert_close
from tqdm import tqdm

from hmba_hf import AdapterState, HMBAVLMConfig, HMBAVLMForConditionalGeneration

GENERATION = {"max_new_tokens": 1, "do_sample": False}
PART = 100  # frames of a recurrent stream that are read at once
# Least ratio of the model's own way to ours: measure, frames, times.
DEMANDED = [
    ("stream", 16, 5.0),
    ("stream", 64, 15.0),
    ("cold", 16, 1.5),
    ("cold", 64, 2.0),
    ("stream memory", 64, 3.0),
    ("cold memory", 64, 3.0),
]
FLAT = 1.2  # longest median of a recurrent stream by its shortest


class Way(NamedTuple):
    """A way to answer: a call for the first token, and the tensors that it starts from."""

    ask: Callable[[], Any]
    held: dict[str, Any]


def build_model(base: Base, num_frames: int) -> HMBAVLMForConditionalGeneration:
    """Build H-MBA on a base, both with random weights, the gate open."""
    torch.manual_seed(0)
    config = HMBAVLMConfig(base_config=base.build_config(), num_frames=num_frames)
    model = HMBAVLMForConditionalGeneration(config).eval()
    nn.init.normal_(model.model.temporal_adapter.gate, std=0.5)
    return model


def without_pixels(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what else a question needs of its pictures, such as their grids."""
    return {name: value for name, value in inputs.items() if not name.startswith("pixel")}


@torch.no_grad()
def own_inputs(base: Base, model: Any, frames: Tensor, is_seen: bool) -> dict[str, Any]:
    """Return the inputs of a question in the base's own way, with pixels, or with what its tower has made of them."""
    prompt, videos = base.ask_about_frames(frames)
    if not is_seen:
        return {**prompt, **videos}
    features = base.encode_frames(model.model.base, videos)
    return {**prompt, **without_pixels(videos), "mm_encoder_outputs": {base.modality: features}}


def clip_inputs(base: Base, frames: Tensor) -> dict[str, Any]:
    """Return the inputs of a question in our way, with pixels."""
    inputs = {**base.ask_about_picture(), **base.pictures(frames[-1:])}
    if len(frames) > 1:
        past = base.pictures(frames[:-1])
        inputs |= {f"past_{name}": value for name, value in past.items()}
    return {**inputs, "past_lengths": torch.tensor([len(frames) - 1])}


@torch.no_grad()
def adapted_inputs(
    base: Base, model: Any, current: Tensor, rows: Tensor, output: Any, state: AdapterState | None = None
) -> dict[str, Any]:
    """Adapt the rows of frames, and return the inputs of a question about the current one.

    Args:
        current: the current frame, `(1, 3, height, width)`.
        rows: of all frames that the adapter has not read, `(1, t, p, d)`.
        output: the base's output about the current frame.
        state: of the adapter after the frames that it has read.
    """
    adapted = model.adapt_frame_features(rows, state).pooler_output
    encoded = {"image": model.with_features(output, adapted)}
    pictures = without_pixels(base.pictures(current))
    return {**base.ask_about_picture(), **pictures, "mm_encoder_outputs": encoded}


@torch.no_grad()
def held_rows(base: Base, model: Any, frames: Tensor) -> dict[str, Any]:
    """Return what a stream holds of its frames: rows of all, and the output about the current one."""
    rows = [torch.stack(model.get_frame_features(**base.pictures(frame[None]))) for frame in frames]
    current = frames[-1:]
    output = model.get_image_features(**base.pictures(current))
    return {"current": current, "rows": torch.stack(rows, dim=1), "output": output}


def ask_own(model: Any, inputs: dict[str, Any]) -> Any:
    """Let the base give its first token."""
    return model.model.base.generate(**inputs, **GENERATION)


def ask_ours(model: Any, inputs: dict[str, Any]) -> Any:
    """Let our model give its first token."""
    return model.generate(**inputs, **GENERATION)


def ask_stream(base: Base, model: Any, held: dict[str, Any]) -> Any:
    """Let our model give its first token about frames that the tower has seen."""
    return ask_ours(model, adapted_inputs(base, model, **held))


WAYS = ("stream own", "stream ours", "cold own", "cold ours")


def way_of(name: str, base: Base, model: Any, frames: int) -> Way:
    """Prepare a question about some frames in one of `WAYS`."""
    drawn = base.draw_frames(frames)
    if name == "stream ours":
        held = held_rows(base, model, drawn)
        return Way(partial(ask_stream, base, model, held), held)
    if name == "cold ours":
        inputs = clip_inputs(base, drawn)
        return Way(partial(ask_ours, model, inputs), inputs)
    inputs = own_inputs(base, model, drawn, is_seen=name == "stream own")
    return Way(partial(ask_own, model, inputs), inputs)


@torch.no_grad()
def check(base: Base) -> None:
    """Raise an `AssertionError` unless all ways compute what they stand for."""
    model = build_model(base, num_frames=4)
    frames = base.draw_frames(4)
    cold = model(**clip_inputs(base, frames)).logits
    held = held_rows(base, model, frames)
    stream = model(**adapted_inputs(base, model, **held)).logits
    assert_close(stream, cold, rtol=1e-3, atol=1e-4)
    state = model.adapt_frame_features(held["rows"][:, :3], AdapterState(), read_out=False).adapter_state
    after = {**held, "rows": held["rows"][:, 3:], "state": state}
    assert_close(model(**adapted_inputs(base, model, **after)).logits, cold, rtol=1e-3, atol=1e-4)
    own = [model.model.base(**own_inputs(base, model, frames, is_seen)).logits for is_seen in (False, True)]
    assert_close(own[1], own[0], rtol=1e-3, atol=1e-4)
    nn.init.zeros_(model.model.temporal_adapter.gate)
    picture = {**base.ask_about_picture(), **base.pictures(frames[-1:])}
    current = model.model.base(**picture).logits
    assert torch.equal(model(**clip_inputs(base, frames)).logits, current)
    assert not torch.allclose(cold, current, rtol=1e-3, atol=1e-4), "earlier frames must change the logits"


def bytes_of(value: Any) -> int:
    """Return the bytes of all tensors in nested containers."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return sum(map(bytes_of, value))
    return 0


def peak_of(point: tuple[str, int, str], args: argparse.Namespace) -> float | None:
    """Return the peak memory of a first token above that of the weights, in bytes; for a process of its own."""
    name, frames, way = point
    torch.set_num_threads(args.threads)
    base = BASES[name](args.divisor)
    model = build_model(base, max(args.frames))
    way_of(way, base, model, frames=1).ask()  # libraries load what they need
    question = way_of(way, base, model, frames)
    peak = extra_memory(question.ask)
    return None if peak is None else peak + bytes_of(question.held)


def measure_memory(args: argparse.Namespace) -> dict[tuple[str, int, str], float | None]:
    """Measure each point in a process of its own, before this one computes anything."""
    points = [(name, frames, way) for name in args.bases for frames in args.frames for way in WAYS]
    if sys.platform != "linux":
        return dict.fromkeys(points)
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        peaks = pool.imap(partial(peak_of, args=args), points, chunksize=1)
        return dict(zip(points, tqdm(peaks, "memory", len(points)), strict=True))


def time_answers(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time all ways in turns at each number of frames."""
    base = BASES[name](args.divisor)
    model = build_model(base, max(args.frames))
    records = []
    for frames in tqdm(args.frames, name):
        ways = {way: way_of(way, base, model, frames) for way in WAYS}
        calls = {way: question.ask for way, question in ways.items()}
        held = ways["stream ours"].held
        calls["adapter"] = partial(adapted_inputs, base, model, **held)
        times = in_turns(calls, args.repeats, clock=args.clock)
        tokens = {way: ways[way].held["input_ids"].shape[1] for way in ("cold own", "cold ours")}
        ratios = {part: ratio(times[f"{part} own"], times[f"{part} ours"]) for part in ("stream", "cold")}
        records.append({"base": name, "frames": frames, "tokens": tokens, "times": times, "ratios": ratios})
    return records


@torch.no_grad()
def time_streams(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time questions to recurrent streams after few frames and many, in turns."""
    base = BASES[name](args.divisor)
    model = build_model(base, num_frames=5)
    held = held_rows(base, model, base.draw_frames(PART))
    last = {**held, "rows": held["rows"][:, -1:]}
    calls = {}
    state = AdapterState()
    seen = 0
    for length in args.lengths:
        while seen < length - 1:
            part = held["rows"][:, : min(PART, length - 1 - seen)]
            state = model.adapt_frame_features(part, state, read_out=False).adapter_state
            seen += part.shape[1]
        calls[f"{length} answer"] = partial(ask_stream, base, model, {**last, "state": state})
        calls[f"{length} adapter"] = partial(adapted_inputs, base, model, **last, state=state)
    times = in_turns(calls, 2 * args.repeats, clock=args.clock)
    records = []
    for length in args.lengths:
        taken = {part: times[f"{length} {part}"] for part in ("answer", "adapter")}
        records.append({"base": name, "length": length, "times": taken})
    return records


def add_memory(records: list[dict[str, Any]], peaks: dict[tuple[str, int, str], float | None]) -> None:
    """Put peaks and their ratios into the records of answers."""
    for record in records:
        memory = {way: peaks[record["base"], record["frames"], way] for way in WAYS}
        record["memory"] = memory
        for part in ("stream", "cold"):
            own, ours = memory[f"{part} own"], memory[f"{part} ours"]
            record["ratios"][f"{part} memory"] = own / ours if own and ours else None


def rows_of_answers(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write the times of answers as rows."""
    rows = []
    for record in records:
        times, ratios, tokens = record["times"], record["ratios"], record["tokens"]
        row = {"base": record["base"], "frames": record["frames"]}
        row |= {"tokens, own": tokens["cold own"], "tokens, ours": tokens["cold ours"]}
        for part in ("stream", "cold"):
            row |= {f"{part}, own": milliseconds(times[f"{part} own"])}
            row |= {f"{part}, ours": milliseconds(times[f"{part} ours"]), f"{part}, ratio": f"{ratios[part]:.2f}"}
        rows.append({**row, "adapter of it": milliseconds(times["adapter"])})
    return rows


def rows_of_memory(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write the peaks of memory as rows."""
    rows = []
    for record in records:
        row = {"base": record["base"], "frames": record["frames"]}
        for part in ("stream", "cold"):
            for side in ("own", "ours"):
                peak = record["memory"][f"{part} {side}"]
                row[f"{part}, {side}"] = "" if peak is None else f"{peak / MIB:.1f} MiB"
            times = record["ratios"][f"{part} memory"]
            row[f"{part}, ratio"] = "" if times is None else f"{times:.2f}"
        rows.append(row)
    return rows


def rows_of_streams(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write the times of recurrent streams as rows."""
    rows = []
    for record in records:
        times = record["times"]
        row = {"base": record["base"], "frames seen": record["length"]}
        rows.append({**row, "first token": milliseconds(times["answer"]), "adapter": milliseconds(times["adapter"])})
    return rows


def compare(records: list[dict[str, Any]], streams: list[dict[str, Any]]) -> dict[str, bool]:
    """Return a line for each demand that was measured, and whether it is met."""
    lines = {}
    for record in records:
        for measure, frames, wanted in DEMANDED:
            got = record["ratios"][measure]
            if frames == record["frames"] and got is not None:
                lines[f"{record['base']}, {measure}, {frames} frames: {got:.2f}, wanted {wanted:g}"] = got >= wanted
    for base in dict.fromkeys(record["base"] for record in streams):
        medians = [statistics.median(r["times"]["answer"]) for r in streams if r["base"] == base]
        spread = max(medians) / min(medians)
        lines[f"{base}, recurrent, longest time by shortest: {spread:.2f}, wanted at most {FLAT:g}"] = spread <= FLAT
    return lines


def draw(records: list[dict[str, Any]], axis: Any) -> None:
    """Draw the time to the first token of streams over the number of frames."""
    for i, base in enumerate(dict.fromkeys(record["base"] for record in records)):
        mine = [record for record in records if record["base"] == base]
        frames = [record["frames"] for record in mine]
        for way, style in (("stream own", "o--"), ("stream ours", "o-")):
            medians = [1e3 * statistics.median(record["times"][way]) for record in mine]
            axis.plot(frames, medians, style, color=f"C{i}", label=f"{base}, {way.split()[1]}")
    axis.set(xscale="log", yscale="log", xlabel="frames", ylabel="milliseconds to the first token")
    axis.set_title("Answers about frames that the tower has seen before")
    axis.set_xticks(frames, frames)
    axis.legend()


def main() -> None:
    """Check, measure, print, save, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", choices=list(BASES), default=list(BASES))
    parser.add_argument("--frames", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--lengths", nargs="+", type=int, default=[5, 100, 1000, 10000], help="of recurrent streams")
    parser.add_argument("--divisor", type=int, help="of the widths of the real models; each one's own when absent")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="turns; twice as many of recurrent streams")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, and no comparison with what is demanded")
    parser.add_argument("--output_dir", help="write results.json and a plot here")
    args = parser.parse_args()
    if args.quick:
        args.frames = [4]
        args.lengths = [2, 3]
        args.divisor = 64
        args.repeats = 1
    keep_memory()
    torch.set_num_threads(args.threads)
    machine = f"{hardware()}; {args.threads} threads; float32, random weights"
    print(f"{machine}\n")
    for name in args.bases:
        print(f"{name}: {BASES[name](args.divisor)}\n")
    peaks = measure_memory(args)
    args.clock = time.process_time if args.threads == 1 else time.perf_counter
    records: list[dict[str, Any]] = []
    streams: list[dict[str, Any]] = []
    for name in args.bases:
        check(BASES[name](args.divisor))
        records += time_answers(name, args)
        streams += time_streams(name, args)
    add_memory(records, peaks)
    tables = [rows_of_answers(records), rows_of_memory(records), rows_of_streams(streams)]
    print("\n\n".join(markdown(rows) for rows in tables))
    lines = {} if args.quick else compare(records, streams)
    for line, is_met in lines.items():
        print(f"{'met' if is_met else 'NOT MET'}: {line}")
    del args.clock
    results = {"hardware": machine, "arguments": vars(args), "answers": records, "streams": streams, "demands": lines}
    save(args.output_dir, results, {"answer_cost": partial(draw, records)})
    if not all(lines.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
