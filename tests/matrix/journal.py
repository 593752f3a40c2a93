"""A plugin of pytest that writes a line for each test as soon as it has ended, and leaves out those that have one.

A run that was interrupted, or that died, is therefore taken up where it ended. The journal is the file that the
environment variable `MATRIX_JOURNAL` names.
"""

import json
import os
from pathlib import Path

WORST_LAST = ("passed", "skipped", "failed")


class Journal:
    """The journal of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.current: dict[str, str] = {}

    def write(self, **line: object) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def pytest_collection_modifyitems(self, config, items):
        finished = read_journal(self.path).outcomes
        left_out = [item for item in items if item.nodeid in finished]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.nodeid not in finished]
        self.write(collected=len(items) + len(left_out))

    def pytest_collectreport(self, report):
        if report.outcome != "passed":
            self.write(test=report.nodeid, outcome=report.outcome, reason=reason_of(report))

    def pytest_runtest_logstart(self, nodeid):
        self.current = {"outcome": "passed", "reason": ""}
        self.write(started=nodeid)

    def pytest_runtest_logreport(self, report):
        if WORST_LAST.index(report.outcome) > WORST_LAST.index(self.current["outcome"]):
            self.current = {"outcome": report.outcome, "reason": reason_of(report)}

    def pytest_runtest_logfinish(self, nodeid):
        self.write(test=nodeid, **self.current)


class Record:
    """What a journal holds.

    Attributes:
        outcomes: of each test, `{"tests/test_a.py::test_b": ("failed", "the reason")}`.
        unfinished: the test that had started and has not ended.
        collected: how many tests there are.
    """

    def __init__(self) -> None:
        self.outcomes: dict[str, tuple[str, str]] = {}
        self.unfinished: str | None = None
        self.collected = 0


def read_journal(path: Path) -> Record:
    """Read a journal; one that does not exist yet is empty."""
    record = Record()
    for text in path.read_text().splitlines() if path.exists() else ():
        line = json.loads(text)
        record.collected = line.get("collected", record.collected)
        record.unfinished = line.get("started")
        if "test" in line:
            record.outcomes[line["test"]] = (line["outcome"], line["reason"])
    return record


def reason_of(report) -> str:
    """Return in one line why a test failed or was skipped."""
    if hasattr(report, "wasxfail"):
        return f"expected to fail: {report.wasxfail}".strip()
    if report.outcome == "skipped":
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash else str(report.longrepr)).strip().splitlines()
    return lines[0] if crash else lines[-1]


def pytest_configure(config):
    config.pluginmanager.register(Journal(Path(os.environ["MATRIX_JOURNAL"])))
