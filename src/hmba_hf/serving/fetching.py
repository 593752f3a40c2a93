"""A file behind an address that a client has named: from public addresses alone, within limits.

A name is resolved once, and the connection goes to the address that was checked, never to the name again. So a server
of names cannot answer differently the second time. Each redirection is checked in the same way. No proxy is used,
since it would resolve the name itself.
"""

import asyncio
import http.client
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import IO, Any
from urllib.parse import SplitResult, urljoin, urlsplit

from .errors import RequestError, too_large
from .limits import ServingLimits
from .resolving import Resolver

_PORTS = {"http": 80, "https": 443}
_REDIRECTIONS = (301, 302, 303, 307, 308)
_MAX_REDIRECTIONS = 5
_MAX_ADDRESSES = 4  # of a host that are tried
_THREADS = 16  # most of which wait for the network
_TRANSLATED = IPv6Network("64:ff9b::/96")  # IPv4 addresses as a translator shows them, RFC 6052
# Translators of a single network, RFC 8215 and 2765, and addresses that hold an IPv4 one by the old RFC 4291.
_TRANSLATED_LOCALLY = tuple(map(IPv6Network, ("64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96")))
_CHUNK = 2**16


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public network, also where it holds another one."""
    found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        if found.is_site_local or any(found in network for network in _TRANSLATED_LOCALLY):
            return False
        held = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if found in _TRANSLATED:
            held.append(IPv4Address(int(found) & 0xFFFFFFFF))
        for inner in held:
            if inner is not None and not is_public(str(inner)):
                return False
        if found.ipv4_mapped is not None:
            return True
    return found.is_global and not found.is_multicast


class Fetcher:
    """Fetches files in threads of its own, so that slow servers hold up nobody but those who name them.

    A file whose time is over, or that nobody waits for any more, ends its connection. Names are looked up in the same
    time, those of redirections among them, and take no place from files.

    Args:
        limits: on files, and on where they may lie.
    """

    def __init__(self, limits: ServingLimits):
        self._limits = limits
        self._tls = ssl.create_default_context()
        self._places = asyncio.Semaphore(_THREADS)
        self._threads = ThreadPoolExecutor(_THREADS, "hmba-fetcher")
        self._resolver = Resolver()

    async def fetch(self, address: str, room: int) -> IO[bytes]:
        """Return what lies behind an address, as a temporary file at its start.

        Args:
            address: of http or https.
            room: bytes that it may have.

        Raises:
            RequestError: the address is not one of http or https, leads to a host that is not public, or cannot be
                fetched within limits.
        """
        clock = _Clock(self._limits.max_body_seconds)
        for _ in range(_MAX_REDIRECTIONS + 1):
            place = _split(address)
            async with clock.running():
                hosts = await self._resolve(place)
            async with self._places, clock.running():
                found = await self._visit(place, hosts, room)
            if not isinstance(found, str):
                return found
            try:
                address = urljoin(address, found)
            except ValueError as error:
                raise _trouble("an address", str(error)) from error
        raise _trouble(f"at most {_MAX_REDIRECTIONS} redirections", "more")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)
        self._resolver.close()

    async def _visit(self, place: SplitResult, hosts: list[Any], room: int) -> IO[bytes] | str:
        visit = _Visit(place, hosts, self._limits, self._tls, room)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, visit.run)
        finally:
            visit.end()

    async def _resolve(self, place: SplitResult) -> list[Any]:
        """Return the addresses of a host as `getaddrinfo` does, all of them public."""
        host = place.hostname or ""
        port = place.port or _PORTS[place.scheme]
        try:
            found = await self._resolver.look_up(host, port)
        except (OSError, ValueError) as error:  # ValueError of names that cannot be encoded
            raise _unreachable(host, error) from error
        if not self._limits.allow_private_addresses and not all(is_public(str(one[4][0])) for one in found):
            raise RequestError(400, "private_address", f"an address must lead to a public host, got {host!r}")
        return found


class _Clock:
    """The time of a file, which stands still while it waits for a place."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._left = seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let the time run; a `RequestError` ends what is not done when it is over."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._left):
                yield
        except TimeoutError as late:
            raise _trouble(f"a file that comes within max_body_seconds={self._seconds:g}", "none in time") from late
        self._left -= time.monotonic() - began


def _split(address: str) -> SplitResult:
    try:
        place = urlsplit(address)
        _ = place.port  # raises where it is no number
    except ValueError as error:
        raise _trouble("an address", str(error)) from error
    is_plain = address.isascii() and address.isprintable() and " " not in address
    if place.scheme not in _PORTS or not place.hostname or not is_plain:
        raise _trouble("an http or https address in plain ASCII", f"a scheme {place.scheme[:20]!r}")
    if place.username is not None or place.password is not None:
        raise _trouble("an address without user name and password", "one with them")
    return place


class _Visit:
    """One request to a server, which any thread may end.

    Args:
        place: that is asked for.
        found: addresses of its host, as `getaddrinfo` returns them.
        limits: on the time of its connection.
        tls: of connections by https.
        room: bytes that the file may have.
    """

    def __init__(self, place: SplitResult, found: list[Any], limits: ServingLimits, tls: ssl.SSLContext, room: int):
        self._place = place
        self._found = found[:_MAX_ADDRESSES]
        self._limits = limits
        self._tls = tls
        self._room = room
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._is_ended = False

    def run(self) -> IO[bytes] | str:
        """Return the file, or the address to which the server redirects."""
        host = self._place.hostname or ""
        try:
            connection = self._connect()
            if self._place.scheme == "https":
                safe = self._tls.wrap_socket(connection, server_hostname=host, do_handshake_on_connect=False)
                connection = self._hold(safe)
                safe.do_handshake()
            return self._read(_request(connection, self._place))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _unreachable(host, error) from error
        finally:
            self._close()

    def end(self) -> None:
        """End the connection, wherever it is; a visit that is over stays as it is."""
        with self._lock:
            self._is_ended = True
            if self._connection is not None:
                with suppress(OSError):  # it has ended by itself
                    # Below TLS, whose own end would wait for the peer.
                    socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def _hold(self, connection: socket.socket) -> socket.socket:
        """Return a connection, which `end` can end from now on."""
        with self._lock:
            self._connection = connection
            if self._is_ended:
                raise ConnectionAbortedError("nobody waits for it")
            return connection

    def _close(self) -> None:
        with self._lock:  # the number of a closed one may be another client's
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _connect(self) -> socket.socket:
        """Return a connection to the first of the addresses that takes one."""
        seconds = self._limits.max_body_seconds
        for family, kind, protocol, _, address in self._found:
            try:
                connection = self._hold(socket.socket(family, kind, protocol))
                connection.settimeout(seconds / len(self._found))
                connection.connect(address)
                connection.settimeout(seconds)
                return connection
            except OSError as error:
                self._close()
                last = error
        raise last

    def _read(self, response: http.client.HTTPResponse) -> IO[bytes] | str:
        location = response.getheader("Location")
        if response.status in _REDIRECTIONS and location:
            return location
        if response.status != 200:
            raise _trouble("a file", f"status {response.status}")
        return self._save(response)

    def _save(self, response: http.client.HTTPResponse) -> IO[bytes]:
        stated = response.length or 0
        received = 0
        file: Any = tempfile.TemporaryFile()
        try:
            while received <= self._room >= stated and (chunk := response.read(_CHUNK)):
                received += len(chunk)
                file.write(chunk)
            if max(received, stated) > self._room:
                raise too_large("all clips of a request together", self._limits.max_upload_bytes)
            if received < stated:
                raise _trouble(f"a file of the {stated} bytes that its server states", f"{received}")
            file.seek(0)
            return file
        except BaseException:
            file.close()
            raise


def _request(connection: socket.socket, place: SplitResult) -> http.client.HTTPResponse:
    sender = http.client.HTTPConnection(place.hostname or "", place.port)
    sender.sock = connection  # to the checked address, in the place of a connection of its own
    target = place.path or "/"
    if place.query:
        target += f"?{place.query}"
    sender.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
    sender.putheader("Host", place.netloc)
    sender.putheader("Accept-Encoding", "identity")
    sender.putheader("Connection", "close")
    sender.endheaders()
    return sender.getresponse()


def _unreachable(host: str, error: Exception) -> RequestError:
    return _trouble("a file that can be fetched", f"{type(error).__name__} of {host!r}")


def _trouble(wanted: str, got: str) -> RequestError:
    return RequestError(400, "unreachable_url", f"an address must lead to {wanted}, got {got}")
