"""The parser of a command line that dataclasses of options describe."""

from typing import Any

from transformers import HfArgumentParser

from hmba_hf.messages import HelpFormatter


class CommandParser(HfArgumentParser):
    """An `HfArgumentParser` that refuses unknown words as `argparse` does: in one line, with exit status 2."""

    def parse_args_into_dataclasses(  # type: ignore[override]
        self, args: Any = None, return_remaining_strings: bool = False, **how: Any
    ) -> tuple[Any, ...]:
        """Read a command line; see `HfArgumentParser`."""
        if not return_remaining_strings:
            self.parse_args(args)  # before any value is looked at
        return super().parse_args_into_dataclasses(args, return_remaining_strings, **how)


def command_parser(*kinds: type, program: str, description: str | None, **options: Any) -> CommandParser:
    """Return the parser of a command.

    Args:
        kinds: dataclasses of options.
        program: the name of the command in `--help` and errors.
        description: the first text of `--help`.
        options: of `argparse.ArgumentParser`.
    """
    described: Any = kinds
    return CommandParser(described, prog=program, description=description, formatter_class=HelpFormatter, **options)
