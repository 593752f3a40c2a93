"""Try what a user installs: the wheel, alone or with one extra, in a clean environment and an empty folder.

    make test-wheel                                     # without extras
    make test-extras [EXTRAS="train eval"]              # each extra alone, quickly
    make test-sdist                                     # tests run in an unpacked sdist

Builds the sdist, and the wheel from it, as a release does. Environments are made with uv under `.cache/wheel` and
removed afterwards. In each, all modules are imported, and `demo`, `describe`, `convert` and `push` run, `push` to the
Hub of `tests/hub` on this machine. The last result of each is kept under `.cache` and stands in
`benchmarks/results/wheel.md`. The exit status is 1 if anything failed.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
PLACE = ROOT / ".cache" / "wheel"
KEPT = ROOT / ".cache" / "wheel-results.json"
PAGE = ROOT / "benchmarks" / "results" / "wheel.md"
EXTRAS = ("app", "cpu", "demo", "dev", "eval", "gguf", "qlora", "quantised", "serve", "train", "triton", "all")
# Of what only an sdist may lack: golden files, examples, conversion, helpers, the changelog.
TESTS_OF_SDIST = (
    "actions_preparing",
    "convert_videomamba",
    "conversion_hmba",
    "modeling_videomamba_original",
    "parsing_boxes",
    "requirements",
    "version_0_1",
)
# What the environment of a developer would lend to one that has to be clean.
NOT_HANDED_ON = ("PYTHONPATH", "VIRTUAL_ENV", "HF_TOKEN", "HF_ENDPOINT", "HMBA_SCAN_BACKEND", "HMBA_LINEAR_BACKEND")
SHORT_DEMO = ("--steps", "2", "--clips", "4")
HEAD = """\
`make test-wheel`, `make test-extras`, `make test-sdist`

The wheel that a release would publish, in a clean environment and an empty folder, without an extra (none) and with
each alone: it is installed with the pinned versions, every module is imported or names the command that installs what
it wants, `hmba env` and the `--help` of every verb run, `hmba demo` leaves its report, a tiny random LLaVA is
converted and describes a clip, and is pushed to a Hub on this machine. The sdist is unpacked; its tests are collected,
and those of golden files, examples and conversion run there.

| extra | what was tried, all of it well where nothing else is said | demo | commit | date |
|---|---|---|---|---|
"""
sys.path[:0] = [str(TESTS / "matrix"), str(TESTS / "app")]

from environments import uv  # noqa: E402
from measured import constraints_beside_gradio  # noqa: E402


class Failed(Exception):
    """A step did not do what it should; its last lines are in it."""


def build() -> tuple[Path, Path]:
    """Build the sdist and, from it, the wheel."""
    uv("build", "--quiet", "--out-dir", str(PLACE / "dist"), str(ROOT))
    (sdist,) = (PLACE / "dist").glob("*.tar.gz")
    (wheel,) = (PLACE / "dist").glob("*.whl")
    return sdist, wheel


def clean_environment(**variables: str) -> dict[str, str]:
    """Return the variables of this process without those that reach into a clean environment, and with others."""
    kept = {name: value for name, value in os.environ.items() if name not in NOT_HANDED_ON}
    return kept | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"} | variables


class Installed:
    """A clean environment with the wheel in it, and an empty folder.

    Args:
        wheel: to install.
        extra: of it, if any.
    """

    def __init__(self, wheel: Path, extra: str | None) -> None:
        self.place = PLACE / (extra or "base")
        self.folder = self.place / "empty"
        self.bin = self.place / "venv" / "bin"
        self.python = str(self.bin / "python")
        self.folder.mkdir(parents=True)
        uv("venv", "--quiet", "--python", sys.executable, str(self.place / "venv"))
        wanted = f"hmba-hf[{extra}] @ {wheel.as_uri()}" if extra else str(wheel)
        constraints = ROOT / "constraints.txt"  # `make matrix` tries other versions
        if extra == "app":
            constraints = self.place / "constraints.txt"
            constraints.write_text(constraints_beside_gradio(), "utf-8")
        words = ["--quiet", "--python", self.python, "--constraint", str(constraints), wanted]
        uv("pip", "install", *words, folder=self.folder)

    def run(self, *words: str | Path, **variables: str) -> str:
        """Run a program of the environment in the empty folder, and return what it prints.

        Raises:
            Failed: it did not end well.
        """
        command = [str(self.bin / words[0]), *map(str, words[1:])]
        options = {"capture_output": True, "text": True, "cwd": self.folder, "env": clean_environment(**variables)}
        done = subprocess.run(command, **options)
        if done.returncode:
            raise Failed(
                f"{' '.join(map(str, words))} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}"
            )
        return done.stdout

    def verbs(self) -> list[str]:
        """Return all verbs, with what may stand behind them."""
        lists = "[*c.VERBS], [*c.FINETUNING], [*c.PREPARING], [*c.CONVERTING]"
        code = f"import json, hmba_hf.cli as c; print(json.dumps([{lists}]))"
        verbs, finetuning, preparing, converting = json.loads(self.run("python", "-c", code))
        found = [*verbs]
        for verb, tasks in (("finetune", finetuning), ("prepare", preparing), ("convert", converting)):
            found += [f"{verb} {task}" for task in tasks]
        return found


def steps(installed: Installed, extra: str | None, quick: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what is tried in an environment with an extra, each with its name; see `--quick`."""

    def imports() -> None:
        program = TESTS / "hidden_packages.py"
        answer = installed.run("python", program, '{"": []}', installed.folder, TRITON_INTERPRET="1")  # from its start
        for name, reason in json.loads(answer.splitlines()[-1])[""].items():
            if reason is not None and not re.search(r"pip install \S", reason):
                raise Failed(f"{name}: {reason}")

    def helps() -> None:
        for verb in installed.verbs():
            if f"usage: hmba {verb.removesuffix(' answering')}" not in installed.run("hmba", *verb.split(), "--help"):
                raise Failed(f"hmba {verb} --help shows no usage")

    def helps_in_one_process() -> None:
        code = """import sys, hmba_hf.cli as cli
for verb in sys.argv[1:]:
    try:
        cli.app([*verb.split(), "--help"], standalone_mode=False)
    except SystemExit as end:
        assert not end.code, verb
"""
        installed.run("python", "-c", code, *installed.verbs())

    def demo() -> None:
        words = SHORT_DEMO if quick else ()
        installed.run("hmba", "demo", *words)
        if not (installed.folder / "runs" / "demo" / "report.html").is_file():
            raise Failed("hmba demo has left no report")

    def convert() -> None:
        installed.run("python", TESTS / "wheel" / "tiny_llava.py", "llava")
        installed.run("hmba", "convert", "llava", "--checkpoint", "llava", "--output_dir", "converted")

    def describe() -> None:
        words = ["--model", "converted", "--video", "runs/demo/held_out_0.mp4", "--max_new_tokens", "2"]
        installed.run("hmba", "describe", *words)
        if not (installed.folder / "answer.png").is_file():
            raise Failed("hmba describe has left no picture")

    def open_page() -> None:
        code = """from pathlib import Path
from hmba_hf.app.limits import PageLimits
from hmba_hf.commands.app import open_page
open_page(None, None, Path(), PageLimits())
"""
        installed.run("python", "-c", code)

    def quantise() -> None:
        words = ["--model", "runs/demo/model", "--video", "runs/demo/held_out_0.mp4", "--max_new_tokens", "2"]
        installed.run("hmba", "describe", *words, "--quantization", "bnb-4bit")

    def push() -> None:
        command = [installed.python, str(TESTS / "wheel" / "hub.py"), str(installed.place)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hub:
            url, token = json.loads(hub.stdout.readline())
            known = {"HF_ENDPOINT": url, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
            try:
                printed = installed.run("hmba", "push", "--model", "converted", "--repo_id", "org/converted", **known)
            finally:
                files, _ = hub.communicate()
        if "pushed: " not in printed or not {"model.safetensors", "README.md"} <= {*json.loads(files)}:
            raise Failed(f"hmba push printed {printed!r}, and the Hub holds {files}")

    yield "imports", imports
    yield "env", lambda: installed.run("hmba", "env")
    yield "help", helps_in_one_process if quick else helps
    yield "demo", demo
    yield "convert", convert
    yield "describe", describe
    yield "push", push
    if extra == "app":
        yield "page", open_page
    if extra == "quantised":
        yield "quantise", quantise


def try_wheel(wheel: Path, extra: str | None, quick: bool) -> dict[str, str]:
    """Try the wheel in an environment of its own; return `ok` or an error for each step."""
    outcome = {}
    try:
        installed = Installed(wheel, extra)
    except RuntimeError as error:
        return {"install": str(error)}
    outcome["install"] = "ok"
    for name, step in steps(installed, extra, quick):
        try:
            step()
            outcome[name] = "ok"
        except Failed as error:
            outcome[name] = str(error)
        print(f"  {name}: {outcome[name]}", flush=True)
    shutil.rmtree(installed.place)
    return outcome


def try_sdist(sdist: Path) -> dict[str, str]:
    """Collect the tests in an unpacked sdist and run some, with the packages of the environment that runs this."""
    with tarfile.open(sdist) as archive:
        archive.extractall(PLACE, filter="data")
    folder = PLACE / sdist.name.removesuffix(".tar.gz")
    variables = clean_environment(PYTHONPATH=str(folder / "src"))
    chosen = [f"tests/test_{name}.py" for name in TESTS_OF_SDIST]
    outcome = {}
    for name, words in (("collect", ["--collect-only"]), ("tests", chosen)):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
        print(done.stdout[-300:])
        outcome[name] = "ok" if done.returncode == 0 else (done.stdout + done.stderr)[-3000:]
    shutil.rmtree(folder)
    return outcome


def git(*words: str) -> str:
    """Run git in this repository and return what it prints."""
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def write_page(outcomes: dict[str, dict[str, str]], quick: bool) -> None:
    """Keep these results in the place of earlier ones, and write the page of all."""
    commit = git("rev-parse", "--short=10", "HEAD")
    if git("status", "--porcelain", "--", ".", ":!benchmarks/results"):  # where other checks write their pages
        commit += " and changes"
    kept = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() else {}
    for name, outcome in outcomes.items():
        run = {"steps": outcome, "demo": "two steps" if quick else "whole", "commit": commit}
        kept[name] = run | {"date": f"{datetime.date.today()}"}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    rows = []
    for name in ("none", *EXTRAS, "sdist"):
        if name in kept:
            run = kept[name]
            tried = [step if result == "ok" else f"**{step} failed**" for step, result in run["steps"].items()]
            demo = run["demo"] if "demo" in run["steps"] else ""
            rows.append(f"| {name} | {', '.join(tried)} | {demo} | {run['commit']} | {run['date']} |")
    PAGE.write_text(HEAD + "\n".join(rows) + "\n", "utf-8")


def main() -> None:
    """Try what is asked for, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("wheel", "extras", "sdist"))
    parser.add_argument("--extras", nargs="+", default=EXTRAS, help="which of them")
    parser.add_argument("--quick", action="store_true", help="a short demo, and all --help in one process")
    given = parser.parse_args()
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    sdist, wheel = build()
    outcomes = {}
    if given.what == "sdist":
        outcomes["sdist"] = try_sdist(sdist)
    else:
        for extra in (None,) if given.what == "wheel" else given.extras:
            print(f"{extra or 'without extras'} ...", flush=True)
            outcomes[extra or "none"] = try_wheel(wheel, extra, given.quick)
    for name, outcome in outcomes.items():
        cells = [f"{step} {'ok' if result == 'ok' else 'FAILED'}" for step, result in outcome.items()]
        print(f"{name:7} {', '.join(cells)}")
    write_page(outcomes, given.quick)
    if any(result != "ok" for outcome in outcomes.values() for result in outcome.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
