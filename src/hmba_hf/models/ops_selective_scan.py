"""The selective scan: its contract, the choice of its backend, the plain reference, and the portable form in chunks.

Axes: `b` batch, `l` time, `d` channels, `n` states. Tensors are `(b, l, d)`, batch first and channels last.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops_backends import FUSED, check_storage, scan_backends, scan_function
from .ops_derivatives import plain_gradients, wants_plain_gradients, wants_plain_torch
from .ops_fused import selective_scan_fused
from .ops_scan_inputs import ScanInputs
from .ops_selective_scan_mamba_ssm import can_serve, selective_scan_mamba_ssm

# Elements of the largest temporary, `(rows, steps, d, n)`. On a CPU it should stay in the cache; an accelerator
# wants fewer and larger kernels.
TILE_ELEMENTS_CPU = 2**19
TILE_ELEMENTS_ACCELERATOR = 2**24


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor | None = None,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    state: Tensor | None = None,
    mask: Tensor | None = None,
    reverse: bool = False,
    return_last_state: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """Run the selective recurrence over time and read it out.

        step[t]  = softplus(delta[t] + delta_bias), 0 where masked
        state[t] = exp(step[t] A) state[t-1] + step[t] B[t] u[t]
        y[t]     = (C[t] state[t] + D u[t]) silu(z[t])

    Args:
        u: input, `(b, l, d)`.
        delta: raw step size, `(b, l, d)`.
        A: negative decay rates, `(d, n)`.
        B: input map, `(b, l, n)`.
        C: output map of the last `m` steps scanned, `(b, m, n)`. The steps before them only update the state, which
            is much cheaper. Without `C` every step does, and `y` is `None`.
        D: skip connection, `(d,)`.
        z: gate of the steps that are read, `(b, m, d)`.
        delta_bias: `(d,)`.
        state: state before the first step, `(b, d, n)`; zeros when absent.
        mask: `(b, l)`, true for real steps; a masked step leaves the state unchanged, whatever its input holds.
        reverse: scan from the last step to the first; `state` then belongs to the steps after the sequence.
        return_last_state: without it, the state is not written to memory; over many short sequences it would take most
            of the memory.

    Returns:
        `y`, `(b, m, d)` in the dtype of `u`, and the last state, `(b, d, n)` in float32 or wider, or `None`.

    Raises:
        ValueError: if a shape does not fit the others, or if a tensor is on another device than `u`.

    Source: Gu & Dao 2023, arXiv:2312.00752, algorithm 2; `selective_scan_fn` of state-spaces/mamba.
    Differs: channels last; softplus always; mask, initial state, reverse and steps without output are part of it.
    """
    scan = ScanInputs(
        u=u,
        delta=delta,
        A=A,
        B=B,
        C=C,
        D=D,
        z=z,
        delta_bias=delta_bias,
        state=state,
        mask=mask,
        reverse=reverse,
    )
    _check_inputs(scan)
    return _run_best(scan, return_last_state)


def _run_best(scan: ScanInputs, return_last_state: bool) -> tuple[Tensor | None, Tensor | None]:
    """Scan with the best backend that can run this call."""
    exact = selective_scan_portable
    plain = wants_plain_torch(*scan[:-2])  # all but mask and direction
    reads = scan.C is not None
    reads_all = scan.num_reads == scan.u.shape[1]
    for backend in scan_backends(scan.u.device.type, scan.u.dtype):
        if backend == "reference":
            exact = selective_scan_reference
        if backend == "reference" or plain:
            break
        if backend == "triton" and reads and not reads_all:  # its kernel reads every step or none
            return _scan_in_two(scan, return_last_state)
        if backend in FUSED and scan.u.numel() > 0 and scan.A.numel() > 0:
            return selective_scan_fused(backend, scan, return_last_state)
        if backend in ("mamba_ssm", "hub") and reads and can_serve(scan):
            return selective_scan_mamba_ssm(scan_function(backend), exact, scan, return_last_state)
    y, last_state = exact(scan)
    return y, last_state if return_last_state else None


def _scan_in_two(scan: ScanInputs, return_last_state: bool) -> tuple[Tensor | None, Tensor | None]:
    """Scan the steps without output, then those with."""
    unread = _part_of(scan, scan.unread)._replace(C=None, D=None, z=None)
    _, state = selective_scan(*unread)
    read = _part_of(scan, scan.read)._replace(state=state)
    return selective_scan(*read, return_last_state=return_last_state)


def _part_of(scan: ScanInputs, steps: slice) -> ScanInputs:
    """Take some steps of the inputs that are given for all steps."""
    part = scan._replace(u=scan.u[:, steps], delta=scan.delta[:, steps], B=scan.B[:, steps])
    if scan.mask is not None:
        part = part._replace(mask=scan.mask[:, steps])
    return part


def selective_scan_reference(scan: ScanInputs) -> tuple[Tensor | None, Tensor]:
    """Compute `selective_scan` one step at a time: the specification."""
    dtype = scan.u.dtype
    with _without_autocast(scan.u):
        u, step, A, B, C, D, z, state = _widen(scan)
        y = []
        times = range(u.shape[1])
        for t in reversed(times) if scan.reverse else times:
            decay = torch.exp(step[:, t, :, None] * A)  # (b, d, n)
            state = decay * state + (step[:, t] * u[:, t])[..., None] * B[:, t, None]
            if C is not None and scan.read.start <= t < scan.read.stop:
                y.append(torch.einsum("bdn,bn->bd", state, C[:, t - scan.read.start]))
        if C is None:
            return None, state
        if scan.reverse:
            y.reverse()
        u = u[:, scan.read]
        read = torch.stack(y, dim=1) if y else torch.zeros_like(u)
        return _finish(read, u, D, z).to(dtype), state


def selective_scan_portable(scan: ScanInputs) -> tuple[Tensor | None, Tensor]:
    """Compute `selective_scan` in plain torch, on any device, in O(b*l*d) memory forward and backward.

    Time is cut into chunks and the batch into groups of rows. Within a chunk all decays and updates are computed at
    once, and only one fused multiply-add a step is sequential. The backward pass keeps the state at each chunk's start
    and recomputes the rest. Nothing is ever divided by a product of decays, so large steps give zeros, not NaN.

    For tangents, transforms of `torch.func` and second derivatives, torch traces every step and keeps its results.
    """
    dtype = scan.u.dtype
    with _without_autocast(scan.u):
        u, step, A, B, C, D, z, state = _widen(scan)
        A = A.to(state.dtype)
        first = scan.unread
        if u[:, first].numel() > 0:
            unread = _Recurrence(u[:, first], step[:, first], A, B[:, first], C=None, state=state)
            _, state = _scan_direction(unread, scan.reverse)
        if C is None:
            return None, state
        last = scan.read
        read = torch.zeros_like(u[:, last])
        if read.numel() > 0:
            recurrence = _Recurrence(u[:, last], step[:, last], A, B[:, last], C=C, state=state)
            read, state = _scan_direction(recurrence, scan.reverse)
        return _finish(read, u[:, last], D, z).to(dtype), state


class _Recurrence(NamedTuple):
    """What the recurrence alone takes, in one wide dtype; `step` is the step size after softplus."""

    u: Tensor
    step: Tensor
    A: Tensor
    B: Tensor
    C: Tensor | None
    state: Tensor

    def flip(self) -> "_Recurrence":
        """Turn time around."""
        flipped = self._replace(u=self.u.flip(1), step=self.step.flip(1), B=self.B.flip(1))
        if self.C is not None:
            flipped = flipped._replace(C=self.C.flip(1))
        return flipped


def _scan_direction(recurrence: _Recurrence, reverse: bool) -> tuple[Any, Tensor]:
    if not reverse:
        return _scan_rows(recurrence)
    read, state = _scan_rows(recurrence.flip())
    if read is not None:
        read = read.flip(1)
    return read, state


def _scan_rows(recurrence: _Recurrence) -> tuple[Tensor | None, Tensor]:
    """Scan groups of batch rows one after the other, so that a chunk's temporaries fit the tile."""
    u, step, A, B, C, state = recurrence
    elements = TILE_ELEMENTS_CPU if u.device.type == "cpu" else TILE_ELEMENTS_ACCELERATOR
    shortest = max(4, A.shape[1])  # with `n` steps or more in a chunk, the states kept are at most b*l*d numbers
    rows = max(1, elements // (A.numel() * min(u.shape[1], shortest)))
    chunk = max(shortest, elements // (min(rows, u.shape[0]) * A.numel()))
    scan = _scan_plainly if wants_plain_torch(*recurrence) else _ChunkedScan.apply
    reads: list[Any] = []
    states = []
    for i in range(0, u.shape[0], rows):
        s = slice(i, i + rows)
        group = _Recurrence(u[s], step[s], A, B[s], C=None if C is None else C[s], state=state[s])
        read, end = scan(*group, chunk)
        reads.append(read)
        states.append(end)
    return None if C is None else torch.cat(reads), torch.cat(states)


def _scan_plainly(
    u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor | None, state: Tensor, chunk: int
) -> tuple[Tensor | None, Tensor]:
    """Run the recurrence alone, in steps that torch differentiates in any mode and as often as it likes."""
    reads = []
    for s in _chunks(u.shape[1], chunk):
        decay = torch.exp(step[:, s, :, None] * A)  # (b, steps, d, n)
        update = (step[:, s] * u[:, s])[..., None] * B[:, s, None]
        states = []
        for t in range(decay.shape[1]):
            state = torch.addcmul(update[:, t], decay[:, t], state)
            states.append(state)
        if C is not None:
            reads.append(torch.einsum("bldn,bln->bld", torch.stack(states, dim=1), C[:, s]))
    return None if C is None else torch.cat(reads, dim=1), state


class _ChunkedScan(torch.autograd.Function):
    """The recurrence alone, in one wide dtype: `(u, step, A, B, C, state, chunk) -> (C state, last state)`."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor | None, state: Tensor, chunk: int
    ) -> tuple[Tensor | None, Tensor]:
        starts = []
        read = None if C is None else torch.empty_like(u)
        for s in _chunks(u.shape[1], chunk):
            starts.append(state)
            _, states = _chunk_states(u[:, s], step[:, s], A, B[:, s], state)  # (steps, b, d, n)
            if C is not None and read is not None:
                read[:, s] = _contract_states(states, C[:, s])
            state = states[-1].clone()
        ctx.save_for_backward(u, step, A, B, C, *starts)
        ctx.chunk = chunk
        return read, state

    @staticmethod
    def backward(ctx: Any, grad_read: Any, grad_state: Tensor) -> tuple[Tensor | None, ...]:
        with _without_autocast(grad_state):
            u, step, A, B, C, *starts = ctx.saved_tensors
            if wants_plain_gradients(grad_read, grad_state):
                scan = partial(_scan_plainly, chunk=ctx.chunk)
                return *plain_gradients(scan, (u, step, A, B, C, starts[0]), (grad_read, grad_state)), None
            grad_u = torch.zeros_like(u)
            grad_step = torch.zeros_like(step)
            grad_A = torch.zeros_like(A)
            grad_B = torch.zeros_like(B)
            grad_C: Any = None if C is None else torch.zeros_like(C)
            for s, start in zip(reversed(list(_chunks(u.shape[1], ctx.chunk))), reversed(starts), strict=True):
                decay, states = _chunk_states(u[:, s], step[:, s], A, B[:, s], start)
                if C is None:
                    grads = torch.zeros_like(states)  # of the loss in state[t], (steps, b, d, n)
                else:
                    grads = _time_first(grad_read[:, s])[..., None] * _time_first(C[:, s])[:, :, None]
                    grad_C[:, s] = _contract_channels(grad_read[:, s], states)
                for t in reversed(range(grads.shape[0])):
                    grad_state = grads[t].add_(grad_state) * decay[t]
                grad_update = _contract_states(grads, B[:, s])  # in step * u
                grad_B[:, s] = _contract_channels(step[:, s] * u[:, s], grads)
                grads.mul_(decay)
                grads[1:].mul_(states[:-1])
                grads[0].mul_(start)  # now the gradient in step * A
                grad_A += (grads * _time_first(step[:, s])[..., None]).sum((0, 1))
                grad_step[:, s] = (grads * A).sum(-1).transpose(0, 1) + grad_update * u[:, s]
                grad_u[:, s] = grad_update * step[:, s]
        return grad_u, grad_step, grad_A, grad_B, grad_C, grad_state, None


def _chunks(length: int, chunk: int) -> Iterator[slice]:
    return (slice(i, i + chunk) for i in range(0, length, chunk))


def _time_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


def _contract_states(states: Tensor, weights: Tensor) -> Tensor:
    """Sum `(steps, b, d, n)` over the states with weights `(b, steps, n)`; `(b, steps, d)`."""
    summed = states.flatten(0, 1) @ _time_first(weights).flatten(0, 1)[..., None]
    return _time_first(summed.view(states.shape[:-1]))


def _contract_channels(weights: Tensor, states: Tensor) -> Tensor:
    """Sum `(steps, b, d, n)` over the channels with weights `(b, steps, d)`; `(b, steps, n)`."""
    summed = _time_first(weights).flatten(0, 1)[:, None] @ states.flatten(0, 1)
    return _time_first(summed.view(*states.shape[:2], -1))


def _chunk_states(u: Tensor, step: Tensor, A: Tensor, B: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the decays and the states of every step of a chunk, each `(steps, b, d, n)`."""
    decay = (_time_first(step)[..., None] * A).exp_()
    states = _time_first(step * u)[..., None] * _time_first(B)[:, :, None]
    for t in range(states.shape[0]):
        state = states[t].addcmul_(decay[t], state)
    return decay, states


def _without_autocast(u: Tensor) -> AbstractContextManager:
    """Keep autocast from narrowing the products of a scan."""
    device = u.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


class _WideInputs(NamedTuple):
    """What a plain form computes with: float32 or wider, masked steps set to zero."""

    u: Tensor
    step: Tensor
    A: Tensor
    B: Tensor
    C: Tensor | None
    D: Tensor | None
    z: Tensor | None
    state: Tensor


def _widen(scan: ScanInputs) -> _WideInputs:
    """Widen all inputs but `A` and `D`, and apply the bias and softplus to the step sizes."""
    dtype = torch.promote_types(torch.promote_types(scan.u.dtype, scan.A.dtype), torch.float32)
    hidden = None if scan.mask is None else ~scan.mask[..., None].bool()

    def widen(x: Any, steps: slice = slice(None)) -> Any:
        if x is None:
            return None
        wide = x.to(dtype)
        if hidden is not None:
            wide = wide.masked_fill(hidden[:, steps], 0.0)
        return wide

    raw = widen(scan.delta)
    if scan.delta_bias is not None:
        raw = raw + scan.delta_bias.to(dtype)
    step = F.softplus(raw)
    if hidden is not None:
        step = step.masked_fill(hidden, 0.0)
    if scan.state is None:
        state = step.new_zeros(scan.u.shape[0], *scan.A.shape)
    else:
        state = scan.state.to(dtype)
    return _WideInputs(
        u=widen(scan.u),
        step=step,
        A=scan.A,
        B=widen(scan.B),
        C=widen(scan.C, scan.read),
        D=scan.D,
        z=widen(scan.z, scan.read),
        state=state,
    )


def _finish(read: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Add the skip connection and apply the gate."""
    if D is not None:
        read = torch.addcmul(read, u, D.to(read.dtype))
    if z is not None:
        read = read * F.silu(z)
    return read


def _check_inputs(scan: ScanInputs) -> None:
    """Raise a `ValueError` that names the first argument whose shape or device does not fit `u` and `A`."""
    u = scan.u
    A = scan.A
    C = scan.C
    if u.ndim != 3 or A.ndim != 2 or A.shape[0] != u.shape[2] or A.shape[1] < 1:
        raise ValueError(
            f"u must be (b, l, d) and A (d, n) with one state or more, got {tuple(u.shape)} and {tuple(A.shape)}"
        )
    b, length, d = u.shape
    n = A.shape[1]
    reads = length
    if C is not None and C.ndim == 3 and C.shape[1] <= length:
        reads = C.shape[1]
    wanted: dict[str, tuple[int, ...]] = {
        "delta": (b, length, d),
        "B": (b, length, n),
        "C": (b, reads, n),
        "D": (d,),
        "z": (b, reads, d),
        "delta_bias": (d,),
        "state": (b, d, n),
        "mask": (b, length),
    }
    given = {name: getattr(scan, name) for name in wanted}
    check_storage(u, A=A, **given)
    for name, tensor in given.items():
        if tensor is not None and tuple(tensor.shape) != wanted[name]:
            raise ValueError(f"{name} must be {wanted[name]} for u {tuple(u.shape)}, got {tuple(tensor.shape)}")
    if C is None and (scan.D is not None or scan.z is not None):
        raise ValueError("C must be given with D or z, which belong to the read-out, got no C")
