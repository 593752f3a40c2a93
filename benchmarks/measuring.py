"""What the benchmarks measure with: turns in one run, peak memory, the machine in a line, tables, results on disk.

python benchmarks/measuring.py      # prints the line about this machine
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from hmba_hf.commands.env import processor_name

try:
    import numba
    from llvmlite import binding
except ImportError:
    numba = None
try:
    from matplotlib import pyplot
except ImportError:
    pyplot = None

MIB = 2**20
LIBC = ctypes.CDLL(None)
# What glibc's allocator is told by its environment, to keep memory that is freed.
KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
AVX2 = "x86-64-v3"  # the processor that LLVM then compiles for
SHORT = 1.0  # seconds; a longer call does not feel what was run before it


def hardware(device: str = "cpu") -> str:
    """Describe the machine and the libraries that a timing belongs to."""
    card = f"{torch.cuda.get_device_name()}, " if device == "cuda" else ""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    versions += f", numba {numba.__version__}" if numba else ", no numba"
    return (
        f"{card}{processor_name()} ({torch.backends.cpu.get_cpu_capability()}), {os.cpu_count()} cores, "
        f"{platform.system()}, Python {platform.python_version()}, {versions}"
    )


def seconds(run: Callable[[], Any], device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """Time one call, on a GPU until it is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def keep_memory() -> None:
    """Start the program again with an allocator that keeps freed memory, as jemalloc and tcmalloc do.

    Else every result above 32 MiB is cleared by the system page by page, at a cost that differs from machine to
    machine and minute to minute, and whoever comes after a candidate that freed gigabytes pays for it.
    """
    if sys.platform == "linux":
        _start_again(KEEPING)


def hide_avx512() -> None:
    """Start the program again as on a processor with AVX2 alone: Numba's kernels, torch's and what asks torch."""
    features = binding.get_host_cpu_features()
    kept = [f"{'-' if name.startswith('avx512') or not has else '+'}{name}" for name, has in features.items()]
    _start_again({"NUMBA_CPU_NAME": AVX2, "NUMBA_CPU_FEATURES": ",".join(kept), "ATEN_CPU_CAPABILITY": "avx2"})


def _start_again(variables: Mapping[str, str]) -> None:
    """Start the program again with these variables, unless they are set."""
    if not variables.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **variables})


def in_turns(
    runs: Mapping[str, Callable[[], Any]],
    repeats: Mapping[str, int] | int,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time calls in turns, A B C A B C, so that what else the machine does meets all of them; seconds by name.

    A short call is made twice and the second one is timed, so that it finds caches and threads as it left them itself.
    """
    counts = {name: repeats if isinstance(repeats, int) else repeats[name] for name in runs}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(max(counts.values(), default=0)):
        for name, run in runs.items():
            if turn < counts[name]:
                gc.collect()
                if not times[name] or times[name][-1] < SHORT:
                    run()
                times[name].append(seconds(run, device, clock))
    return times


def ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """Return the median over the turns of one call's time divided by another's."""
    return statistics.median(a / b for a, b in zip(times, base, strict=False))


@contextmanager
def time_limit(limit: float) -> Iterator[None]:
    """Raise a `TimeoutError` when the body takes longer, at the next step of Python; no limit without alarms."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def extra_memory(run: Callable[[], Any], device: str = "cpu") -> float | None:
    """Return by how many bytes memory peaked above what was held before; `None` where the system does not tell."""
    gc.collect()
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)  # else results find room in what was freed before, and seem to take none
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds(run, device)
        return float(torch.cuda.max_memory_allocated() - before)
    refs, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not refs.exists():
        return None

    def held(field: str) -> int:
        words = status.read_text().split()
        return int(words[words.index(f"{field}:") + 1]) * 1024

    refs.write_text("5")  # the peak starts anew
    resident = held("VmRSS")
    kept = run()  # noqa: F841 - results count
    return float(held("VmHWM") - resident)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows with the same keys as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])] if rows else []
    return "\n".join(lines + ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows])


def milliseconds(times: Sequence[float]) -> str:
    """Write the median of some times."""
    return f"{statistics.median(times) * 1e3:.3g} ms" if times else ""


def save(folder: str | None, results: Any, plots: Mapping[str, Callable[[Any], None]]) -> None:
    """Write `results.json` and pictures, each drawn on an axis by a function; nothing without a folder."""
    if folder is None:
        return
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    if pyplot is None:
        print("no plot: it needs matplotlib; run: pip install matplotlib")
        return
    for name, draw in plots.items():
        figure, axis = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
        draw(axis)
        figure.savefig(path / f"{name}.png", dpi=120)
        pyplot.close(figure)
    print(f"results and plots are in {path}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(hardware())
