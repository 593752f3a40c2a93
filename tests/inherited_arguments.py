"""Count what our classes override and inherit of transformers, and which test shows that it works or is refused.

    python tests/inherited_arguments.py

`tests/inherited/` has a table for each class. A line is `method: arguments | verdict | test`. The verdicts are `works`
and `refused`, with the test that shows it, as `file.py::name` in this folder or as `transformers::name` in the suites
of transformers, and `open`, with a reason instead. A method that we override has `override` among its arguments.
"""

import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
TABLES = TESTS / "inherited"
VERDICTS = ("works", "refused", "open")
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Row(NamedTuple):
    """One argument of a method, or the word `override`, and what a test shows of it."""

    method: str
    argument: str
    verdict: str
    shown_by: str


def our_classes() -> dict[str, type]:
    """Return the class of each table."""
    from hmba_hf import HMBAForConditionalGeneration, HMBAProcessor, HMBAVideoProcessor, VideoTextToTextPipeline
    from hmba_hf.tasks.answering.trainer import AdapterTrainer

    return {
        "model": HMBAForConditionalGeneration,
        "processor": HMBAProcessor,
        "video_processor": HMBAVideoProcessor,
        "pipeline": VideoTextToTextPipeline,
        "trainer": AdapterTrainer,
    }


def inherited(our_class: type) -> set[tuple[str, str]]:
    """List the public methods of transformers that a class has, with each argument, and the methods it overrides.

    Returns:
        Pairs of a method and an argument, `override` for a method that is ours, or `-` for one without arguments.
    """
    found = set()
    for name in dir(our_class):
        owners = [owner for owner in our_class.__mro__ if name in vars(owner)]
        theirs = [owner for owner in owners if owner.__module__.startswith("transformers.")]
        if not theirs:
            continue
        method = _function(vars(theirs[0])[name])
        if method is None:
            continue
        ours = _function(vars(owners[0])[name])
        if ours is not None and ours.__module__.startswith("hmba_hf"):
            found.add((name, "override"))
        if not name.startswith("_") or name in ("__call__", "__init__"):
            found |= {(name, argument) for argument in _arguments(method) or ["-"]}
    return found


def _function(member: object) -> object | None:
    member = getattr(member, "__func__", member)
    return member if inspect.isfunction(member) else None


def _arguments(function: object) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    named = [parameter.name for parameter in parameters if parameter.kind not in VARIABLE]
    return [name for name in named if name not in ("self", "cls")]


def read_table(name: str) -> Iterator[Row]:
    """Yield the rows of one table."""
    for line in (TABLES / f"{name}.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            entry, verdict, shown_by = (part.strip() for part in line.split("|"))
            method, arguments = entry.split(":")
            for argument in arguments.split():
                yield Row(method, argument, verdict, shown_by)


def main() -> None:
    """Print how many rows of each table work, are refused or are open, and those that are missing or stale."""
    wrong = 0
    for name, our_class in our_classes().items():
        rows = list(read_table(name))
        listed, wanted = {row[:2] for row in rows}, inherited(our_class)
        counts = Counter(row.verdict for row in rows)
        overrides = sum(row.argument == "override" for row in rows)
        shown = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
        print(f"{name}: {len(rows)} rows, {overrides} of them overrides; {shown}")
        for kind, pairs in (("missing", wanted - listed), ("stale", listed - wanted)):
            wrong += len(pairs)
            for method, argument in sorted(pairs):
                print(f"  {kind}: {method}: {argument}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
