"""The selective scan through mamba_ssm's function, for the calls that it can serve exactly."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .ops_derivatives import wants_plain_gradients

# `softplus` of it is zero in every dtype, so a step that holds it leaves the state as it was.
NO_STEP = -1e4


def can_serve(u: Tensor, A: Tensor, C: Tensor, state: Tensor | None, *others: Tensor | None) -> bool:
    """Whether mamba_ssm can do this: no state comes in, every step is read, nothing would be narrowed."""
    one_dtype = all(x is None or x.dtype == u.dtype for x in (C, *others))
    is_double = torch.float64 in (u.dtype, A.dtype)
    return state is None and C.shape[1] == u.shape[1] and one_dtype and not is_double and u.numel() > 0


def selective_scan_mamba_ssm(
    function: Callable,
    exact: Callable,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    mask: Tensor | None,
    reverse: bool,
    return_last_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Compute `selective_scan` from a zero state with mamba_ssm's `selective_scan_fn`.

    Its backward pass drops the gradient of the last state. Where that is asked for, it comes from `exact`, a scan with
    the contract of `selective_scan`.

    Raises:
        RuntimeError: in a backward pass whose result is to be differentiated again or mapped.
    """
    dtype = u.dtype

    def prepare(x: Tensor | None, hidden: float = 0.0) -> Any:
        if x is None:
            return None
        x = x.to(dtype) if mask is None else x.to(dtype).masked_fill(~mask[..., None].bool(), hidden)
        return (x.flip(1) if reverse else x).transpose(1, 2)  # (b, d or n, l)

    u, delta, B, C, z = prepare(u), prepare(delta, NO_STEP), prepare(B), prepare(C), prepare(z)
    A, D, delta_bias = (None if x is None else x.float() for x in (A, D, delta_bias))  # type: ignore[assignment]
    options = {"delta_softplus": True, "return_last_state": return_last_state}
    result = function(u, delta, A, B, C, D=D, z=z, delta_bias=delta_bias, **options)
    y, state = result if return_last_state else (result, None)
    if state is not None and torch.is_grad_enabled():
        state = _LastState.apply(exact, state.detach(), u, delta, A, B, delta_bias)
    for result in (y, state):
        if result is not None and result.requires_grad:
            result.register_hook(_check_gradient)
    y = y.transpose(1, 2)
    return (y.flip(1) if reverse else y), state


def _check_gradient(grad: Tensor) -> None:
    """Refuse what the kernel would get wrong without a word: gradients of gradients, and many gradients at once."""
    if wants_plain_gradients(grad):
        raise RuntimeError(
            "gradients that are differentiated again (create_graph=True) or mapped are wanted, got the kernel of "
            "mamba_ssm, which has none; HMBA_SCAN_BACKEND=portable has them"
        )


class _LastState(torch.autograd.Function):
    """The last state as given, with the gradient of an exact scan; nothing is computed unless it is asked for."""

    @staticmethod
    def forward(ctx: Any, exact: Callable, state: Tensor, *inputs: Tensor | None) -> Tensor:
        ctx.exact = exact
        ctx.save_for_backward(*inputs)
        return state.clone()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> tuple:
        inputs: list[Any] = [None if x is None else x.detach().requires_grad_() for x in ctx.saved_tensors]
        u, delta, A, B, delta_bias = inputs
        with torch.enable_grad():
            u, delta, B = (x.transpose(1, 2) for x in (u, delta, B))
            state = ctx.exact(u, delta, A, B, delta_bias=delta_bias)[1]
        wanted = [x for x in inputs if x is not None]
        gradients = iter(torch.autograd.grad(state, wanted, grad.to(state.dtype)))
        return None, None, *(None if x is None else next(gradients) for x in inputs)
