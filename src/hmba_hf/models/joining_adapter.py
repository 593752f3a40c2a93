"""Putting models with a temporal adapter together: the adapter of a config, fresh parts beside loaded ones."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .configuration_adapter import TemporalAdapterConfig
from .layers_baseline_adapters import CurrentFrameAdapter, MeanFrameAdapter, TransformerAdapter
from .layers_temporal_adapter import ContextMamba, QueryMamba, TemporalAdapter
from .loading_quantised import keep_savable

# Names under which a quantiser's settings list the layers that it leaves out.
_LEFT_OUT = ("llm_int8_skip_modules", "modules_to_not_convert")
_LINEAR = (nn.Linear, Conv1D)


def build_adapter(config: TemporalAdapterConfig, width: int) -> nn.Module:
    """Build the adapter of a config.

    Args:
        width: channels of the features that it works on.
    """
    if config.adapter == "none":
        return CurrentFrameAdapter()
    if config.adapter == "mean":
        return MeanFrameAdapter()
    if config.adapter == "transformer":
        return TransformerAdapter(width, config.num_frames, config.adapter_num_heads)
    mixer = {"state_size": config.state_size, "conv_kernel": config.conv_kernel, "expand": config.expand}
    context = ContextMamba(
        hidden_size=width,
        num_frames=config.num_frames,
        temporal_strides=config.temporal_strides,
        branches=config.branches,
        bidirectional_time=config.bidirectional_time,
        share_mixers=config.share_mixers,
        mixer=mixer,
    )
    query = QueryMamba(
        hidden_size=width,
        contexts=context.contexts,
        fusion=config.fusion,
        num_heads=config.adapter_num_heads,
        fusion_weights=config.fusion_weights,
        latent_mamba=config.latent_mamba,
        mixer=mixer,
    )
    return TemporalAdapter(width, context, query, config.gated)


def draw_weights(model: PreTrainedModel, part: nn.Module, device: Any = "cpu") -> None:
    """Initialise a part of a model, which has shapes but no weights."""
    part.to_empty(device=device)
    part.apply(model._init_weights)  # transformers has no public way to initialise a part alone


def check_type(part: nn.Module, wanted: nn.Module) -> None:
    """Raise a `ValueError` unless a part has the class that its configuration builds."""
    if type(part) is not type(wanted):
        raise ValueError(
            f"a part must be the {type(wanted).__name__} of its configuration, got {type(part).__name__}: H-MBA would "
            "load another model than it has saved"
        )


def carry_quantiser(model: Any, parts: list[Any]) -> None:
    """Give a joined model the quantiser of its parts; when the model is loaded, it leaves out all other layers."""
    quantisers = [part.hf_quantizer for part in parts if getattr(part, "hf_quantizer", None) is not None]
    if not quantisers:
        return
    settings = deepcopy(quantisers[-1].quantization_config)
    methods = sorted({str(quantiser.quantization_config.quant_method) for quantiser in quantisers})
    left_out = next((name for name in _LEFT_OUT if hasattr(settings, name)), None)
    if len(methods) > 1 or left_out is None:
        raise ValueError(
            f"the parts must have one quantiser, which can leave layers out ({', '.join(_LEFT_OUT)}), got {methods}"
        )
    whole = []
    for name, module in model.named_modules():
        if isinstance(module, _LINEAR) and is_whole(module.weight):
            whole.append(name)
    setattr(settings, left_out, sorted(whole))
    for part in parts:
        vars(part.config).pop("quantization_config", None)
    model.hf_quantizer = quantisers[-1]
    model.hf_quantizer.quantization_config = settings
    model.hf_quantizer.postprocess_model(model)
    keep_savable(model)
    model.is_quantized = True
    model.quantization_method = settings.quant_method


def is_whole(weight: torch.Tensor) -> bool:
    """Return whether a weight is plain: a quantised one may be packed, or claim a dtype of floats."""
    return type(weight.data) is torch.Tensor and weight.dtype in (torch.float16, torch.bfloat16, torch.float32)


def device_map_of(model: nn.Module) -> dict[str, Any]:
    """Return the device of each layer in the form of transformers' `hf_device_map`; offloaded layers are on `disk`."""
    places: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        device = parameter.device
        place: Any
        if parameter.is_meta:
            place = "disk"
        elif device.index is None:
            place = device.type
        else:
            place = device.index
        places[name.rpartition(".")[0]] = place
    return places
