"""The fused kernels as torch operators: what they read, their gradients, and shapes for `torch.compile`.

Each operator takes the name of a backend and calls the kernels of that name (see `FusedKernels`). States lie as
`(b, n, d)` here, with the channels adjacent.
"""

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .ops_backends import fused_kernels
from .ops_derivatives import plain_gradients, wants_plain_gradients
from .ops_scan_inputs import ScanInputs, count_starts, empty_for

# A checkpoint's copy of this file is named after the checkpoint's folder, and so are its operators. Torch takes names
# in ASCII alone: other letters become their number.
NAMESPACE = re.sub(r"\W", "_", re.sub(r"[^\x00-\x7F]", lambda letter: f"_{ord(letter[0]):x}", __name__))


def selective_scan_fused(
    backend: str, scan: ScanInputs, return_last_state: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Compute `selective_scan` with the kernels of a backend."""
    wide = torch.promote_types(torch.promote_types(scan.u.dtype, scan.A.dtype), torch.float32)
    narrow = narrow_dtype(backend, wide, scan.u, scan.delta, scan.B, scan.C, scan.z)
    state = _cast(wide, scan.state)
    cast = ScanInputs(
        u=_cast(narrow, scan.u),
        delta=_cast(narrow, scan.delta),
        A=_cast(wide, scan.A),
        B=_cast(narrow, scan.B),
        C=_cast(narrow, scan.C),
        D=_cast(wide, scan.D),
        z=_cast(narrow, scan.z),
        delta_bias=_cast(wide, scan.delta_bias),
        state=None if state is None else state.transpose(1, 2),
        mask=_cast(torch.bool, scan.mask),
        reverse=scan.reverse,
    )
    keeps = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in cast)
    keeps = keeps and not torch.compiler.is_exporting()  # the number of states kept would bound the length
    keeps = keeps or torch.jit.is_tracing()  # whether a trace will be run for gradients is not known
    chunk = chunk_length(int(scan.A.shape[1])) if keeps else 0  # a tensor while a trace is made
    y, end, _ = _scan(*cast, return_last_state, chunk, backend)
    y = None if scan.C is None else y.to(scan.u.dtype)
    end = end.transpose(1, 2) if return_last_state else None
    return y, end


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
    narrow = narrow_dtype(backend, wide, x)
    if bias is None:
        bias = weight.new_zeros(weight.shape[0])
    y = _conv(
        _cast(narrow, x),
        _cast(wide, weight),
        _cast(wide, bias),
        state=_cast(narrow, state),
        mask=None if mask is None else mask.bool(),
        reverse=reverse,
        backend=backend,
    )
    return y.to(x.dtype)


def chunk_length(n: int) -> int:
    """Return the steps between two states kept for the backward pass; all of them are at most `b * l * d` numbers."""
    return max(32, 1 << (n - 1).bit_length())


def narrow_dtype(backend: str, wide: torch.dtype, *tensors: Tensor | None) -> torch.dtype:
    """Return the dtype in which a kernel reads long tensors: the one they share, if it can, else the wide one."""
    dtypes = {x.dtype for x in tensors if x is not None}
    halves = {torch.bfloat16} if backend == "cpu" else {torch.bfloat16, torch.float16}
    if wide == torch.float32 and len(dtypes) == 1 and dtypes <= halves:
        return dtypes.pop()
    return wide


def _cast(dtype: torch.dtype, x: Tensor | None) -> Any:
    return None if x is None else x.to(dtype)


def _adjacent(x: Tensor | None) -> Any:
    """Copy a tensor whose channels are not adjacent in memory."""
    if x is None or x.stride(-1) == 1:
        return x
    return x.contiguous()


def _contiguous(x: Tensor | None) -> Any:
    return None if x is None else x.contiguous()


def _or_empty(x: Tensor | None, like: Tensor) -> Tensor:
    """Return a tensor, an empty one for what is absent: operators return no `None`."""
    return like.new_empty(0) if x is None else x


def _in_order(scan: ScanInputs) -> ScanInputs:
    """Copy the tensors of a scan that do not lie in memory as kernels read them."""
    return ScanInputs(
        u=_adjacent(scan.u),
        delta=_adjacent(scan.delta),
        A=_contiguous(scan.A),
        B=_adjacent(scan.B),
        C=_adjacent(scan.C),
        D=_contiguous(scan.D),
        z=_adjacent(scan.z),
        delta_bias=_contiguous(scan.delta_bias),
        state=_contiguous(scan.state),
        mask=_contiguous(scan.mask),
        reverse=scan.reverse,
    )


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
    """Return what `FusedKernels.scan_forward` does, each empty where absent."""
    scan = _in_order(ScanInputs(u, delta, A, B, C, D, z, delta_bias, state, mask, reverse))
    y, end, starts = fused_kernels(backend).scan_forward(scan, return_last_state, chunk)
    return _or_empty(y, u), _or_empty(end, A), starts


@_scan.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    *given, return_last_state, chunk, _ = inputs
    scan = ScanInputs(*given)
    b, length, d = scan.u.shape
    n = scan.A.shape[1]
    y = empty_for(scan.C, scan.u, (b, scan.num_reads, d))
    end = scan.A.new_empty(b, n, d) if return_last_state else None
    starts = scan.A.new_empty(b, count_starts(length, chunk), n, d)
    return _or_empty(y, scan.u), _or_empty(end, scan.A), starts


@torch.library.custom_op(f"{NAMESPACE}::selective_scan_backward", mutates_args=())
def _scan_backward(
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
    grad_y: Tensor | None,
    grad_end: Tensor | None,
    starts: Tensor,
    chunk: int,
    backend: str,
) -> list[Tensor]:
    """Return the gradients of `u, delta, A, B, C, D, z, delta_bias, state`, empty for those that are absent."""
    scan = _in_order(ScanInputs(u, delta, A, B, C, D, z, delta_bias, state, mask, reverse))
    if C is None:
        grad_y = None
    elif grad_y is None:
        grad_y = u.new_zeros(u.shape[0], scan.num_reads, u.shape[2])
    kernels = fused_kernels(backend)
    gradients = kernels.scan_backward(scan, _adjacent(grad_y), _contiguous(grad_end), starts, chunk)
    found = []
    for x, gradient in zip(_differentiable(scan), gradients, strict=True):
        if x is None:
            found.append(A.new_empty(0))
        else:
            found.append(gradient.to(x.dtype))
    return found


@_scan_backward.register_fake
def _(*inputs: Any) -> list[Tensor]:
    scan = ScanInputs(*inputs[: len(ScanInputs._fields)])
    return [_like(x, scan.A) for x in _differentiable(scan)]


def _like(x: Tensor | None, other: Tensor) -> Tensor:
    """Return a tensor of the same shape, an empty one for what is absent."""
    return other.new_empty(0) if x is None else x.new_empty(x.shape)


def _differentiable(scan: ScanInputs) -> list[Tensor | None]:
    """Return what has a gradient: all but mask and direction."""
    return [getattr(scan, name) for name in ScanInputs._fields if name not in ("mask", "reverse")]


def _save_scan(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.reverse, ctx.returns_state, ctx.chunk, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2])


def _differentiate_scan(ctx: Any, grad_y: Any, grad_end: Any, grad_starts: Any) -> tuple:
    *tensors, starts = ctx.saved_tensors
    scan = ScanInputs(*tensors)._replace(reverse=ctx.reverse)
    inputs = _differentiable(scan)
    if not ctx.returns_state:
        grad_end = None
    found: list[Any]
    if not ctx.chunk or wants_plain_gradients(grad_y, grad_end):
        plain = partial(_scan_plainly, mask=scan.mask, reverse=scan.reverse)
        found = plain_gradients(plain, inputs, (grad_y, grad_end))
    else:
        found = _scan_backward(*scan, grad_y, grad_end, starts, ctx.chunk, ctx.backend)
    gradients = [None if x is None else g for x, g in zip(inputs, found, strict=True)]
    return *gradients, *[None] * 5  # mask, reverse, return_last_state, chunk, backend


def _scan_plainly(*inputs: Any, mask: Tensor | None, reverse: bool) -> tuple[Tensor | None, Tensor]:
    """Compute in plain torch what the operator computes."""
    from .ops_selective_scan import selective_scan_portable  # which imports this file

    scan = ScanInputs(*inputs)._replace(mask=mask, reverse=reverse)
    if scan.state is not None:
        scan = scan._replace(state=scan.state.transpose(1, 2))
    y, end = selective_scan_portable(scan)
    return y, end.transpose(1, 2)


_scan.register_autograd(_differentiate_scan, setup_context=_save_scan)


@torch.library.custom_op(f"{NAMESPACE}::causal_conv1d", mutates_args=())
def _conv(
    x: Tensor, weight: Tensor, bias: Tensor, state: Tensor | None, mask: Tensor | None, reverse: bool, backend: str
) -> Tensor:
    """Return the convolution after its activation."""
    return fused_kernels(backend).conv_forward(
        x=_adjacent(x),
        weight=_contiguous(weight),
        bias=_contiguous(bias),
        state=_adjacent(state),
        mask=_contiguous(mask),
        reverse=reverse,
    )


@_conv.register_fake
def _(x, weight, bias, state, mask, reverse, backend):  # type: ignore[no-untyped-def]  # typed above
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
    gradients = fused_kernels(backend).conv_backward(
        grad_y=_adjacent(grad_y),
        x=_adjacent(x),
        weight=_contiguous(weight),
        bias=_contiguous(bias),
        state=_adjacent(state),
        mask=_contiguous(mask),
        reverse=reverse,
    )
    return [_or_empty(gradient, x) for gradient in gradients]


@_conv_backward.register_fake
def _(grad_y, x, weight, bias, state, mask, reverse, backend):  # type: ignore[no-untyped-def]  # likewise
    return [_like(tensor, x) for tensor in (x, weight, bias, state)]


def _save_conv(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.reverse, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_conv(ctx: Any, grad_y: Tensor) -> tuple:
    x, weight, bias, state, mask = ctx.saved_tensors
    if wants_plain_gradients(grad_y):
        convolve = partial(_convolve_plainly, mask=mask, reverse=ctx.reverse)
        gradients = plain_gradients(convolve, (x, weight, bias, state), (grad_y,))
    else:
        gradients = _conv_backward(
            grad_y=grad_y,
            x=x,
            weight=weight,
            bias=bias,
            state=state,
            mask=mask,
            reverse=ctx.reverse,
            backend=ctx.backend,
        )
        if state is None:
            gradients[-1] = None
    return *gradients, None, None, None  # mask, reverse, backend


def _convolve_plainly(*inputs: Any, mask: Tensor | None, reverse: bool) -> tuple[Tensor]:
    """Compute in plain torch what the operator computes."""
    from .ops_causal_conv1d import causal_conv1d_portable  # which imports this file

    x, weight, bias, state = inputs
    y, _ = causal_conv1d_portable(x, weight, bias, state, mask=mask, reverse=reverse)
    return (y,)


_conv.register_autograd(_differentiate_conv, setup_context=_save_conv)
