"""A file behind an address that a client has named: from public addresses alone, within limits.

A name is resolved once, and the connection goes to the address that was checked, never to the name again. So a server
of names cannot answer differently the second time. Each redirection is checked in the same way. No proxy is used,
since it would resolve the name itself.
"""

import http.client
import socket
import ssl
import tempfile
import threading
import time
from contextlib import closing, suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import IO, Any
from urllib.parse import SplitResult, urljoin, urlsplit

from .errors import RequestError
from .limits import ServingLimits

_PORTS = {"http": 80, "https": 443}
_REDIRECTIONS = (301, 302, 303, 307, 308)
_MAX_REDIRECTIONS = 5
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


def fetch(address: str, limits: ServingLimits, deadline: float) -> IO[bytes]:
    """Return what lies behind an address, as a temporary file at its start.

    Args:
        address: of http or https.
        limits: on the file, and on where it may lie.
        deadline: of `time.monotonic`, by which it must be here.

    Raises:
        RequestError: the address is not one of http or https, leads to a host that is not public, or cannot be
            fetched within limits.
    """
    for _ in range(_MAX_REDIRECTIONS + 1):
        place = _split(address)
        found = _get(place, limits, deadline)
        if not isinstance(found, str):
            return found
        try:
            address = urljoin(address, found)
        except ValueError as error:
            raise _trouble("an address", str(error)) from error
    raise _trouble(f"at most {_MAX_REDIRECTIONS} redirections", "more")


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


def _get(place: SplitResult, limits: ServingLimits, deadline: float) -> IO[bytes] | str:
    """Return the file, or the address to which the server redirects."""
    host = place.hostname or ""
    try:
        with closing(_connect(place, limits, deadline)) as plain:
            connection: socket.socket = plain
            if place.scheme == "https":
                context = ssl.create_default_context()
                connection = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
            # A socket has a time limit for each read alone, so that a byte now and then would hold it for ever.
            ending = threading.Timer(max(deadline - time.monotonic(), 0), _end, [connection])
            with closing(connection):
                ending.start()
                try:
                    if isinstance(connection, ssl.SSLSocket):
                        connection.do_handshake()
                    return _read(_request(connection, place), limits, deadline)
                finally:
                    ending.cancel()
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError of names that cannot be encoded
        if time.monotonic() >= deadline:
            raise _late(limits) from error
        raise _trouble("a file that can be fetched", f"{type(error).__name__} of {host!r}") from error


def _connect(place: SplitResult, limits: ServingLimits, deadline: float) -> socket.socket:
    host = place.hostname or ""
    port = place.port or _PORTS[place.scheme]
    addresses = [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not limits.allow_private_addresses and not all(map(is_public, addresses)):
        raise RequestError(400, "private_address", f"an address must lead to a public host, got {host!r}")
    return socket.create_connection((addresses[0], port), timeout=max(deadline - time.monotonic(), 0.001))


def _end(connection: socket.socket) -> None:
    with suppress(OSError):  # it has ended by itself
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # below TLS, whose own end would wait for the peer


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


def _read(response: http.client.HTTPResponse, limits: ServingLimits, deadline: float) -> IO[bytes] | str:
    location = response.getheader("Location")
    if response.status in _REDIRECTIONS and location:
        return location
    if response.status != 200:
        raise _trouble("a file", f"status {response.status}")
    return _save(response, limits, deadline)


def _save(response: http.client.HTTPResponse, limits: ServingLimits, deadline: float) -> IO[bytes]:
    stated = response.length or 0
    received = 0
    file: Any = tempfile.TemporaryFile()
    try:
        while received <= limits.max_upload_bytes >= stated and (chunk := response.read(_CHUNK)):
            received += len(chunk)
            file.write(chunk)
        if max(received, stated) > limits.max_upload_bytes:
            raise RequestError(
                413, "too_large", f"a file must have at most max_upload_bytes={limits.max_upload_bytes}, got more"
            )
        if time.monotonic() >= deadline:
            raise _late(limits)
        if received < stated:
            raise _trouble(f"a file of the {stated} bytes that its server states", f"{received}")
        file.seek(0)
        return file
    except BaseException:
        file.close()
        raise


def _late(limits: ServingLimits) -> RequestError:
    return _trouble(f"a file that comes within max_body_seconds={limits.max_body_seconds:g}", "none in time")


def _trouble(wanted: str, got: str) -> RequestError:
    return RequestError(400, "unreachable_url", f"an address must lead to {wanted}, got {got}")
