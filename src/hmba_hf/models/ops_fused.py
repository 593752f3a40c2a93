"""The fused kernels as torch operators: tensors brought into their form, gradients, and shapes for `torch.compile`.

Each operator takes the name of its backend and hands on to the kernels of that name (see `FusedKernels`). States lie
as `(b, n, d)` here, with the channels adjacent.
"""

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .ops_backends import fused_kernels
from .ops_derivatives import plain_gradients, wants_plain_gradients

# A checkpoint's copy of this file has a name of its own, and so its operators do.
# The code is named after the checkpoint's folder, and torch takes ASCII alone: other letters become their number.
NAMESPACE = re.sub(r"\W", "_", re.sub(r"[^\x00-\x7F]", lambda letter: f"_{ord(letter[0]):x}", __name__))


def selective_scan_fused(
    backend: str,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor | None,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    state: Tensor | None,
    mask: Tensor | None,
    reverse: bool,
    return_last_state: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Compute `selective_scan` with the kernels of a backend."""
    wide = torch.promote_types(torch.promote_types(u.dtype, A.dtype), torch.float32)
    narrow = _narrow_dtype(backend, wide, u, delta, B, C, z)
    dtype = u.dtype
    u, delta, B, C, z = _cast(narrow, u, delta, B, C, z)
    A, D, delta_bias, state = _cast(wide, A, D, delta_bias, state)
    state = None if state is None else state.transpose(1, 2)
    tensors = (u, delta, A, B, C, D, z, delta_bias, state)
    keeps = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    keeps = keeps and not torch.compiler.is_exporting()  # how many states there are would bound the length
    chunk = chunk_length(A.shape[1]) if keeps else 0
    y, end, _ = _scan(*tensors, None if mask is None else mask.bool(), reverse, return_last_state, chunk, backend)
    return None if C is None else y.to(dtype), end.transpose(1, 2) if return_last_state else None


def causal_conv1d_fused(
    backend: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    mask: Tensor | None,
    reverse: bool,
) -> Tensor:
    """Compute the `y` of `causal_conv1d` with the kernels of a backend."""
    wide = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    narrow = _narrow_dtype(backend, wide, x)
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    x_, weight, bias, state = *_cast(narrow, x), *_cast(wide, weight, bias), *_cast(narrow, state)
    return _conv(x_, weight, bias, state, None if mask is None else mask.bool(), reverse, backend).to(x.dtype)


def chunk_length(n: int) -> int:
    """Steps between two states that are kept for the backward pass: these are then at most `b * l * d` numbers."""
    return max(32, 1 << (n - 1).bit_length())


def _narrow_dtype(backend: str, wide: torch.dtype, *tensors: Tensor | None) -> torch.dtype:
    """The dtype in which a kernel reads long tensors: their own if they share one that it knows, else the wide one."""
    dtypes = {x.dtype for x in tensors if x is not None}
    halves = {torch.bfloat16} if backend == "cpu" else {torch.bfloat16, torch.float16}
    return dtypes.pop() if len(dtypes) == 1 and dtypes <= halves and wide == torch.float32 else wide


def _cast(dtype: torch.dtype, *tensors: Tensor | None) -> list[Any]:
    return [None if x is None else x.to(dtype) for x in tensors]


def _adjacent(*tensors: Tensor | None) -> list[Any]:
    """Copy those whose channels are not adjacent in memory."""
    return [x if x is None or x.stride(-1) == 1 else x.contiguous() for x in tensors]


def _contiguous(*tensors: Tensor | None) -> list[Any]:
    return [None if x is None else x.contiguous() for x in tensors]


@torch.library.custom_op(f"{NAMESPACE}::selective_scan", mutates_args=())
def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor | None,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    state: Tensor | None,
    mask: Tensor | None,
    reverse: bool,
    return_last_state: bool,
    chunk: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what comes out, empty where there is none.

    That is `y`, if there is `C`; the last state, if it is wanted; the states before each chunk but the first, unless
    `chunk` is 0.
    """
    u, delta, B, C, z = _adjacent(u, delta, B, C, z)
    A, D, delta_bias, state, mask = _contiguous(A, D, delta_bias, state, mask)
    y, end, starts = fused_kernels(backend).scan_forward(
        u, delta, A, B, C, D, z, delta_bias, state, mask, reverse, return_last_state, chunk
    )
    return u.new_empty(0) if y is None else y, A.new_empty(0) if end is None else end, starts


@_scan.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, state, mask, reverse, return_last_state, chunk, backend):  # type: ignore[no-untyped-def]
    (b, length, d), n = u.shape, A.shape[1]
    later = -(-length // chunk) - 1 if chunk else 0
    y = u.new_empty(0) if C is None else u.new_empty(b, C.shape[1], d)
    return y, A.new_empty(b, n, d) if return_last_state else A.new_empty(0), A.new_empty(b, later, n, d)


@torch.library.custom_op(f"{NAMESPACE}::selective_scan_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor | None,
    grad_end: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor | None,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    state: Tensor | None,
    mask: Tensor | None,
    starts: Tensor,
    reverse: bool,
    chunk: int,
    backend: str,
) -> list[Tensor]:
    """Return the gradients of `u, delta, A, B, C, D, z, delta_bias, state`, empty for what is absent."""
    u, delta, B, C, z = _adjacent(u, delta, B, C, z)
    A, D, delta_bias, state, mask, grad_end = _contiguous(A, D, delta_bias, state, mask, grad_end)
    if C is not None:
        grad_y = u.new_zeros(u.shape[0], C.shape[1], u.shape[2]) if grad_y is None else _adjacent(grad_y)[0]
    inputs = (u, delta, A, B, C, D, z, delta_bias, state)
    gradients = fused_kernels(backend).scan_backward(
        grad_y if C is not None else None, grad_end, *inputs, mask, starts, reverse, chunk
    )
    return [A.new_empty(0) if x is None else g.to(x.dtype) for x, g in zip(inputs, gradients, strict=True)]


@_scan_backward.register_fake
def _(grad_y, grad_end, u, delta, A, B, C, D, z, delta_bias, state, mask, starts, reverse, chunk, backend):  # type: ignore[no-untyped-def]
    inputs = (u, delta, A, B, C, D, z, delta_bias, state)
    return [A.new_empty(0) if x is None else x.new_empty(x.shape) for x in inputs]


def _save_scan(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.reverse, ctx.returns_state, ctx.chunk, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2])


def _differentiate_scan(ctx: Any, grad_y: Any, grad_end: Any, grad_starts: Any) -> tuple:
    *inputs, mask, starts = ctx.saved_tensors
    grad_end = grad_end if ctx.returns_state else None
    if not ctx.chunk or wants_plain_gradients(grad_y, grad_end):
        scan = partial(_scan_plainly, mask=mask, reverse=ctx.reverse)
        return *plain_gradients(scan, inputs, (grad_y, grad_end)), *[None] * 5
    gradients = _scan_backward(grad_y, grad_end, *inputs, mask, starts, ctx.reverse, ctx.chunk, ctx.backend)
    return *(None if x is None else g for x, g in zip(inputs, gradients, strict=True)), *[None] * 5


def _scan_plainly(*inputs: Any, mask: Tensor | None, reverse: bool) -> tuple[Tensor | None, Tensor]:
    """Compute what the operator does in plain torch."""
    from .ops_selective_scan import selective_scan_portable  # which imports this file

    u, delta, A, B, C, D, z, delta_bias, state = inputs
    state = None if state is None else state.transpose(1, 2)
    y, end = selective_scan_portable(u, delta, A, B, C, D, z, delta_bias, state, mask, reverse)
    return y, end.transpose(1, 2)


_scan.register_autograd(_differentiate_scan, setup_context=_save_scan)


@torch.library.custom_op(f"{NAMESPACE}::causal_conv1d", mutates_args=())
def _conv(
    x: Tensor, weight: Tensor, bias: Tensor, state: Tensor | None, mask: Tensor | None, reverse: bool, backend: str
) -> Tensor:
    """Return the convolution after its activation."""
    x, state = _adjacent(x, state)
    return fused_kernels(backend).conv_forward(x, *_contiguous(weight, bias), state, *_contiguous(mask), reverse)


@_conv.register_fake
def _(x, weight, bias, state, mask, reverse, backend):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape)


@torch.library.custom_op(f"{NAMESPACE}::causal_conv1d_backward", mutates_args=())
def _conv_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor | None,
    mask: Tensor | None,
    reverse: bool,
    backend: str,
) -> list[Tensor]:
    """Return the gradients of `x, weight, bias, state`, empty for a state that is absent."""
    grad_y, x, state = _adjacent(grad_y, x, state)
    inputs = (x, *_contiguous(weight, bias), state)
    gradients = fused_kernels(backend).conv_backward(grad_y, *inputs, *_contiguous(mask), reverse)
    return [x.new_empty(0) if i is None else g for i, g in zip(inputs, gradients, strict=True)]


@_conv_backward.register_fake
def _(grad_y, x, weight, bias, state, mask, reverse, backend):  # type: ignore[no-untyped-def]
    return [x.new_empty(0) if i is None else i.new_empty(i.shape) for i in (x, weight, bias, state)]


def _save_conv(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.reverse, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_conv(ctx: Any, grad_y: Tensor) -> tuple:
    x, weight, bias, state, mask = ctx.saved_tensors
    if wants_plain_gradients(grad_y):
        convolve = partial(_convolve_plainly, mask=mask, reverse=ctx.reverse)
        return *plain_gradients(convolve, (x, weight, bias, state), (grad_y,)), None, None, None
    *gradients, grad_state = _conv_backward(grad_y, x, weight, bias, state, mask, ctx.reverse, ctx.backend)
    return *gradients, None if state is None else grad_state, None, None, None


def _convolve_plainly(*inputs: Any, mask: Tensor | None, reverse: bool) -> tuple[Tensor]:
    """Compute what the operator does in plain torch."""
    from .ops_causal_conv1d import causal_conv1d_portable  # which imports this file

    x, weight, bias, state = inputs
    return (causal_conv1d_portable(x, weight, bias, state, mask, reverse)[0],)


_conv.register_autograd(_differentiate_conv, setup_context=_save_conv)
