"""Answer chat completions in OpenAI's form, and questions about cameras, from one model in memory.

    hmba serve --model org/hmba-drama
    HMBA_SERVE_TOKEN=... hmba serve --model org/hmba-drama --host 0.0.0.0

It listens on this machine alone. For others it needs a token, which the environment holds as HMBA_SERVE_TOKEN and
clients send as their API key; put a server with TLS in front. SIGTERM and Ctrl-C let it finish what runs.

Videos come within requests, as uploads, or from public addresses; no path and no private address of a client is read.
"""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoProcessor

from hmba_hf.commands.parsing import add_loading_options, command_parser, loading_options
from hmba_hf.families import load_model, read_family
from hmba_hf.hosts import check_host, read_secret
from hmba_hf.messages import run_command, show_messages
from hmba_hf.serving.limits import ServingLimits

TOKEN = "HMBA_SERVE_TOKEN"  # noqa: S105 - the name of a variable


def main(words: Sequence[str] | None = None) -> None:
    """Load the model and serve it."""
    parser = command_parser(ServingLimits, program="hmba serve", description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hub id")
    parser.add_argument("--name", help="of the model for clients; the Hub id or the folder's name if absent")
    parser.add_argument("--host", default="127.0.0.1", help="name or address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="to listen on")
    add_loading_options(parser)
    limits, args = parser.parse_args_into_dataclasses(words)
    from hmba_hf.serving.app import Service  # needs the extra, which --help does not
    from hmba_hf.serving.server import serve

    token = read_secret(TOKEN)
    check_host(args.host, token, TOKEN)
    task = read_family(args.model).task
    if task != "answering":
        raise ValueError(f"the model must answer questions about videos, got one of {task}")
    show_messages()
    model = load_model(args.model, **loading_options(args)).eval()
    processor = AutoProcessor.from_pretrained(args.model)
    name = args.name or (Path(args.model).resolve().name if Path(args.model).is_dir() else args.model)
    serve(Service(model, processor, name, limits), args.host, args.port, token)


if __name__ == "__main__":
    run_command(main)
