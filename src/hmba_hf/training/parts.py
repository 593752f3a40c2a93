"""What learns: the parts of an H-MBA model by name, whole or by low-rank updates of the language model."""

import importlib.util
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.pytorch_utils import Conv1D

from ..families import FAMILIES

(_HMBA,) = FAMILIES
PARTS = _HMBA.parts
LOW_RANK = ("lora", "qlora")  # ways in which the language model learns without its weights changing
_MODULES = {"vision_tower": "vision_tower", "adapter": "temporal_adapter", "projector": "multi_modal_projector"}
_ADAPTED = ("adapter", "projector")  # one feeds the other
# What DDP, torch.compile, FSDP and activation checkpointing put into the names of parameters.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank updates of the language model.

    Args:
        rank: of each update.
        alpha: an update is scaled by `alpha / rank`.
        dropout: of what goes into an update, in training.
        targets: names of the linear layers that are updated, such as `q_proj`; all of them but the head when empty.
        base_commit: of the base on the Hub, which the updates remember.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: Sequence[str] = ()
    base_commit: str | None = None


def learn(
    model: PreTrainedModel, names: Sequence[str], lora: LoraSettings | None = None
) -> tuple[nn.Module, dict[str, int]]:
    """Let the named parts learn: those of `set_trainable`, and the language model also by `"lora"` or `"qlora"`.

    Args:
        model: an `HMBAForConditionalGeneration`.
        names: of `PARTS` and `LOW_RANK`.
        lora: how, where a name of `LOW_RANK` is among them.

    Returns:
        The model, with low-rank updates a `LowRankModel` (a `peft.PeftModel`) around it, and the number of parameters
        that learn, for each name.

    Raises:
        ValueError: if a name is unknown, if the language model is to learn in two ways, or as `set_trainable`.
        ImportError: if peft is needed and not there.
    """
    ways = [name for name in names if name == "language_model" or name in LOW_RANK]
    if unknown := sorted(set(names) - set(PARTS) - set(LOW_RANK)):
        raise ValueError(f"what learns must be of {sorted({*PARTS, *LOW_RANK})}, got {unknown}")
    if len(ways) > 1:
        raise ValueError(f"the language model must learn in one way, got {ways}")
    if not set(names) & set(LOW_RANK):
        return model, set_trainable(model, names)
    parts = [name for name in names if name in PARTS]
    return _add_lora(model, parts, ways[0], lora or LoraSettings())


def set_trainable(model: PreTrainedModel, parts: Sequence[str]) -> dict[str, int]:
    """Let only the named parts of an H-MBA model learn, in float32 or wider.

    Half precision would round a small learning rate away; `--bf16` and `--fp16` of `Trainer` still compute in it. What
    is frozen keeps its dtype, except that adapter and projector share one.

    Args:
        model: an `HMBAForConditionalGeneration`.
        parts: of `"vision_tower"`, `"adapter"`, `"projector"` and `"language_model"`.

    Returns:
        The number of parameters that learn, for each part.

    Raises:
        ValueError: if a part is unknown, if none has anything to learn, or if one that is to learn is quantised.
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ValueError(f"parts that learn must be of {sorted(PARTS)}, got {unknown}")
    counts = _choose(model, parts)
    if not sum(counts.values()):
        raise ValueError(f"the parts that learn must hold parameters, got none in {list(parts)}")
    return counts


def part_of(name: str) -> str | None:
    """Name the part of `PARTS` that a parameter belongs to, also in a wrapped or a PEFT model; `None` for no part."""
    words = [word for word in name.split(".") if word not in _WRAPPERS]
    own_name = ".".join(words).removeprefix("base_model.model.")
    for part, prefixes in PARTS.items():
        if own_name.startswith(prefixes):
            return part
    return None


def shape_of(parameter: torch.Tensor) -> torch.Size:
    """Return the shape of a parameter, also of one whose values ZeRO-3 has spread over the processes."""
    return getattr(parameter, "ds_shape", parameter.shape)


def gathered(parameters: Iterable[torch.Tensor]) -> AbstractContextManager:
    """Bring together the values of parameters that ZeRO-3 has spread over the processes, for as long as it is open."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    from deepspeed.zero import GatheredParameters

    return GatheredParameters(list(parameters))


def quantization_config() -> Any:
    """How QLoRA loads a model: the weights of the language model in 4 bits, its head and the other parts as they are.

    Raises:
        ImportError: if bitsandbytes is not there.

    Source: Dettmers et al. 2023, arXiv:2305.14314.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ImportError("a language model in 4 bits (qlora) needs `pip install hmba-hf[qlora]`")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=[*(f"model.{name}" for name in _MODULES.values()), "lm_head"],
    )


def _choose(model: PreTrainedModel, parts: Sequence[str]) -> dict[str, int]:
    """Freeze all but the named parts, widen what learns, and count it."""
    counts = dict.fromkeys(parts, 0)
    wide = set(parts) if set(parts).isdisjoint(_ADAPTED) else {*parts, *_ADAPTED}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        if part in counts and not parameter.is_floating_point():
            raise ValueError(f"what learns must hold floating point numbers, got {parameter.dtype} in {name}")
        parameter.requires_grad_(part in counts)
        if part in wide and parameter.is_floating_point() and parameter.numel():  # else ZeRO-3 keeps a wide copy
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        if part in counts:
            counts[part] += shape_of(parameter).numel()
    return counts


def _add_lora(
    model: PreTrainedModel, parts: Sequence[str], way: str, settings: LoraSettings
) -> tuple[nn.Module, dict[str, int]]:
    """Put low-rank updates into the language model; the parts that learn whole travel in the same checkpoint."""
    try:
        from peft import LoraConfig

        from .low_rank import LowRankModel
    except ImportError as error:
        raise ImportError("low-rank updates (LoRA) need `pip install hmba-hf[train]`") from error
    held = _choose(model, parts)
    layers: Any = model.modules()
    for layer in layers:
        # What bitsandbytes repacks for an evaluation on such a CPU passes no gradient on afterwards.
        if getattr(layer, "support_avx512bf16_for_cpu", False):
            layer.support_avx512bf16_for_cpu = False
    targets = _linear_layers(model, settings.targets)
    config = LoraConfig(
        base_model_name_or_path=model.name_or_path or None,
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=rf"model\.language_model\.(?:.*\.)?(?:{'|'.join(targets)})",
        modules_to_save=[_MODULES[part] for part in parts if held[part]] or None,
        revision=settings.base_commit,
    )
    peft_model = LowRankModel(model, config)
    counts = dict.fromkeys([*parts, way], 0)
    for name, parameter in peft_model.named_parameters():
        if parameter.requires_grad:
            part = part_of(name)
            counts[way if part == "language_model" else str(part)] += shape_of(parameter).numel()
    return peft_model, counts


def _linear_layers(model: PreTrainedModel, wanted: Sequence[str]) -> list[str]:
    """The last names of the language model's linear layers: all, or those wanted, which must be there."""
    language_model: nn.Module = model.model.language_model
    linear = (nn.Linear, Conv1D)
    names = {n.rpartition(".")[2] for n, module in language_model.named_modules() if isinstance(module, linear)}
    if missing := sorted(set(wanted) - names):
        raise ValueError(f"LoRA's targets must be linear layers of the language model, {sorted(names)}, got {missing}")
    return sorted(wanted or names)
