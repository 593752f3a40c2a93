"""What learns: the parts of a model by the names of its family, whole or by low-rank updates of one of them."""

import importlib.util
import math
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.pytorch_utils import Conv1D

from ..families import Family, family_of
from ..installation import missing_extra
from ..quantisation import build_quantization_config

LOW_RANK = ("lora", "qlora")  # ways in which a part learns without its weights changing


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank updates of a part, such as the language model.

    Args:
        rank: of each update.
        alpha: an update is scaled by `alpha / rank`.
        dropout: of the input of an update, in training.
        targets: names of the linear layers that are updated, such as `q_proj`; all of them but the head when empty.
        base_commit: of the base on the Hub, which the updates remember.

    Raises:
        ValueError: if a number is out of its range.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: Sequence[str] = ()
    base_commit: str | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"the rank of low-rank updates must be at least 1, got {self.rank}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"the alpha of low-rank updates must be finite and above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"the dropout of low-rank updates must be from 0 to below 1, got {self.dropout}")


def learn(
    model: PreTrainedModel, names: Sequence[str], lora: LoraSettings | None = None
) -> tuple[nn.Module, dict[str, int]]:
    """Let the named parts learn: those of `set_trainable`, and one of them also by `"lora"` or `"qlora"`.

    Args:
        model: of any family.
        names: of the parts of its family, and of `LOW_RANK`.
        lora: how, where a name of `LOW_RANK` is among them.

    Returns:
        The model, with low-rank updates a `LowRankModel` (a `peft.PeftModel`) around it, and the number of parameters
        that learn, for each name.

    Raises:
        ValueError: if a name is unknown, if one part is to learn in two ways, or as `set_trainable`.
        ImportError: if peft is needed and not there.
    """
    family = family_of(model)
    known = {*family.parts, *(LOW_RANK if family.low_rank_part is not None else ())}
    if unknown := sorted(set(names) - known):
        raise ValueError(f"what learns must be of {sorted(known)}, got {unknown}")
    ways = [name for name in names if name == family.low_rank_part or name in LOW_RANK]
    if len(ways) > 1:
        part = str(family.low_rank_part).replace("_", " ")
        raise ValueError(f"the {part} must learn in one way, got {ways}")
    if not set(names) & set(LOW_RANK):
        return model, set_trainable(model, names)
    parts = [name for name in names if name in family.parts]
    return _add_lora(model, family, parts, ways[0], lora or LoraSettings())


def set_trainable(model: PreTrainedModel, parts: Sequence[str]) -> dict[str, int]:
    """Let only the named parts of a model learn, in float32 or wider.

    Half precision would round a small learning rate away; `--bf16` and `--fp16` of `Trainer` still compute in it. What
    is frozen keeps its dtype, except that parts which are `Family.alike` share one.

    Args:
        model: of any family.
        parts: of those of its family; `"vision_tower"`, `"adapter"`, `"projector"` and `"language_model"` of H-MBA.

    Returns:
        The number of parameters that learn, for each part.

    Raises:
        ValueError: if a part is unknown, if none has anything to learn, or if one that is to learn is quantised.
    """
    family = family_of(model)
    if unknown := sorted(set(parts) - set(family.parts)):
        raise ValueError(f"parts that learn must be of {sorted(family.parts)}, got {unknown}")
    counts = _choose(model, family, parts)
    if not sum(counts.values()):
        raise ValueError(f"the parts that learn must hold parameters, got none in {list(parts)}")
    return counts


def shape_of(parameter: torch.Tensor) -> torch.Size:
    """Return the shape of a parameter, also of one whose values ZeRO-3 has spread over the processes."""
    return getattr(parameter, "ds_shape", parameter.shape)


def gathered(parameters: Iterable[torch.Tensor]) -> AbstractContextManager:
    """Bring together the values of parameters that ZeRO-3 has spread over the processes, for as long as it is open."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    from deepspeed.zero import GatheredParameters

    return GatheredParameters(list(parameters))


def require_bitsandbytes() -> None:
    """Raise an `ImportError` if weights in 4 bits are asked for without bitsandbytes."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise missing_extra("weights in 4 bits (qlora) need", "qlora")


def quantization_config(family: Family, model: Any = None) -> Any:
    """How QLoRA loads a model: the weights that get low-rank updates in 4 bits, all others as they are.

    Args:
        family: of the model.
        model: with or without weights; needed where a part of the family is all that no other part has.

    Raises:
        ImportError: as `require_bitsandbytes`.
    """
    require_bitsandbytes()
    return build_quantization_config("bnb-4bit", family, model)


def _choose(model: PreTrainedModel, family: Family, parts: Sequence[str]) -> dict[str, int]:
    """Freeze all but the named parts, widen what learns, and count it."""
    counts = dict.fromkeys(parts, 0)
    wide = set(parts)
    if not wide.isdisjoint(family.alike):
        wide.update(family.alike)
    for name, parameter in model.named_parameters():
        part = family.part_of(name)
        if part in counts and not parameter.is_floating_point():
            raise ValueError(f"what learns must hold floating point numbers, got {parameter.dtype} in {name}")
        parameter.requires_grad_(part in counts)
        if part in wide and parameter.is_floating_point() and parameter.numel():  # else ZeRO-3 keeps a wide copy
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        if part in counts:
            counts[part] += shape_of(parameter).numel()
    return counts


def _add_lora(
    model: PreTrainedModel, family: Family, parts: Sequence[str], way: str, settings: LoraSettings
) -> tuple[nn.Module, dict[str, int]]:
    """Put low-rank updates into a part; the parts that learn whole travel in the same checkpoint."""
    from .low_rank import LowRankModel, peft

    held = _choose(model, family, parts)
    layers: Any = model.modules()
    for layer in layers:
        # What bitsandbytes repacks for an evaluation on such a CPU passes no gradient on afterwards.
        if getattr(layer, "support_avx512bf16_for_cpu", False):
            layer.support_avx512bf16_for_cpu = False
    targets = _updated_layers(model, family.low_rank_modules(), settings.targets)
    whole: list[str] = []
    for chosen in parts:
        if held[chosen]:
            whole += _names_for_peft(model, family, chosen)
    config = peft.LoraConfig(
        base_model_name_or_path=model.name_or_path or None,
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # typed for whole numbers, takes all
        lora_dropout=settings.dropout,
        target_modules=targets,
        modules_to_save=whole or None,
        revision=settings.base_commit,
    )
    peft_model = LowRankModel(model, config)
    counts = dict.fromkeys([*parts, way], 0)
    for name, parameter in peft_model.named_parameters():
        if parameter.requires_grad:
            part = family.part_of(name)
            counts[way if part == family.low_rank_part else str(part)] += shape_of(parameter).numel()
    return peft_model, counts


def _names_for_peft(model: PreTrainedModel, family: Family, part: str) -> list[str]:
    """Name the modules of a part that learns whole: by the last words of their names, where these name them alone."""
    own = family.modules_in(model, part)
    weights = [name for name, _ in model.named_parameters() if family.part_of(name) == part]
    prefixes = tuple(f"{module}." for module in own)
    if bare := [name for name in weights if not name.startswith(prefixes)]:
        raise ValueError(
            f"beside low-rank updates, a part that learns must consist of modules, got {part!r} with the bare weight "
            f"{bare[0]}"
        )
    return [module.rpartition(".")[2] if module in family.modules_of(part) else module for module in own]


def _updated_layers(model: PreTrainedModel, modules: Sequence[str], wanted: Sequence[str]) -> str:
    """Write a pattern for the names of the linear layers in modules: all, or those wanted by their last names."""
    prefixes = tuple(f"{module}." for module in modules)
    layers = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | Conv1D) and f"{name}.".startswith(prefixes):
            layers.append(name)
    if not layers:
        raise ValueError(f"low-rank updates must have linear layers to update, got none in {', '.join(modules)}")
    known = {name.rpartition(".")[2] for name in layers}
    if missing := sorted(set(wanted) - known):
        raise ValueError(
            f"LoRA's targets must be linear layers of {', '.join(modules)}, {sorted(known)}, got {missing}"
        )
    targets = sorted(wanted or known)
    patterns = []
    held = {name for name, _ in model.named_modules()}
    for module in modules:
        if module not in held:
            continue
        if module not in layers:
            patterns.append(rf"{re.escape(module)}\.(?:.*\.)?(?:{'|'.join(targets)})")
        elif module.rpartition(".")[2] in targets:  # it is a layer itself
            patterns.append(re.escape(module))
    return "|".join(patterns)
