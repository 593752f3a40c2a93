"""The dtype of weights that are loaded, and whether those that are saved are those that loading will look for."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


def build_without_weights(model_class: Any, config: Any) -> Any:
    """Build the model of a configuration with shapes but no weights."""
    with torch.device("meta"):
        return model_class(config)


def choose_dtype(dtype: Any, options: dict[str, Any]) -> Any:
    """Return the dtype of a joined model, also where it has its older name, which is removed from its options.

    Args:
        dtype: a dtype, its name, `"auto"` or `None`.
        options: of the join; `torch_dtype` may be among them.

    Raises:
        ValueError: if it is given under both names, or if there is no such dtype.
    """
    older = options.pop("torch_dtype", None)
    if older is not None and dtype not in (None, "auto"):
        raise ValueError(f"dtype must be given once, got dtype={dtype} and torch_dtype={older}")
    chosen = dtype if older is None else older
    named = getattr(torch, chosen, None) if isinstance(chosen, str) else chosen
    if chosen not in (None, "auto") and not isinstance(named, torch.dtype):
        raise ValueError(f"dtype must be a dtype of torch, its name, or 'auto', got {chosen!r}")
    return chosen


def check_loads_back(model: Any, state_dict: dict[str, Tensor] | None = None) -> None:
    """Check that a model saved whole would load again.

    Args:
        model: its quantiser may have replaced layers.
        state_dict: weights to check in place of the model's; they may be a part of them.

    Raises:
        ValueError: if names, shapes or kinds of the weights are not those of a new model of its configuration.
    """
    if odd := _odd_weights(model, state_dict):
        raise ValueError(
            f"weights must be those of a new {type(model).__name__} of this configuration, got {odd}: merge "
            "low-rank updates (`merge_and_unload`) or save them alone, and unwrap wrapped layers"
        )


def _odd_weights(model: Any, state_dict: dict[str, Tensor] | None) -> str:
    """Describe the weights that are not those of a new model of this class and configuration; empty if none."""
    new = build_without_weights(type(model), deepcopy(model.config))
    wanted = new.state_dict()
    held = model.state_dict() if state_dict is None else state_dict
    is_quantised = getattr(model, "hf_quantizer", None) is not None
    quantised: tuple[str, ...] = ()
    if is_quantised:
        quantised = tuple(f"{layer}." for layer in _quantised_layers(model, new))
    odd = {}
    for name in wanted.keys() | held.keys():
        if name.startswith(quantised):
            continue
        if name not in wanted:
            odd[name] = "no weight of it"
        elif name not in held:
            if state_dict is None:
                odd[name] = "missing"
        elif not _is_alike(held[name], wanted[name]) or not (is_quantised or _is_plain(held[name])):
            kind = type(held[name]).__name__
            shape = tuple(held[name].shape)
            odd[name] = f"{kind} {shape} in {held[name].dtype} instead of {tuple(wanted[name].shape)}"
    listed = ", ".join(f"{name} ({what})" for name, what in sorted(odd.items())[:3])
    if len(odd) > 3:
        listed += f" and {len(odd) - 3} more"
    return listed


def _quantised_layers(model: Any, new: nn.Module) -> list[str]:
    """Return the names of the layers that the quantiser of a model has replaced."""
    others = dict(new.named_modules())
    found = []
    for name, layer in model.named_modules():
        is_innermost = next(layer.children(), None) is None
        if is_innermost and name in others and type(layer) is not type(others[name]):
            found.append(name)
    return found


def _is_alike(weight: Tensor, wanted: Tensor) -> bool:
    return weight.shape == wanted.shape and weight.is_floating_point() == wanted.is_floating_point()


def _is_plain(weight: Tensor) -> bool:
    """Return whether a tensor, also one on several devices, wraps no others."""
    return type(weight.data) is Tensor or hasattr(weight, "device_mesh")
