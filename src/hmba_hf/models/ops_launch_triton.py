"""How the Triton kernels are launched, and the functions that they share."""

# mypy: allow-untyped-defs
# Triton compiles a kernel from its source, in which `tl.constexpr` is the only annotation of an argument.

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("the Triton kernel needs `pip install triton`") from error


def strides(x: Tensor | None) -> tuple[int, int]:
    """Return the strides of batch and time; zeros for an absent tensor, whose strides no kernel reads."""
    if x is None:
        return 0, 0
    return x.stride(0), x.stride(1)


def strides_of(*tensors: Tensor | None) -> list[int]:
    """Return the strides of batch and time of each tensor, one after the other."""
    found: list[int] = []
    for x in tensors:
        found += strides(x)
    return found


def device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Make the device of a tensor the current one, on which Triton launches whatever its arguments are on."""
    if not x.is_cuda:
        return nullcontext()
    return torch.cuda.device(x.device)


@triton.jit
def sigmoid(x):
    """Compute `1 / (1 + exp(-x))` without overflow."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)
