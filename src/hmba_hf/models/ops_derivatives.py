"""Derivatives that no kernel has: which calls need plain torch, and gradients that can be differentiated again.

Torch has no public way to ask whether a transform of `torch.func`, forward mode or a batch of gradients is at work. So
this file alone reads private names of torch: `_are_functorch_transforms_active`, `_current_level`, `_dispatch_keys`,
and those for the modes that see every call.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# `is_grads_batched` marks its tensors with this key, which only torch's parser of keys returns.
BATCHED: Any = torch._C._parse_dispatch_key("Batched")


def is_transformed() -> bool:
    """Return whether a transform of `torch.func`, such as `grad`, `jvp` or `vmap`, is at work."""
    return torch._C._are_functorch_transforms_active()


def wants_plain_torch(*tensors: Tensor | None) -> bool:
    """Return whether torch must trace each step: inside a transform of `torch.func`, or for a tangent.

    Torch takes a kernel as one step, and has rules for its value and its gradient alone.
    """
    if is_transformed():
        return True
    if forward_ad._current_level < 0:
        return False
    return any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def may_want_tangents() -> bool:
    """Return whether forward mode or a transform of `torch.func` is at work, whatever the tensors."""
    return is_transformed() or forward_ad._current_level >= 0


def is_watched() -> bool:
    """Return whether a mode sees every call of torch: fake tensors, a count of operations, a default device."""
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._len_torch_function_stack() > 0


def wants_plain_gradients(*gradients: Tensor | None) -> bool:
    """Return, in a backward pass, whether its result is differentiated again (`create_graph`) or mapped by `vmap`.

    Args:
        gradients: of the results; `is_grads_batched` maps these with a `vmap` of its own, outside of `torch.func`.
    """
    if torch.is_grad_enabled() or is_transformed():
        return True
    return any(x is not None and torch._C._dispatch_keys(x).has(BATCHED) for x in gradients)


def plain_gradients(
    function: Callable[..., Sequence[Tensor | None]], inputs: Sequence[Any], gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return the gradients of `inputs` through a function of plain torch, which can be differentiated again.

    Args:
        function: returns the results to which `gradients` belong.
        inputs: tensors, and `None` for those that are absent; those without a gradient get `None`.
        gradients: of each result; `None` for those that are not used.
    """
    found: list[Tensor | None] = [None] * len(inputs)
    with torch.enable_grad():
        # One tensor may be two inputs, each with a gradient of its own.
        inputs = [None if x is None else x.view_as(x) for x in inputs]
        outputs = []
        grads = []
        for y, gradient in zip(function(*inputs), gradients, strict=True):
            if y is not None and gradient is not None and y.requires_grad:
                outputs.append(y)
                grads.append(gradient)
        places = [i for i, x in enumerate(inputs) if x is not None and x.requires_grad]
        if not outputs or not places:
            return found
        wanted = [inputs[i] for i in places]
        of_wanted = torch.autograd.grad(
            outputs, wanted, grads, create_graph=torch.is_grad_enabled(), allow_unused=True
        )
    for i, gradient in zip(places, of_wanted, strict=True):
        found[i] = gradient
    return found
