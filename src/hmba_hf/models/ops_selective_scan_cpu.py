"""The selective scan for CPUs in one pass over memory, forward and backward, compiled by Numba.

Channels are the lanes. A task is a tile of channels in a group of batch rows; it runs over time with its states in the
cache, so nothing of size `(b, l, d, n)` ever exists. Tasks share no output, and sums across tasks go through partial
results whose number does not depend on the threads: the same inputs give the same bits.

States lie as `(b, n, d)` here, with the channels adjacent.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .ops_launch_cpu import compiled, flat, inlined, launch, split, strides
from .ops_simd_cpu import LANES, exp2, lane_sum, load, prefetch, read, sigmoid, softplus, splat, store

try:
    import numpy as np
except ImportError as error:
    raise ImportError("the CPU kernels need numpy: pip install numpy") from error

TILE = 128  # channels of a task: their states fill half of a first-level cache
AHEAD = 2  # steps between asking for inputs and reading them: rows lie too far apart for the processor to foresee
LN_2 = math.log(2)


def scan_forward(
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
    chunk: int,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Scan; see `selective_scan`.

    Returns:
        `y`; the last state, `(b, n, d)`; and, unless `chunk` is 0, the states before each chunk of so many steps but
        the first, `(b, chunks - 1, n, d)`.
    """
    (b, length, d), n, reads = u.shape, A.shape[1], 0 if C is None else C.shape[1]
    y = None if C is None else u.new_empty(b, reads, d)
    end = A.new_empty(b, n, d)
    starts = A.new_empty(b, -(-length // chunk) - 1 if chunk else 0, n, d)
    weights = [A.new_zeros(d) if x is None else x for x in (D, delta_bias)]
    groups, tiles = split(b, d, TILE)
    launch(
        _forward,
        groups * tiles,
        b * length * d * n,
        (*flat(u.dtype, u, delta, B, C, z), *flat(A.dtype, _by_state(A) / LN_2, *weights, state)),
        (*flat(u.dtype, y), *flat(A.dtype, end, starts)),
        *flat(torch.bool, mask),
        strides(u, delta, B, C, z),
        (b, length, reads, d, n, groups, chunk),
        reverse,
    )
    return y, end, starts


def scan_backward(
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
) -> tuple[Tensor | None, ...]:
    """Return the gradients of `u, delta, A, B, C, D, z, delta_bias, state`; of those that are absent none.

    States are recomputed chunk by chunk from those that the forward pass kept. `grad_end`, of the last state, and the
    gradient of `state` are `(b, n, d)`.
    """
    (b, length, d), n, reads = u.shape, A.shape[1], 0 if C is None else C.shape[1]
    weights = [A.new_zeros(d) if x is None else x for x in (D, delta_bias)]
    groups, tiles = split(b, d, TILE)
    grad_u, grad_delta = u.new_empty(b, length, d), u.new_empty(b, length, d)
    grad_z = None if z is None else u.new_empty(b, reads, d)
    grad_state = None if state is None else A.new_empty(b, n, d)
    grad_B = A.new_empty(tiles, b, length, n)
    grad_C = None if C is None else A.new_empty(tiles, b, reads, n)
    grad_A = A.new_empty(groups, n, d)
    grad_weights = A.new_empty(2, groups, d)
    launch(
        _backward,
        groups * tiles,
        3 * b * length * d * n,
        (
            *flat(u.dtype, grad_y, u, delta, B, C, z),
            *flat(A.dtype, _by_state(A) / LN_2, *weights, state, starts, grad_end),
        ),
        (
            *flat(u.dtype, grad_u, grad_delta, grad_z),
            *flat(A.dtype, grad_A, grad_B, grad_C, *grad_weights, grad_state),
        ),
        *flat(torch.bool, mask),
        strides(grad_y, u, delta, B, C, z),
        (b, length, reads, d, n, groups, chunk),
        reverse,
    )
    return (
        grad_u,
        grad_delta,
        _by_state(grad_A.sum(0)),
        grad_B.sum(0),
        None if grad_C is None else grad_C.sum(0),
        None if D is None else grad_weights[0].sum(0),
        grad_z,
        None if delta_bias is None else grad_weights[1].sum(0),
        grad_state,
    )


def _by_state(x: Tensor) -> Tensor:
    return x.T.contiguous()


@compiled
def _read_row(source: Any, offset: int, row: Any) -> None:
    """Read `B` or `C` of one step, wide."""
    for k in range(row.size):
        row[k] = read(source, offset + k)


@compiled
def _copy(
    source: Any, offset: int, stride: int, target: Any, target_offset: int, target_stride: int, size: Any
) -> None:
    """Copy the states of a tile, `(n, width)`, between rows that are `stride` apart.

    Into a tile whole lanes are copied, zeros beyond the width: what a task before left there must not be met.
    """
    n, width = size
    for k in range(n):
        for c in range(0, width, LANES):
            count = LANES if target_stride == TILE else width - c
            value = load(source, offset + k * stride + c, width - c)
            store(target, target_offset + k * target_stride + c, count, value)


@compiled
def _forward(
    first: int, last: int, inputs: Any, results: Any, mask: Any, strides: Any, sizes: Any, reverse: bool
) -> None:
    """Scan tasks `first` to `last`: a tile of channels each, over the batch rows of a group."""
    u, delta, B, C, z, A, D, bias, state = inputs
    y, end, starts = results
    b, length, reads, d, n, groups, chunk = sizes
    u_b, u_l, delta_b, delta_l, B_b, B_l, C_b, C_l, z_b, z_l = strides
    tiles, chunks = (d + TILE - 1) // TILE, (length + chunk - 1) // max(chunk, 1)
    rates, h = np.zeros(n * TILE, A.dtype), np.zeros(n * TILE, A.dtype)
    B_t, C_t = np.empty(n, A.dtype), np.empty(n, A.dtype)
    gated, zero, ahead = z.size > 0, splat(A.dtype.type(0)), -AHEAD if reverse else AHEAD
    for task in range(first, last):
        group, tile = task // tiles, task % tiles * TILE
        width = min(TILE, d - tile)
        _copy(A, tile, d, rates, 0, TILE, (n, width))
        for i in range(group * b // groups, (group + 1) * b // groups):
            if state.size:
                _copy(state, i * n * d + tile, d, h, 0, TILE, (n, width))
            else:
                h[:] = 0
            for s in range(length):
                t = length - 1 - s if reverse else s
                reading = s >= length - reads
                r = t if reverse else t - (length - reads)  # where this step is among those that are read
                if starts.size and s and s % chunk == 0:
                    start = (i * (chunks - 1) + s // chunk - 1) * n * d
                    _copy(h, 0, TILE, starts, start + tile, d, (n, width))
                if mask.size and not mask[i * length + t]:
                    if reading:
                        for c in range(0, width, LANES):
                            store(y, (i * reads + r) * d + tile + c, width - c, zero)
                    continue
                _read_row(B, i * B_b + t * B_l, B_t)
                if reading:
                    _read_row(C, i * C_b + r * C_l, C_t)
                for c in range(0, width, LANES):
                    rest, channel = width - c, tile + c
                    prefetch(u, i * u_b + (t + ahead) * u_l + channel)
                    prefetch(delta, i * delta_b + (t + ahead) * delta_l + channel)
                    if reading and gated:
                        prefetch(z, i * z_b + (r + ahead) * z_l + channel)
                    u_t = load(u, i * u_b + t * u_l + channel, rest)
                    step = softplus(load(delta, i * delta_b + t * delta_l + channel, rest) + load(bias, channel, rest))
                    update, y_t = step * u_t, load(D, channel, rest) * u_t
                    for k in range(n):
                        o = k * TILE + c
                        state_k = exp2(step * load(rates, o, LANES)) * load(h, o, LANES) + update * B_t[k]
                        store(h, o, LANES, state_k)
                        if reading:
                            y_t += state_k * C_t[k]
                    if reading:
                        if gated:
                            z_t = load(z, i * z_b + r * z_l + channel, rest)
                            y_t *= z_t * sigmoid(z_t)
                        store(y, (i * reads + r) * d + channel, rest, y_t)
            _copy(h, 0, TILE, end, i * n * d + tile, d, (n, width))


@inlined
def _recompute(
    states: Any,
    steps: Any,
    rates: Any,
    B_t: Any,
    inputs: Any,
    mask: Any,
    strides: Any,
    sizes: Any,
    place: Any,
    reverse: bool,
) -> None:
    """Run a chunk again from its first state, and keep the state after each step, and the step sizes."""
    _, u, delta, B, _, _, _, _, bias, _, _, _ = inputs
    _, length, _, _, n, _, _ = sizes
    _, _, u_b, u_l, delta_b, delta_l, B_b, B_l, _, _, _, _ = strides
    i, tile, width, past, count = place
    row, ahead = n * TILE, -AHEAD if reverse else AHEAD
    for s in range(count):
        t = length - 1 - past - s if reverse else past + s
        before, after = s * row, (s + 1) * row
        if mask.size and not mask[i * length + t]:
            states[after : after + row] = states[before:after]
            continue
        _read_row(B, i * B_b + t * B_l, B_t)
        for c in range(0, width, LANES):
            rest, channel = width - c, tile + c
            prefetch(u, i * u_b + (t + ahead) * u_l + channel)
            prefetch(delta, i * delta_b + (t + ahead) * delta_l + channel)
            step = softplus(load(delta, i * delta_b + t * delta_l + channel, rest) + load(bias, channel, rest))
            store(steps, s * TILE + c, LANES, step)
            update = step * load(u, i * u_b + t * u_l + channel, rest)
            for k in range(n):
                o = k * TILE + c
                decayed = exp2(step * load(rates, o, LANES)) * load(states, before + o, LANES)
                store(states, after + o, LANES, decayed + update * B_t[k])


@compiled
def _backward(
    first: int, last: int, inputs: Any, results: Any, mask: Any, strides: Any, sizes: Any, reverse: bool
) -> None:
    """Bring gradients through tasks `first` to `last`, chunk by chunk from the end of the scan."""
    grad_y, u, delta, B, C, z, A, D, bias, state, starts, grad_end = inputs
    grad_u, grad_delta, grad_z, grad_A, grad_B, grad_C, grad_D, grad_bias, grad_state = results
    b, length, reads, d, n, groups, chunk = sizes
    g_b, g_l, u_b, u_l, delta_b, delta_l, B_b, B_l, C_b, C_l, z_b, z_l = strides
    tiles, chunks = (d + TILE - 1) // TILE, (length + chunk - 1) // chunk
    row = n * TILE
    rates, grad_h, grad_rates = np.zeros(row, A.dtype), np.zeros(row, A.dtype), np.zeros(row, A.dtype)
    states = np.zeros((chunk + 1) * row, A.dtype)  # at the chunk's start and after each of its steps
    steps, sums_D, sums_bias = np.zeros(chunk * TILE, A.dtype), np.zeros(TILE, A.dtype), np.zeros(TILE, A.dtype)
    B_t, C_t = np.zeros(n, A.dtype), np.zeros(n, A.dtype)
    sums_B, sums_C = np.zeros(n * LANES, A.dtype), np.zeros(n * LANES, A.dtype)
    gated, zero, ahead = z.size > 0, splat(A.dtype.type(0)), -AHEAD if reverse else AHEAD
    for task in range(first, last):
        group, tile = task // tiles, task % tiles * TILE
        width = min(TILE, d - tile)
        grad_rates[:] = 0
        sums_D[:] = 0
        sums_bias[:] = 0
        _copy(A, tile, d, rates, 0, TILE, (n, width))
        for i in range(group * b // groups, (group + 1) * b // groups):
            if grad_end.size:
                _copy(grad_end, i * n * d + tile, d, grad_h, 0, TILE, (n, width))
            else:
                grad_h[:] = 0
            for part in range(chunks - 1, -1, -1):
                past = part * chunk
                count = min(chunk, length - past)
                if part:
                    _copy(starts, (i * (chunks - 1) + part - 1) * n * d + tile, d, states, 0, TILE, (n, width))
                elif state.size:
                    _copy(state, i * n * d + tile, d, states, 0, TILE, (n, width))
                else:
                    states[:row] = 0
                place = i, tile, width, past, count
                _recompute(states, steps, rates, B_t, inputs, mask, strides, sizes, place, reverse)
                for s in range(count - 1, -1, -1):
                    t = length - 1 - past - s if reverse else past + s
                    before, after = s * row, (s + 1) * row
                    reading = past + s >= length - reads
                    r = t if reverse else t - (length - reads)  # where this step is among those that are read
                    sum_B = (((tile // TILE) * b + i) * length + t) * n
                    sum_C = (((tile // TILE) * b + i) * reads + r) * n
                    if mask.size and not mask[i * length + t]:
                        for c in range(0, width, LANES):
                            o = (i * length + t) * d + tile + c
                            store(grad_u, o, width - c, zero)
                            store(grad_delta, o, width - c, zero)
                            if reading and gated:
                                store(grad_z, (i * reads + r) * d + tile + c, width - c, zero)
                        grad_B[sum_B : sum_B + n] = 0
                        if reading:
                            grad_C[sum_C : sum_C + n] = 0
                        continue
                    _read_row(B, i * B_b + t * B_l, B_t)
                    if reading:
                        _read_row(C, i * C_b + r * C_l, C_t)
                    sums_B[:] = 0
                    sums_C[:] = 0
                    for c in range(0, width, LANES):
                        rest, channel, o_t = width - c, tile + c, (i * length + t) * d + tile + c
                        u_t, D_c = load(u, i * u_b + t * u_l + channel, rest), load(D, channel, rest)
                        step = load(steps, s * TILE + c, LANES)
                        update = step * u_t
                        grad = zero  # of the read-out before the gate
                        if reading:
                            prefetch(grad_y, i * g_b + (r - ahead) * g_l + channel)
                            grad = load(grad_y, i * g_b + r * g_l + channel, rest)
                        out, grad_update, grad_step = D_c * u_t, zero, zero
                        z_t, open_, given = zero, zero, grad
                        if reading and gated:
                            prefetch(z, i * z_b + (r - ahead) * z_l + channel)
                            z_t = load(z, i * z_b + r * z_l + channel, rest)
                            open_ = sigmoid(z_t)
                            grad = given * z_t * open_
                        for k in range(n):
                            o, j = k * TILE + c, k * LANES
                            h, rate = load(states, after + o, LANES), load(rates, o, LANES)
                            grad_k = load(grad_h, o, LANES)
                            if reading:
                                grad_k += grad * C_t[k]
                                out += h * C_t[k]
                                store(sums_C, j, LANES, load(sums_C, j, LANES) + grad * h)
                            store(sums_B, j, LANES, load(sums_B, j, LANES) + grad_k * update)
                            grad_update += grad_k * B_t[k]
                            grad_k *= exp2(step * rate)
                            store(grad_h, o, LANES, grad_k)
                            grad_k *= load(states, before + o, LANES)  # now of the exponent, step * A
                            store(grad_rates, o, LANES, load(grad_rates, o, LANES) + grad_k * step)
                            grad_step += grad_k * rate
                        raw = load(delta, i * delta_b + t * delta_l + channel, rest) + load(bias, channel, rest)
                        grad_raw = (grad_step * LN_2 + grad_update * u_t) * sigmoid(raw)
                        store(grad_delta, o_t, rest, grad_raw)
                        store(grad_u, o_t, rest, grad_update * step + grad * D_c)
                        if reading and gated:
                            out_grad = (i * reads + r) * d + channel
                            store(grad_z, out_grad, rest, given * out * open_ * (1.0 + z_t * (1.0 - open_)))
                        store(sums_bias, c, LANES, load(sums_bias, c, LANES) + grad_raw)
                        store(sums_D, c, LANES, load(sums_D, c, LANES) + grad * u_t)
                    for k in range(n):
                        grad_B[sum_B + k] = lane_sum(load(sums_B, k * LANES, LANES))
                        if reading:
                            grad_C[sum_C + k] = lane_sum(load(sums_C, k * LANES, LANES))
            if grad_state.size:
                _copy(grad_h, 0, TILE, grad_state, i * n * d + tile, d, (n, width))
        _copy(grad_rates, 0, TILE, grad_A, group * n * d + tile, d, (n, width))
        _copy(sums_D, 0, TILE, grad_D, group * d + tile, d, (1, width))
        _copy(sums_bias, 0, TILE, grad_bias, group * d + tile, d, (1, width))
