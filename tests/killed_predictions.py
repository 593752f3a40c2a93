"""Predict in child processes that are killed at random moments, and print what each folder held then and in the end.

    python tests/killed_predictions.py CHECKPOINT FOLDER

Everything is imported once and before any child is forked, so that a child begins to work at once.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import hmba_hf  # noqa: F401 - registers the model
from hmba_hf.prediction import PredictionArguments, PredictionFolder, predict

KILLS, SAMPLES = 10, 24


def in_child(work: Callable[[], object], seconds: float | None = None) -> float:
    """Run `work` in a child, kill it after so many seconds unless it is done, and return how long it was there."""
    start, child = time.monotonic(), os.fork()
    if child == 0:
        torch.set_num_threads(1)
        try:
            work()
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"the child ended with {status}"
    return time.monotonic() - start


def main() -> None:
    """Predict once undisturbed, then in five folders with two kills each, from early ones to late ones."""
    checkpoint, folder = sys.argv[1], Path(sys.argv[2])

    def run(name: str, seconds: float | None = None) -> float:
        arguments = PredictionArguments(
            model=checkpoint,
            max_samples=SAMPLES,
            batch_size=2,
            max_new_tokens=16,
            device_map="cpu",
            output_dir=str(folder / name),
        )
        return in_child(lambda: predict(arguments), seconds)

    def held(name: str) -> int:
        return len(PredictionFolder(folder / name).read())

    seconds, rng = run("undisturbed"), random.Random(0)
    report = {"undisturbed": (folder / "undisturbed" / "predictions.jsonl").read_text(), "held": [], "ended": []}
    for kill in range(KILLS):
        name = f"killed-{kill // 2}"
        run(name, seconds * (kill + rng.random()) / KILLS)
        report["held"].append(held(name))
        if kill % 2:
            run(name)
            report["ended"].append((folder / name / "predictions.jsonl").read_text())
    print(json.dumps(report))


if __name__ == "__main__":
    main()
