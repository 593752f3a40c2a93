"""Stored runs of the examples on tiny models, inside this process."""

import importlib
import runpy
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
LAUNCH = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--mixed_precision", "no"]


def run_example(name, *words):
    """Run an example as its command would; an error that ends it in a sentence is raised as it was."""
    command = [str(EXAMPLES / name), *map(str, words)]
    held, sys.argv = sys.argv, command
    try:
        run_script(command[0])
    finally:
        sys.argv = held


def run_script(path):
    """Run a file as a program; an error that ends it in a sentence is raised as it was."""
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str) and isinstance(end.__context__, Exception):
            raise end.__context__ from None
        raise


def run_commands_here(monkeypatch):
    """Let commands run inside this process that the package starts in processes of their own."""
    run_elsewhere = subprocess.run

    def run_here(command, check=False, **options):
        place = next((at for at, word in enumerate(command) if str(word).startswith("hmba_hf.commands.")), None)
        if place is None:  # another program, such as Java, asked for its version
            return run_elsewhere(command, check=check, **options)
        assert [*command[:place]] in ([sys.executable, "-m"], [sys.executable, *LAUNCH, "-m"]) and check
        return importlib.import_module(command[place]).main(command[place + 1 :])

    monkeypatch.setattr(subprocess, "run", run_here)


def evaluate(model, folder, *words):
    """Let a model answer about three clips of the micro-world, and store answers and scores."""
    quick = ["--max_samples", 3, "--max_new_tokens", 4, "--draws", 20, "--device_map", "cpu", "--tokenizer", "words"]
    run_example("evaluate.py", "--model", model, "--output_dir", folder, *quick, *words)
    return folder
