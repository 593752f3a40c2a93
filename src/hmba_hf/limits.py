"""Limits on what strangers may send to a server: fields of a dataclass, which become options of its command."""

from dataclasses import field, fields
from typing import Any

_LONGEST = 10_000_000  # seconds


def limit(default: Any, of: str) -> Any:
    """Return a field for a limit; `of` says in `--help` what it is a limit of."""
    return field(default=default, metadata={"help": of})


def check_limits(limits: Any, *lengths: str) -> None:
    """Raise a `ValueError` for a limit of a dataclass, a field `max_...`, that nothing can keep.

    One is above zero; of seconds, it is a time that clocks and sockets can wait, unless it is one of `lengths`, which
    nobody waits for.
    """
    for one in fields(limits):
        value = getattr(limits, one.name)
        if one.name.startswith("max_") and not value > 0:
            raise ValueError(f"{one.name} must be above zero, got {value}")
        if one.name.endswith("_seconds") and one.name not in lengths and value > _LONGEST:
            raise ValueError(f"{one.name} must be at most {_LONGEST}, got {value:g}")
