"""Measure the steps of one version's demo, whose package and `examples/` this interpreter finds.

    python benchmarks/demo_steps.py --adapter mamba none --steps 8     # prints JSON; `demo_training.py` calls it

It needs nothing of this version, so that an older one can be measured. A lap begins with a step and ends with the next
one, and so has the reading of a batch. What loader workers take is shared out over the steps.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, trainer
from transformers.utils import logging

from hmba_hf.tasks.answering.arguments import parse_arguments
from hmba_hf.tasks.answering.run import finetune


class Laps(TrainerCallback):
    """Times the steps of each training."""

    runs: list[list[dict[str, float]]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin with a run."""
        self.runs.append([])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time of both clocks."""
        self.runs[-1].append({"processor": time.process_time(), "wall": time.perf_counter()})

    on_train_end = on_step_begin


def words_of(adapter: str, folder: Path, steps: int, epochs: int, batch: int) -> list[str]:
    """Return the words of the demo's training in this version, over as many epochs of batches of a size."""
    if find_spec("hmba_hf.commands"):
        from hmba_hf.commands.demo import finetuning_words

        words = finetuning_words(folder, adapter, steps)
    else:
        sys.path.insert(0, "examples")
        from ablate import BASE, finetuning_options

        options = finetuning_options({"adapter": adapter}, seed=0, steps=steps)
        words = []
        for name, value in {"model": BASE, "output_dir": folder, **options}.items():
            words += [f"--{name}", str(value)]
    clips = ["--per_device_train_batch_size", str(batch), "--max_train_samples", str(batch * steps // epochs)]
    return [*words, *clips, "--disable_tqdm", "True"]


def measure(adapter: str, args: argparse.Namespace, kept: Any) -> tuple[dict[str, list[float]], Any]:
    """Train as the command line says; return the seconds of each step by both clocks, and the clips."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    options = {} if kept is None else {"clips": kept}
    with tempfile.TemporaryDirectory() as folder:
        words = words_of(adapter, Path(folder), args.steps, args.epochs, args.batch)
        trained: Any = finetune(*parse_arguments("", words), **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    of_workers = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found: dict[str, list[float]] = {}
    times = Laps.runs[-1]
    for clock in ("processor", "wall"):
        found[clock] = [end[clock] - start[clock] for start, end in zip(times[:-1], times[1:], strict=True)]
    found["processor"] = [spent + of_workers / args.steps for spent in found["processor"]]
    keeps = hasattr(trained.train_dataset, "held")
    return found, trained.train_dataset if keeps else None


def main() -> None:
    """Train with each adapter and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", nargs="+", default=["mamba", "none"])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    trainer.DEFAULT_CALLBACKS.append(Laps)
    kept = None
    results = {}
    for adapter in args.adapter:
        results[adapter], kept = measure(adapter, args, kept)
    print("\n" + json.dumps(results))


if __name__ == "__main__":
    main()
