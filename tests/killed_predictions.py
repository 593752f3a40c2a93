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
from hmba_hf.evaluation.prediction_files import PredictionFolder
from hmba_hf.tasks.answering.prediction import PredictionArguments, predict

KILLS, SAMPLES = 10, 24


def in_child(work: Callable[[], object], is_time: Callable[[], bool] = lambda: False) -> None:
    """Run `work` in a child, and kill it when it is time, unless it is done by then."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        try:
            work()
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    ended, status = 0, 0
    while not ended and not is_time():
        time.sleep(0.001)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"the child ended with {status}"


def main() -> None:
    """Predict once undisturbed, then in five folders with two kills each, from early ones to late ones."""
    checkpoint, folder = sys.argv[1], Path(sys.argv[2])

    def run(name: str, is_time: Callable[[], bool] = lambda: False) -> None:
        arguments = PredictionArguments(
            model=checkpoint,
            max_samples=SAMPLES,
            batch_size=2,
            max_new_tokens=16,
            device_map="cpu",
            output_dir=str(folder / name),
        )
        in_child(lambda: predict(arguments), is_time)

    def held(name: str) -> int:
        return len(PredictionFolder(folder / name).read())

    run("undisturbed")
    rng = random.Random(0)
    report = {"undisturbed": (folder / "undisturbed" / "predictions.jsonl").read_text(), "held": [], "ended": []}
    for kill in range(KILLS):
        name, wanted = f"killed-{kill // 2}", SAMPLES * (kill + rng.random()) / KILLS
        after = rng.random() / 50  # seconds: within the work on a batch, between two, or in a write

        def is_time(name: str = name, wanted: float = wanted, after: float = after) -> bool:
            if held(name) < wanted:
                return False
            time.sleep(after)
            return True

        run(name, is_time)
        report["held"].append(held(name))
        if kill % 2:
            run(name)
            report["ended"].append((folder / name / "predictions.jsonl").read_text())
    print(json.dumps(report))


if __name__ == "__main__":
    main()
