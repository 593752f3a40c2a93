"""The product of a linear layer, by the faster of the two libraries that torch has for it on a CPU.

In float32, torch leaves it to MKL. On AMD's processors with AVX-512, oneDNN takes less time for the same product, and
torch reaches it by an operator that has neither gradients nor transforms. So the operator serves plain tensors alone,
with gradients by itself; whatever else may come is torch's own matter.
"""

import functools
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ops_derivatives import is_watched, wants_plain_gradients, wants_plain_torch

VARIABLE = "HMBA_LINEAR_BACKEND"
BACKENDS = ("onednn", "torch")
# Multiplications below which no library is faster, on an EPYC (Zen 4): 256 x 256 x 256 takes the same time by both,
# 256 x 1024 x 2048 1.3 times less by oneDNN. It also keeps code for each of the last thousand shapes of its products,
# 0.2 MB a shape.
FEWEST_PRODUCTS = 2**25


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply by a matrix and add a bias, as torch's `linear` does, which is its reference.

        y = x W^T + bias

    Args:
        x: `(..., in)`.
        weight: `(out, in)`.
        bias: `(out,)`.

    Returns:
        `(..., out)`.

    Raises:
        RuntimeError: if shapes or dtypes do not fit, as torch does, or if `HMBA_LINEAR_BACKEND` names no backend, or
            one that does not work here.
    """
    if not _is_served(x, weight, bias):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias)


class _Linear(torch.autograd.Function):
    """The product with its gradients, which are two products more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        of_x, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        _, _, of_bias = ctx.needs_input_grad
        multiply: Callable[..., Tensor] = _product
        if wants_plain_gradients(grad_y) or not _is_plain(grad_y):
            multiply = F.linear
        rows = grad_y.reshape(-1, grad_y.shape[-1])  # (m, out); the batches of `is_grads_batched` have no `flatten`
        grad_x = None
        grad_weight = None
        if weight is not None:
            grad_x = multiply(grad_y, weight.t())
        if x is not None:
            grad_weight = multiply(rows.t(), x.reshape(-1, x.shape[-1]).t())
        return grad_x, grad_weight, rows.sum(0) if of_bias else None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # By a matrix whose rows are parts of longer ones, oneDNN multiplies hundreds of times more slowly.
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _is_served(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether oneDNN shall compute this product: one that is large, of plain tensors that fit."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # sizes may be unknown, and a graph may go elsewhere
        return False
    if type(x) is not Tensor or x.ndim < 2 or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        return False
    if x.numel() * weight.shape[0] < FEWEST_PRODUCTS or linear_backend() != "onednn":
        return False
    given = [x, weight]
    if bias is not None:
        if bias.shape != weight.shape[:1]:
            return False
        given.append(bias)
    return _is_plain(*given) and not wants_plain_torch(*given)


def _is_plain(*tensors: Tensor) -> bool:
    """Return whether these are tensors of numbers in float32 on the CPU, and no mode of torch shall see the call."""
    for x in tensors:
        if type(x) not in (Tensor, nn.Parameter) or x.is_nested or x.layout != torch.strided:
            return False
        if x.dtype != torch.float32 or x.device.type != "cpu":
            return False
    if torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.enabled:
        return False
    # Less precision is asked of torch, which has ways of its own to it.
    return torch.get_float32_matmul_precision() == "highest" and not is_watched()


def linear_backend() -> str:
    """Return which library multiplies large matrices in float32 on the CPU, `"onednn"` or `"torch"`, torch's own.

    Raises:
        RuntimeError: if `HMBA_LINEAR_BACKEND` names another one, or oneDNN where there is none.
    """
    forced = os.environ.get(VARIABLE)
    if not forced:
        return "torch" if _why_torch() else "onednn"
    if forced not in BACKENDS:
        raise RuntimeError(f"{VARIABLE} must be one of {', '.join(BACKENDS)}, got {forced}")
    if forced == "onednn" and not _has_onednn():
        raise RuntimeError(f"{VARIABLE} must be torch where torch is built without oneDNN, got {forced}")
    return forced


def describe_linear_backend() -> str:
    """Return one line about the choice and its reason."""
    forced = os.environ.get(VARIABLE)
    try:
        line = f"Linear layers in float32 on cpu: {linear_backend()}"
    except RuntimeError as error:
        return f"Linear layers in float32 on cpu: {error}"
    if forced:
        return f"{line}, as {VARIABLE} says."
    reason = _why_torch() or "it is faster than MKL on this processor"
    return f"{line}, for {reason}; {VARIABLE} may be one of {', '.join(BACKENDS)}."


@functools.cache
def _why_torch() -> str | None:
    """Return why torch's own choice serves, if it does.

    The rule is of the processor alone, so that two runs on one machine compute the same numbers.
    """
    if not _has_onednn():
        return "torch is built without oneDNN"
    if not torch.backends.mkl.is_available():
        return "torch is built without MKL, beside which oneDNN was measured"
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return "the processor has no AVX-512"
    if _maker() != "AuthenticAMD":
        return "the processor is not AMD's, for which MKL is slower"
    return None


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _maker() -> str:
    """Return the maker of the CPU as it names itself, as far as the system tells."""
    cpus = Path("/proc/cpuinfo")
    if cpus.is_file():
        for line in cpus.read_text().splitlines():
            if line.startswith("vendor_id"):
                return line.split(":")[1].strip()
    return platform.processor().rpartition(" ")[2]  # of Windows, "... Stepping 2, AuthenticAMD"
