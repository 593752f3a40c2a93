"""A log that clients cannot fill: of lines from one place, it has one in a minute."""

import logging
import time

_SECONDS = 60.0
_UNTIL_NOW = float("-inf")


class Seldom(logging.Filter):
    """Passes one line a minute from each place of the code, and says how many it has passed over.

    A client that sends rubbish causes a line for each request. Errors of different types are different lines.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[object, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is written."""
        place = (record.pathname, record.lineno, record.exc_info and record.exc_info[0])
        now = time.monotonic()
        last, passed_over = self._seen.get(place, (_UNTIL_NOW, 0))
        if now - last < _SECONDS:
            self._seen[place] = (last, passed_over + 1)
            return False
        self._seen[place] = (now, 0)
        if passed_over:
            record.msg = f"{record.getMessage()} ({passed_over} more of this since the last)"
            record.args = ()
        return True


def bound(log: logging.Logger) -> None:
    """Let a logger pass one line a minute from each place; what it had counted before is forgotten."""
    for other in [*log.filters]:
        if isinstance(other, Seldom):
            log.removeFilter(other)
    log.addFilter(Seldom())
