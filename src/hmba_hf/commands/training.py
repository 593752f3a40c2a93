"""What all commands that train share."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import hmba_hf  # noqa: F401 - registers the models
from hmba_hf.messages import INTERRUPTED, show_messages


def run_training(
    run: Callable[..., Any],
    parse_arguments: Callable[..., tuple[Any, ...]],
    description: str | None,
    *,
    program: str,
    words: Sequence[str] | None,
) -> None:
    """Train, resume or finish the run that the words of a command line describe.

    Args:
        run: takes what `parse_arguments` returns.
        parse_arguments: takes description, words and program, as `training.arguments.parse_options`.
        description: the first text of `--help`.
        program: the name of the command.
        words: of the command line; those of the program when absent.

    Raises:
        SystemExit: after Ctrl-C.
    """
    show_messages()
    arguments = parse_arguments(description, words, program=program)
    try:
        run(*arguments)
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes from the last checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)
