"""An HTTP client with a deadline, so that no server holds a reader by sending a byte now and then."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.utils import httpx


@contextmanager
def client_for(seconds: float, refusal: Exception) -> Iterator[httpx.Client]:
    """Open an HTTP client that follows redirections; `refusal` is raised in what it still does after `seconds`.

    A client's own limit is one of each read alone, and heads and compressed content may come without a chunk to count.
    """
    is_late = threading.Event()

    def check(*_: Any) -> None:
        if is_late.is_set():
            raise refusal

    def end() -> None:
        is_late.set()
        client.close()

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), end)
    timer.daemon = True
    with httpx.Client(follow_redirects=True, event_hooks={"request": [check]}) as client:
        timer.start()
        try:
            yield client
        except (httpx.HTTPError, RuntimeError):  # the second from a client that was closed before it began
            check()
            raise
        finally:
            timer.cancel()
