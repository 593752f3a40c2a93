"""A log that clients cannot fill: of lines from one place, it has one in a minute."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def bounded(*names: str) -> Iterator[None]:
    """Let these loggers and those below them pass one line a minute from each place, until the body ends.

    The filters of a logger do not hold for what comes from those below it, so that each has its own.
    """
    loggers = {name: logging.getLogger(name) for name in names}
    for name, log in logging.root.manager.loggerDict.copy().items():  # threads that import make others meanwhile
        if isinstance(log, logging.Logger) and name.startswith(tuple(f"{above}." for above in names)):
            loggers[name] = log
    filters = {name: Seldom() for name in loggers}
    for name, log in loggers.items():
        log.addFilter(filters[name])
    try:
        yield
    finally:
        for name, log in loggers.items():
            log.removeFilter(filters[name])
