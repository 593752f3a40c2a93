"""Conditions on the values of tensors, in eager mode and in graphs."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from transformers.utils import torch_compilable_check


def require(condition: Tensor, message: str | Callable[[], str]) -> None:
    """Raise a `ValueError` unless a condition holds, also in a compiled graph; meta and fake tensors pass.

    Torch has no public name for the wrapper of `torch.func`, for fake tensors, or for an assertion in a graph that
    raises a `ValueError`.
    """
    if not torch.compiler.is_compiling():
        while torch._C._functorch.is_functorch_wrapped_tensor(condition):  # a mapped condition is checked as a whole
            condition = torch._C._functorch.get_unwrapped(condition)
        if condition.is_meta or isinstance(condition, FakeTensor):
            return
    elif isinstance(message, str) and not torch.compiler.is_exporting():
        torch._check_tensor_all_with(ValueError, condition, lambda: message)  # transformers' check drops the message
        return
    torch_compilable_check(condition, message)
