"""Stored runs of the examples on tiny models, inside this process."""

import runpy
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name, *words):
    """Run an example as its command would."""
    command = [str(EXAMPLES / name), *map(str, words)]
    held, sys.argv = sys.argv, command
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        sys.argv = held


def evaluate(model, folder, *words):
    """Let a model answer about three clips of the micro-world, and store answers and scores."""
    quick = ["--max_samples", 3, "--max_new_tokens", 4, "--draws", 20, "--device_map", "cpu", "--tokenizer", "words"]
    run_example("evaluate.py", "--model", model, "--output_dir", folder, *quick, *words)
    return folder
