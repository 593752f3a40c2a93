"""Conditions on the values of tensors, in eager mode and in graphs."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from transformers.utils import torch_compilable_check

_MAJOR, _MINOR = torch.__version__.split(".")[:2]
# Until torch 2.13 is the oldest: before, its checks in a graph leave a number behind that its compiler refuses.
CHECKS_COMPILE = (int(_MAJOR), int(_MINOR)) >= (2, 13)


def require(condition: Tensor, message: str | Callable[[], str]) -> None:
    """Raise a `ValueError` unless a condition holds, also in a compiled graph; meta and fake tensors pass.

    With torch before 2.13 a compiled graph raises a `RuntimeError`.

    Torch has no public name for fake tensors, or for an assertion in a graph that
    raises a `ValueError`.
    """
    if not torch.compiler.is_compiling():
        condition = whole(condition)
        if condition.is_meta or isinstance(condition, FakeTensor):
            return
    elif not CHECKS_COMPILE:
        told = message if isinstance(message, str) else "a condition of the model does not hold"
        torch._assert_async(condition.all(), told)
        return
    elif isinstance(message, str) and not torch.compiler.is_exporting():
        torch._check_tensor_all_with(ValueError, condition, lambda: message)  # transformers' check drops the message
        return
    torch_compilable_check(condition, message)


def require_text_mask(attention_mask: Tensor) -> None:
    """Raise a `ValueError` unless a mask of tokens holds 0 and 1; one to add to scores would be read reversed."""
    is_either = (attention_mask == 0) | (attention_mask == 1)
    require(is_either.all(), "attention_mask must be 1 for tokens that are read and 0 for others, got other values")


def whole(x: Tensor) -> Tensor:
    """Return a tensor with what `vmap` maps over beside its own dimensions, since its values are checked together.

    Torch has no public name for the wrapper of `torch.func`.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x
