"""The files of a folder that are the weights of its checkpoint: those that transformers loads, and no others."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_OF_A_MODEL = re.compile(r"(model(-\d+-of-\d+)?\.safetensors|pytorch_model(-\d+-of-\d+)?\.bin)(\.index\.json)?")


@dataclass(frozen=True)
class WeightFiles:
    """The weights of a checkpoint.

    Args:
        files: with the tensors.
        index: with the names of the files, where there are several.
        weight_map: the name of the file for each tensor of an index.
    """

    files: list[Path]
    index: Path | None = None
    weight_map: dict[str, str] = field(default_factory=dict)


def find_weights(folder: Path) -> WeightFiles | None:
    """Find the weights of a model in a folder; `None` if it has none under the names of transformers.

    The file of `transformers_weights` in config.json comes first. Safetensors come before pickles, and one file before
    an index and its shards, which may be of an earlier save.

    Raises:
        FileNotFoundError: if a file is missing that config.json or the index names.
        ValueError: if either is damaged, or if the index names no tensor.
    """
    named = _named_weights(folder)
    places = []
    if named is not None:
        places.append(folder / named)
    for name in SINGLE_FILES:
        places.append(folder / name)
        places.append(folder / f"{name}.index.json")
    for path in places:
        if not path.is_file():
            continue
        if path.name.endswith(".index.json"):
            return read_index(path)
        return WeightFiles([path])
    return None


def read_index(index: Path) -> WeightFiles:
    """Return the files and tensors of an index; errors as in `find_weights`."""
    weight_map = _read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f"an index must have a weight_map of names, got none in {index}")
    if not weight_map:
        raise ValueError(f"an index must name the tensors of its shards, got none in {index}")
    files = [index.parent / name for name in dict.fromkeys(weight_map.values())]
    for file in files:
        if file.parent != index.parent or not file.is_file():
            raise FileNotFoundError(f"{file} must be there for {index}, got no such file beside it")
    return WeightFiles(files, index, weight_map)


def check_resumed(folder: Path) -> None:
    """Check that `Trainer` resumes from the weights that every other reader takes; it has an order of its own.

    Raises:
        ValueError: if it would load another file of the folder; others as in `find_weights`.
    """
    found = find_weights(folder)
    if found is None:
        return
    counted = found.index or found.files[0]
    places = [*SINGLE_FILES, *(f"{name}.index.json" for name in SINGLE_FILES)]  # in the order of `Trainer`
    resumed = next((name for name in places if (folder / name).is_file()), counted.name)
    if resumed != counted.name:
        raise ValueError(
            f"a run must resume from the weights that are loaded elsewhere, {counted.name}, got {folder}, of which "
            f"{resumed} would be taken: remove the one that is not meant"
        )


def stale_weights(folder: Path) -> list[str]:
    """Name files of a folder with names of weights that are not loaded; errors as in `find_weights`."""
    found = find_weights(folder)
    if found is None:
        return []
    counted = {*found.files, found.index}
    return sorted(path.name for path in folder.iterdir() if _OF_A_MODEL.fullmatch(path.name) and path not in counted)


def _named_weights(folder: Path) -> str | None:
    """Return the file that config.json names as the weights, if it does."""
    config = folder / "config.json"
    name = _read_object(config).get("transformers_weights") if config.is_file() else None
    if name is None:
        return None
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"transformers_weights of {config} must name a file beside it, got {name!r}")
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{folder / name} must be there for {config}, got no such file beside it")
    return name


def _read_object(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be a whole JSON file, got one that cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON object, got {type(content).__name__}")
    return content
