"""How many steps a second does the demo's fine-tuning make, beside an older version's?

    git worktree add ../older f1dbd96 && make -C ../older .venv       # version 0.1
    python benchmarks/demo_training.py --old ../older --output_dir runs/demo_training

Both versions fine-tune in turns, each in a process of its own with its own recipe of the demo: today's with features
that are kept, one scan of H-MBA and two epochs, version 0.1 with three scans, one epoch and a loader worker. Times are
medians over the steps of all turns but the first two of each case, whose kernels are compiled or loaded; a worker's
time is shared out over the steps. `whole demo` is the mean of the steps that the demo makes: H-MBA meets each clip
twice in its 250 steps, and the current frame alone finds all clips kept.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from measuring import hardware, markdown, save

CLOCKS = ("processor", "wall")
WARM = 2  # steps of a case that are left out
NEW, OLD = "today", "old"
NAMES = {"mamba": "H-MBA", "none": "current frame only"}
WHOLE = "whole demo"


def run_steps(python: str, folder: Path, epochs: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train with both adapters in another process, and return its times."""
    words = ["--epochs", str(epochs)]
    for name in ("steps", "batch", "threads"):
        words += [f"--{name}", str(getattr(args, name))]
    command = [python, str(Path(__file__).with_name("demo_steps.py").resolve()), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "PYTHONPATH": str(folder / "src")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} in {folder} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def cases_of(version: str, times: dict[str, Any], steps: int) -> dict[str, dict[str, list[float]]]:
    """Part the laps of one process by what they do."""
    found: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for adapter, laps in times.items():
        for clock in CLOCKS:
            own = laps[clock]
            if version == OLD:
                found[f"{NAMES[adapter]}, {OLD}"][clock] = own[WARM:]
                continue
            # The loader reads a batch ahead: the last steps of an epoch of first visits read kept clips already.
            first = steps // 2
            found[f"{NAMES[adapter]}, {NEW}, kept"][clock] = own[first + 1 :] if adapter == "mamba" else own[WARM:]
            if adapter == "mamba":
                found[f"{NAMES[adapter]}, {NEW}, first visit"][clock] = own[WARM : first - 2]
    return found


def whole_demo(medians: dict[str, float]) -> dict[str, float]:
    """Return the mean seconds of a step of each version's demo."""
    first, kept = (medians[f"H-MBA, {NEW}, {what}"] for what in ("first visit", "kept"))
    still = medians[f"current frame only, {NEW}, kept"]
    return {
        NEW: statistics.mean([statistics.mean([first, kept]), still]),
        OLD: statistics.mean([medians[f"H-MBA, {OLD}"], medians[f"current frame only, {OLD}"]]),
    }


def main() -> None:
    """Train in turns, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="checkout of an older version")
    parser.add_argument("--old_python", help="its interpreter; that of its .venv when absent")
    parser.add_argument("--steps", type=int, default=16, help="of each training, in a turn; 10 or more")
    parser.add_argument("--batch", type=int, default=32, help="clips of a step")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output_dir", help="write results.json here")
    args = parser.parse_args()
    old_python = args.old_python or str(args.old.resolve() / ".venv/bin/python")
    here = Path(__file__).parents[1].resolve()
    print(f"{hardware()}; {args.threads} threads\n", flush=True)
    spent: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    ratios: dict[str, list[float]] = defaultdict(list)
    for _ in range(args.turns):
        of_turn = {}
        for version, python, folder in ((NEW, sys.executable, here), (OLD, old_python, args.old.resolve())):
            times = run_steps(python, folder, 2 if version == NEW else 1, args)
            of_turn |= cases_of(version, times, args.steps)
        for case, laps in of_turn.items():
            for clock in CLOCKS:
                spent[case][clock] += laps[clock]
        for clock in CLOCKS:
            whole = whole_demo({case: statistics.median(laps[clock]) for case, laps in of_turn.items()})
            ratios[clock].append(whole[OLD] / whole[NEW])
            for version, mean in whole.items():
                spent[f"{WHOLE}, {version}"][clock].append(mean)
        print(f"a turn: {ratios['processor'][-1]:.2f} times by the processor, {ratios['wall'][-1]:.2f} by the wall")
    rows = []
    for case, laps in sorted(spent.items()):
        row: dict[str, str] = {"steps": case}
        for clock in CLOCKS:
            median = statistics.median(laps[clock])
            row[f"ms a step, {clock}"] = f"{median * 1e3:,.0f}"
            row[f"steps a second, {clock}"] = f"{1 / median:.2f}"
        rows.append(row)
    print("\n" + markdown(rows) + "\n")
    for clock in CLOCKS:
        print(f"whole demo, by the {clock}: {statistics.median(ratios[clock]):.2f} times the steps a second")
    save(
        args.output_dir, {"hardware": hardware(), "arguments": vars(args) | {"old": str(args.old)}, "spent": spent}, {}
    )


if __name__ == "__main__":
    main()
