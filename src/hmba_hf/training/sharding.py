"""What FSDP needs of a model before Accelerate spreads it over the processes."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def check_is_spread(trainer: Any) -> None:
    """Raise a `ValueError` if FSDP was asked for, but Accelerate leaves it out, as it does without a word on CPUs."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and not trainer.is_fsdp_enabled:
        raise ValueError(
            f"FSDP must have several accelerators, got {trainer.args.world_size} of {trainer.args.device.type}: each "
            "process would hold the whole model, as with --accelerate_config ddp"
        )


@contextmanager
def spread_in_units_of_their_own(plugin: Any, model: Any) -> Iterator[None]:
    """Let Accelerate spread a model in units of which none shares a parameter with another, as torch demands.

    Accelerate spreads the layers of `_no_split_modules` if the user has named none, then input and output embeddings
    by themselves, and then the rest. So a table may lie in a layer that is spread already, as in `BertEmbeddings` or
    a VideoMamba's `VideoEmbeddings`, and a head may share its bias with the module around it, as in BERT. Such layers
    and heads go with the rest here.

    Args:
        plugin: of Accelerate, for FSDP.
        model: of transformers; it is spread within this context, after which both are as before.
    """
    layers = getattr(model, "_no_split_modules", None)
    if layers is None or plugin.transformer_cls_names_to_wrap is not None:
        yield
        return
    tables = [table for table in (model.get_input_embeddings(), model.get_output_embeddings()) if table is not None]
    is_shared = bool(_parameters_of(tables) & _parameters_of(_outside(model, tables)))
    alone = [] if is_shared else tables
    units = {*layers}
    held = set()
    for module in model.modules():
        name = type(module).__name__
        held.add(name)
        inside = [*module.modules()]
        if name in units and (
            any(part in alone for part in inside) or _parameters_of(inside) & _parameters_of(_outside(model, [module]))
        ):
            units.remove(name)
    plugin.transformer_cls_names_to_wrap = sorted(units & held)
    if is_shared:
        model.get_input_embeddings = model.get_output_embeddings = lambda: None
    try:
        yield
    finally:
        plugin.transformer_cls_names_to_wrap = None
        if is_shared:
            del model.get_input_embeddings
            del model.get_output_embeddings


def _outside(model: nn.Module, parts: list[nn.Module]) -> list[nn.Module]:
    """The modules of a model that lie in none of its parts."""
    inside = {module for part in parts for module in part.modules()}
    return [module for module in model.modules() if module not in inside]


def _parameters_of(modules: list[nn.Module]) -> set[nn.Parameter]:
    """The parameters that modules own, without those of modules in them."""
    return {parameter for module in modules for parameter in module.parameters(recurse=False)}


def give_scalars_an_axis(model: Any) -> set[str]:
    """Let parameters without an axis, which FSDP cannot spread, have one of length 1, and return their names."""
    names = set()
    for name, parameter in [*model.named_parameters()]:
        if parameter.ndim == 0:
            owner, _, last = name.rpartition(".")
            lengthened = nn.Parameter(parameter.detach()[None], requires_grad=parameter.requires_grad)
            setattr(model.get_submodule(owner), last, lengthened)
            names.add(name)
    return names


def without_axis(weights: Mapping[str, torch.Tensor], scalars: set[str]) -> dict[str, torch.Tensor]:
    """Return weights as the checkpoint of a whole model has them."""
    return {name: weight.reshape(()) if name in scalars else weight for name, weight in weights.items()}


def complete_states(optimizer: Any) -> None:
    """Give parameters that had no gradient yet the states of an optimizer before its first step.

    Torch loads no states of a model that FSDP has spread if one is missing, as those of the last block in masked
    pre-training are. States of an optimizer whose tensors have other shapes than its parameters are left alone.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    states = inner.state
    for group in inner.param_groups:
        shown = next((parameter for parameter in group["params"] if states.get(parameter)), None)
        if shown is None:
            continue
        pattern = states[shown]
        tensors = [value for value in pattern.values() if isinstance(value, torch.Tensor) and value.ndim]
        if any(tensor.shape != shown.shape for tensor in tensors):
            continue
        for parameter in group["params"]:
            if not states.get(parameter):
                states[parameter] = {name: _before_steps(value, parameter) for name, value in pattern.items()}


def _before_steps(value: Any, parameter: torch.Tensor) -> Any:
    """The first value of a state of an optimizer."""
    if not isinstance(value, torch.Tensor):
        return type(value)()
    return torch.zeros_like(parameter.detach(), dtype=value.dtype) if value.ndim else torch.zeros_like(value)
