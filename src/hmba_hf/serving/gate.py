"""Who may pass to an endpoint: checked before anything of a request is read."""

import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from ..hosts import is_loopback
from ..installation import missing_extra
from .errors import NOT_ALLOWED, RequestError
from .metrics import Metrics

try:
    from starlette.responses import JSONResponse
except ImportError as missing:
    raise missing_extra("`hmba serve` needs", "serve") from missing

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_OPEN = ("/health",)


class Gate:
    """Refuses requests without the token, and those that a page of another origin sends through a browser.

    Without a token the server is for this machine alone. Then the name by which it is called must be one of this
    machine, since a page could let its own name lead here.

    Args:
        app: behind the gate.
        token: that requests must bear, if any.
        metrics: that count requests.
    """

    def __init__(self, app: Any, token: str | None, metrics: Metrics):
        self._app = app
        self._token = token
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Pass a request on, or answer it with a refusal."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if scope["type"] == "http":
            await self._count(self._app if refusal is None else refuse(refusal), scope, receive, send)
        elif refusal is None:
            await self._app(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": NOT_ALLOWED, "reason": str(refusal)})

    def _refusal(self, scope: Scope) -> RequestError | None:
        try:
            return self._checked(scope)
        except ValueError as error:  # of `urlsplit`
            return RequestError(400, "invalid_request", f"Host and Origin must be addresses, got: {error}")

    def _checked(self, scope: Scope) -> RequestError | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return RequestError(403, "other_origin", "a page must be of this server's own origin, got another one")
        if self._token is None:
            if is_loopback(urlsplit(f"//{host}").hostname or ""):
                return None
            return RequestError(403, "other_host", "the host of a request must be this machine, got another name")
        scheme, _, given = headers.get("authorization", "").partition(" ")
        bears_token = scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), self._token.encode())
        if scope["path"] in _OPEN or bears_token:
            return None
        return RequestError(401, "invalid_api_key", "a request must bear the server's token, got none or another one")

    async def _count(self, app: Any, scope: Scope, receive: Any, send: Send) -> None:
        start = time.monotonic()
        status = 0  # of a client that has gone

        async def note(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, note)
        finally:
            route = getattr(scope.get("route"), "path", "other")  # its template, so that ids of files are no names
            self._metrics.add("hmba_requests_total", route=route, status=status)
            self._metrics.add("hmba_request_seconds_total", time.monotonic() - start, route=route)


def refuse(error: RequestError) -> JSONResponse:
    """Return the response to a request that is refused."""
    headers = {**error.headers, "Connection": "close"}  # what is left of the request is not read
    return JSONResponse(error.as_json(), error.status, headers)
