"""Failures that other packages cause: in which environments, which tests, and why. What is not listed is ours."""

from fnmatch import fnmatchcase

KNOWN: dict[tuple[str, str], str] = {}


def reason_of_failure(environment: str, test: str) -> str | None:
    """Return why a test may fail in an environment; nothing if the failure is ours."""
    for (environments, tests), reason in KNOWN.items():
        if fnmatchcase(environment, environments) and fnmatchcase(test, tests):
            return reason
    return None
