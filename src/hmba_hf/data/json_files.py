"""JSON that somebody else may have written: an error names the file, and the line where there are several."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number", type(None): "null"}


def parse_json(text: bytes | str) -> Any:
    """Read a JSON value.

    Raises:
        ValueError: if it is none, is not in UTF-8, or is nested too deeply to be read.
    """
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def split_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield each line of a file that holds anything, with its number.

    Lines end where bytes say so: text may hold other marks of a new line.
    """
    for number, line in enumerate(Path(path).read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        if line.strip():
            yield number, line


def read_json_object(path: str | Path, **wanted: type | tuple[type, ...]) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        path: of the file.
        wanted: the types that values must have, by the names that must be there.

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
    """Raise a `ValueError` that says where, unless `content` is an object with values of the wanted types."""
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected a JSON object, got {_name(content)}")
    for name, kinds in wanted.items():
        if name not in content:
            raise ValueError(f"{where}: expected an object with {name!r}, got {sorted(content)}")
        value = content[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            listed = kinds if isinstance(kinds, tuple) else (kinds,)
            wording = " or ".join(_NAMES.get(kind, kind.__name__) for kind in listed)
            raise ValueError(f"{where}: {name} must be {wording}, got {value!r}")


def _name(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)
