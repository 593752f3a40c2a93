"""Limits on what strangers may send to a server: fields of a dataclass, which become options of its command."""

from dataclasses import field, fields
from typing import Any


def limit(default: Any, of: str) -> Any:
    """Return a field for a limit; `of` says in `--help` what it is a limit of."""
    return field(default=default, metadata={"help": of})


def check_limits(limits: Any) -> None:
    """Raise a `ValueError` for a limit of a dataclass, a field `max_...`, that is not above zero."""
    for one in fields(limits):
        value = getattr(limits, one.name)
        if one.name.startswith("max_") and not value > 0:
            raise ValueError(f"{one.name} must be above zero, got {value}")
