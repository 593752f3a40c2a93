"""The server of an endpoint: where it listens, and how it ends."""

from typing import Any

from ..installation import install_command
from ..messages import logger
from .app import Service, build_app

try:
    import uvicorn
    import websockets  # noqa: F401 - by which uvicorn speaks to cameras
except ImportError as missing:
    raise ImportError(f"`hmba serve` needs `{install_command('serve')}`") from missing

_BACKLOG = 2048


def build_server(service: Service, host: str, port: int, token: str | None) -> Any:
    """Return a uvicorn server of an endpoint, which is not running yet.

    SIGTERM and Ctrl-C let it finish what runs.
    """
    limits = service.limits
    config = uvicorn.Config(
        build_app(service, token),
        host=host,
        port=port,
        backlog=_BACKLOG,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(limits.max_request_seconds) + 1,
        ws="websockets-sansio",
        ws_max_size=limits.max_frame_bytes + 1024,
        ws_max_queue=4,
        ws_per_message_deflate=False,
    )
    return uvicorn.Server(config)


def serve(service: Service, host: str, port: int, token: str | None) -> None:
    """Answer requests until the process is told to end."""
    logger.info("%s at http://%s:%s/v1", service.name, host, port)
    build_server(service, host, port, token).run()
