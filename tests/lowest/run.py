"""Run the tests with the lowest version of every package that pyproject.toml allows.

    make test-lowest                                  # the whole suite
    make test-lowest TESTS="tests/test_ops_*.py"      # some of its files, or any other words for pytest

Builds `.cache/lowest` with Python 3.11 or newer: each requirement `name>=version` of pyproject.toml is installed as
`name==version`, and what these need in its newest release that fits. An environment that is there is used again as
long as the requirements stay the same. It downloads gigabytes where torch comes with CUDA.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".cache" / "lowest"
PYTHON = PLACE / "bin" / "python"
INSTALLED = PLACE / "installed.txt"
# Extras that need a GPU to be built or run, or a browser: their versions are not tested here.
LEFT_OUT = ("app", "mamba-ssm")


def lowest_requirements(project: dict) -> Iterator[str]:
    """Give each requirement of a project at its lower bound, such as `av==15` for `av>=15`.

    Args:
        project: the table of this name in pyproject.toml.

    Raises:
        ValueError: if a requirement has no lower bound.
    """
    lines = list(project["dependencies"])
    for extra, wanted in project["optional-dependencies"].items():
        if extra not in LEFT_OUT:
            lines += wanted
    for line in dict.fromkeys(lines):
        if line.startswith(f"{project['name']}["):  # an extra made of others
            continue
        requirement, semicolon, marker = line.partition(";")
        bound = re.fullmatch(r"([\w.-]+(?:\[[\w,-]+\])?)\s*>=\s*([\d.]+)(?:\s*,.*)?\s*", requirement)
        if bound is None:
            raise ValueError(f"a requirement must be name>=version, got {line!r}")
        name, version = bound.groups()
        yield f"{name}=={version}{semicolon}{marker}"


def build() -> None:
    """Build the environment, unless it is there with the same requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = "\n".join(lowest_requirements(project))
    if INSTALLED.is_file() and INSTALLED.read_text("utf-8") == wanted:
        return
    shutil.rmtree(PLACE, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(PLACE)], check=True)
    install = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, *wanted.splitlines()], check=True)
    subprocess.run([*install, "--no-deps", "--editable", str(ROOT)], check=True)
    INSTALLED.write_text(wanted, "utf-8")


def main() -> None:
    """Build the environment and hand all words to pytest in it."""
    build()
    print(INSTALLED.read_text("utf-8"), flush=True)
    ran = subprocess.run([str(PYTHON), "-m", "pytest", *sys.argv[1:]], cwd=ROOT)
    sys.exit(ran.returncode)


if __name__ == "__main__":
    main()
