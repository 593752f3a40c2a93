"""How the Triton kernels are launched, and what they share."""

# mypy: allow-untyped-defs
# Triton compiles a kernel from its source, where only `tl.constexpr` may annotate an argument.

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
    """Return the strides of batch and time, which a kernel does not read of a tensor that is absent."""
    return (0, 0) if x is None else (x.stride(0), x.stride(1))


def device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, whatever device its arguments are on."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@triton.jit
def sigmoid(x):
    """Compute `1 / (1 + exp(-x))` without overflow."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)
