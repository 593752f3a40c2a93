"""Configurations of MambaVL: a video model and a text model, what fuses them, and the heads that ask."""

from itertools import product
from math import prod
from typing import Any

from .loading_checkpoints import check_quantization_config, unknown_private_keys  # first: it checks the version

# isort: split
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, CLIPVisionConfig
from transformers.configuration_utils import PreTrainedConfig

from .loading_code import ConfigWithTower
from .loading_transformers import SubConfigSpec, make_sub_configs

FUSIONS = ("mamba", "transformer", "mlp")
TEXT_FEATURES = ("embeddings", "contextual")
INITIALIZATIONS = ("mamba", "released")
# The classes of EPIC-KITCHENS-100.
_VERBS = 97
_NOUNS = 300
MAX_COMBINATIONS = 100_000  # of classes of several heads that are named and scored one by one
_FRAMES = 16  # of a clip, in the released configurations

# What a saved config names, so that a checkpoint loads where this package is not installed.
AUTO_MAP = {
    "AutoConfig": "configuration_mambavl.MambaVLConfig",
    "AutoModel": "modeling_mambavl.MambaVLModel",
    "AutoModelForVideoClassification": "modeling_mambavl.MambaVLForVideoClassification",
}
VISION_AUTO_MAP = {
    "AutoConfig": "configuration_mambavl.MambaVLVisionConfig",
    "AutoModel": "encoding_mambavl.MambaVLVisionModel",
}

MOTIONFORMER_AUTO_MAP = {
    "AutoConfig": "configuration_mambavl.MambaVLMotionformerConfig",
    "AutoModel": "encoding_mambavl.MambaVLMotionformerModel",
}


@strict
class MambaVLVisionConfig(CLIPVisionConfig):
    """Configuration of a CLIP that reads all frames of a clip at once; the defaults are those of AVION's ViT-B/16.

    Args:
        num_frames: of a clip; a table of times is there for more than one.

    Raises:
        ValueError: if a value is out of range.

    All other values are those of `CLIPVisionConfig`. AVION asks for CLIP's quick GELU, but its code drops the wish:
    its weights were trained with the exact one.
    """

    model_type = "mambavl_vision"
    _auto_class = "AutoConfig"

    image_size: int = 224
    patch_size: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    num_frames: int = 16

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name in ("num_frames", "patch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.image_size < self.patch_size or self.image_size % self.patch_size:
            raise ValueError(f"image_size must be a multiple of patch_size={self.patch_size}, got {self.image_size}")

    def to_dict(self) -> dict[str, Any]:
        """Return the config as a dict, with the code that a checkpoint of it carries."""
        return {**super().to_dict(), "auto_map": dict(VISION_AUTO_MAP)}


@strict
class MambaVLMotionformerConfig(PreTrainedConfig):
    """Configuration of a Motionformer that sees objects; the defaults are those of the released anticipation model.

    Args:
        hidden_size: channels.
        intermediate_size: channels within the feed-forward layers.
        num_hidden_layers: of the model.
        num_attention_heads: of each layer.
        num_channels: of a picture.
        image_size, patch_size: sides of a picture and of its patches.
        num_frames: of a clip.
        tubelet_size: frames that one patch spans.
        object_layers: numbers of the layers that read boxes, from 0 on; none for a plain Motionformer.
        num_objects: of each frame.
        layer_norm_eps: of all norms.
        drop_path_rate: share of samples that skip the last layer in training; earlier ones are skipped less, and
            `object_layers` never. The released training has 0.2.
        initializer_range: standard deviation of new weights.

    Raises:
        ValueError: if a value is out of range.
    """

    model_type = "mambavl_motionformer"
    _auto_class = "AutoConfig"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 16
    num_frames: int = 16
    tubelet_size: int = 2
    object_layers: list[int] | tuple[int, ...] = (1, 6, 10)
    num_objects: int = 4
    layer_norm_eps: float = 1e-6
    drop_path_rate: float | int = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.object_layers = sorted(self.object_layers)
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_channels", "num_objects"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        multiples = {
            "hidden_size": "num_attention_heads",
            "image_size": "patch_size",
            "num_frames": "tubelet_size",
        }
        for name, of in multiples.items():
            value = getattr(self, name)
            part = getattr(self, of)
            if part < 1 or value < part or value % part:
                raise ValueError(f"{name} must be a multiple of {of}={part}, got {value}")
        if len({*self.object_layers}) < len(self.object_layers) or not all(
            0 <= number < self.num_hidden_layers for number in self.object_layers
        ):
            raise ValueError(
                f"object_layers must be numbers below num_hidden_layers={self.num_hidden_layers}, each once, got "
                f"{self.object_layers}"
            )
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be from 0 up to but without 1, got {self.drop_path_rate}")

    def to_dict(self) -> dict[str, Any]:
        """Return the config as a dict, with the code that a checkpoint of it carries."""
        return {**super().to_dict(), "auto_map": dict(MOTIONFORMER_AUTO_MAP)}


@strict
class MambaVLFeaturesConfig(PreTrainedConfig):
    """Configuration in the place of a video model for a MambaVL without one, which reads `video_features` alone.

    Args:
        hidden_size: channels of the features.
    """

    model_type = "mambavl_features"

    hidden_size: int = 768


_OF_THIS_FAMILY = {
    config.model_type: config for config in (MambaVLVisionConfig, MambaVLMotionformerConfig, MambaVLFeaturesConfig)
}


@strict
class MambaVLConfig(ConfigWithTower):
    """Configuration of a MambaVL; the defaults are those of CLIP ViT-B/16 on EPIC-KITCHENS-100.

    Args:
        vision_config: of the video model, any that `AutoModel` has, as a config or a dict with its `model_type`. A
            model of pictures reads each frame by itself. A `MambaVLFeaturesConfig` is for a model without one.
        text_config: of the text model, likewise; the size of RoBERTa base when absent.
        heads: the classes of each head by its name, as a list of names or as their number, in the order in which the
            heads' questions come.
        num_frames: of a clip, which the stock pipeline samples; when absent those that the video model takes, or the
            released 16 for a model of pictures, which takes any number.
        hidden_size: channels of the fusion; those of the video model when absent.
        state_size, conv_kernel, expand: of both Mamba mixers.
        fusion: `"mamba"`, or `"transformer"` or `"mlp"` for comparison.
        share_A: let both mixers share their matrix of decays.
        text_features: `"embeddings"` reads the text model's embeddings alone, as the released code does, and
            `"contextual"` its last layer.
        ignore_text_mask: read padding as if it were text, as the released code does.
        fusion_layers, fusion_heads: blocks and attention heads of the fusion `"transformer"`.
        fusion_dropout: of the fusions `"transformer"` and `"mlp"` in training.
        head_dropout: of the features before the heads in training.
        initialization: `"mamba"` starts decays and step sizes as Mamba does, `"released"` as the released code does.
        initializer_range: standard deviation of new linear layers.
        answer_loss_weight: of the question-answering objective; zero for none.
        answer_temperature: of that objective.

    Attributes:
        id2label: the joint classes. Of several heads they are all combinations, "take plate", the last head's classes
            running fastest; these are made anew from `heads` and not stored. There are none where they would be more
            than 100,000.

    Raises:
        ValueError: if a value is unknown or out of range.

    Source: arXiv:2409.11513; Dongzhikang/MambaVL.
    """

    model_type = "mambavl"
    _auto_class = "AutoConfig"
    classes_of_checkpoint = AUTO_MAP
    bundle = "bundling_mambavl"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="clip_vision_model",
            init_kwargs={"patch_size": 16, "projection_dim": 512},
        ),
        "text_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="roberta",
            init_kwargs={
                "vocab_size": 50265,
                "max_position_embeddings": 514,
                "type_vocab_size": 1,
                "layer_norm_eps": 1e-5,
            },
        ),
    }

    vision_config: Any = None
    text_config: Any = None
    heads: Any = None
    num_frames: int | None = None
    hidden_size: int | None = None
    state_size: int = 16
    conv_kernel: int = 4
    expand: int = 2
    fusion: str = "mamba"
    share_A: bool = True
    text_features: str = "embeddings"
    ignore_text_mask: bool = False
    fusion_layers: int = 6
    fusion_heads: int = 4
    fusion_dropout: float | int = 0.1
    head_dropout: float | int = 0.0
    initialization: str = "mamba"
    initializer_range: float = 0.02
    answer_loss_weight: float | int = 0.0
    answer_temperature: float = 0.07

    def __post_init__(self, **kwargs: Any) -> None:
        check_quantization_config({**kwargs, "config": kwargs}, "a MambaVL")
        if unknown := unknown_private_keys(kwargs):
            raise ValueError(f"config must hold no private keys, which begin with an underscore, got {unknown}")
        if isinstance(self.vision_config, dict) and self.vision_config.get("model_type") in _OF_THIS_FAMILY:
            # These belong to this file, also where it came with a checkpoint and `AutoConfig` does not know them.
            self.vision_config = _OF_THIS_FAMILY[self.vision_config["model_type"]](**self.vision_config)
        make_sub_configs(self)
        names = self._names_given(kwargs.pop("num_labels", None))
        self.heads = {"verb": _VERBS, "noun": _NOUNS} if names is None else names
        super().__post_init__(**kwargs)
        if self.hidden_size is None:
            self.hidden_size = width_of(self.vision_config)
        if self.num_frames is None:
            self.num_frames = clip_length(self.vision_config) or _FRAMES
        if self.text_features == "embeddings":
            self.text_config.num_hidden_layers = 0
            if getattr(self.text_config, "layer_types", None):
                self.text_config.layer_types = []
        self.check()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a value; other heads bring the names of their joint classes with them."""
        if name != "heads" or value is None:
            super().__setattr__(name, value)
            return
        heads = named_classes(value)
        super().__setattr__("heads", heads)
        self.id2label = dict(enumerate(joint_names(heads)))
        self.label2id = {joint: number for number, joint in self.id2label.items()}

    def _names_given(self, num_labels: int | None) -> Any:
        """Return the heads that were given, also as one head by transformers' names for its classes."""
        if self.heads is not None:
            return self.heads
        if self.id2label is not None:
            names: Any = {int(number): name for number, name in self.id2label.items()}
            return {"action": [names[number] for number in sorted(names)]}
        return None if num_labels is None else {"action": num_labels}

    @property
    def head_sizes(self) -> dict[str, int]:
        """The number of classes of each head by its name."""
        return {head: len(names) for head, names in self.heads.items()}

    def check(self) -> None:
        """Raise a `ValueError` for a value that is unknown or out of range, also for one set after construction."""
        self._follow_id2label()
        choices = {"fusion": FUSIONS, "text_features": TEXT_FEATURES, "initialization": INITIALIZATIONS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {list(allowed)}, got {getattr(self, name)!r}")
        counts = ("num_frames", "hidden_size", "state_size", "conv_kernel", "expand", "fusion_layers", "fusion_heads")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("fusion_dropout", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 up to but without 1, got {getattr(self, name)}")
        width: Any = self.hidden_size
        if self.fusion == "transformer" and width % self.fusion_heads:
            raise ValueError(f"hidden_size must be a multiple of fusion_heads={self.fusion_heads}, got {width}")
        if not self.answer_loss_weight >= 0:
            raise ValueError(f"answer_loss_weight must be zero or more, got {self.answer_loss_weight}")
        if not self.answer_temperature > 0:
            raise ValueError(f"answer_temperature must be greater than zero, got {self.answer_temperature}")
        if getattr(self.text_config, "is_encoder_decoder", False):
            raise ValueError(f"text_config must be of a model without a decoder, got {self.text_config.model_type!r}")
        if self.text_features == "contextual" and self.text_config.num_hidden_layers < 1:
            raise ValueError("text_features must be 'embeddings' for a text model without layers, got 'contextual'")

    def _follow_id2label(self) -> None:
        """Take other classes that were set by transformers' names for them, as `num_labels=...` does.

        Raises:
            ValueError: if there are several heads, of which these names tell nothing.
        """
        names: Any = self.id2label
        wanted = joint_names(self.heads)
        if list(names.values()) == wanted:
            return
        if len(self.heads) > 1:
            raise ValueError(
                f"heads must be given for a model of several heads, of {len(wanted)} combinations, got num_labels or "
                f"id2label of {len(names)}"
            )
        self.heads = {head: [names[number] for number in sorted(names)] for head in self.heads}

    def to_dict(self) -> dict[str, Any]:
        """Return the config as a dict, with the code that a checkpoint of it carries."""
        values = super().to_dict()
        # A file sorts the keys of an object, and so would lose the order of the heads.
        values["heads"] = [{"name": head, "classes": list(classes)} for head, classes in self.heads.items()]
        for made in ("id2label", "label2id"):
            values.pop(made, None)
        return values


def named_classes(heads: Any) -> dict[str, list[str]]:
    """Return the names of the classes of each head; made up where their number alone is given.

    Args:
        heads: classes by the name of the head, or `{"name", "classes"}` of each.

    Raises:
        ValueError: if there is no head, or if one has no name, no classes or a class twice.
    """
    if isinstance(heads, (list, tuple)) and all(isinstance(head, dict) for head in heads):  # as files have them
        heads = {head.get("name"): head.get("classes") for head in heads}
    if not isinstance(heads, dict) or not heads:
        raise ValueError(f"heads must be the classes of each head by its name, got {heads!r}")
    named = {}
    for head, classes in heads.items():
        if isinstance(classes, int) and not isinstance(classes, bool):
            classes = [f"LABEL_{number}" for number in range(classes)]
        if not isinstance(head, str) or not head.isidentifier():
            raise ValueError(f"a head must have a name of letters, digits and underscores, got {head!r}")
        if not isinstance(classes, (list, tuple)) or not classes or not all(isinstance(name, str) for name in classes):
            raise ValueError(f"head {head!r} must have names of classes or their number, got {classes!r}")
        if len({*classes}) < len(classes):
            raise ValueError(f"head {head!r} must name each class once, got {list(classes)}")
        named[head] = list(classes)
    return named


def joint_names(heads: dict[str, list[str]]) -> list[str]:
    """Return the names of all combinations of the heads' classes, the last head's running fastest.

    There are none where they would be more than `MAX_COMBINATIONS`.
    """
    if prod(len(names) for names in heads.values()) > MAX_COMBINATIONS and len(heads) > 1:
        return []
    return [" ".join(names) for names in product(*heads.values())]


def clip_length(config: Any) -> int | None:
    """Return how many frames a video model takes; `None` for a model of pictures, which takes any number."""
    for name in ("num_frames", "frames_per_clip"):
        if isinstance(getattr(config, name, None), int):
            return getattr(config, name)
    return None


def width_of(config: Any) -> int:
    """Return the channels of the features of a model.

    Raises:
        ValueError: if its configuration does not say.
    """
    width = getattr(config, "hidden_size", None)
    if not isinstance(width, int):
        raise ValueError(f"a video or text model must state its hidden_size, got a {type(config).__name__} without")
    return width
