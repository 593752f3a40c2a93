"""Try the newest releases of what H-MBA stands on, in a clean environment for each Python of this machine.

    make test-latest                     # or: python tests/latest/run.py --pythons python3.12 --keep

Builds the wheel, installs it with its extras and without constraints under `.cache/latest`, and runs `smoke.py` there.
Prints a table; the exit status is 1 if anything failed. It downloads what pip finds, which may be gigabytes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from interpreters import find_pythons, version_of

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".cache" / "latest"
EXTRAS = "[cpu,train]"
SMOKE = Path(__file__).with_name("smoke.py")
STEPS = ("install", "load", "answer", "stream", "stream_on_any_base", "save", "carry_code", "train", "push")
SHOWN = ("transformers", "torch", "av", "numpy")


def build_wheel() -> Path:
    """Build the wheel of this checkout, from a copy without what an older build has left."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        ignored = shutil.ignore_patterns(".git", ".cache", ".venv", "build", "*.egg-info", "runs", "__pycache__")
        shutil.copytree(ROOT, source, ignore=ignored)
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            str(PLACE),
            str(source),
        ]
        subprocess.run(command, check=True)
    (wheel,) = PLACE.glob("hmba_hf-*.whl")
    return wheel


def try_python(python: str, wheel: Path, folder: Path) -> dict[str, object]:
    """Install the wheel for one Python and run the smoke test there; return versions and, for each step, its lines."""
    subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
    own = str(folder / "bin" / "python")
    install = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}{EXTRAS}"]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        return {"versions": {}, "install": {"error": done.stderr}}
    outcome: dict[str, object] = {"versions": {}, "install": {"error": None}}
    with tempfile.TemporaryDirectory() as scratch:
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        ran = subprocess.run([own, str(SMOKE), scratch], capture_output=True, text=True, env=clean, cwd=scratch)
    for line in ran.stdout.splitlines():
        if line.startswith('{"versions"'):
            outcome["versions"] = json.loads(line)["versions"]
        elif line.startswith('{"step"'):
            step = json.loads(line)
            outcome[step["step"]] = step
    for step in STEPS:
        outcome.setdefault(step, {"error": f"the process ended before, with {ran.returncode}:\n{ran.stderr[-3000:]}"})
    return outcome


def table(outcomes: dict[str, dict]) -> str:
    """Write a row for each Python."""
    rows = [("Python", *SHOWN, *STEPS)]
    for version, outcome in outcomes.items():
        steps = [outcome.get(step) for step in STEPS]
        cells = ["-" if step is None else "FAILED" if step["error"] else "ok" for step in steps]
        rows.append((version, *(outcome["versions"].get(name, "-") for name in SHOWN), *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> None:
    """Try each Python and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", nargs="+", help="interpreters; all from 3.11 on when absent")
    parser.add_argument("--keep", action="store_true", help="leave the environments in .cache/latest")
    given = parser.parse_args()
    pythons = {version_of(path) or path: path for path in given.pythons} if given.pythons else find_pythons()
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    wheel, outcomes = build_wheel(), {}
    for version, python in pythons.items():
        print(f"Python {version}, {python} ...", flush=True)
        outcomes[version] = try_python(python, wheel, PLACE / f"python{version}")
        print(table({version: outcomes[version]}), flush=True)
        if not given.keep:
            shutil.rmtree(PLACE / f"python{version}")
    failures = [(v, s, o[s]["error"]) for v, o in outcomes.items() for s in STEPS if o.get(s) and o[s]["error"]]
    for version, step, error in failures:
        print(f"\nPython {version}, {step}:\n{error}")
    print(f"\n{table(outcomes)}")
    if failures or not outcomes:
        sys.exit(1)


if __name__ == "__main__":
    main()
