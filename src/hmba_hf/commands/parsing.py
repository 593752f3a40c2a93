"""The parser of a command line that dataclasses of options describe."""

import argparse
from typing import Any

from transformers import HfArgumentParser


def command_parser(*kinds: type, program: str, description: str | None, **options: Any) -> HfArgumentParser:
    """Return the parser of a command.

    Args:
        kinds: dataclasses of options.
        program: the name of the command in `--help` and errors.
        description: the first text of `--help`, printed as it is.
        options: of `argparse.ArgumentParser`.
    """
    layout = argparse.RawDescriptionHelpFormatter
    described: Any = kinds
    return HfArgumentParser(described, prog=program, description=description, formatter_class=layout, **options)
