"""Where a server may listen: on this machine alone, unless a secret of the environment guards it."""

import errno
import os
import socket
from ipaddress import ip_address


def read_secret(variable: str) -> str | None:
    """Return a secret of the environment, which no option takes, since options are seen by others.

    Raises:
        ValueError: if it is empty.
    """
    secret = os.environ.get(variable)
    if secret is not None and not secret.strip():
        raise ValueError(f"{variable} must be a secret or be unset, got an empty one")
    return secret


def check_bearer(secret: str | None, variable: str) -> None:
    """Raise a `ValueError` for a secret that no header of a request can bear; a variable holds it."""
    if secret is not None and not (secret.isascii() and secret.isprintable() and secret == secret.strip()):
        raise ValueError(
            f"{variable} must be of ASCII letters, signs and digits without spaces at its ends, got others"
        )


def is_loopback(host: str) -> bool:
    """Return whether a host, by name or address, is this machine as it calls itself."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def at(host: str, port: int) -> str:
    """Return a host and a port as an address has them: one of IPv6 stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_host(host: str, secret: str | None, variable: str) -> None:
    """Raise a `ValueError` for a host that others can reach, unless there is a secret, which a variable holds."""
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise ValueError(f"host must be a name or address of this machine, got {host!r}") from error
    if secret is None and not all(map(is_loopback, addresses)):
        raise ValueError(
            f"host must be of this machine alone, such as 127.0.0.1, unless {variable} is set, got {host!r}"
        )


def check_port(host: str, port: int) -> None:
    """Raise a `ValueError` for a port that a server cannot have on a host, before a model has been loaded for it."""
    if not 0 < port < 2**16:
        raise ValueError(f"port must be from 1 to {2**16 - 1}, got {port}")
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            socket.create_server(address[:2], family=family).close()
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                continue  # a server leaves out an address that this machine lacks
            reason = os.strerror(error.errno)
            raise ValueError(f"port must be free on {host}, got {port}: {reason}") from error
