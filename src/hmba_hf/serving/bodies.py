"""Bodies of requests, read within limits, and the end of a request whose client has gone."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import IO, Any, TypeVar

from ..installation import missing_extra
from .errors import RequestError, too_large
from .forms import FileForm
from .limits import ServingLimits

try:
    from starlette.requests import Request
except ImportError as missing:
    raise missing_extra("`hmba serve` needs", "serve") from missing

Result = TypeVar("Result")


class ClientGone(Exception):
    """The client has closed its connection, so that nobody reads an answer."""


async def read_body(request: Request, limits: ServingLimits) -> bytearray:
    """Return the body of a request.

    Raises:
        RequestError: it is too large, or has not come in time.
    """
    body = bytearray()
    async with _in_time(limits):
        async for chunk in _chunks(request, limits):
            body += chunk
    return body


async def read_upload(request: Request, limits: ServingLimits) -> tuple[IO[bytes], str, int]:
    """Return the file of a form, which is kept on disk where it is large, its name and its size.

    Raises:
        RequestError: it is too large, has not come in time, or the body is no form with one `file`.
    """
    form = FileForm(request.headers.get("content-type", ""))
    try:
        async with _in_time(limits):
            async for chunk in _chunks(request, limits):
                await asyncio.to_thread(form.write, chunk)
        return form.file()
    except BaseException:
        form.close()
        raise


async def unless_gone(receive: Any, work: Awaitable[Result]) -> Result:
    """Return what the work returns, which is cancelled as soon as the client closes its connection.

    Args:
        receive: of the request, whose body has been read.

    Raises:
        ClientGone: if it does.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)  # what they raise is known, or of no use


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def _in_time(limits: ServingLimits) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limits.max_body_seconds):
            yield
    except TimeoutError as late:
        wanted = f"a request must come within max_body_seconds={limits.max_body_seconds:g}"
        raise RequestError(408, "slow_body", f"{wanted}, got a part of it") from late


async def _chunks(request: Request, limits: ServingLimits) -> AsyncGenerator[bytes, None]:
    limit = limits.max_upload_bytes
    stated = request.headers.get("content-length", "")
    received = int(stated) if stated.isdecimal() else 0
    if received <= limit:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                break
            yield chunk
    if received > limit:
        raise too_large("a request", limit)
