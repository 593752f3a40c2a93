"""The one thread that runs the model, and takes together what waits for the same work."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from .errors import internal_error

logger = logging.getLogger("hmba_hf")


class Work(Protocol):
    """Something that waits for the model."""

    @property
    def has_begun(self) -> bool:
        """Whether a part of its result has been given out, so that it cannot start again."""

    def fail(self, error: Exception) -> None:
        """Take an error as the result."""


class _Waiting(NamedTuple):
    kind: tuple[Callable[[Sequence[Any]], None], Any]
    work: Any


class BatchWorker:
    """Runs work in a thread, as much of one kind together as waits and fits.

    Nothing waits for a fuller batch: while the model is busy others come. The oldest work is always among the next, so
    that no kind starves.

    Args:
        max_batch: works that are run together.
    """

    def __init__(self, max_batch: int):
        self._max_batch = max_batch
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="hmba-model", daemon=True)
        self._thread.start()

    def submit(self, run: Callable[[Sequence[Any]], None], options: Any, work: Work) -> None:
        """Let the thread call `run` with this work and others of the same `run` and equal, hashable options."""
        with self._changed:
            self._waiting.append(_Waiting((run, options), work))
            self._changed.notify()

    def close(self) -> None:
        """Finish all that waits, and end the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def __len__(self) -> int:
        return len(self._waiting)

    def _run(self) -> None:
        while batch := self._next_batch():
            run = batch[0].kind[0]
            _run_together(run, [waiting.work for waiting in batch])

    def _next_batch(self) -> list[_Waiting]:
        """Wait for work and take it; nothing once the worker is closed and all is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            batch: list[_Waiting] = []
            others: deque[_Waiting] = deque()
            for waiting in self._waiting:
                if len(batch) < self._max_batch and (not batch or waiting.kind == batch[0].kind):
                    batch.append(waiting)
                else:
                    others.append(waiting)
            self._waiting = others
            return batch


def _run_together(run: Callable[[Sequence[Any]], None], works: list[Any]) -> None:
    """Run works, and where that fails each alone, so that an error reaches only the one that causes it."""
    try:
        run(works)
    except Exception as error:  # of whatever kind: the thread has to serve the others
        if len(works) > 1:
            logger.warning("a batch has failed, its works are run one by one: %s", error)
        for work in works:
            if len(works) > 1 and not work.has_begun:
                _run_together(run, [work])
            else:
                logger.exception("a request has failed", exc_info=error)
                work.fail(internal_error())
