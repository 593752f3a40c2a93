"""Checkpoints that survive a kill at any moment: which of them are whole, and from which a run resumes.

A checkpoint is whole once it holds a seal: a list of its files with their sizes, written after all of them, and the
recipe of the run that wrote it. A folder without one, or that lacks a file of it, was left half written or half
deleted, and is never read. Files of others, such as the marks of a tool that watches the folder, are no part of it.
"""

import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import differences, flush_to_disk, read_json_object, write_json
from ..messages import logger
from ..weight_files import check_resumed

SEAL = "seal.json"
_MARK = "checkpoint-is-incomplete.txt"  # transformers puts it into a folder while it saves there, and takes it away
_RENAMED = {"model_name_or_path": "model"}  # options since version 0.1
_NAME = re.compile(r"checkpoint-(\d+)")


def seal_checkpoint(folder: Path, recipe: Mapping[str, Any], before: Mapping[Path, Any] | None = None) -> None:
    """Declare a checkpoint whole, once all of it is on the disk.

    Args:
        folder: of the checkpoint.
        recipe: everything that the result of its run depends on.
        before: what `break_seal` has found; a file that has not been written since is of others, and not sealed.
    """
    stamps = _stamps(folder)
    files = [path for path in sorted(stamps) if stamps[path] != (before or {}).get(path)]
    for path in files:
        flush_to_disk(path)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    write_json(folder / SEAL, {"recipe": recipe, "files": sizes})


def break_seal(folder: Path) -> dict[Path, Any]:
    """Declare that a checkpoint is not whole, before anything in it changes, and return what files are there."""
    (folder / SEAL).unlink(missing_ok=True)
    return _stamps(folder)


def read_recipe(folder: Path) -> dict[str, Any] | None:
    """Return the recipe of the run that wrote a checkpoint, or `None` for one that is not whole."""
    try:
        seal = read_json_object(folder / SEAL, recipe=dict, files=dict)
        sealed = {name: size for name, size in seal["files"].items() if name != _MARK}  # version 0.1 had it sealed
        sizes = {name: (folder / name).stat().st_size for name in sealed}
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last one of a damaged seal
        return None
    if sizes != sealed:
        return None
    return {_RENAMED.get(name, name): value for name, value in seal["recipe"].items()}


def last_whole_checkpoint(folder: Path) -> Path | None:
    """Return the whole checkpoint of the most steps in the folder of a run, if there is one."""
    steps = _checkpoints(folder)
    whole = (steps[step] for step in sorted(steps, reverse=True) if read_recipe(steps[step]) is not None)
    return next(whole, None)


def rotate_checkpoints(folder: Path, limit: int | None, newest: Path, best: str | None = None) -> None:
    """Delete checkpoints of a run beyond `limit`: first those that are not whole, then the oldest.

    Args:
        folder: of the run.
        limit: most checkpoints; none is deleted if it is absent or below 1.
        newest: the checkpoint that was written last, which is kept. Unless it is whole, nothing is deleted.
        best: another checkpoint that is kept.
    """
    if limit is None or limit < 1:
        return
    if read_recipe(newest) is None:
        warnings.warn(f"{newest} lacks files that have just been written: older checkpoints stay", stacklevel=2)
        return
    kept = {newest.resolve()}
    if best is not None:
        kept.add(Path(best).resolve())
    found = _checkpoints(folder)
    others = [path for _, path in sorted(found.items()) if path.resolve() not in kept]
    for path in sorted(others, key=_written_at)[: len(found) - max(limit, len(kept))]:
        break_seal(path)
        shutil.rmtree(path, ignore_errors=True)


def checkpoint_to_resume(folder: Path, recipe: Mapping[str, Any], wanted: str | None = None) -> Path | None:
    """Choose where a run begins: at its last whole checkpoint, at one that is asked for, or anew.

    Args:
        folder: of the run.
        recipe: everything that its result depends on.
        wanted: a checkpoint; it may be of another recipe, whose differences are printed. Once a run that began at one
            of elsewhere, or at one that it has deleted since, has a whole checkpoint of its own, it resumes from that.

    Raises:
        ValueError: if the checkpoint asked for is not whole, if its weights are damaged or ambiguous, or if the folder
            holds checkpoints of another recipe.
    """
    own = last_whole_checkpoint(folder)
    # An option that a run is older than is one that it was not given.
    if wanted and own is not None and not differences(read_recipe(own), recipe):
        asked = Path(wanted)
        if asked.resolve().parent != folder.resolve() or not asked.exists():
            wanted = None
    chosen = Path(wanted) if wanted else own
    if chosen is None:
        return None
    held = read_recipe(chosen)
    if held is None:
        raise ValueError(
            f"resume_from_checkpoint must be a whole checkpoint, got {chosen}, which lacks files or its {SEAL}"
        )
    check_resumed(chosen)
    different = differences(held, recipe)
    if different and wanted is None:
        raise ValueError(
            f"{folder} holds checkpoints of another recipe: {'; '.join(different)}. Name another --output_dir, remove "
            f"this one, or resume from {chosen} all the same with --resume_from_checkpoint"
        )
    if different:
        logger.info(f"{chosen} is of another recipe: {'; '.join(different)}")
    return chosen


def _checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints of a run by their steps, whole or not."""
    named = {path: _NAME.fullmatch(path.name) for path in folder.glob("checkpoint-*") if path.is_dir()}
    return {int(match[1]): path for path, match in named.items() if match is not None}


def _written_at(checkpoint: Path) -> int:
    """When a checkpoint was sealed, in nanoseconds; 0 for one that is not whole."""
    return 0 if read_recipe(checkpoint) is None else (checkpoint / SEAL).stat().st_mtime_ns


def _stamps(folder: Path) -> dict[Path, Any]:
    """What changes of each file but the seal when it is written."""
    stamps = {}
    for path in folder.rglob("*"):
        if path.name not in (SEAL, _MARK) and path.is_file():
            facts = path.stat()
            stamps[path] = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return stamps
