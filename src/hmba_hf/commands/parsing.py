"""The parser of a command line that dataclasses of options describe, and the options that load a model."""

import argparse
from typing import Any

from transformers import HfArgumentParser

from hmba_hf.families import check_loading
from hmba_hf.messages import HelpFormatter
from hmba_hf.quantisation import HELP, QUANTIZATIONS, quantising_options


class CommandParser(HfArgumentParser):
    """An `HfArgumentParser` that refuses unknown words as `argparse` does: in one line, with exit status 2.

    Options have their whole names: commands whose words several parsers read would each know other short forms.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_args_into_dataclasses(  # type: ignore[override]  # the rest is in `how`
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


def check_counts(parser: argparse.ArgumentParser, args: Any, *names: str, least: int = 1) -> None:
    """End the program in a line where one of the named options is below the least; an absent one is as it must be."""
    for name in names:
        count = getattr(args, name)
        if count is not None and count < least:
            parser.error(f"--{name} must be at least {least}, got {count}")


def add_loading_options(parser: CommandParser) -> None:
    """Add the options of how a model is loaded, which `loading_options` reads."""
    parser.add_argument("--dtype", default="auto", help="of the weights, such as bfloat16")
    parser.add_argument("--device_map", default=None, help="where the model runs, such as cpu or auto")
    parser.add_argument("--quantization", default=None, choices=QUANTIZATIONS, help=HELP)


def loading_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return options of `from_pretrained`.

    Args:
        args: with the values of `add_loading_options`, and `model`.

    Raises:
        ValueError, ImportError: as `check_loading` and `quantising_options`.
    """
    options = {"dtype": args.dtype, "device_map": args.device_map}
    check_loading(options)
    return options | quantising_options(args.model, args.quantization)
