"""What all `hmba prepare` commands share: a dataset's options, its report, its push."""

from collections.abc import Callable, Sequence
from typing import Any

from hmba_hf.commands.parsing import command_parser
from hmba_hf.data.preparing.converting import RunOptions, format_report
from hmba_hf.data.preparing.publishing import PushOptions, push_folder


def prepare(
    kind: type,
    convert: Callable[[Any, RunOptions], dict[str, Any]],
    description: str | None,
    *,
    program: str,
    words: Sequence[str] | None,
) -> None:
    """Convert the raw files of a dataset, print the report, and push the result if that is wanted.

    Args:
        kind: a dataclass of the dataset's options.
        convert: makes the dataset and returns its report.
        description: the first text of `--help`.
        program: the name of the command.
        words: of the command line; those of the program when absent.

    Raises:
        ValueError: as `convert`, and if the options cannot be pushed.
    """
    parser = command_parser(kind, RunOptions, PushOptions, program=program, description=description)
    options, run, push = parser.parse_args_into_dataclasses(words)
    if getattr(options, "by_path", False) and push.push_to_hub is not None:
        raise ValueError("by_path must be false to push a dataset, whose rows would name files that nobody has")
    print(format_report(convert(options, run)))
    print(f"dataset and report.json: {run.output_dir}")
    if push.push_to_hub is not None:
        print(f"pushed to {push_folder(run.output_dir, push)}")
