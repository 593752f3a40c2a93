"""The server of an endpoint: where it listens, and how it ends."""

import socket
from functools import partial
from typing import Any

from ..hosts import at
from ..installation import missing_extra
from ..messages import logger
from .app import Service, build_app
from .heads import TimelyProtocol

try:
    import uvicorn
    import websockets  # noqa: F401 - by which uvicorn speaks to cameras
except ImportError as missing:
    raise missing_extra("`hmba serve` needs", "serve") from missing

_BACKLOG = 2048


class _Server(uvicorn.Server):
    """A server that says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, name: str):
        super().__init__(config)
        self._name = name

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.started:
            logger.info("%s at http://%s/v1", self._name, at(self.config.host, self.config.port))


def build_server(service: Service, host: str, port: int, token: str | None) -> Any:
    """Return a uvicorn server of an endpoint, which is not running yet.

    SIGTERM and Ctrl-C let it finish what runs.
    """
    limits = service.limits
    # On h11: httptools, which others install, keeps headers of any size, before anything is checked.
    protocol: Any = partial(TimelyProtocol, max_head_seconds=limits.max_head_seconds)
    config = uvicorn.Config(
        build_app(service, token),
        host=host,
        port=port,
        backlog=_BACKLOG,
        http=protocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(limits.max_request_seconds) + 1,
        ws="websockets-sansio",
        ws_max_size=limits.max_frame_bytes + 1024,
        ws_max_queue=4,
        ws_per_message_deflate=False,
    )
    return _Server(config, service.name)


def serve(service: Service, host: str, port: int, token: str | None) -> None:
    """Answer requests until the process is told to end."""
    build_server(service, host, port, token).run()
