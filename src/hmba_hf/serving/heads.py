"""The time in which a connection must ask for something: the heads of its requests have a limit, as bodies have."""

import asyncio
import json
from typing import Any

from ..installation import missing_extra
from .errors import RequestError

try:
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as missing:
    raise missing_extra("`hmba serve` needs", "serve") from missing


class TimelyProtocol(H11Protocol):
    """Uvicorn's connection, which ends where no request is whole in its head in time.

    Uvicorn limits how long a connection may be silent between two requests, not how long it may drip. The time counts
    while no request is being answered. It counts neither for bodies nor for WebSockets, which have their own limits.

    Args:
        max_head_seconds: from the beginning of a connection, and from the end of each answer.
    """

    def __init__(self, *args: Any, max_head_seconds: float, **options: Any):
        super().__init__(*args, **options)
        self._max_head_seconds = max_head_seconds
        self._ending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def handle_events(self) -> None:
        """Take what has come; wait for a request where none is being answered."""
        super().handle_events()
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._ending is None:
            self._ending = self.loop.call_later(self._max_head_seconds, self._end)

    def _stop_waiting(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None

    def _end(self) -> None:
        if self.transport.is_closing() or self.transport.get_protocol() is not self:  # it is a WebSocket's now
            return
        is_in_a_head = self.cycle is None or bool(self.conn.trailing_data[0])  # not between two requests
        if is_in_a_head and self.conn.our_state is h11.IDLE:  # else what drips is the body of an answered request
            self._refuse()
        self.transport.close()

    def _refuse(self) -> None:
        wanted = f"the head of a request must come within max_head_seconds={self._max_head_seconds:g}"
        error = RequestError(408, "slow_head", f"{wanted}, got a part of it or none")
        body = json.dumps(error.as_json()).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        response = h11.Response(status_code=error.status, headers=headers, reason=b"Request Timeout")
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
