"""The vision tower of a conversion, which is in a repository of its own for most checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch

from hmba_hf.conversion.rename_keys import TOWER, TensorSpec, plan_renaming, vision_tower_rules
from hmba_hf.conversion.tensor_files import FileTensors, hub_id, local_path
from hmba_hf.conversion.tensor_sources import RenamedTensors
from hmba_hf.models.loading_checkpoints import load_vision_config


class VisionTower:
    """A vision tower, by itself or in a vision-text model, in a folder or on the Hub.

    Args:
        name: path or Hub id.
    """

    def __init__(self, name: str):
        self.path = local_path(name)
        self.config: Any
        _, self.config = load_vision_config(str(self.path))
        self.config.name_or_path = hub_id(name)

    def renamed(self, wanted: Mapping[str, TensorSpec], dtype: torch.dtype) -> RenamedTensors:
        """Return the tower's tensors under their names here.

        Raises:
            ValueError: if they are not the wanted ones.
        """
        source = FileTensors(self.path)
        own = {name: spec for name, spec in wanted.items() if name.startswith(TOWER)}
        renaming = plan_renaming(source.specs, vision_tower_rules(own), own)
        return RenamedTensors(source, renaming, dtype)
