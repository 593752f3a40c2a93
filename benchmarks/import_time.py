"""How long `import hmba_hf` takes beside what it stands on, in fresh processes that take turns.

    python benchmarks/import_time.py --repeats 9

Writes `benchmarks/results/import_time.md`. Medians of wall and CPU seconds, the start of Python included. The ratio is
to `import torch, transformers`; at most 1.1 is wanted. The last rows show what is only imported when it is used.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measuring import hardware

IMPORTS = {
    "torch and transformers": "import torch, transformers",
    "hmba_hf": "import hmba_hf",
    "torch, transformers and hmba_hf": "import torch, transformers, hmba_hf",
    "transformers' models": "import torch, transformers, transformers.modeling_utils",
    "hmba_hf's models": "import hmba_hf; hmba_hf.HMBAForConditionalGeneration",
}
BASE = "torch and transformers"
RESULTS = Path(__file__).with_name("results") / "import_time.md"


def seconds(code: str) -> tuple[float, float]:
    """Run code in a fresh process; return its wall and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure in turns, write the page, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in IMPORTS}
    for code in IMPORTS.values():
        seconds(code)  # once, so that all files are in memory and compiled
    for _ in range(args.repeats):
        for name, code in IMPORTS.items():
            measured[name].append(seconds(code))
    medians = {}
    for name, pairs in measured.items():
        walls, cpus = zip(*pairs, strict=True)
        medians[name] = (statistics.median(walls), statistics.median(cpus))
    lines = ["| import | wall s | CPU s | CPU, ratio |", "|---|---|---|---|"]
    for name, (wall, cpu) in medians.items():
        lines.append(f"| {name} | {wall:.2f} | {cpu:.2f} | {cpu / medians[BASE][1]:.2f} |")
    command = f"python benchmarks/import_time.py --repeats {args.repeats}"
    page = "\n".join(["# Import time", "", f"`{command}`, on {hardware()}.", "", *lines, ""])
    RESULTS.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
