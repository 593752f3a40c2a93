"""Configuration of H-MBA: any vision tower, any causal language model, and the temporal adapter between them."""

from copy import deepcopy
from typing import Any

from .loading_checkpoints import (  # first: it refuses a transformers that is too old
    check_quantization_config,
    unknown_private_keys,
)

# isort: split
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig

from .loading_transformers import CACHE_NAMES, SubConfigSpec, make_sub_configs

BRANCHES = ("temporal", "divided_space_time", "joint_space_time")
ADAPTERS = ("mamba", "none", "mean", "transformer")
FUSIONS = ("query", "cosine", "add", "concat")

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
class HMBAConfig(PreTrainedConfig):
    """Configuration of an H-MBA model; the defaults are the paper's on CLIP ViT-L/14 and a 7B Llama.

    Args:
        vision_config: vision tower, as a config or a dict with its `model_type`; CLIP ViT-L/14 when absent.
        text_config: causal language model, likewise; a 7B Llama with Shikra's 32003 tokens when absent.
        video_token_id: token that stands for one visual patch in the prompt.
        vision_feature_layer: layer of the tower that is read, from 1, or from -1 counted back; class and register
            tokens are left out.
        num_frames: rows of the temporal position table, the clip length that the model is trained on.
        adapter: `"mamba"` for H-MBA, or a baseline: `"none"` (current frame only), `"mean"`, `"transformer"`.
        temporal_strides: steps in which frames are counted back from the current one.
        branches: scans to read, of `"temporal"`, `"divided_space_time"` and `"joint_space_time"`.
        bidirectional_time: scan `"divided_space_time"` over time in both directions.
        share_mixers: share mixers between the spatial scans, and one norm between all.
        fusion: how the current frame selects context: `"query"`, `"cosine"`, `"add"` or `"concat"`.
        fusion_weights: constant weight of each branch, for the `"cosine"` fusion only; 1 when absent.
        adapter_num_heads: attention heads of the `"query"` fusion and of the `"transformer"` baseline.
        latent_mamba: let a latent Mamba mix the patches after the fusion.
        gated: add the result through a learned gate that starts at zero; else add it as it is.
        state_size, conv_kernel, expand: of every Mamba mixer in the adapter.
        projector_hidden_act: activation between the two layers of LLaVA's projector; absent for Shikra's one layer.
        lm_head_bias: give the language modelling head a bias, as some language models have it.

    Raises:
        ValueError: if a value is unknown or out of range.

    Source: arXiv:2501.04302 (defaults); Sranc3/H-MBA (`released`).
    """

    model_type = "hmba"
    _auto_class = "AutoConfig"
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
    num_frames: int = 5
    adapter: str = "mamba"
    temporal_strides: list[int] | tuple[int, ...] = (1, 2)
    branches: list[str] | tuple[str, ...] = BRANCHES
    bidirectional_time: bool = True
    share_mixers: bool = False
    fusion: str = "query"
    fusion_weights: dict[str, float] | None = None
    adapter_num_heads: int = 8
    latent_mamba: bool = True
    gated: bool = True
    state_size: int = 16
    conv_kernel: int = 4
    expand: int = 2
    projector_hidden_act: str | None = None
    lm_head_bias: bool = False
    tie_word_embeddings: bool | None = None

    @classmethod
    def released(cls, **kwargs: Any) -> "HMBAConfig":
        """Return the configuration of the released code, for parity with it; `kwargs` override single values.

        Another `fusion` takes no `fusion_weights`.
        """
        is_cosine = kwargs.get("fusion", "cosine") == "cosine"
        preset = {
            "temporal_strides": (1,),
            "branches": ("divided_space_time", "joint_space_time"),
            "bidirectional_time": False,
            "share_mixers": True,
            "fusion": "cosine",
            "fusion_weights": {"divided_space_time": 0.005, "joint_space_time": 0.11} if is_cosine else None,
            "latent_mamba": False,
            "gated": False,
        }
        return cls(**{**preset, **kwargs})

    def __post_init__(self, **kwargs: Any) -> None:
        # Where the package is installed its registry holds the pipeline; the attribute would make `pipeline()` ask to
        # trust the copy in the checkpoint.
        if not type(self).__module__.startswith("transformers_modules."):
            kwargs.pop("custom_pipelines", None)
        self._check_keys(kwargs)
        make_sub_configs(self)
        super().__post_init__(**kwargs)
        self.temporal_strides = list(self.temporal_strides)
        self.branches = list(self.branches)
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
        self._check_choices()
        self._check_ranges()
        self._check_towers()

    def _check_keys(self, others: dict[str, Any]) -> None:
        """Check names that would become attributes: a private one might change what transformers does."""
        configs = {"config": others, "vision_config": self.vision_config, "text_config": self.text_config}
        check_quantization_config({**others, **configs}, "an H-MBA")
        for name, config in configs.items():
            if isinstance(config, dict) and (unknown := unknown_private_keys(config)):
                raise ValueError(f"{name} must hold no private keys, which begin with an underscore, got {unknown}")

    def _check_choices(self) -> None:
        for name, allowed in (("adapter", ADAPTERS), ("fusion", FUSIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {list(allowed)}, got {getattr(self, name)!r}")
        if not self.branches or set(self.branches) - set(BRANCHES) or len(set(self.branches)) < len(self.branches):
            raise ValueError(f"branches must be one or more of {list(BRANCHES)}, each once, got {self.branches}")
        if self.fusion_weights is None:
            return
        if self.fusion != "cosine":
            raise ValueError(f"fusion_weights must be absent unless fusion is 'cosine', got fusion={self.fusion!r}")
        if set(self.fusion_weights) != set(self.branches):
            raise ValueError(
                f"fusion_weights must name each of the branches {self.branches}, got {sorted(self.fusion_weights)}"
            )

    def _check_ranges(self) -> None:
        for name in ("num_frames", "state_size", "conv_kernel", "expand", "adapter_num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        strides = self.temporal_strides
        if not strides or min(strides) < 1 or len(set(strides)) < len(strides):
            raise ValueError(f"temporal_strides must be different integers of at least 1, got {strides}")

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
        attends = self.adapter == "transformer" or (self.adapter == "mamba" and self.fusion == "query")
        if attends and vision.hidden_size % self.adapter_num_heads:
            raise ValueError(
                f"the vision tower's hidden_size must be a multiple of adapter_num_heads={self.adapter_num_heads}, "
                f"got {vision.hidden_size}"
            )
        if not 0 <= self.video_token_id < vocab_size:
            raise ValueError(
                f"video_token_id must be one of the language model's {vocab_size} tokens, got {self.video_token_id}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the config as a dict, with the code that a checkpoint of it carries."""
        config = {**super().to_dict(), "auto_map": dict(AUTO_MAP), "custom_pipelines": deepcopy(CUSTOM_PIPELINES)}
        for name in ("vision_config", "text_config"):  # what an older transformers has left in a parent's config
            config[name] = {key: value for key, value in config[name].items() if not unknown_private_keys([key])}
        return config


def _pair(side: Any) -> tuple[int, int]:
    """Return height and width from one number or two."""
    return (side, side) if isinstance(side, int) else tuple(side)
