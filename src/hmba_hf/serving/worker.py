"""The one thread that runs the model, and takes together what waits for the same work."""

import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from .errors import internal_error

logger = logging.getLogger("hmba_hf.serving")


class Work(Protocol):
    """Something that waits for the model."""

    @property
    def has_begun(self) -> bool:
        """Whether a part of its result has been given out, so that it cannot start again."""

    def fail(self, error: Exception) -> None:
        """Take an error as the result."""


Run = Callable[[Sequence[Any]], None]


class _Waiting(NamedTuple):
    options: Any
    work: Any


class BatchWorker:
    """Runs work in a thread, as much of one kind together as waits and fits.

    Nothing waits for a fuller batch: while the model is busy others come. Functions take turns, so that the frame of a
    camera waits for one batch of requests and not for all. The oldest work of a function is among its next.

    Args:
        max_batch: works that are run together.
    """

    def __init__(self, max_batch: int):
        self._max_batch = max_batch
        self._waiting: dict[Run, deque[_Waiting]] = {}  # the next one first
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="hmba-model", daemon=True)
        self._thread.start()

    def submit(self, run: Run, options: Any, work: Work) -> None:
        """Let the thread call `run` with this work and others of the same `run` and equal options."""
        with self._changed:
            self._waiting.setdefault(run, deque()).append(_Waiting(options, work))
            self._changed.notify()

    def close(self) -> None:
        """Finish all that waits, and end the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._waiting.values()))

    def _run(self) -> None:
        while batch := self._next_batch():
            _run_together(*batch)

    def _next_batch(self) -> tuple[Run, list[Any]] | None:
        """Wait for work and take it; nothing once the worker is closed and all is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            if not self._waiting:
                return None
            run = next(iter(self._waiting))
            waiting = self._waiting.pop(run)
            options = waiting[0].options
            works: list[Any] = []
            others: deque[_Waiting] = deque()
            for one in waiting:
                if len(works) < self._max_batch and one.options == options:
                    works.append(one.work)
                else:
                    others.append(one)
            if others:
                self._waiting[run] = others  # behind those of other functions
            return run, works


def _run_together(run: Run, works: list[Any]) -> None:
    """Run works, and where that fails each alone, so that an error reaches only the one that causes it."""
    error = _error_of(run, works)
    if error is None:
        return
    if len(works) > 1:
        logger.warning("a batch has failed, its works are run one by one: %s", error)
    for work in works:
        if len(works) > 1 and not work.has_begun:
            _run_together(run, [work])
        else:
            logger.error("a request has failed", exc_info=error)
            work.fail(internal_error())


def _error_of(run: Run, works: list[Any]) -> Exception | None:
    """Run works and return the error by which they end, which holds none of the batch: others need its memory."""
    try:
        run(works)
    except Exception as error:  # of whatever kind: the thread has to serve the others
        traceback.clear_frames(error.__traceback__)
        return error
    return None
