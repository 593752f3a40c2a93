"""What cached features of a model's vision tower depend on."""

import json
from typing import Any

import torch

from ...digests import digest_weights

# Options of a video processor and of a tower on which no feature depends.
_IDLE_OPTIONS = ("auto_map", "processor_class", "video_processor_type", "return_metadata")
_IDLE_SETTINGS = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")


def feature_key(model: Any, video_processor: Any, dtype: torch.dtype) -> dict[str, str]:
    """Describe all inputs of cached features but the clips.

    Args:
        model: an `HMBAForConditionalGeneration`.
        video_processor: samples and prepares the frames.
        dtype: of the tower's computation and its features.
    """
    tower = model.model.vision_tower
    key = {"vision tower": f"{type(tower).__name__} {digest_weights(tower, dtype)}"}
    for name, value in sorted(tower.config.to_dict().items()):
        if name not in _IDLE_SETTINGS:
            key[f"vision tower's {name}"] = json.dumps(value, default=str)
    key["layer"] = str(model.config.vision_feature_layer)
    key["dtype"] = str(dtype).removeprefix("torch.")
    rules = video_processor.source_rules
    stated = rules["limits"].stated()  # a cache lacks the clips beyond them
    if rules["only_whole"]:
        stated["only_whole"] = True
    for name, value in sorted({**video_processor.to_dict(), **stated}.items()):
        if name not in _IDLE_OPTIONS:
            key[f"video processor's {name}"] = json.dumps(value, default=str)
    return key
