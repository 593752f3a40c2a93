"""Configuration of VideoMamba: a bidirectional Mamba over the patches of a clip or of a picture."""

from typing import Any

from .loading_checkpoints import check_quantization_config, unknown_private_keys  # first: it checks the version

# isort: split
from huggingface_hub.dataclasses import strict
from transformers import BertConfig
from transformers.configuration_utils import PreTrainedConfig

SCAN_TYPES = (
    "spatial_first",
    "temporal_first",
    "spatiotemporal_v1",
    "spatiotemporal_v2",
    "spatial_then_temporal",
    "temporal_then_spatial",
    "alternating",
)
STEP_INITIALIZATIONS = ("released", "mamba")
ALIGNMENT_LOSSES = ("cosine", "mse", "smooth_l1")
# Width and depth of the sizes that the paper names.
SIZES = {"tiny": (192, 24), "small": (384, 24), "middle": (576, 32), "base": (768, 24)}

# What a saved config names, so that a checkpoint loads where this package is not installed.
AUTO_MAP = {
    "AutoConfig": "configuration_videomamba.VideoMambaConfig",
    "AutoModel": "modeling_videomamba.VideoMambaModel",
    "AutoModelForImageClassification": "modeling_videomamba.VideoMambaForImageClassification",
    "AutoModelForPreTraining": "modeling_videomamba.VideoMambaForPreTraining",
    "AutoModelForVideoClassification": "modeling_videomamba.VideoMambaForVideoClassification",
}
RETRIEVAL_AUTO_MAP = {
    "AutoConfig": "configuration_videomamba.VideoMambaRetrievalConfig",
    "AutoModel": "retrieving_videomamba.VideoMambaForVideoTextRetrieval",
}


@strict
class VideoMambaConfig(PreTrainedConfig):
    """Configuration of a VideoMamba; the defaults are the paper's middle size on 8 frames.

    Args:
        hidden_size: width of the tokens.
        num_hidden_layers: number of blocks.
        state_size, conv_kernel, expand: of every Mamba mixer.
        image_size, patch_size: sides of a frame and of a patch in pixels, one number or height and width.
        num_channels: of a frame.
        num_frames: frames of a clip; a model of one frame, for pictures, has no table of times.
        tubelet_size: frames that one token covers.
        layer_norm_eps: of every norm.
        drop_path_rate: share of samples that skip the last block in training; earlier blocks are skipped less.
        scan_type: order in which the tokens are scanned. `"spatial_first"` goes through one frame after the other,
            `"temporal_first"` through one place of all frames after the other. `"spatiotemporal_v1"` scans forwards
            in the first order and back in the second; `"spatiotemporal_v2"` scans in both orders and directions.
            `"spatial_then_temporal"` and `"temporal_then_spatial"` change the order in the middle of the blocks, and
            `"alternating"` after each.
        initializer_range: standard deviation of new linear layers and position tables.
        step_initialization: `"released"` starts all step sizes at softplus(0), as the released code does; `"mamba"`
            spreads them as Mamba does.
        distillation_size: width of the teacher of a self-distillation, if there is one.
        num_alignment_layers: layers that masked pre-training aligns with the teacher's, counted from the last.
        alignment_interval: distance between these layers.
        alignment_size: channels of the teacher's features.
        alignment_loss: `"cosine"`, or `"mse"` or `"smooth_l1"` of normalised features.
        align_last_output: align the last block's output, normed. The released code aligns its input, and so trains
            neither this block nor the final norm.

    Raises:
        ValueError: if a value is unknown or out of range.

    Source: arXiv:2403.06977; OpenGVLab/VideoMamba.
    """

    model_type = "videomamba"
    _auto_class = "AutoConfig"

    hidden_size: int = 576
    num_hidden_layers: int = 32
    state_size: int = 16
    conv_kernel: int = 4
    expand: int = 2
    image_size: int | list[int] | tuple[int, ...] = 224
    patch_size: int | list[int] | tuple[int, ...] = 16
    num_channels: int = 3
    num_frames: int = 8
    tubelet_size: int = 1
    layer_norm_eps: float = 1e-5
    drop_path_rate: float | int = 0.0
    scan_type: str = "spatial_first"
    initializer_range: float = 0.02
    step_initialization: str = "released"
    distillation_size: int | None = None
    num_alignment_layers: int = 1
    alignment_interval: int = 1
    alignment_size: int = 512
    alignment_loss: str = "cosine"
    align_last_output: bool = False

    @classmethod
    def of_size(cls, size: str, **kwargs: Any) -> "VideoMambaConfig":
        """Return the configuration of `"tiny"`, `"small"`, `"middle"` or `"base"`; `kwargs` override single values.

        Raises:
            ValueError: if there is no such size.
        """
        if size not in SIZES:
            raise ValueError(f"size must be one of {list(SIZES)}, got {size!r}")
        hidden_size, num_hidden_layers = SIZES[size]
        return cls(**{"hidden_size": hidden_size, "num_hidden_layers": num_hidden_layers, **kwargs})

    def __post_init__(self, **kwargs: Any) -> None:
        check_quantization_config({**kwargs, "config": kwargs}, "a VideoMamba")
        if unknown := unknown_private_keys(kwargs):
            raise ValueError(f"config must hold no private keys, which begin with an underscore, got {unknown}")
        super().__post_init__(**kwargs)
        for name in ("image_size", "patch_size"):
            if isinstance(getattr(self, name), tuple):
                setattr(self, name, list(getattr(self, name)))
        self.check()

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return _pair(self.image_size, "image_size")

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return _pair(self.patch_size, "patch_size")

    @property
    def num_patches(self) -> int:
        """Patches of a frame, `p`."""
        height, width = self.frame_size
        patch_height, patch_width = self.patch_shape
        return (height // patch_height) * (width // patch_width)

    def check(self) -> None:
        """Raise a `ValueError` for a value that is unknown or out of range, also for one set after construction."""
        choices = {
            "scan_type": SCAN_TYPES,
            "step_initialization": STEP_INITIALIZATIONS,
            "alignment_loss": ALIGNMENT_LOSSES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {list(allowed)}, got {getattr(self, name)!r}")
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not self.layer_norm_eps > 0:
            raise ValueError(f"layer_norm_eps must be greater than zero, got {self.layer_norm_eps}")
        if not self.initializer_range >= 0:
            raise ValueError(f"initializer_range must be zero or more, got {self.initializer_range}")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be from 0 up to but without 1, got {self.drop_path_rate}")
        for side, patch in zip(self.frame_size, self.patch_shape, strict=True):
            if patch < 1 or side < patch or side % patch:
                raise ValueError(f"image_size must be a multiple of patch_size={patch}, got {side}")
        if self.num_frames % self.tubelet_size:
            raise ValueError(
                f"num_frames must be a multiple of tubelet_size={self.tubelet_size}, got {self.num_frames}"
            )
        reach = (self.num_alignment_layers - 1) * self.alignment_interval
        if reach >= self.num_hidden_layers:
            raise ValueError(
                f"num_alignment_layers and alignment_interval must stay within {self.num_hidden_layers} layers, got "
                f"{self.num_alignment_layers} and {self.alignment_interval}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the config as a dict, with the code that a checkpoint of it carries."""
        return {**super().to_dict(), "auto_map": dict(AUTO_MAP)}


@strict
class VideoMambaRetrievalConfig(PreTrainedConfig):
    """Configuration of a VideoMamba beside a BERT, for videos and texts.

    Args:
        vision_config: of the VideoMamba, as a config or a dict; the middle size on 8 frames when absent.
        text_config: of the BERT, likewise; the base size when absent.
        num_fusion_layers: last layers of the BERT, which also attend to a video.
        projection_size: channels of the space that videos and texts share.
        temperature: first value of the learned temperature.
        initializer_range: standard deviation of new linear layers between the two.

    Raises:
        ValueError: if a value is out of range.

    Source: arXiv:2403.06977, section 4.3; OpenGVLab/VideoMamba, `video_mm`.
    """

    model_type = "videomamba_retrieval"
    _auto_class = "AutoConfig"
    sub_configs = {"vision_config": VideoMambaConfig, "text_config": BertConfig}

    vision_config: Any = None
    text_config: Any = None
    num_fusion_layers: int = 3
    projection_size: int = 512
    temperature: float = 0.07
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if self.vision_config is None:
            self.vision_config = VideoMambaConfig()
        elif isinstance(self.vision_config, dict):
            self.vision_config = VideoMambaConfig(**self.vision_config)
        if self.text_config is None:
            self.text_config = BertConfig()
        elif isinstance(self.text_config, dict):
            self.text_config = BertConfig(**self.text_config)
        super().__post_init__(**kwargs)
        if not 1 <= self.num_fusion_layers < self.text_config.num_hidden_layers:
            raise ValueError(
                f"num_fusion_layers must be from 1 up to but without {self.text_config.num_hidden_layers} layers of "
                f"the text model, got {self.num_fusion_layers}"
            )
        if self.projection_size < 1:
            raise ValueError(f"projection_size must be at least 1, got {self.projection_size}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be greater than zero, got {self.temperature}")

    @property
    def num_text_layers(self) -> int:
        """Layers of the BERT that read texts alone."""
        return self.text_config.num_hidden_layers - self.num_fusion_layers

    def to_dict(self) -> dict[str, Any]:
        """Return the config as a dict, with the code that a checkpoint of it carries."""
        return {**super().to_dict(), "auto_map": dict(RETRIEVAL_AUTO_MAP)}


_COUNTS = (
    "hidden_size",
    "num_hidden_layers",
    "state_size",
    "conv_kernel",
    "expand",
    "num_channels",
    "num_frames",
    "tubelet_size",
    "distillation_size",
    "num_alignment_layers",
    "alignment_interval",
    "alignment_size",
)


def _pair(side: Any, name: str) -> tuple[int, int]:
    """Return height and width from one number or two."""
    if isinstance(side, int):
        return side, side
    if len(side) != 2:
        raise ValueError(f"{name} must be one number or height and width, got {side}")
    height, width = side
    return height, width
