"""Configuration of H-MBA on a whole vision-language model of transformers."""

from copy import deepcopy
from typing import Any

from .configuration_adapter import TemporalAdapterConfig  # first: it refuses a transformers that is too old

# isort: split
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig

from .loading_transformers import CACHE_NAMES, SubConfigSpec, make_sub_configs

# What a saved config names, so that a checkpoint loads where this package is not installed.
AUTO_MAP = {
    "AutoConfig": "configuration_hmba_vlm.HMBAVLMConfig",
    "AutoModel": "modeling_hmba_vlm.HMBAVLMModel",
    "AutoModelForImageTextToText": "modeling_hmba_vlm.HMBAVLMForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_hmba_vlm.HMBAVLMForConditionalGeneration",
}
CUSTOM_PIPELINES = {
    "video-text-to-text": {
        "impl": "pipeline_hmba.VideoTextToTextPipeline",
        "pt": ["AutoModelForImageTextToText"],
        "type": "multimodal",
    }
}


@strict
class HMBAVLMConfig(TemporalAdapterConfig):
    """Configuration of a vision-language model with a temporal adapter on what its language model reads of a picture.

    Args:
        base_config: of the vision-language model, as a config or a dict with its `model_type`; Qwen3-VL's defaults
            when absent.
        kwargs: values of the adapter, see `TemporalAdapterConfig`. It works in the width of the language model.

    Raises:
        ValueError: if a value is unknown or out of range, or if the base has no token that stands for a picture.

    Source: arXiv:2501.04302.
    """

    model_type = "hmba_vlm"
    _auto_class = "AutoConfig"
    keys_to_ignore_at_inference = [*CACHE_NAMES]
    sub_configs = {"base_config": AutoConfig}
    sub_configs_defaults = {
        "base_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen3_vl", init_kwargs={}),
    }

    base_config: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        # As in `HMBAConfig`: the registry holds the pipeline where the package is installed.
        if not type(self).__module__.startswith("transformers_modules."):
            kwargs.pop("custom_pipelines", None)
        self._check_keys(kwargs, "an H-MBA")
        if of_base := sorted({"hidden_size", "image_token_id"} & kwargs.keys()):
            raise ValueError(
                f"{of_base} must be values of base_config, got them beside it, as in the base's own config"
            )
        held = self.base_config
        if isinstance(held, str) or (isinstance(held, dict) and "model_type" not in held):
            raise ValueError(f"base_config must be a configuration or a dict with its model_type, got {held!r:.60}")
        make_sub_configs(self)
        super().__post_init__(**kwargs)
        self.check()

    @property
    def hidden_size(self) -> int:
        """Width of the language model, in which the adapter works."""
        return self.get_text_config().hidden_size

    @property
    def image_token_id(self) -> int:
        """Token that stands in a prompt for one row of a picture's features."""
        return self.base_config.image_token_id

    def get_text_config(self, *args: Any, **kwargs: Any) -> PreTrainedConfig:
        """Return the configuration of the base's language model."""
        return self.base_config.get_text_config(*args, **kwargs)

    def check(self) -> None:
        """Raise a `ValueError` for a value that is unknown or out of range, also for one set after construction."""
        base = self.base_config.model_type
        if getattr(self.base_config, "image_token_id", None) is None:
            raise ValueError(f"base_config must have an image_token_id, got {base!r} without one")
        if getattr(self.get_text_config(), "hidden_size", None) is None:
            raise ValueError(f"base_config must have a language model with a hidden_size, got {base!r} without one")
        self.check_adapter(self.hidden_size, "the language model's")

    def to_dict(self) -> dict[str, Any]:
        """Return the config as a dict, with the code that a checkpoint of it carries."""
        config = {**super().to_dict(), "auto_map": dict(AUTO_MAP), "custom_pipelines": deepcopy(CUSTOM_PIPELINES)}
        return self._without_private_keys(config)
