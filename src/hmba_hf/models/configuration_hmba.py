"""Configuration of H-MBA: any vision tower, any causal language model, and the temporal adapter between them."""

from copy import deepcopy
from typing import Any

from .configuration_adapter import TemporalAdapterConfig  # first: it refuses a transformers that is too old

# isort: split
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig

from .loading_code import ConfigWithTower
from .loading_transformers import CACHE_NAMES, SubConfigSpec, make_sub_configs

# What a saved config names, so that a checkpoint loads where this package is not installed.
AUTO_MAP = {
    "AutoConfig": "configuration_hmba.HMBAConfig",
    "AutoModel": "modeling_hmba.HMBAModel",
    "AutoModelForImageTextToText": "modeling_hmba.HMBAForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_hmba.HMBAForConditionalGeneration",
}
CUSTOM_PIPELINES = {
    "video-text-to-text": {
        "impl": "pipeline_hmba.VideoTextToTextPipeline",
        "pt": ["AutoModelForImageTextToText"],
        "type": "multimodal",
    }
}


@strict
class HMBAConfig(TemporalAdapterConfig, ConfigWithTower):
    """Configuration of an H-MBA model; the defaults are the paper's on CLIP ViT-L/14 and a 7B Llama.

    Args:
        vision_config: vision tower, as a config or a dict with its `model_type`; CLIP ViT-L/14 when absent.
        text_config: causal language model, likewise; a 7B Llama with Shikra's 32003 tokens when absent.
        video_token_id: token that stands for one visual patch in the prompt.
        vision_feature_layer: layer of the tower that is read, from 1, or from -1 counted back; class and register
            tokens are left out.
        projector_hidden_act: activation between the two layers of LLaVA's projector; absent for Shikra's one layer.
        lm_head_bias: give the language modelling head a bias, as some language models have it.
        kwargs: values of the adapter, see `TemporalAdapterConfig`.

    Raises:
        ValueError: if a value is unknown or out of range.

    Source: arXiv:2501.04302 (defaults); Sranc3/H-MBA (`released`).
    """

    model_type = "hmba"
    _auto_class = "AutoConfig"
    classes_of_checkpoint = AUTO_MAP
    bundle = "bundling_hmba"
    keys_to_ignore_at_inference = [*CACHE_NAMES]
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="clip_vision_model",
            init_kwargs={
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": 224,
                "patch_size": 14,
                "projection_dim": 768,
            },
        ),
        "text_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="llama",
            init_kwargs={"vocab_size": 32003, "max_position_embeddings": 2048, "pad_token_id": 0},
        ),
    }

    vision_config: Any = None
    text_config: Any = None
    video_token_id: int = 32000
    vision_feature_layer: int = -2
    projector_hidden_act: str | None = None
    lm_head_bias: bool = False
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # Where the package is installed its registry holds the pipeline; the attribute would make `pipeline()` ask to
        # trust the copy in the checkpoint.
        if not type(self).__module__.startswith("transformers_modules."):
            kwargs.pop("custom_pipelines", None)
        self._check_keys(kwargs, "an H-MBA")
        make_sub_configs(self)
        super().__post_init__(**kwargs)
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = getattr(self.text_config, "tie_word_embeddings", False)
        self.check()

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the vision tower's frames in pixels."""
        return _pair(self.vision_config.image_size)

    @property
    def num_patches(self) -> int:
        """Patches of a frame, `p`: as many visual tokens stand for a clip of any length."""
        (height, width), (patch_height, patch_width) = self.frame_size, _pair(self.vision_config.patch_size)
        return (height // patch_height) * (width // patch_width)

    def check(self) -> None:
        """Raise a `ValueError` for a value that is unknown or out of range, also for one set after construction."""
        self._check_towers()
        self.check_adapter(self.vision_config.hidden_size, "the vision tower's")

    def _check_towers(self) -> None:
        """Check what the vision tower and the language model must fit."""
        vision, vocab_size = self.vision_config, getattr(self.text_config, "vocab_size", None)
        if vocab_size is None:
            raise ValueError(
                f"text_config must be that of a language model of text alone, got {type(self.text_config).__name__}"
            )
        if getattr(vision, "num_detection_tokens", 0):
            raise ValueError(
                f"vision_config must be that of a tower whose patches come last, got {type(vision).__name__}"
            )
        for name in ("hidden_size", "image_size", "patch_size"):
            if getattr(vision, name, None) is None:
                raise ValueError(f"vision_config must have a {name}, got {type(vision).__name__} without one")
        layers = getattr(vision, "num_hidden_layers", None)
        if layers is not None and not 1 <= abs(self.vision_feature_layer) <= layers:
            raise ValueError(
                f"vision_feature_layer must be between 1 and {layers}, or -{layers} and -1, got "
                f"{self.vision_feature_layer}"
            )
        for side, patch in zip(self.frame_size, _pair(vision.patch_size), strict=True):
            if side < patch or side % patch:
                raise ValueError(
                    f"the vision tower's image_size must be a multiple of its patch_size={patch}, got {side}"
                )
        if not 0 <= self.video_token_id < vocab_size:
            raise ValueError(
                f"video_token_id must be one of the language model's {vocab_size} tokens, got {self.video_token_id}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the config as a dict, with the code that a checkpoint of it carries."""
        config = {**super().to_dict(), "custom_pipelines": deepcopy(CUSTOM_PIPELINES)}
        return self._without_private_keys(config)


def _pair(side: Any) -> tuple[int, int]:
    """Return height and width from one number or two."""
    return (side, side) if isinstance(side, int) else tuple(side)
