"""The vision tower of a conversion, which most checkpoints leave in a repository of its own."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig

from rename_keys import TOWER, TensorSpec, plan_renaming, vision_tower_rules
from tensor_files import FileTensors, local_path
from tensor_sources import RenamedTensors


class VisionTower:
    """A vision tower, or the vision half of a vision-text model, in a folder or on the Hub.

    Args:
        name: path or Hub id.
    """

    def __init__(self, name: str):
        self.name, self.path = name, local_path(name)
        config: Any = AutoConfig.from_pretrained(self.path)
        self.config: Any = getattr(config, "vision_config", config)
        size, patch_size = getattr(self.config, "image_size", None), getattr(self.config, "patch_size", None)
        if isinstance(size, int) and isinstance(patch_size, int):
            self.config.image_size = size - size % patch_size  # no patch covers the rest

    def renamed(self, wanted: Mapping[str, TensorSpec], dtype: torch.dtype) -> RenamedTensors:
        """Return the tower's tensors under their names here.

        Raises:
            ValueError: if they are not those that are wanted of a tower.
        """
        source = FileTensors(self.path)
        own = {name: spec for name, spec in wanted.items() if name.startswith(TOWER)}
        return RenamedTensors(source, plan_renaming(source.specs, vision_tower_rules(own), own), dtype)
