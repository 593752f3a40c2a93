"""Answer chat completions in OpenAI's form, and questions about cameras, from one model in memory.

    hmba serve --model org/hmba-drama
    HMBA_SERVE_TOKEN=... hmba serve --model org/hmba-drama --host 0.0.0.0

It listens on this machine alone. For others it needs a token, which the environment holds as HMBA_SERVE_TOKEN and
clients send as their API key; put a server with TLS in front. SIGTERM and Ctrl-C let it finish what runs.

Videos come within requests, as uploads, or from public addresses; no path and no private address of a client is read.
"""

from collections.abc import Sequence

from transformers import AutoProcessor

from hmba_hf import set_linear_implementation
from hmba_hf.commands.listening import add_listening_options, check_answers, name_of, read_guard
from hmba_hf.commands.parsing import command_parser, loading_options
from hmba_hf.families import load_model
from hmba_hf.hosts import check_bearer
from hmba_hf.messages import run_command, show_messages
from hmba_hf.serving.limits import ServingLimits

TOKEN = "HMBA_SERVE_TOKEN"  # noqa: S105 - the name of a variable


def main(words: Sequence[str] | None = None) -> None:
    """Load the model and serve it."""
    parser = command_parser(ServingLimits, program="hmba serve", description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hub id")
    parser.add_argument("--name", help="of the model for clients; the Hub id or the folder's name if absent")
    add_listening_options(parser, port=8000)
    limits, args = parser.parse_args_into_dataclasses(words)
    from hmba_hf.serving.app import Service  # needs the extra, which --help does not
    from hmba_hf.serving.server import serve

    token = read_guard(args.host, args.port, TOKEN)
    check_bearer(token, TOKEN)
    check_answers(args.model)
    show_messages()
    model = load_model(args.model, **loading_options(args)).eval()
    set_linear_implementation(model)
    processor = AutoProcessor.from_pretrained(args.model)
    serve(Service(model, processor, args.name or name_of(args.model), limits), args.host, args.port, token)


if __name__ == "__main__":
    run_command(main)
