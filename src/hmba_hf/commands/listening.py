"""What the commands share that listen: where, for whom, and with a model that answers."""

from pathlib import Path

from hmba_hf.commands.parsing import CommandParser, add_loading_options
from hmba_hf.families import read_family
from hmba_hf.hosts import check_host, check_port, read_secret


def add_listening_options(parser: CommandParser, port: int) -> None:
    """Add the options of where to listen, on `port` if none is named, and of how the model is loaded."""
    parser.add_argument("--host", default="127.0.0.1", help="name or address to listen on")
    parser.add_argument("--port", type=int, default=port, help="to listen on")
    add_loading_options(parser)


def read_guard(host: str, port: int, variable: str) -> str | None:
    """Return the secret that guards a host, which a variable of the environment holds.

    Raises:
        ValueError: if it is empty, or missing where others can reach the host, or if the port is not free.
    """
    secret = read_secret(variable)
    check_host(host, secret, variable)
    check_port(host, port)
    return secret


def check_answers(model: str) -> None:
    """Raise a `ValueError` for a model, a folder or Hub id, that does not answer questions."""
    task = read_family(model).task
    if task != "answering":
        raise ValueError(f"the model must answer questions about videos, got one of {task}")


def name_of(model: str) -> str:
    """Return the name of a model for clients and visitors: the Hub id, or the last part of its folder."""
    return Path(model).resolve().name if Path(model).is_dir() else model
