"""Checkpoints that survive a kill at any moment: which of them are whole, and from which a run goes on.

A checkpoint is whole once it holds a seal: a list of its files with their sizes, written after all of them, and the
recipe of the run that wrote it. A folder without one, or that lacks a file of it, was left half written or half
deleted, and is never read.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.atomic_files import differences, flush_to_disk, write_json

SEAL = "seal.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def seal_checkpoint(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Declare a checkpoint whole, once all of it is on the disk."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SEAL]
    for path in files:
        flush_to_disk(path)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    write_json(folder / SEAL, {"recipe": recipe, "files": sizes})


def break_seal(folder: Path) -> None:
    """Declare that a checkpoint is not whole, before anything in it changes."""
    (folder / SEAL).unlink(missing_ok=True)


def read_recipe(folder: Path) -> dict[str, Any] | None:
    """Return the recipe of the run that wrote a checkpoint, or `None` for one that is not whole."""
    try:
        seal = json.loads((folder / SEAL).read_text())
        sizes = {name: (folder / name).stat().st_size for name in seal["files"]}
    except FileNotFoundError:
        return None
    return seal["recipe"] if sizes == seal["files"] else None


def last_whole_checkpoint(folder: Path) -> Path | None:
    """Return the whole checkpoint of the most steps in the folder of a run, if there is one."""
    steps = {int(match[1]): path for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))}
    whole = (steps[step] for step in sorted(steps, reverse=True) if read_recipe(steps[step]) is not None)
    return next(whole, None)


def checkpoint_to_resume(folder: Path, recipe: Mapping[str, Any], wanted: str | None = None) -> Path | None:
    """Choose where a run begins: at its last whole checkpoint, at one that is asked for, or anew.

    Args:
        folder: of the run.
        recipe: everything that its result depends on.
        wanted: a checkpoint; it may be of another recipe, whose differences are printed. Once a run that began at one
            of elsewhere, or at one that it has deleted since, has a whole checkpoint of its own, it goes on from that.

    Raises:
        ValueError: if the checkpoint asked for is not whole, or if the folder holds checkpoints of another recipe.
    """
    own = last_whole_checkpoint(folder)
    if wanted and own is not None and read_recipe(own) == json.loads(json.dumps(recipe)):
        asked = Path(wanted)
        if asked.resolve().parent != folder.resolve() or not asked.exists():
            wanted = None
    chosen = Path(wanted) if wanted else own
    if chosen is None:
        return None
    held = read_recipe(chosen)
    if held is None:
        raise ValueError(f"a whole checkpoint is wanted to go on from, got {chosen}, which lacks files or its {SEAL}")
    different = differences(held, recipe)
    if different and wanted is None:
        raise ValueError(
            f"{folder} holds checkpoints of another recipe: {'; '.join(different)}. Name another --output_dir, remove "
            f"this one, or go on from {chosen} all the same with --resume_from_checkpoint"
        )
    if different:
        print(f"{chosen} is of another recipe: {'; '.join(different)}")
    return chosen
