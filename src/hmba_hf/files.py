"""Files: written whole or not at all, even on a full disk, and JSON of unknown origin."""

import codecs
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number", type(None): "null"}


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield another path to write to, which replaces `path` once all of it is on the disk."""
    unfinished = path.with_name(f"_{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield unfinished
        flush_to_disk(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path, *names: str) -> None:
    """Delete what killed runs have left of files that `written_whole` wrote there, by their names or patterns."""
    for name in names:
        for unfinished in folder.glob(f"_{name}.[0-9]*"):
            unfinished.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n")


@contextmanager
def held_by_one_run(folder: Path, lock: Path) -> Iterator[None]:
    """Hold a folder for one run that writes there; the lock of a killed process holds nothing.

    Raises:
        ValueError: if another run holds it.
    """
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout as error:
        raise ValueError(f"{folder} must be free for this run, but another one is writing there") from error
    try:
        yield
    finally:
        held.release()


def flush_to_disk(path: Path) -> None:
    """Wait until a file would survive a power cut."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextmanager
def explained_write_errors(target: Path, safe: str) -> Iterator[None]:
    """Turn a failed write, as on a full disk, into an error that names the file and what is safe.

    Raises:
        OSError: with both in its message.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not is_failed_write(error):
            raise
        place = next(path for path in (target, *target.absolute().parents) if path.exists())
        free = shutil.disk_usage(place).free / 2**20
        raise OSError(f"{target} could not be written, {free:,.1f} MiB are free: {error}. {safe}") from error


def is_failed_write(error: Exception) -> bool:
    """Return whether an error is of the disk, or of safetensors or torch for it, and not of a network or the like."""
    if isinstance(error, OSError):
        return error.errno is not None
    if isinstance(error, SafetensorError):
        return True
    return "PytorchStreamWriter" in str(error) or "inline_container" in str(error)


def differences(held: Any, wanted: Any) -> list[str]:
    """Write where two flat mappings differ after a round trip through JSON."""
    held = json.loads(json.dumps(held))
    wanted = json.loads(json.dumps(wanted))
    lines = []
    for name in sorted({*held, *wanted}):
        if held.get(name) != wanted.get(name):
            lines.append(f"{name} must be {wanted.get(name)!r}, got {held.get(name)!r}")
    return lines


def parse_json(text: bytes | str) -> Any:
    """Read a JSON value.

    Raises:
        ValueError: if it is malformed, not in UTF-8, nested too deeply, or has a name twice in an object.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_with_names_once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _with_names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; the reader of Python would keep the last of several values in silence."""
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"an object in it must have each name once, got {name!r:.80} twice")
        content[name] = value
    return content


def split_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield each line of a file that is not blank, with its number.

    Lines end at the byte of a line feed alone, since a text in JSON may hold other line separators.
    """
    content = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            yield number, line


def read_json_object(path: str | Path, **wanted: type | tuple[type, ...]) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        path: of the file.
        wanted: the types of required values, by their names.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no such object.
    """
    try:
        content = parse_json(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON file, got one that cannot be read: {error}") from error
    check_fields(content, str(path), **wanted)
    return content


def check_fields(content: Any, where: str, **wanted: type | tuple[type, ...]) -> None:
    """Raise a `ValueError` that names the place, unless `content` is an object with values of the wanted types."""
    if not isinstance(content, dict):
        raise ValueError(f"{where} must be a JSON object, got {_name(content)}")
    for name, kinds in wanted.items():
        if name not in content:
            raise ValueError(f"{where} must be an object with {name!r}, got {sorted(content)}")
        value = content[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            listed = kinds if isinstance(kinds, tuple) else (kinds,)
            names = [_NAMES.get(kind, kind.__name__) for kind in listed]
            wording = " or ".join(names)
            raise ValueError(f"{where}: {name} must be {wording}, got {value!r}")


def _name(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)
