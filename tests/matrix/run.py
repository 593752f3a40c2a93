"""Run the suite in each environment of `environments.py`, and write what came of it as a table.

    make matrix                                      # or: python tests/matrix/run.py
    make matrix ENVIRONMENTS="lowest vllm"           # these alone
    make matrix TESTS=central                        # the part that depends most on other packages
    make matrix TESTS="tests/test_loading.py"        # or what is named

What is tested is the last commit, in a clone under `.cache/matrix`. An environment that has finished at this commit
is not run again, and one that was interrupted is taken up at the test where it ended. It downloads gigabytes.
The exit status is 1 if a test failed for which `known_failures.py` has no reason.
"""

import argparse
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from environments import ENVIRONMENTS, PLACE, ROOT, install, installed_versions
from journal import read_journal
from table import central_files, failures_of_ours, latest_results, write_table

sys.path.insert(0, str(ROOT / "tests" / "latest"))
from interpreters import find_pythons  # noqa: E402

HERE = Path(__file__).parent
TABLE = ROOT / "benchmarks" / "results" / "matrix.md"
ENDED_BY_ITSELF = (0, 1, 5)  # all passed, some failed, none was left
SECONDS_OF_A_TEST = 900
SECONDS_BETWEEN_LINES = 60


def checkout() -> tuple[Path, str]:
    """Clone the last commit under `.cache/matrix` and return the folder and the commit."""
    commit = git("rev-parse", "--short=10", "HEAD")
    folder = PLACE / "clones" / commit
    if not folder.exists():
        scratch = folder.with_name(f"{commit}.part")
        shutil.rmtree(scratch, ignore_errors=True)
        git("clone", "--quiet", "--shared", str(ROOT), str(scratch))
        git("-C", str(scratch), "checkout", "--quiet", "--detach", commit)
        scratch.rename(folder)
    return folder, commit


def git(*words: str) -> str:
    """Run git in this repository and return what it prints."""
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def run_environment(name: str, interpreter: str, source: Path, commit: str, tests: Sequence[str]) -> None:
    """Make one environment if it is not there, run the tests in it, and store what is known after each step."""
    environment = ENVIRONMENTS[name]
    journal = journal_of(name, commit, tests)
    folder = PLACE / "environments" / f"{name}-{commit}"
    result = {"environment": name, "commit": commit, "tests": list(tests), "date": f"{datetime.date.today()}"}
    own = str(folder / "bin" / "python")
    installed = folder / "installed"
    if not installed.exists():
        say(name, f"installing {environment.title} on Python {environment.python}")
        try:
            own = install(environment, interpreter, source, folder)
        except RuntimeError as error:
            store(result | {"refused": str(error)}, journal)
            return
        installed.touch()
    result["versions"] = installed_versions(own)
    before = read_result(journal)
    if before.get("check", {}).get("passed"):
        result["check"] = before["check"]
    elif environment.check:
        result["check"] = run_check(environment.check, own, folder, source)
        say(name, result["check"]["message"])
    store(result, journal)
    run_suite(name, own, source, journal, tests)
    store(result | {"finished": True}, journal)


def store(result: dict, journal: Path) -> None:
    """Write what is known of an environment beside the journal of its tests."""
    journal.with_suffix(".json").write_text(json.dumps(result, indent=1))


def read_result(journal: Path) -> dict:
    """Return what is known of an environment from earlier; nothing if it was never made."""
    stored = journal.with_suffix(".json")
    return json.loads(stored.read_text()) if stored.exists() else {}


def run_check(script: str, own: str, folder: Path, source: Path) -> dict:
    """Run a script of this folder with the Python of an environment."""
    scratch = folder / "check"
    scratch.mkdir(exist_ok=True)
    command = [own, str(source / "tests" / "matrix" / script), str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, env=variables() | {"HF_HUB_OFFLINE": "1"})
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    return {"passed": done.returncode == 0, "message": lines[-1]}


def run_suite(name: str, own: str, source: Path, journal: Path, tests: Sequence[str]) -> None:
    """Run pytest until it ends by itself; a test in which the process died has failed.

    Raises:
        RuntimeError: pytest ended without having run a test.
    """
    words = [
        *pytest_words(tests, source),
        "-p",
        "journal",
        "-p",
        "no:cacheprovider",
        "-q",
        "--no-header",
        "--tb=short",
    ]
    command = [own, "-m", "pytest", "-o", f"timeout={SECONDS_OF_A_TEST}", *words]
    paths = os.pathsep.join([str(source / "src"), str(HERE)])
    environ = variables() | {"MATRIX_JOURNAL": str(journal), "PYTHONPATH": paths}
    while True:
        before = len(read_journal(journal).outcomes)
        with journal.with_suffix(".log").open("a") as log:
            process = subprocess.Popen(command, cwd=source, env=environ, stdout=log, stderr=subprocess.STDOUT)
            while wait(process) is None:
                show_progress(name, journal)
        if process.returncode in ENDED_BY_ITSELF:
            return
        record = read_journal(journal)
        if record.unfinished is None and len(record.outcomes) == before:
            raise RuntimeError(f"pytest ended with {process.returncode} before any test; see {log.name}")
        died = {"test": record.unfinished or "after the last test", "outcome": "failed"}
        with journal.open("a") as file:
            file.write(json.dumps(died | {"reason": f"the process ended with {process.returncode}"}) + "\n")


def wait(process: subprocess.Popen) -> int | None:
    """Wait for a process, at most until the next line about it."""
    try:
        return process.wait(SECONDS_BETWEEN_LINES)
    except subprocess.TimeoutExpired:
        return None


def variables() -> dict[str, str]:
    """Return the variables of a run: one thread, and the folder of real clips beside this checkout."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environ.setdefault("OMP_NUM_THREADS", "1")
    environ.setdefault("HMBA_SHARED", str(ROOT.parent / "shared"))
    return environ


def pytest_words(tests: Sequence[str], source: Path) -> list[str]:
    """Return what pytest is asked for: files, where `central` stands for a part of the suite."""
    if list(tests) == ["central"]:
        return central_files(source)
    return list(tests)


def journal_of(name: str, commit: str, tests: Sequence[str]) -> Path:
    """Return the journal of an environment, a commit and a choice of tests; its folder is made."""
    choice = hashlib.sha256(" ".join(tests).encode()).hexdigest()[:8]
    folder = PLACE / "results" / commit
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{choice}.jsonl"


def show_progress(name: str, journal: Path) -> None:
    """Print how many tests have run, and how many have failed."""
    record = read_journal(journal)
    failed = [outcome for outcome, _ in record.outcomes.values() if outcome == "failed"]
    say(name, f"{len(record.outcomes)} of {record.collected} tests, {len(failed)} failed")


def say(name: str, text: str) -> None:
    """Print one line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {name}: {text}", flush=True)


def main() -> None:
    """Run each environment that has not finished, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", nargs="+", choices=ENVIRONMENTS, default=[*ENVIRONMENTS], metavar="NAME")
    parser.add_argument(
        "--tests", nargs="+", default=["tests"], help="`central`, or files; the whole suite when absent"
    )
    parser.add_argument("--keep", action="store_true", help="leave the environments in .cache/matrix/environments")
    parser.add_argument("--table", type=Path, default=TABLE, help="where the table is written")
    parser.add_argument("--only_table", action="store_true", help="write the table of what has run, and run nothing")
    given = parser.parse_args()
    if given.only_table:
        write_table(given.table, PLACE / "results")
        return
    source, commit = checkout()
    pythons = find_pythons()
    for name in given.environments:
        version = ENVIRONMENTS[name].python
        if version not in pythons:
            say(name, f"left out: this machine has no Python {version}")
        elif not read_result(journal_of(name, commit, given.tests)).get("finished"):
            run_environment(name, pythons[version], source, commit, given.tests)
        write_table(given.table, PLACE / "results")
        if not given.keep:
            shutil.rmtree(PLACE / "environments" / f"{name}-{commit}", ignore_errors=True)
    found = latest_results(PLACE / "results")
    ours = [f"{name}: {test}" for name in given.environments for test in failures_of_ours(found.get(name, {}))]
    print("\n".join(ours))
    if ours:
        sys.exit(1)


if __name__ == "__main__":
    main()
