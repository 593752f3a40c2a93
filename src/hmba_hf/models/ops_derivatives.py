"""Derivatives that no kernel has: which calls need plain torch, and gradients that can be differentiated again."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# What `is_grads_batched` marks its tensors with; torch names it to its parser alone.
BATCHED: Any = torch._C._parse_dispatch_key("Batched")


def is_transformed() -> bool:
    """Tell whether a transform of `torch.func`, such as `grad`, `jvp` or `vmap`, follows what is computed now."""
    return torch._C._are_functorch_transforms_active()


def wants_plain_torch(*tensors: Tensor | None) -> bool:
    """Tell whether torch itself must see each step: inside a transform of `torch.func`, or for a tangent.

    A kernel is one step to torch, which has rules for its value and its gradient alone.
    """
    if is_transformed():
        return True
    if forward_ad._current_level < 0:
        return False
    return any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def wants_plain_gradients(*gradients: Tensor | None) -> bool:
    """Tell, in a backward pass, whether its result is differentiated again (`create_graph`) or mapped by `vmap`.

    Args:
        gradients: of the results; `is_grads_batched` maps these with a `vmap` that is not one of `torch.func`.
    """
    if torch.is_grad_enabled() or is_transformed():
        return True
    return any(x is not None and torch._C._dispatch_keys(x).has(BATCHED) for x in gradients)


def plain_gradients(
    function: Callable[..., Sequence[Tensor | None]], inputs: Sequence[Any], gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return the gradients of `inputs` through a function of plain torch, which can be differentiated again.

    Args:
        function: computes what the gradients belong to.
        inputs: tensors, and `None` for those that are absent; those without a gradient get `None`.
        gradients: of each result; `None` for those that are not used.
    """
    with torch.enable_grad():
        # One tensor may be two inputs, whose gradients are apart.
        inputs = [None if x is None else x.view_as(x) for x in inputs]
        wanted = [x for x in inputs if x is not None and x.requires_grad]
        results = zip(function(*inputs), gradients, strict=True)
        used = [(y, g) for y, g in results if y is not None and g is not None and y.requires_grad]
        found: Any = [None] * len(wanted)
        if used and wanted:
            outputs, grads = zip(*used, strict=True)
            found = torch.autograd.grad(
                outputs, wanted, grads, create_graph=torch.is_grad_enabled(), allow_unused=True
            )
    remaining = iter(found)
    return [None if x is None or not x.requires_grad else next(remaining) for x in inputs]
