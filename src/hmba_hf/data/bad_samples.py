"""What becomes of samples that cannot be read."""

import errno
import json
from pathlib import Path

from ..files import check_fields, parse_json, split_lines

READ_ERRORS = (OSError, ValueError)
"""What missing, damaged and misformed files and rows raise: readers turn what else libraries raise into these.

Anything else, such as a `TypeError` or a `KeyError`, is a mistake of the program and ends a run that skips, too.
"""

_OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT}

POLICIES = ("stop", "skip")


class UnreadableSample(ValueError):
    """What is wrong with a sample whose name is known although nothing else of it could be read."""

    def __init__(self, reason: str, name: str = ""):
        super().__init__(reason if name in reason else f"{name}: {reason}")
        self.name = name


def check_is_of_a_file(error: BaseException) -> None:
    """Raise an error again that no file has caused, but a machine without memory, room or files that may be open."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _OF_THE_MACHINE:
            raise error
        cause = cause.__cause__


class BadSamples:
    """What to do about a sample that cannot be learned from: stop, or skip it and write it down.

    The record is a file: samples are read in several processes, some of which end before the run does.

    Args:
        policy: `"stop"` or `"skip"`.
        record: JSON lines of what was skipped; another run adds to it.
    """

    def __init__(self, policy: str, record: Path | None = None):
        if policy not in POLICIES:
            raise ValueError(f"a bad sample must be met by one of {list(POLICIES)}, got {policy!r}")
        self.policy, self.record = policy, record

    def meet(self, name: str, error: Exception) -> None:
        """Deal with one; `name` gives way to that of an `UnreadableSample`.

        Raises:
            ValueError: naming the sample and what is wrong with it, if the policy is to stop.
            OSError: as `check_is_of_a_file`, whatever the policy.
        """
        check_is_of_a_file(error)
        if isinstance(error, UnreadableSample):
            name = error.name
        reason = str(error) or type(error).__name__
        if self.policy == "stop":
            reason = reason if name in reason else f"{name}: {reason}"
            raise ValueError(f"{reason} (--on_error skip leaves such samples out)") from error
        if self.record is not None:
            # One write of few bytes at the end of a file is not torn apart by those of other processes; one that a
            # full disk has torn ends at the next line.
            line = "\n" + json.dumps({"sample": name, "reason": reason}) + "\n"
            self.record.parent.mkdir(parents=True, exist_ok=True)
            with open(self.record, "a") as file:
                file.write(line)

    def forget(self) -> None:
        """Begin a record anew."""
        if self.record is not None:
            self.record.unlink(missing_ok=True)

    def skipped(self) -> dict[str, str]:
        """Return what was skipped, each sample once, with the reason.

        Raises:
            ValueError: if a line of the record is JSON, but tells of no sample.
        """
        if self.record is None or not self.record.exists():
            return {}
        found = {}
        for number, line in split_lines(self.record):
            try:
                row = parse_json(line)
            except ValueError:  # torn
                continue
            check_fields(row, f"{self.record}, line {number}", sample=str, reason=str)
            found[row["sample"]] = row["reason"]
        return found
