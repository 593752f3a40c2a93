"""What becomes of samples that cannot be read."""

import errno
import json
from pathlib import Path

from ..files import check_fields, parse_json, split_lines

READ_ERRORS = (OSError, ValueError)
"""The errors of missing, damaged and malformed files and rows. Readers turn other errors of libraries into these.

Any other, such as a `TypeError` or a `KeyError`, is a mistake of the program and ends a run under either policy.
"""

_OF_THE_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT}

POLICIES = ("stop", "skip")


class UnreadableSample(ValueError):
    """The error of a sample whose name is known although nothing else of it could be read."""

    def __init__(self, reason: str, name: str = ""):
        super().__init__(reason if name in reason else f"{name}: {reason}")
        self.name = name


def check_is_of_a_file(error: BaseException) -> None:
    """Raise an error again if the machine has caused it, not a file: memory, disk or open files have run out."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _OF_THE_MACHINE:
            raise error
        cause = cause.__cause__


class BadSamples:
    """The policy for samples that cannot be read: stop, or skip and record them.

    The record is a file, since several processes read samples and some of them end before the run does.

    Args:
        policy: `"stop"` or `"skip"`.
        record: file of JSON lines, one for each skipped sample; a later run appends to it.
    """

    def __init__(self, policy: str, record: Path | None = None):
        if policy not in POLICIES:
            raise ValueError(f"the policy for bad samples must be one of {list(POLICIES)}, got {policy!r}")
        self.policy = policy
        self.record = record

    def meet(self, name: str, error: Exception) -> None:
        """Apply the policy to one sample, called `name` unless its `UnreadableSample` has a name.

        Raises:
            ValueError: naming the sample and what is wrong with it, if the policy is `"stop"`.
            OSError: as `check_is_of_a_file`, whatever the policy.
        """
        check_is_of_a_file(error)
        if isinstance(error, UnreadableSample):
            name = error.name
        reason = str(error) or type(error).__name__
        if self.policy == "stop":
            if name not in reason:
                reason = f"{name}: {reason}"
            raise ValueError(f"{reason} (--on_error skip leaves such samples out)") from error
        if self.record is not None:
            # One short write at the end of a file stays whole beside those of other processes. The leading line break
            # ends a line that a full disk has cut off.
            line = "\n" + json.dumps({"sample": name, "reason": reason}) + "\n"
            self.record.parent.mkdir(parents=True, exist_ok=True)
            with open(self.record, "a") as file:
                file.write(line)

    def forget(self) -> None:
        """Delete the record."""
        if self.record is not None:
            self.record.unlink(missing_ok=True)

    def skipped(self) -> dict[str, str]:
        """Return the reason for each skipped sample.

        Raises:
            ValueError: if a line of the record is JSON without a sample or a reason.
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
