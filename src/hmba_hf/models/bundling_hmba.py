"""H-MBA on a tower of these files: what the `auto_map` of such a checkpoint names."""

from .bundling_towers import TOWERS
from .configuration_hmba import HMBAConfig
from .modeling_hmba import HMBAForConditionalGeneration, HMBAModel

__all__ = ["TOWERS", "HMBAConfig", "HMBAForConditionalGeneration", "HMBAModel"]
