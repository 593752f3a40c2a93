"""Run commands of the examples in children of this process that are stopped at random moments, and once undisturbed.

    python tests/killed_runs.py KILLS SEED FOLDER SCRIPT [OPTIONS...]

Everything is imported once, before the children are forked. A child and its workers get SIGKILL or, by turns, SIGTERM
at a moment drawn from the time that an undisturbed run takes, and the next one goes on in its folder. One that ends
before its moment is followed by another from the beginning; after the last signal the command runs to its end. Leaves
`FOLDER/undisturbed` and `FOLDER/killed-0` and so on, and prints the moments at which a child was stopped at work.
"""

import os
import random
import runpy
import signal
import sys
import time
from pathlib import Path

import datasets  # noqa: F401
import peft  # noqa: F401
import torch._dynamo  # noqa: F401

import hmba_hf  # noqa: F401
from hmba_hf.data.feature_cache import writing  # noqa: F401
from hmba_hf.tasks.answering import run as training_run  # noqa: F401

EXAMPLES = Path(__file__).parents[1] / "examples"


def fork(script: str, options: list[str], folder: Path) -> int:
    """Start a script in a child whose words go to a file."""
    child = os.fork()
    os.setpgid(child, child)  # in both, because either may come first
    if child:
        return child
    status = 1
    try:
        with open(folder.with_suffix(".log"), "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.argv = [script, *options, "--output_dir", str(folder)]
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def finish(child: int, folder: Path) -> None:
    """Wait for a child; fail with what it said if it does."""
    if os.waitpid(child, 0)[1]:
        sys.exit(folder.with_suffix(".log").read_text())


def stop(child: int, number: int, folder: Path) -> bool:
    """Send a signal to a child and its workers; tell whether it has been at work."""
    log = folder.with_suffix(".log")
    known = log.stat().st_size if log.exists() else 0
    os.killpg(child, number)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    with open(log, "rb") as file:
        file.seek(known)
        said = file.read().decode()
    if status:
        sys.exit(said)
    return "stopped by SIGTERM" in said


def main(kills: int, seed: int, folder: Path, script: str, *options: str) -> None:
    """Run once undisturbed, then again under kills."""
    start = time.monotonic()
    for name in ("warm", "undisturbed"):  # the first one loads what the others find in memory
        start = time.monotonic()
        finish(fork(script, list(options), folder / name), folder / name)
    duration, moments, met, runs = time.monotonic() - start, random.Random(seed), [], 0
    while len(met) < kills:
        place = folder / f"killed-{runs}"
        child = fork(script, list(options), place)
        moment = moments.uniform(0, duration)
        time.sleep(moment)
        if stop(child, (signal.SIGKILL, signal.SIGTERM)[len(met) % 2], place):
            met.append(round(moment / duration, 2))
        else:
            runs += 1
    finish(fork(script, list(options), folder / f"killed-{runs}"), folder / f"killed-{runs}")
    print(*met)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
