"""How fast is the selective scan, next to everyone else's and to a plain C++ loop, and what memory does it take?

    python benchmarks/selective_scan.py --shapes grid --threads 1 2 --output_dir runs/scan
    python benchmarks/selective_scan.py --shapes 1x1280x2048x16 --peers cpu limit --repeats 9
    python benchmarks/selective_scan.py --shapes 1x1280x2048x16 --avx2      # as on a processor without AVX-512
    python benchmarks/selective_scan.py --lengths                # cost per token, and where attention is dearer
    python benchmarks/selective_scan.py --shapes quick           # seconds, to see that all is well

Shapes are `b x l x d x n`. Every candidate is checked first, outputs and gradients, against the reference in float64
on a small shape, and again on each timed shape that is not too large; one that is wrong is not timed, and the exit
code tells. Then all run in turns. `backward` is forward and backward together. `ratio` is the median over the turns
of a candidate's time divided by ours. Freed memory is kept between calls; with `--system_allocator` it is not, as in a
plain Python process, and whoever takes much memory waits for the system to clear it. `extra memory` is the peak above
what was held before, results and gradients counted, in a fresh process for each candidate; `x u` is the same in sizes
of `u`.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from measuring import (
    KEEPING,
    MIB,
    extra_memory,
    hardware,
    hide_avx512,
    in_turns,
    keep_memory,
    markdown,
    milliseconds,
    ratio,
    save,
    seconds,
    time_limit,
)
from scan_peers import PEERS, Inputs, Peer, Run, Unavailable, draw_inputs
from torch import Tensor, nn

from hmba_hf.models.layers_mamba import MambaMixer
from hmba_hf.models.ops_scan_inputs import ScanInputs
from hmba_hf.models.ops_selective_scan import selective_scan_portable, selective_scan_reference

Shape = tuple[int, ...]
SHAPES = {
    "quick": ["1x72x64x16", "8x5x64x16"],
    "grid": [
        *("1x1280x2048x16", "256x5x2048x16", "5x256x2048x16", "2x1569x768x16", "1x2048x2048x16"),
        *("1x16384x2048x16", "1x12545x768x16"),
    ],
}
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
SMALL = (2, 37, 48, 16)
LARGEST_CHECK = 2**26  # elements b*l*d*n; a float64 check of more would take longer than all the timing
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of the largest element
LENGTHS = [256, 576, 1280, 4096, 16384]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["quick"], help="quick, grid, or shapes like 1x1280x2048x16")
    parser.add_argument("--passes", nargs="+", default=["forward", "backward"], choices=["forward", "backward"])
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), help="all that are installed when absent")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--max_seconds", type=float, default=30, help="for all runs of a candidate in one table row")
    parser.add_argument("--no_memory", action="store_true", help="do not measure memory")
    parser.add_argument("--system_allocator", action="store_true", help="count what the system takes to clear memory")
    parser.add_argument(
        "--clock", default="wall", choices=CLOCKS, help="processor: fit for a busy machine, one thread"
    )
    parser.add_argument("--avx2", action="store_true", help="on AVX-512, do as on a processor with AVX2 alone")
    parser.add_argument("--lengths", nargs="*", type=int, help=f"cost per token at these lengths, or at {LENGTHS}")
    parser.add_argument("--hidden_size", type=int, default=1024, help="with --lengths; the scan is twice as wide")
    parser.add_argument("--output_dir", help="write results.json and a plot here")
    parser.add_argument("--measure_memory", help=argparse.SUPPRESS)
    return parser.parse_args()


def parse_shape(text: str) -> Shape:
    """Read `1x1280x2048x16`."""
    shape = tuple(int(size) for size in text.split("x"))
    if len(shape) != 4 or min(shape) < 1:
        raise ValueError(f"a shape like 1x1280x2048x16 (b x l x d x n) is wanted, got {text}")
    return shape


class Case:
    """One shape in one dtype: its inputs, in both layouts, and what a float64 run makes of them."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: str, reference: Run | None):
        self.shape, self.dtype, self.device, self.reference = shape, dtype, device, reference
        self.inputs = draw_inputs(shape, dtype, device)
        self.grad = torch.randn(shape[:3], generator=torch.Generator().manual_seed(1)).to(device, dtype)
        self.wanted: dict[str, Tensor] = {}

    def run(self, run: Run, peer: Peer, backward: bool) -> Callable[[], tuple[Tensor, ...]]:
        """Return a call that gives `y`, followed by the gradient of each input if asked to."""
        inputs = self.inputs.channels_first() if peer.channels_first else self.inputs
        if not backward:
            return lambda: (run(*inputs),)
        leaves = Inputs(*(x.detach().requires_grad_() for x in inputs))
        grad = self.grad.transpose(1, 2).contiguous() if peer.channels_first else self.grad

        def both() -> tuple[Tensor, ...]:
            y = run(*leaves)
            return y.detach(), *torch.autograd.grad(y, leaves, grad)

        return both

    def check(self, got: tuple[Tensor, ...], peer: Peer) -> str:
        """Compare with float64; return the largest error in words, or raise a `ValueError` that names it."""
        if self.reference is None:
            return "small shape only"
        if not self.wanted:
            wide = [x.double().requires_grad_() for x in self.inputs]
            y = self.reference(*wide)
            grads = torch.autograd.grad(y, wide, self.grad.double())
            self.wanted = dict(zip(("y", *Inputs._fields), (y.detach(), *grads), strict=True))
        worst = ("", 0.0)
        for (name, wanted), x in zip(self.wanted.items(), got, strict=False):
            x = x.transpose(1, 2) if peer.channels_first and x.ndim == 3 else x
            error = ((x - wanted).abs().max() / wanted.abs().max()).item()
            if not error <= TOLERANCE[self.dtype]:
                raise ValueError(f"{name} is wrong by {error:.1e} of its largest element")
            worst = max(worst, (name, error), key=lambda pair: pair[1])
        return f"{worst[1]:.0e}"


def reference(*inputs: Any) -> Any:
    """Run the step by step reference."""
    return selective_scan_reference(ScanInputs(*inputs))[0]


def portable(*inputs: Any) -> Any:
    """Run the portable form, which the small shape has proved right."""
    return selective_scan_portable(ScanInputs(*inputs))[0]


def load_peers(names: Sequence[str] | None, device: str) -> tuple[dict[str, Run], dict[str, str]]:
    """Return the candidates that can run here, ours first, and why the others cannot."""
    runs, missing = {}, {}
    for name, peer in PEERS.items():
        if device not in peer.devices or (names and name not in names):
            continue
        try:
            runs[name] = peer.load()
        except Unavailable as reason:
            missing[name] = str(reason)
    return runs, missing


def check_small(runs: dict[str, Run], dtypes: Sequence[str], device: str) -> dict[str, str]:
    """Check the portable form in float64 and every candidate against the reference; return what is wrong."""
    wrong: dict[str, str] = {}
    for dtype in dtypes:
        case = Case(SMALL, getattr(torch, dtype), device, reference)
        for name, run in {"portable in float64": None, **runs}.items():
            try:
                if run is None:
                    wide = Inputs(*(x.double() for x in case.inputs))
                    case.check((portable(*wide),), PEERS["portable"])
                else:
                    case.check(case.run(run, PEERS[name], backward=True)(), PEERS[name])
            except Exception as error:  # whatever a peer raises, the others go on
                wrong[name] = f"{dtype}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return wrong


def expected_seconds(name: str, run: Run, shape: Shape, dtype: torch.dtype, backward: bool, device: str) -> float:
    """Foretell the time of a peer that loops over steps from an eighth and a quarter of the length."""
    if not PEERS[name].loops or shape[1] < 64:
        return 0.0
    times = []
    for part in (8, 4):
        case = Case((shape[0], shape[1] // part, *shape[2:]), dtype, device, None)
        times.append(seconds(case.run(run, PEERS[name], backward), device))
    return times[1] * min(max(times[1] / times[0], 2), 4) ** 2


def try_once(name: str, run: Run, case: Case, backward: bool, limit: float) -> dict[str, Any]:
    """Run a candidate once, check it, and say how often it may run: `{"run", "count", "check"}` or `{"note"}`."""
    expected = expected_seconds(name, run, case.shape, case.dtype, backward, case.device)
    if expected > limit:
        return {"note": f"not run: it would take about {expected:.0f} s"}
    call, start = case.run(run, PEERS[name], backward), time.perf_counter()
    try:
        with time_limit(limit):
            got: list[tuple[Tensor, ...]] = []
            first = seconds(lambda: got.append(call()), case.device)
            if name == "compiled" or first < limit / 10:  # the first run may have compiled
                first = seconds(call, case.device)
    except Exception as error:
        if time.perf_counter() - start >= limit:  # a compiler may wrap the alarm in an error of its own
            return {"note": f"stopped after {limit:g} s"}
        return {"note": f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    return {"run": call, "count": max(1, int(limit / max(first, 1e-9))), "check": case.check(got[0], PEERS[name])}


def time_case(runs: dict[str, Run], case: Case, backward: bool, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Check and time every candidate on one case; `{name: {"times", "check", "note"}}`."""
    tried = {}
    for name, run in runs.items():
        try:
            tried[name] = try_once(name, run, case, backward, args.max_seconds)
        except ValueError as error:
            tried[name] = {"note": f"WRONG: {error}", "wrong": True}
    ready = {name: trial for name, trial in tried.items() if "run" in trial}
    counts = {name: min(args.repeats, trial["count"]) for name, trial in ready.items()}
    calls = {name: trial["run"] for name, trial in ready.items()}
    times = in_turns(calls, counts, case.device, CLOCKS[args.clock])
    found = {}
    for name, trial in tried.items():
        few = f"{counts[name]} of {args.repeats} runs" if name in counts and counts[name] < args.repeats else ""
        found[name] = {
            "times": times.get(name, []),
            "check": trial.get("check", ""),
            "note": trial.get("note", few),
            "wrong": trial.get("wrong", False),
        }
    return found


def memory_apart(name: str, shape: str, dtype: str, backward: bool, args: argparse.Namespace) -> float | None:
    """Measure a candidate's extra memory in a process of its own; `None` if it takes too long or fails."""
    command = [sys.executable, __file__, "--measure_memory", name, "--shapes", shape, "--dtype", dtype]
    command += ["--passes", "backward" if backward else "forward", "--threads", "1", "--device", args.device]
    try:
        limit = 60 + 3 * args.max_seconds
        env = {name: value for name, value in os.environ.items() if name not in KEEPING}
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=limit, env=env)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    return json.loads(done.stdout.splitlines()[-1])


def measure_memory(args: argparse.Namespace) -> None:
    """Print the extra memory of one candidate in bytes: the part of `memory_apart` in the other process."""
    torch.set_num_threads(args.threads[0])
    (b, length, d, n), dtype = parse_shape(args.shapes[0]), getattr(torch, args.dtype[0])
    run, backward = PEERS[args.measure_memory].load(), args.passes[0] == "backward"
    sizes = [(b, length, d, n)] if args.measure_memory == "compiled" else [(1, min(length, 8), d, n)]
    for size in sizes:  # whatever is compiled or loaded at first use is no cost of the scan
        Case(size, dtype, args.device, None).run(run, PEERS[args.measure_memory], backward)()
    call = Case((b, length, d, n), dtype, args.device, None).run(run, PEERS[args.measure_memory], backward)
    print(json.dumps(extra_memory(call, args.device)))


def compare(args: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """Check, time and measure all shapes; return a record for each row, and whether every check was green."""
    runs, missing = load_peers(args.peers, args.device)
    wrong = check_small(runs, args.dtype, args.device)
    for name, reason in {**missing, **wrong}.items():
        print(f"{'WRONG ' if name in wrong else ''}{name}: {reason}")
    if "portable in float64" in wrong:
        return [], False
    runs = {name: run for name, run in runs.items() if name not in wrong}
    records, green = [], not wrong
    for shape in [s for text in args.shapes for s in SHAPES.get(text, [text])]:
        for dtype in args.dtype:
            sizes = parse_shape(shape)
            case = Case(
                sizes, getattr(torch, dtype), args.device, portable if math.prod(sizes) <= LARGEST_CHECK else None
            )
            for what in args.passes:
                memory: dict[str, float | None] = {}
                for threads in args.threads:
                    torch.set_num_threads(threads)
                    found = time_case(runs, case, what == "backward", args)
                    green = green and not any(result["wrong"] for result in found.values())
                    for name, result in found.items():
                        if result["times"] and name not in memory and not args.no_memory:
                            memory[name] = memory_apart(name, shape, dtype, what == "backward", args)
                        ours = found.get("cpu" if args.device == "cpu" else "triton", {"times": []})["times"]
                        record = {"shape": shape, "pass": what, "dtype": dtype, "threads": threads, "candidate": name}
                        record |= {"ratio": ratio(result["times"], ours) if result["times"] and ours else None}
                        size = case.inputs.u.numel() * case.inputs.u.element_size()
                        records.append({**record, **result, "memory": memory.get(name), "u_bytes": size})
    return records, green


def row(record: dict[str, Any]) -> dict[str, str]:
    """Write a record as a row of the table."""
    memory = record["memory"]
    return {
        "shape": record["shape"],
        "pass": record["pass"],
        "dtype": record["dtype"],
        "threads": record["threads"],
        "candidate": PEERS[record["candidate"]].about,
        "median": milliseconds(record["times"]),
        "ratio": "" if record["ratio"] is None else f"{record['ratio']:.2f}",
        "extra memory": "" if memory is None else f"{memory / MIB:.1f} MiB",
        "x u": "" if memory is None else f"{memory / record['u_bytes']:.2f}",
        "error": record["check"],
        "note": record["note"],
    }


def print_scaling(records: list[dict[str, Any]]) -> None:
    """Print how much faster each candidate is with more threads than with the fewest."""
    groups: dict[tuple[str, ...], dict[int, float]] = {}
    for record in records:
        if record["times"]:
            key: tuple[str, ...] = (record["shape"], record["pass"], record["dtype"], PEERS[record["candidate"]].about)
            groups.setdefault(key, {})[record["threads"]] = statistics.median(record["times"])
    rows = []
    for key, times in groups.items():
        few = min(times)
        row = dict(zip(("shape", "pass", "dtype", "candidate"), key, strict=True))
        rows.append({**row, **{f"{k} threads / {few}": f"{times[few] / times[k]:.2f} x" for k in times if k > few}})
    print("\nScaling over threads\n\n" + markdown(rows))


def draw_ratios(records: list[dict[str, Any]], axis: Any) -> None:
    """Draw the ratio to ours of every candidate as a dot, a line of dots for each case."""
    timed = [record for record in records if record["ratio"]]
    cases = list(dict.fromkeys(f"{r['shape']} {r['pass']} {r['dtype']} {r['threads']}t" for r in timed))
    for name in dict.fromkeys(record["candidate"] for record in timed):
        mine = [r for r in timed if r["candidate"] == name]
        at = [cases.index(f"{r['shape']} {r['pass']} {r['dtype']} {r['threads']}t") for r in mine]
        axis.plot([r["ratio"] for r in mine], at, "o", label=PEERS[name].about)
    axis.set_yticks(range(len(cases)), cases)
    axis.set(xscale="log", xlabel="time, divided by ours", title="Selective scan")
    axis.grid(axis="x", alpha=0.4)
    axis.legend(fontsize="small")


class Attention(nn.Module):
    """Self-attention over all tokens with its projections in and out, and nothing else."""

    def __init__(self, hidden_size: int, num_heads: int = 16):
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(hidden_size, 3 * hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over `(b, l, hidden_size)`."""
        heads = self.in_proj(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (3, b, heads, l, d)
        read = nn.functional.scaled_dot_product_attention(*heads)
        return self.out_proj(read.transpose(1, 2).flatten(2))


@torch.no_grad()
def time_lengths(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time the scan, a whole mixer and self-attention at several lengths; microseconds per token."""
    torch.set_num_threads(args.threads[0])
    name = "cpu" if args.device == "cpu" else "triton"
    run, width = PEERS["portable"].load(), args.hidden_size
    try:
        run = PEERS[name].load()
    except Unavailable as reason:
        print(f"{name}: {reason}; the portable form runs in its place")
    mixer, attention = MambaMixer(width).to(args.device), Attention(width).to(args.device)
    records = []
    for length in args.lengths or LENGTHS:
        inputs = draw_inputs((1, length, 2 * width, 16), torch.float32, args.device)
        x = torch.randn(1, length, width, device=args.device)
        calls = {"scan": partial(run, *inputs), "mixer": partial(mixer, x), "attention": partial(attention, x)}
        counts = {k: max(1, min(args.repeats, int(args.max_seconds / seconds(c)))) for k, c in calls.items()}
        times = in_turns(calls, counts, args.device)
        record = {key: statistics.median(value) / length * 1e6 for key, value in times.items()}
        records.append({"length": length, **record, "ratio": ratio(times["attention"], times["mixer"])})
    return records


def crossover(records: list[dict[str, Any]]) -> str:
    """Say from which length on attention costs more than a mixer, on a straight line between the logarithms."""
    for a, b in zip(records, records[1:], strict=False):
        if a["ratio"] < 1 <= b["ratio"]:
            share = -math.log(a["ratio"]) / math.log(b["ratio"] / a["ratio"])
            length = a["length"] * (b["length"] / a["length"]) ** share
            return f"attention costs more than the mixer from about {length:.0f} tokens on"
    dearer = all(record["ratio"] >= 1 for record in records)
    return f"attention costs {'more' if dearer else 'less'} than the mixer at every one of these lengths"


def draw_lengths(records: list[dict[str, Any]], axis: Any) -> None:
    """Draw the cost of a token over the length."""
    for name in ("scan", "mixer", "attention"):
        axis.plot([r["length"] for r in records], [r[name] for r in records], "o-", label=name)
    axis.set(xscale="log", yscale="log", xlabel="tokens", ylabel="microseconds per token", title="Cost of a token")
    axis.legend()


def main() -> None:
    """Check, time, print, save."""
    args = parse()
    if args.measure_memory:
        measure_memory(args)
        return
    if args.avx2:
        hide_avx512()
    if not args.system_allocator:
        keep_memory()
    print(f"{hardware(args.device)}; threads {args.threads}; at most {args.repeats} runs in turns\n")
    if args.lengths is not None:
        records, green = time_lengths(args), True
        shown = [{k: f"{v:.3g}" if isinstance(v, float) else v for k, v in record.items()} for record in records]
        print(markdown([{k if k in ("length", "ratio") else f"{k}, us/token": r[k] for k in r} for r in shown]))
        print(f"\nratio: attention / mixer; {crossover(records)}")
        plots = {"lengths": partial(draw_lengths, records)}
    else:
        records, green = compare(args)
        print("\n" + markdown([row(record) for record in records]))
        if len(args.threads) > 1:
            print_scaling(records)
        plots = {"ratios": partial(draw_ratios, records)}
    save(args.output_dir, {"hardware": hardware(args.device), "arguments": vars(args), "records": records}, plots)
    if not green:
        sys.exit("at least one candidate is wrong")


if __name__ == "__main__":
    main()
