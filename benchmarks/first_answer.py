"""How long does a fresh process take to its first answer, and what do the kernels that it compiles add?

    python benchmarks/first_answer.py --repeats 5
    python benchmarks/first_answer.py --model runs/demo/model

The pipeline of the installed micro model, or of another one, answers one question about five drawn frames. Kernels are
kept on disk, compiled while weights are read, as the package does it, or compiled at their first use. Processes run in
turns; each has a folder of its own for its kernels, which but for the first case is empty. The seconds are medians
since the process began; `waits` is the time from the loaded pipeline to the answer.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import hardware, markdown

import hmba_hf
from hmba_hf.models import layers_state_space

MICRO = Path(hmba_hf.__file__).parent / "micro_tuned"
CASES = {"kept": "kept on disk", "ahead": "compiled while weights are read", "late": "compiled at first use"}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MICRO), help="a folder with a model and its processor")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    return parser.parse_args()


def answer(args: argparse.Namespace) -> None:
    """Answer one question, and print the seconds at which the pipeline was loaded and the answer there."""
    from transformers import pipeline

    if args.case == "late":
        layers_state_space.compile_ahead = lambda dtypes: None
    frames = np.random.default_rng(0).integers(0, 256, (5, 96, 96, 3), dtype=np.uint8)
    pipe = pipeline("video-text-to-text", model=args.model)
    loaded = time.time()
    pipe(videos=frames, text="Which object is at the highest risk for the ego car?", max_new_tokens=8)
    print(json.dumps({"loaded": loaded, "answered": time.time(), "processor": time.process_time()}))


def run_once(case: str, folder: str, args: argparse.Namespace) -> dict[str, float]:
    """Run one case in a fresh process; return its seconds."""
    command = [sys.executable, __file__, "--case", case, "--model", args.model]
    start = time.time()
    environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    told = json.loads(done.stdout.splitlines()[-1])
    told["waits"] = told["answered"] - told["loaded"]
    return {**told, "loaded": told["loaded"] - start, "answered": told["answered"] - start}


def main() -> None:
    """Measure all cases in turns."""
    args = parse()
    if args.case:
        answer(args)
        return
    found: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as kept:
        run_once("ahead", kept, args)
        for _ in range(args.repeats):
            for case in CASES:
                with tempfile.TemporaryDirectory() as empty:
                    found[case].append(run_once(case, kept if case == "kept" else empty, args))
    rows: list[dict[str, Any]] = []
    for case, times in found.items():
        row: dict[str, Any] = {"kernels": CASES[case]}
        for name in times[0]:
            row[f"{name}, s"] = f"{statistics.median(one[name] for one in times):.1f}"
        rows.append(row)
    print(f"{hardware()}; medians of {args.repeats} runs in turns\n\n{markdown(rows)}")


if __name__ == "__main__":
    main()
