"""The code that a checkpoint carries beside its own: that of a tower of another family of these files."""

import shutil
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files


def is_of_another_family(config: Any, tower: Any) -> bool:
    """Return whether the configuration of a tower comes from these files, but not from the file of the whole one."""
    package, _, file = type(config).__module__.rpartition(".")
    tower_package, _, tower_file = type(tower).__module__.rpartition(".")
    return package == tower_package and file != tower_file


def through_bundle(auto_map: dict[str, str], bundle: str) -> dict[str, str]:
    """Let a config's `auto_map` name the same classes by another file, which brings the towers along."""
    return {auto_class: f"{bundle}.{reference.split('.')[1]}" for auto_class, reference in auto_map.items()}


def copy_code(bundle: str, folder: Any) -> None:
    """Copy one of these files and all that it imports from the others into a folder, as transformers does."""
    entry = Path(__file__).with_name(f"{bundle}.py")
    for file in (entry, *map(Path, get_relative_import_files(entry))):
        shutil.copyfile(file, Path(folder) / file.name)
