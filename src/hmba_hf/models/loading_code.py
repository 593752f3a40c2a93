"""The code that a checkpoint carries beside its own: that of a tower of another family of these files."""

import shutil
from pathlib import Path
from typing import Any, ClassVar

from transformers.configuration_utils import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files

from .loading_options import pushing_options


class ConfigWithTower(PreTrainedConfig):
    """A configuration with a `vision_config`, as a base: a checkpoint of it carries the code of both.

    A family's own has `classes_of_checkpoint`, its `auto_map` on a tower of transformers, and `bundle`, the file that
    names the same classes where the tower is of another family of these files.
    """

    classes_of_checkpoint: ClassVar[dict[str, str]] = {}
    bundle: ClassVar[str] = ""

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save the config with its code as transformers does, and with that of a tower of another family here.

        Differs: `push_to_hub=True` pushes all of it, and makes a private repository unless `private=False` is given;
        `repo_id` is the folder's name when absent.

        Raises:
            ValueError: for an option that nothing reads.
        """
        of_push = pushing_options(self, save_directory, push_to_hub, kwargs)
        super().save_pretrained(save_directory)
        if is_of_another_family(self, self.vision_config):
            copy_code(self.bundle, save_directory)
        if push_to_hub:
            of_push["private"] = of_push.get("private") is not False
            self.push_to_hub(**of_push)

    def to_dict(self) -> dict[str, Any]:
        """Return the config as a dict, with the code that a checkpoint of it carries."""
        auto_map = dict(self.classes_of_checkpoint)
        if is_of_another_family(self, self.vision_config):
            auto_map = through_bundle(auto_map, self.bundle)
        return {**super().to_dict(), "auto_map": auto_map}


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
