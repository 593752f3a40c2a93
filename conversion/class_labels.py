"""Files that name the classes of a model, or pick some of them."""

import json
from pathlib import Path
from typing import Any


def read_labels(path: Path) -> list[str]:
    """Read the names of classes in their order.

    Args:
        path: text with one name a line; or JSON, a list of names, names by numbers, or numbers by names.

    Raises:
        ValueError: if the file is damaged, if a class has no name, or if two have the same one.
    """
    if path.suffix == ".json":
        names = _names_in(path, _read_json(path))
    else:
        names = [line.strip() for line in _read_text(path).splitlines()]
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise ValueError(f"{path} must name each class, got {name!r} for class {number}")
    if len(set(names)) < len(names):
        twice = sorted(name for name in set(names) if names.count(name) > 1)
        raise ValueError(f"{path} must name each class differently, got {twice[0]!r} twice")
    return names


def read_label_map(path: Path) -> list[int]:
    """Read which classes of a model are kept, in their new order: a JSON list of their numbers.

    Raises:
        ValueError: if the file is damaged or holds anything else.
    """
    rows = _read_json(path)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} must be a JSON list of the numbers of classes, got {type(rows).__name__}")
    for row in rows:
        if type(row) is not int or row < 0:
            raise ValueError(f"{path} must be a JSON list of the numbers of classes, got {row!r} in it")
    return rows


def _names_in(path: Path, content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON list or object, got {type(content).__name__}")
    by_number = _numbered(content)
    if by_number is None:
        by_number = _numbered({number: name for name, number in content.items() if isinstance(number, (int, str))})
    if by_number is None or len(by_number) != len(content):
        raise ValueError(f"{path} must give the classes the numbers from 0 to {len(content) - 1}, got others")
    return [by_number[number] for number in range(len(by_number))]


def _numbered(content: dict[Any, Any]) -> dict[int, Any] | None:
    """Return values by numbers from 0 without gaps; `None` if the keys are others."""
    numbers = {str(key): value for key, value in content.items()}
    wanted = [str(number) for number in range(len(content))]
    if numbers.keys() != set(wanted):
        return None
    return {int(number): numbers[number] for number in wanted}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8, got {error}") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be a whole JSON file, got one that cannot be read: {error}") from error
