"""MambaVL on a tower of these files: what the `auto_map` of such a checkpoint names."""

from .bundling_towers import TOWERS
from .configuration_mambavl import MambaVLConfig
from .modeling_mambavl import MambaVLForVideoClassification, MambaVLModel

__all__ = ["TOWERS", "MambaVLConfig", "MambaVLForVideoClassification", "MambaVLModel"]
