"""Joining a pretrained video model and a pretrained text model in a MambaVL."""

import inspect
from typing import Any

from .loading_checkpoints import (  # first: it refuses an old transformers
    check_holds_a_model,
    file_options,
    load_vision_config,
    load_with_report,
    refuse_lacking,
)
from .loading_options import refuse_options_of_join, split_options

# isort: split
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, CLIPVisionModel, PreTrainedModel

from .configuration_mambavl import MambaVLConfig
from .loading_quantised import refuse_quantised
from .loading_towers import load_vision_tower
from .loading_weights import choose_dtype

# Parts of video and text models beside the tokens that a fusion reads.
_UNREAD = ("pooler", "predictor")
_BEHIND_TOKENS = "post_layernorm"  # of CLIP
# What text models of transformers raise without layers: DeBERTa's, Longformer's, CANINE's, and ViT without pixels.
_OF_NO_LAYERS = (UnboundLocalError, ValueError, RuntimeError, AttributeError)
_OF_PARTS = {"vision_config", "text_config"}


def drop_unread(model: PreTrainedModel) -> PreTrainedModel:
    """Return a video or text model without what the fusion does not read, such as a pooler.

    CLIP norms its class token alone behind the tokens that are read. A weight that never gets a gradient would stop
    processes that learn together.
    """
    for name in _UNREAD:
        if getattr(model, name, None) is not None:
            setattr(model, name, None)
    if isinstance(model, CLIPVisionModel):
        setattr(model, _BEHIND_TOKENS, nn.Identity())
    return model


def join_pretrained(model_class: Any, vision: Any, text: Any, options: dict[str, Any]) -> Any:
    """Build a model of two pretrained ones; see `MambaVLForVideoClassification.from_vision_text_pretrained`.

    Args:
        model_class: of the model, which takes a `MambaVLConfig`.
        vision, text, options: as there.
    """
    vision_options, text_options, values = split_options(options)
    dtype = choose_dtype(values.pop("dtype", None), values)
    if dtype is None:
        dtype = torch.float32
    attention = values.pop("attn_implementation", None)
    known = {*MambaVLConfig.__annotations__} - _OF_PARTS
    refuse_options_of_join(values.keys() - known, "those of loading or values of MambaVLConfig")
    whole_config, vision_config = load_vision_config(vision, **file_options(vision_options))
    check_holds_a_model(text, file_options(text_options))
    text_config = AutoConfig.from_pretrained(text, **file_options(text_options))
    refuse_quantised(vision, whole_config, vision_options)
    refuse_quantised(text, text_config, text_options)
    # This refuses what cannot be joined before any weight is loaded, and leaves out layers that are not read.
    config = MambaVLConfig(vision_config=vision_config, text_config=text_config, **values)
    text_model, lacking = load_with_report(AutoModel, text, config=config.text_config, dtype=dtype, **text_options)
    refuse_lacking(text, _read(text_model, lacking))
    _check_reads(text_model, text)
    dtype = text_model.dtype  # also where its name was given, or "auto"
    tower, lacking = load_vision_tower(vision, whole_config, dtype, vision_options)
    refuse_lacking(vision, _read(tower, lacking))
    if not tower.main_input_name.startswith("pixel_values"):
        raise ValueError(
            f"vision must be a model of videos or pictures, got {type(tower).__name__} in {vision}, which reads "
            f"{tower.main_input_name}"
        )
    model = model_class(config)
    stay_wide = tuple(model._keep_in_fp32_modules_strict)  # transformers reads this name when it loads a model
    for name, parameter in model.named_parameters():
        if not name.endswith(stay_wide):
            parameter.data = parameter.data.to(dtype)
    model.mambavl.vision_model = drop_unread(tower)
    model.mambavl.text_model = drop_unread(text_model)
    if attention is not None:
        model.set_attn_implementation(attention)
    return model.eval()


def _check_reads(text_model: Any, text: Any) -> None:
    """Raise a `ValueError` unless a text model reads a text, also where it has no layers."""
    wanted = "text must be a text model that reads tokens, also without layers for text_features='embeddings', got"
    found = f"{type(text_model).__name__} in {text}"
    if "input_ids" not in inspect.signature(text_model.forward).parameters:
        raise ValueError(f"{wanted} {found}, which takes none")
    tokens = torch.ones(1, 2, dtype=torch.long, device=text_model.device)
    mask = torch.ones_like(tokens)
    text_model.eval()
    try:
        with torch.no_grad():
            text_model(input_ids=tokens, attention_mask=mask)
    except torch.OutOfMemoryError:
        raise
    except _OF_NO_LAYERS as error:
        raise ValueError(f"{wanted} {found}, which fails: {error}") from error


def _read(model: Any, names: set[str]) -> list[str]:
    """Return those of the names of a model's weights that the fusion reads."""
    unread: tuple[str, ...] = _UNREAD
    if isinstance(model, CLIPVisionModel):
        unread = (*_UNREAD, _BEHIND_TOKENS)
    return [name for name in names if not name.startswith(unread)]
