"""Building an H-MBA: its projector from a config, and a model of two pretrained ones joined by fresh parts."""

from copy import deepcopy
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import PreTrainedModel

from .configuration_adapter import TemporalAdapterConfig
from .configuration_hmba import HMBAConfig
from .joining_adapter import carry_quantiser, check_type, device_map_of, draw_weights
from .layers_linear import Linear
from .layers_projector import TwoLayerProjector
from .loading_checkpoints import (
    file_options,
    load_text_config,
    load_tokenizer,
    load_vision_config,
    load_with_report,
    refuse_lacking,
    say_what_is_tied,
)
from .loading_options import refuse_options_of_join, split_options
from .loading_towers import load_vision_tower
from .loading_weights import build_without_weights, choose_dtype

try:
    from transformers import GgufConfig
except ImportError:  # an older transformers unpacks the weights of every GGUF file
    GgufConfig = None  # type: ignore[assignment,misc]  # in its stead

# Values of a configuration that follow from the two parts.
_OF_PARTS = {"vision_config", "text_config", "video_token_id", "lm_head_bias"}


def build_projector(config: HMBAConfig, width: int) -> Linear | TwoLayerProjector:
    """Build the projector of a config.

    Args:
        width: of the language model's embeddings.
    """
    channels = config.vision_config.hidden_size
    if config.projector_hidden_act is None:
        return Linear(channels, width)
    return TwoLayerProjector(channels, width, config.projector_hidden_act)


def join_pretrained(
    model_class: Any, vision: str, text: str, video_token: str, dtype: Any, values: dict[str, Any]
) -> Any:
    """Build a model of two pretrained ones; see `HMBAForConditionalGeneration.from_vision_text_pretrained`.

    Args:
        model_class: of the model, which takes an `HMBAConfig`.
        vision, text, video_token, dtype: as there.
        values: further values of the configuration.
    """
    vision_options, text_options, values = split_options(values)
    dtype = choose_dtype(dtype, values)
    attention = values.pop("attn_implementation", None)
    text_options = _unpack_gguf(text_options)
    known = {*TemporalAdapterConfig.__annotations__, *HMBAConfig.__annotations__} - _OF_PARTS
    refuse_options_of_join(values.keys() - known, "those of loading or values of HMBAConfig")
    whole_vision_config, vision_config = load_vision_config(vision, **file_options(vision_options))
    text_config = load_text_config(text, **file_options(text_options))
    # This refuses what cannot be joined before any weight is loaded.
    HMBAConfig(vision_config=deepcopy(vision_config), text_config=deepcopy(text_config), video_token_id=0, **values)
    tokenizer = load_tokenizer(text, **file_options(text_options))
    causal, lacking = load_with_report(AutoModelForCausalLM, text, dtype=dtype, **text_options)
    refuse_lacking(text, lacking)
    say_what_is_tied(causal)
    vision_tower, lacking = load_vision_tower(vision, whole_vision_config, causal.dtype, vision_options)
    tokenizer.add_tokens([video_token], special_tokens=True)
    video_token_id = tokenizer.get_vocab()[video_token]
    embeddings: Any = causal.get_input_embeddings()
    if video_token_id >= embeddings.num_embeddings:
        causal.resize_token_embeddings(len(tokenizer))
    config = HMBAConfig(
        vision_config=vision_tower.config,
        text_config=causal.config,
        video_token_id=video_token_id,
        lm_head_bias=getattr(causal.get_output_embeddings(), "bias", None) is not None,
        **values,
    )
    model = _assemble(model_class, config, vision_tower, causal)
    if attention is not None:
        model.set_attn_implementation(attention)
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.eos_token_id
    _check_joined(model.eval(), causal)
    refuse_lacking(vision, _read_by_features(model, lacking))
    return model


def _unpack_gguf(options: dict[str, Any]) -> dict[str, Any]:
    """Request plain weights of a GGUF file: packed ones can neither be trained nor saved."""
    if "gguf_file" not in options or GgufConfig is None:
        return options
    if "quantization_config" in options:
        raise ValueError(
            "quantization_config must be absent with a GGUF file, whose weights are joined unpacked, got one: save "
            "the joined model, and load it with one"
        )
    return {**options, "quantization_config": GgufConfig(dequantize=True)}


def _assemble(model_class: Any, config: HMBAConfig, vision_tower: PreTrainedModel, causal: Any) -> Any:
    """Put the two models into a third one, whose own parts are new."""
    model = build_without_weights(model_class, config)
    check_type(vision_tower, model.model.vision_tower)
    check_type(causal.base_model, model.model.language_model)
    model.model.vision_tower = vision_tower
    model.model.language_model = causal.base_model
    model.lm_head = causal.get_output_embeddings()
    device = next((parameter.device for parameter in causal.parameters() if not parameter.is_meta), "cpu")
    stay_wide = tuple(model._keep_in_fp32_modules_strict)  # transformers reads this name when it loads a model
    for fresh in (model.model.temporal_adapter, model.model.multi_modal_projector):
        draw_weights(model, fresh, device)
        for name, parameter in fresh.named_parameters():
            if not name.endswith(stay_wide):
                parameter.data = parameter.data.to(causal.dtype)
    model.tie_weights()
    model.generation_config = causal.generation_config
    carry_quantiser(model, [vision_tower, causal])
    places = device_map_of(model)
    if len(set(places.values())) > 1:
        model.hf_device_map = places
    return model


@torch.no_grad()
def _check_joined(model: Any, causal: PreTrainedModel) -> None:
    """Raise a `ValueError` unless the tower returns patches, and text has the language model's own logits."""
    tower = model.model.vision_tower
    try:
        model.get_video_features(_blank_frames(model))
    except torch.cuda.OutOfMemoryError:
        raise  # it is a RuntimeError, too, but of the machine
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"the vision tower must return patches, got {type(tower).__name__}: {error}") from error
    tokens = [token for token in range(8) if token != model.config.video_token_id]
    input_ids = torch.tensor([tokens], device=causal.device)
    wanted = causal(input_ids).logits
    logits = model(input_ids).logits
    if logits.shape != wanted.shape or not torch.allclose(logits, wanted.to(logits), rtol=1e-3, atol=1e-5):
        raise ValueError(
            "the language model's logits must be linear in its last hidden state, or scaled by logit_scale or "
            f"logits_scaling or capped by final_logit_softcapping, got {type(causal).__name__}"
        )


def _read_by_features(model: Any, names: set[str]) -> list[str]:
    """Return those weights of the vision tower on which a frame's features depend: not those of a pooler, say."""
    tower = model.model.vision_tower
    weights = dict(tower.named_parameters())
    read = []
    asked = []
    for name in sorted(names):
        if name in weights and weights[name].requires_grad:
            asked.append(name)
        else:
            read.append(name)
    if not asked:
        return read
    features = model.get_frame_features(_blank_frames(model))
    found = torch.autograd.grad(features.sum(), [weights[name] for name in asked], allow_unused=True)
    for name, gradient in zip(asked, found, strict=True):
        if gradient is not None:
            read.append(name)
    return read


def _blank_frames(model: Any) -> torch.Tensor:
    """Return two blank frames, `(1, 2, channels, height, width)`: some towers make one sequence of them."""
    tower = model.model.vision_tower
    height, width = model.config.frame_size
    return torch.zeros(1, 2, getattr(tower.config, "num_channels", 3), height, width, device=tower.device)
