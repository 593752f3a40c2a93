"""How a command starts through Accelerate's launcher, as `accelerate launch` starts a script."""

import argparse
import contextlib
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate.commands.config import default_config_file
from accelerate.commands.launch import launch_command, launch_command_parser

CONFIGS = Path(__file__).parents[1] / "accelerate_configs"
# The launcher's options that a command takes beside its own; others stand in a configuration.
OPTIONS = (
    "num_processes",
    "num_machines",
    "machine_rank",
    "main_process_ip",
    "main_process_port",
    "gpu_ids",
    "mixed_precision",
    "dynamo_backend",
    "num_cpu_threads_per_process",
)
SWITCHES = ("cpu", "multi_gpu")


def split_words(words: list[str]) -> tuple[list[str], list[str]]:
    """Part the words of a command line into those for Accelerate's launcher and those for the command itself.

    `--accelerate_config` names a configuration of this package, such as `fsdp`, or a file of `accelerate config`.

    Raises:
        SystemExit: if the configuration is neither, if the number of processes is not at least 1, or if `--cpu`, which
            starts one process, comes with it or with several processes.
    """
    parser = argparse.ArgumentParser(prog="hmba", add_help=False, allow_abbrev=False)
    for name in ("accelerate_config", *OPTIONS):
        parser.add_argument(*_spellings(name))
    for name in SWITCHES:
        parser.add_argument(*_spellings(name), action="store_true")
    known, own = parser.parse_known_args(words)
    count = known.num_processes
    if count is not None and not (re.fullmatch("[0-9]+", count) and int(count) >= 1):
        parser.error(f"--num_processes must be a whole number of at least 1, got {count}")
    others = []
    if known.accelerate_config is not None:
        others.append(f"--accelerate_config {known.accelerate_config}")
    if known.num_processes not in (None, "1"):
        others.append(f"--num_processes {known.num_processes}")
    if known.cpu and others:
        parser.error(
            "--cpu starts one process, and must come without --accelerate_config and other --num_processes, got "
            f"{' and '.join(others)}; --accelerate_config ddp starts several, also on CPUs"
        )
    launcher = []
    if known.accelerate_config is not None:
        try:
            launcher += ["--config_file", str(find_config(known.accelerate_config))]
        except FileNotFoundError as error:
            parser.error(str(error))
    for name in OPTIONS:
        value = getattr(known, name)
        if value is not None:
            launcher += [f"--{name}", value]
    launcher += [f"--{name}" for name in SWITCHES if getattr(known, name)]
    return launcher, own


def _spellings(name: str) -> list[str]:
    """Return the ways to write an option, as Accelerate and `HfArgumentParser` take them."""
    return [f"--{name}", f"--{name.replace('_', '-')}"]


def find_config(name: str) -> Path:
    """Return the file of a configuration: one of this package by its name, or any by its path.

    Raises:
        FileNotFoundError: if there is none.
    """
    shipped = CONFIGS / f"{name}.yaml"
    if shipped.exists():
        return shipped
    path = Path(name)
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
        raise FileNotFoundError(f"--accelerate_config must be one of {names}, or a file, got {name}")
    return path


def has_settings(launcher: list[str]) -> bool:
    """Return whether the launcher has a configuration, or finds an accelerator."""
    is_configured = "--config_file" in launcher or Path(default_config_file).is_file()
    return is_configured or torch.accelerator.is_available()


def on_this_cpu() -> list[str]:
    """Return the launcher's options for a machine of CPUs, for which it would take one thread, after a warning."""
    settings = {
        "num_processes": 1,
        "num_machines": 1,
        "mixed_precision": "no",
        "dynamo_backend": "no",
        "num_cpu_threads_per_process": torch.get_num_threads(),
    }
    words = ["--cpu"]
    for name, value in settings.items():
        words += [f"--{name}", str(value)]
    return words


def launch(module: str, launcher: list[str], words: list[str]) -> int:
    """Let Accelerate run a module with words of a command line; return the exit status, as a shell counts it.

    SIGTERM reaches the processes that train, which may still save. Ctrl-C reaches them by themselves: this process
    waits until they have ended. Either one ends a launch of which no process has begun.
    """
    if not has_settings(launcher):
        launcher = [*on_this_cpu(), *launcher]
    args = launch_command_parser().parse_args([*launcher, "--module", module, *words])

    def hand_on(number: int, frame: Any) -> None:
        for child in _begun_or_exit(number):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                child.send_signal(number)

    def wait(number: int, frame: Any) -> None:
        _begun_or_exit(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, hand_on)
    signal.signal(signal.SIGINT, wait)
    try:
        launch_command(args)
    except subprocess.CalledProcessError as failed:  # it has said why
        if failed.returncode < 0:  # a signal has ended it
            return _status(-failed.returncode)
        return failed.returncode
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _begun_or_exit(number: int) -> list[psutil.Process]:
    """Return the processes that have begun; exit as a signal does if there are none."""
    children = psutil.Process().children()
    if not children:
        sys.exit(_status(number))
    return children


def _status(number: int) -> int:
    """Return the exit status of what a signal has ended."""
    return 128 + number
