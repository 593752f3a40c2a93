"""The addresses of hosts, looked up beside everything else."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import Any

from .errors import RequestError

MAX_LOOKUPS = 64  # most of which wait for the network


class Resolver:
    """Looks hosts up as `getaddrinfo` does, in threads of its own.

    The system alone ends the lookup of a name, also where nobody waits for it any more. So lookups are shared by those
    who ask for the same name, and where `MAX_LOOKUPS` run, a further name is refused instead of waiting for them. A
    literal address needs no lookup.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_LOOKUPS, "hmba-resolver")
        self._running: dict[tuple[str, int], asyncio.Future[list[Any]]] = {}

    async def look_up(self, host: str, port: int) -> list[Any]:
        """Return the addresses of a host.

        Raises:
            RequestError: too many other names are looked up.
            OSError, ValueError: it has no address, or its name cannot be encoded.
        """
        if _is_literal(host):
            return _addresses(host, port)
        lookup = self._running.get((host, port))
        if lookup is None:
            lookup = self._begin(host, port)
        return await asyncio.shield(lookup)  # which others may wait for

    def close(self) -> None:
        """End the threads once their lookups end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, host: str, port: int) -> asyncio.Future[list[Any]]:
        if len(self._running) >= MAX_LOOKUPS:
            what = f"names that are looked up must be at most {MAX_LOOKUPS} at once, got one more"
            raise RequestError(503, "resolver_busy", what, retry_after=5)
        lookup = asyncio.get_running_loop().run_in_executor(self._threads, _addresses, host, port)
        self._running[host, port] = lookup
        lookup.add_done_callback(partial(self._forget, (host, port)))
        return lookup

    def _forget(self, key: tuple[str, int], lookup: asyncio.Future[list[Any]]) -> None:
        del self._running[key]
        if not lookup.cancelled():
            lookup.exception()  # asyncio would log it where nobody waits for it any more


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _addresses(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
