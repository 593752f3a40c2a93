"""The parts of an H-MBA: adapter and projector as a config has them, and pretrained models joined by fresh ones."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM
from transformers.modeling_utils import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .configuration_hmba import HMBAConfig
from .layers_baseline_adapters import CurrentFrameAdapter, MeanFrameAdapter, TransformerAdapter
from .layers_projector import TwoLayerProjector
from .layers_temporal_adapter import ContextMamba, QueryMamba, TemporalAdapter
from .loading_checkpoints import (
    file_options,
    load_text_config,
    load_tokenizer,
    load_vision_config,
    load_with_report,
    refuse_lacking,
    split_options,
    vision_half,
)

try:
    from transformers import GgufConfig
except ImportError:  # an older transformers unpacks the weights of each GGUF file
    GgufConfig = None  # type: ignore[assignment,misc]

# Values of a configuration that the two parts decide.
_OF_PARTS = {"vision_config", "text_config", "video_token_id", "lm_head_bias"}

# Where a quantiser's settings name the layers that stay as they are.
_LEFT_OUT = ("llm_int8_skip_modules", "modules_to_not_convert")
_LINEAR = (nn.Linear, Conv1D)


def build_adapter(config: HMBAConfig) -> nn.Module:
    """Unpack the config into the adapter's plain keywords."""
    width = config.vision_config.hidden_size
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


def build_projector(config: HMBAConfig, width: int) -> nn.Linear | TwoLayerProjector:
    """Unpack the config into the projector's plain keywords.

    Args:
        width: of the language model's embeddings.
    """
    channels = config.vision_config.hidden_size
    if config.projector_hidden_act is None:
        return nn.Linear(channels, width)
    return TwoLayerProjector(channels, width, config.projector_hidden_act)


def build_without_weights(model_class: Any, config: Any) -> Any:
    """Build the model of a configuration with shapes but no weights."""
    with torch.device("meta"):
        return model_class(config)


def draw_weights(model: PreTrainedModel, part: nn.Module, device: Any = "cpu") -> None:
    """Give a part of a model, which has shapes but no weights, those of a new model."""
    part.to_empty(device=device)
    part.apply(model._init_weights)


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
    text_options = _unpack_gguf(text_options)
    if unknown := set(values) - (set(HMBAConfig.__annotations__) - _OF_PARTS):
        raise ValueError(f"values of HMBAConfig are wanted, got {sorted(unknown)}")
    whole_vision_config, vision_config = load_vision_config(vision, **file_options(vision_options))
    text_config = load_text_config(text, **file_options(text_options))
    # What cannot be joined is refused before any weight is loaded.
    HMBAConfig(vision_config=deepcopy(vision_config), text_config=deepcopy(text_config), video_token_id=0, **values)
    tokenizer = load_tokenizer(text, **file_options(text_options))
    causal, lacking = load_with_report(AutoModelForCausalLM, text, dtype=dtype, **text_options)
    refuse_lacking(text, lacking)
    vision_tower, lacking = _load_vision_tower(vision, whole_vision_config, causal.dtype, vision_options)
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
    if model.generation_config.pad_token_id is None:
        pad_token_id = tokenizer.pad_token_id
        model.generation_config.pad_token_id = tokenizer.eos_token_id if pad_token_id is None else pad_token_id
    _check_joined(model.eval(), causal)
    refuse_lacking(vision, _read_by_features(model, lacking))
    return model


def _unpack_gguf(options: dict[str, Any]) -> dict[str, Any]:
    """Ask for plain weights of a GGUF file: packed ones can neither learn nor be saved."""
    if "gguf_file" not in options or GgufConfig is None:
        return options
    if "quantization_config" in options:
        raise ValueError(
            "the weights of a GGUF file are joined unpacked, got a quantization_config: save the joined model, and "
            "load it with one"
        )
    return {**options, "quantization_config": GgufConfig(dequantize=True)}


def _load_vision_tower(vision: str, config: Any, dtype: torch.dtype, options: dict[str, Any]) -> tuple[Any, set[str]]:
    """Load a vision tower, and name its weights that the checkpoint lacks.

    The tower of a vision-text model comes out of the whole model, which knows the names of all its checkpoints, older
    ones, too. In the dtype of the checkpoint the rest of it is mapped from the files and never read: of 650 MiB
    beside a tower of 7 MiB, memory grows by less than 10.
    """
    tower_config = vision_half(config)
    is_quantised = "quantization_config" in options or getattr(config, "quantization_config", None) is not None
    keeps_dtype = tower_config is not config and not is_quantised
    whole, lacking = load_with_report(
        AutoModel, vision, config=config, dtype="auto" if keeps_dtype else dtype, **options
    )
    if tower_config is config:
        return whole, lacking
    tower = whole.get_encoder("image")
    if getattr(tower, "config", None) is None or tower.config.model_type != tower_config.model_type:
        raise ValueError(
            f"a vision-text model with a vision tower of its own is wanted, got {type(whole).__name__} in {vision}"
        )
    prefix = next(f"{name}." for name, module in whole.named_modules() if module is tower)
    lacking = {name.removeprefix(prefix) for name in lacking if name.startswith(prefix)}
    if is_quantised:
        tower.hf_quantizer = getattr(whole, "hf_quantizer", None)
    return (tower.to(dtype) if keeps_dtype else tower), lacking


def _assemble(model_class: Any, config: HMBAConfig, vision_tower: PreTrainedModel, causal: Any) -> Any:
    """Put the two models into a third one, whose own parts are new."""
    model = build_without_weights(model_class, config)
    for part, wanted in ((vision_tower, model.model.vision_tower), (causal.base_model, model.model.language_model)):
        if type(part) is not type(wanted):
            raise ValueError(
                f"a part that is the {type(wanted).__name__} of its configuration is wanted, got "
                f"{type(part).__name__}, and H-MBA would load another model than it has saved"
            )
    model.model.vision_tower, model.model.language_model = vision_tower, causal.base_model
    model.lm_head = causal.get_output_embeddings()
    device = next((parameter.device for parameter in causal.parameters() if not parameter.is_meta), "cpu")
    for fresh in (model.model.temporal_adapter, model.model.multi_modal_projector):
        draw_weights(model, fresh, device)
        for name, parameter in fresh.named_parameters():
            if not name.endswith(tuple(model._keep_in_fp32_modules_strict)):
                parameter.data = parameter.data.to(causal.dtype)
    model.tie_weights()
    model.generation_config = causal.generation_config
    _carry_quantiser(model, [vision_tower, causal])
    places = _places(model)
    if len(set(places.values())) > 1:
        model.hf_device_map = places
    return model


def _carry_quantiser(model: Any, parts: list[Any]) -> None:
    """Give a joined model the quantiser of its parts, which leaves all other layers as they are when it is loaded."""
    quantisers = [part.hf_quantizer for part in parts if getattr(part, "hf_quantizer", None) is not None]
    if not quantisers:
        return
    settings = deepcopy(quantisers[-1].quantization_config)
    methods = sorted({str(quantiser.quantization_config.quant_method) for quantiser in quantisers})
    left_out = next((name for name in _LEFT_OUT if hasattr(settings, name)), None)
    if len(methods) > 1 or left_out is None:
        raise ValueError(f"one quantiser that can leave layers out ({', '.join(_LEFT_OUT)}) is wanted, got {methods}")
    whole = {
        name for name, module in model.named_modules() if isinstance(module, _LINEAR) and _is_whole(module.weight)
    }
    setattr(settings, left_out, sorted(whole))
    for part in parts:
        vars(part.config).pop("quantization_config", None)
    model.hf_quantizer = quantisers[-1]
    model.hf_quantizer.quantization_config = settings
    model.hf_quantizer.postprocess_model(model)
    keep_scales(model)
    model.is_quantized = True
    model.quantization_method = settings.quant_method


def keep_scales(model: nn.Module) -> None:
    """Let layers in 4 bits compute as they lie in memory, unless their scales are quantised, too.

    On CPUs with AVX512-BF16, bitsandbytes (0.50) packs a layer at its first evaluation, and gives back other scales to
    who saves it then.
    """
    layers: Any = model.modules()
    for layer in layers:
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if getattr(layer, "support_avx512bf16_for_cpu", False) and not getattr(state, "nested", True):
            layer.support_avx512bf16_for_cpu = False


def _is_whole(weight: torch.Tensor) -> bool:
    """Tell a plain weight from a quantised one, which may be packed, or say of itself that it is of floats."""
    return type(weight.data) is torch.Tensor and weight.dtype in (torch.float16, torch.bfloat16, torch.float32)


def _places(model: nn.Module) -> dict[str, Any]:
    """Where each layer lies, as transformers notes it; what accelerate has put away counts as on the disk."""
    places: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        device = parameter.device
        place = device.type if device.index is None else device.index
        places[name.rpartition(".")[0]] = "disk" if parameter.is_meta else place
    return places


@torch.no_grad()
def _check_joined(model: Any, causal: PreTrainedModel) -> None:
    """Raise a `ValueError` unless a blank frame gives patches and text the language model's own logits."""
    tower = model.model.vision_tower
    try:
        model.get_video_features(_blank_frames(model))
    except torch.cuda.OutOfMemoryError:
        raise  # which is an error of the machine, and a RuntimeError, too
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"a vision tower of patches is wanted, got {type(tower).__name__}: {error}") from error
    tokens = [token for token in range(8) if token != model.config.video_token_id]
    input_ids = torch.tensor([tokens], device=causal.device)
    wanted = causal(input_ids).logits
    logits = model(input_ids).logits
    if logits.shape != wanted.shape or not torch.allclose(logits, wanted.to(logits), rtol=1e-3, atol=1e-5):
        raise ValueError(
            "a language model whose logits are linear in its last hidden state, or scaled by logit_scale or "
            f"logits_scaling or capped by final_logit_softcapping, is wanted, got {type(causal).__name__}"
        )


def _read_by_features(model: Any, names: set[str]) -> list[str]:
    """Of the weights of the vision tower, name those that the features of a frame depend on: a pooler, say, is not."""
    tower = model.model.vision_tower
    weights = dict(tower.named_parameters())
    read = [name for name in names if name not in weights or not weights[name].requires_grad]
    asked = sorted(names.difference(read))
    if asked:
        features = model.get_frame_features(_blank_frames(model))
        found = torch.autograd.grad(features.sum(), [weights[name] for name in asked], allow_unused=True)
        read += [name for name, gradient in zip(asked, found, strict=True) if gradient is not None]
    return read


def _blank_frames(model: Any) -> torch.Tensor:
    """Draw two frames, `(1, 2, channels, height, width)`: some towers would make one sequence of them."""
    tower = model.model.vision_tower
    height, width = model.config.frame_size
    return torch.zeros(1, 2, getattr(tower.config, "num_channels", 3), height, width, device=tower.device)
