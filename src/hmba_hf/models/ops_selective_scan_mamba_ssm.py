"""The selective scan through mamba_ssm's function, for the calls that it computes exactly."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .ops_derivatives import wants_plain_gradients
from .ops_scan_inputs import ScanInputs

# Its softplus is zero in every dtype, so a step of this size leaves the state unchanged.
NO_STEP = -1e4


def can_serve(scan: ScanInputs) -> bool:
    """Return whether mamba_ssm can run this scan: no initial state, every step read, one dtype, and none narrowed."""
    u = scan.u
    if scan.state is not None or scan.num_reads != u.shape[1] or u.numel() == 0:
        return False
    if torch.float64 in (u.dtype, scan.A.dtype):
        return False
    return all(x is None or x.dtype == u.dtype for x in (scan.delta, scan.B, scan.C, scan.z))


def selective_scan_mamba_ssm(
    function: Callable, exact: Callable, scan: ScanInputs, return_last_state: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute `selective_scan` from a zero state with mamba_ssm's `selective_scan_fn`.

    Its backward pass drops the gradient of the last state. `exact`, with the contract of `selective_scan_reference`,
    computes that gradient where it is wanted.

    Raises:
        RuntimeError: in a backward pass whose result is to be differentiated again or mapped.
    """
    dtype = scan.u.dtype

    def prepare(x: Tensor | None, hidden: float = 0.0) -> Any:
        if x is None:
            return None
        x = x.to(dtype)
        if scan.mask is not None:
            x = x.masked_fill(~scan.mask[..., None].bool(), hidden)
        if scan.reverse:
            x = x.flip(1)
        return x.transpose(1, 2)  # (b, d or n, l)

    def widen(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.float()

    u = prepare(scan.u)
    delta = prepare(scan.delta, NO_STEP)
    A = scan.A.float()
    B = prepare(scan.B)
    delta_bias = widen(scan.delta_bias)
    result = function(
        u,
        delta,
        A,
        B,
        prepare(scan.C),
        D=widen(scan.D),
        z=prepare(scan.z),
        delta_bias=delta_bias,
        delta_softplus=True,
        return_last_state=return_last_state,
    )
    y, state = result if return_last_state else (result, None)
    if state is not None and torch.is_grad_enabled():
        state = _LastState.apply(exact, state.detach(), u, delta, A, B, delta_bias)
    for result in (y, state):
        if result is not None and result.requires_grad:
            result.register_hook(_check_gradient)
    y = y.transpose(1, 2)
    if scan.reverse:
        y = y.flip(1)
    return y, state


def _check_gradient(grad: Tensor) -> None:
    """Refuse what the kernel would silently get wrong: gradients of gradients, and many gradients at once."""
    if wants_plain_gradients(grad):
        raise RuntimeError(
            "the backend must be one whose gradients can be differentiated again (create_graph=True) or mapped, got "
            "mamba_ssm; HMBA_SCAN_BACKEND=portable has them"
        )


class _LastState(torch.autograd.Function):
    """The last state as given, with the gradient of an exact scan, which runs only in a backward pass."""

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
            scan = ScanInputs(
                u=u.transpose(1, 2),
                delta=delta.transpose(1, 2),
                A=A,
                B=B.transpose(1, 2),
                delta_bias=delta_bias,
            )
            _, state = ctx.exact(scan)
        wanted = [x for x in inputs if x is not None]
        gradients = iter(torch.autograd.grad(state, wanted, grad.to(state.dtype)))
        return None, None, *(None if x is None else next(gradients) for x in inputs)
