"""Files that are there as a whole or not at all, whenever the program is killed and however full the disk is."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give another path to write to, which takes the place of `path` once all of it is on the disk."""
    unfinished = path.with_name(f"_{path.name}.{os.getpid()}")
    try:
        yield unfinished
        flush_to_disk(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n")


def flush_to_disk(path: Path) -> None:
    """Wait until a file would survive a power cut."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextmanager
def explained_write_errors(target: Path, safe: str) -> Iterator[None]:
    """Say what could not be written and what is safe, when a write fails as it does on a full disk.

    Raises:
        OSError: with that in its message.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _is_failed_write(error):
            raise
        place = next(path for path in (target, *target.absolute().parents) if path.exists())
        free = shutil.disk_usage(place).free / 2**20
        raise OSError(f"{target} could not be written, {free:,.1f} MiB are free: {error}. {safe}") from error


def _is_failed_write(error: Exception) -> bool:
    """Tell an error of the disk, or of safetensors or torch for it, from others, such as those of a network."""
    if isinstance(error, OSError):
        return error.errno is not None
    return (
        isinstance(error, SafetensorError) or "PytorchStreamWriter" in str(error) or "inline_container" in str(error)
    )


def differences(held: Any, wanted: Any) -> list[str]:
    """Write where two flat mappings differ, as JSON would have them."""
    held, wanted = (json.loads(json.dumps(mapping)) for mapping in (held, wanted))
    names = sorted(name for name in {*held, *wanted} if held.get(name) != wanted.get(name))
    return [f"{name} is {held.get(name)!r} there, {wanted.get(name)!r} is wanted" for name in names]
