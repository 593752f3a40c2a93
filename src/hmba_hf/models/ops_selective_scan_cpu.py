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
    return_last_state: bool,
    chunk: int,
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Scan; see `selective_scan`.

    Returns:
        `y`; the last state, `(b, n, d)`, if it is wanted; and, unless `chunk` is 0, the states before each chunk of so
        many steps but the first, `(b, chunks - 1, n, d)`.
    """
    (b, length, d), n, reads = u.shape, A.shape[1], 0 if C is None else C.shape[1]
    y = None if C is None else u.new_empty(b, reads, d)
    end = A.new_empty(b, n, d) if return_last_state else None
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
def _read_states(source: Any, offset: int, channels: int, tile: Any, n: int, width: int) -> None:
    """Read the states of a tile, whose rows are `channels` apart, into `(columns, n)`; a column is some lanes.

    Whole lanes are written, zeros beyond the width: what a task before left there must not be met.
    """
    for k in range(n):
        for c in range(0, width, LANES):
            store(tile, c * n + k * LANES, LANES, load(source, offset + k * channels + c, width - c))


@compiled
def _write_states(tile: Any, target: Any, offset: int, channels: int, n: int, width: int) -> None:
    """Write back what `_read_states` reads."""
    for k in range(n):
        for c in range(0, width, LANES):
            store(target, offset + k * channels + c, width - c, load(tile, c * n + k * LANES, LANES))


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
        _read_states(A, tile, d, rates, n, width)
        for i in range(group * b // groups, (group + 1) * b // groups):
            if state.size:
                _read_states(state, i * n * d + tile, d, h, n, width)
            else:
                h[:] = 0
            for s in range(length):
                t = length - 1 - s if reverse else s
                reading = s >= length - reads
                r = t if reverse else t - (length - reads)  # where this step is among those that are read
                if starts.size and s and s % chunk == 0:
                    start = (i * (chunks - 1) + s // chunk - 1) * n * d
                    _write_states(h, starts, start + tile, d, n, width)
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
                        o = c * n + k * LANES
                        state_k = exp2(step * load(rates, o, LANES)) * load(h, o, LANES) + update * B_t[k]
                        store(h, o, LANES, state_k)
                        if reading:
                            y_t += state_k * C_t[k]
                    if reading:
                        if gated:
                            z_t = load(z, i * z_b + r * z_l + channel, rest)
                            y_t *= z_t * sigmoid(z_t)
                        store(y, (i * reads + r) * d + channel, rest, y_t)
            if end.size:
                _write_states(h, end, i * n * d + tile, d, n, width)


@compiled
def _backward(
    first: int, last: int, inputs: Any, results: Any, mask: Any, strides: Any, sizes: Any, reverse: bool
) -> None:
    """Bring gradients through tasks `first` to `last`, chunk by chunk from the end of the scan.

    The inputs of a chunk are read for a whole tile. Then each column of lanes goes through the chunk alone, there and
    back, so that its states and decays stay in the first-level cache. Then the gradients of the inputs are written.
    """
    _, _, _, _, _, _, A, _, _, state, starts, grad_end = inputs
    _, _, _, grad_A, _, _, grad_D, grad_bias, grad_state = results
    b, length, reads, d, n, groups, chunk = sizes
    tiles, chunks = (d + TILE - 1) // TILE, (length + chunk - 1) // chunk
    row = n * LANES
    # Of a tile, `(columns, n)` and `(columns,)`.
    rates, grad_h, grad_rates = np.zeros(n * TILE, A.dtype), np.zeros(n * TILE, A.dtype), np.zeros(n * TILE, A.dtype)
    sums = np.zeros(TILE, A.dtype), np.zeros(TILE, A.dtype)  # gradients of D and bias
    # Of a tile in a chunk, `(columns, chunk)`: step, update, gradient of what is read before the gate; what is read,
    # gradient of the update, gradient of the step.
    given = np.zeros(chunk * TILE, A.dtype), np.zeros(chunk * TILE, A.dtype), np.zeros(chunk * TILE, A.dtype)
    found = np.zeros(chunk * TILE, A.dtype), np.zeros(chunk * TILE, A.dtype), np.zeros(chunk * TILE, A.dtype)
    # Of a chunk, `(chunk, n)`: B and C, and their gradients lane by lane.
    maps = np.zeros(chunk * n, A.dtype), np.zeros(chunk * n, A.dtype)
    grad_maps = np.zeros(chunk * row, A.dtype), np.zeros(chunk * row, A.dtype)
    # Of a column in a chunk, `(chunk, n)`: the states at its start and after each step, and the decays.
    states, decays = np.zeros((chunk + 1) * row, A.dtype), np.zeros(chunk * row, A.dtype)
    for task in range(first, last):
        group, tile = task // tiles, task % tiles * TILE
        width = min(TILE, d - tile)
        grad_rates[:] = 0
        sums[0][:] = 0
        sums[1][:] = 0
        _read_states(A, tile, d, rates, n, width)
        for i in range(group * b // groups, (group + 1) * b // groups):
            if grad_end.size:
                _read_states(grad_end, i * n * d + tile, d, grad_h, n, width)
            else:
                grad_h[:] = 0
            for part in range(chunks - 1, -1, -1):
                past = part * chunk
                count = min(chunk, length - past)
                unread = max(0, length - reads - past)  # steps at the start of this chunk that are not read
                place = i, tile, width, past, count
                _read_chunk(given, maps, inputs, mask, strides, sizes, place, reverse)
                grad_maps[0][: count * row] = 0
                grad_maps[1][: count * row] = 0
                for c in range(0, width, LANES):
                    lanes = min(LANES, width - c)
                    if part:
                        start = (i * (chunks - 1) + part - 1) * n * d
                        _read_states(starts, start + tile + c, d, states, n, lanes)
                    elif state.size:
                        _read_states(state, i * n * d + tile + c, d, states, n, lanes)
                    else:
                        states[:row] = 0
                    column = c * n, c * chunk, count, unread, n
                    _go_forth(states, decays, rates, given, found, maps, column)
                    _go_back(grad_h, grad_rates, grad_maps, states, decays, rates, given, found, maps, column)
                _write_chunk(results, sums, given, found, grad_maps, inputs, mask, strides, sizes, place, reverse)
            if grad_state.size:
                _write_states(grad_h, grad_state, i * n * d + tile, d, n, width)
        _write_states(grad_rates, grad_A, group * n * d + tile, d, n, width)
        _write_states(sums[0], grad_D, group * d + tile, d, 1, width)
        _write_states(sums[1], grad_bias, group * d + tile, d, 1, width)


@inlined
def _read_chunk(
    given: Any, maps: Any, inputs: Any, mask: Any, strides: Any, sizes: Any, place: Any, reverse: bool
) -> None:
    """Read what a chunk is given, zeros where it is masked."""
    grad_y, u, delta, B, C, z, _, _, bias, _, _, _ = inputs
    _, length, reads, _, n, _, chunk = sizes
    g_b, g_l, u_b, u_l, delta_b, delta_l, B_b, B_l, C_b, C_l, z_b, z_l = strides
    i, tile, width, past, count = place
    steps, updates, grads = given
    gated, zero, ahead = z.size > 0, splat(steps.dtype.type(0)), -AHEAD if reverse else AHEAD
    for s in range(count):
        t = length - 1 - past - s if reverse else past + s
        reading = past + s >= length - reads
        r = t if reverse else t - (length - reads)
        if mask.size and not mask[i * length + t]:
            maps[0][s * n : (s + 1) * n] = 0
            maps[1][s * n : (s + 1) * n] = 0
            for c in range(0, width, LANES):
                o = c * chunk + s * LANES
                store(steps, o, LANES, zero)
                store(updates, o, LANES, zero)
                store(grads, o, LANES, zero)
            continue
        _read_row(B, i * B_b + t * B_l, maps[0][s * n : (s + 1) * n])
        if reading:
            _read_row(C, i * C_b + r * C_l, maps[1][s * n : (s + 1) * n])
        for c in range(0, width, LANES):
            rest, channel, o = width - c, tile + c, c * chunk + s * LANES
            prefetch(u, i * u_b + (t + ahead) * u_l + channel)
            prefetch(delta, i * delta_b + (t + ahead) * delta_l + channel)
            step = softplus(load(delta, i * delta_b + t * delta_l + channel, rest) + load(bias, channel, rest))
            store(steps, o, LANES, step)
            store(updates, o, LANES, step * load(u, i * u_b + t * u_l + channel, rest))
            if reading:
                prefetch(grad_y, i * g_b + (r + ahead) * g_l + channel)
                grad = load(grad_y, i * g_b + r * g_l + channel, rest)
                if gated:
                    prefetch(z, i * z_b + (r + ahead) * z_l + channel)
                    z_t = load(z, i * z_b + r * z_l + channel, rest)
                    grad *= z_t * sigmoid(z_t)
                store(grads, o, LANES, grad)


@inlined
def _go_forth(states: Any, decays: Any, rates: Any, given: Any, found: Any, maps: Any, column: Any) -> None:
    """Run a column through a chunk again; keep the state after each step, its decay, and what is read of it."""
    tile_row, chunk_row, count, unread, n = column
    for s in range(count):
        o = chunk_row + s * LANES
        step, update, out = load(given[0], o, LANES), load(given[1], o, LANES), splat(rates.dtype.type(0))
        for k in range(n):
            j = (s * n + k) * LANES
            decay = exp2(step * load(rates, tile_row + k * LANES, LANES))
            h = decay * load(states, j, LANES) + update * maps[0][s * n + k]
            store(decays, j, LANES, decay)
            store(states, j + n * LANES, LANES, h)
            if s >= unread:
                out += h * maps[1][s * n + k]
        store(found[0], o, LANES, out)


@inlined
def _go_back(
    grad_h: Any,
    grad_rates: Any,
    grad_maps: Any,
    states: Any,
    decays: Any,
    rates: Any,
    given: Any,
    found: Any,
    maps: Any,
    column: Any,
) -> None:
    """Bring the gradient of a column's states back through a chunk."""
    tile_row, chunk_row, count, unread, n = column
    for s in range(count - 1, -1, -1):
        o = chunk_row + s * LANES
        step, update, grad = load(given[0], o, LANES), load(given[1], o, LANES), load(given[2], o, LANES)
        grad_update, grad_step = splat(rates.dtype.type(0)), splat(rates.dtype.type(0))
        for k in range(n):
            j, m = (s * n + k) * LANES, tile_row + k * LANES
            grad_k = load(grad_h, m, LANES)
            if s >= unread:
                grad_k += grad * maps[1][s * n + k]
                h = load(states, j + n * LANES, LANES)
                store(grad_maps[1], j, LANES, load(grad_maps[1], j, LANES) + grad * h)
            store(grad_maps[0], j, LANES, load(grad_maps[0], j, LANES) + grad_k * update)
            grad_update += grad_k * maps[0][s * n + k]
            grad_k *= load(decays, j, LANES)
            store(grad_h, m, LANES, grad_k)
            grad_k *= load(states, j, LANES)  # now of the exponent, step * A
            store(grad_rates, m, LANES, load(grad_rates, m, LANES) + grad_k * step)
            grad_step += grad_k * load(rates, m, LANES)
        store(found[1], o, LANES, grad_update)
        store(found[2], o, LANES, grad_step)


@inlined
def _write_chunk(
    results: Any,
    sums: Any,
    given: Any,
    found: Any,
    grad_maps: Any,
    inputs: Any,
    mask: Any,
    strides: Any,
    sizes: Any,
    place: Any,
    reverse: bool,
) -> None:
    """Write the gradients of what a chunk was given, zeros where it is masked, and add to those of `D` and bias."""
    grad_y, u, delta, _, _, z, _, D, bias, _, _, _ = inputs
    grad_u, grad_delta, grad_z, _, grad_B, grad_C, _, _, _ = results
    b, length, reads, d, n, _, chunk = sizes
    g_b, g_l, u_b, u_l, delta_b, delta_l, _, _, _, _, z_b, z_l = strides
    i, tile, width, past, count = place
    gated, zero = z.size > 0, splat(D.dtype.type(0))
    for s in range(count):
        t = length - 1 - past - s if reverse else past + s
        reading = past + s >= length - reads
        r = t if reverse else t - (length - reads)
        for c in range(0, width, LANES):
            rest, channel, o = width - c, tile + c, c * chunk + s * LANES
            o_u, o_z = (i * length + t) * d + channel, (i * reads + r) * d + channel
            if mask.size and not mask[i * length + t]:
                store(grad_u, o_u, rest, zero)
                store(grad_delta, o_u, rest, zero)
                if reading and gated:
                    store(grad_z, o_z, rest, zero)
                continue
            u_t, D_c = load(u, i * u_b + t * u_l + channel, rest), load(D, channel, rest)
            step, grad, out = load(given[0], o, LANES), load(given[2], o, LANES), load(found[0], o, LANES)
            grad_update, grad_step = load(found[1], o, LANES), load(found[2], o, LANES)
            raw = load(delta, i * delta_b + t * delta_l + channel, rest) + load(bias, channel, rest)
            grad_raw = (grad_step * LN_2 + grad_update * u_t) * sigmoid(raw)
            grad_u_t = grad_update * step
            store(sums[1], c, LANES, load(sums[1], c, LANES) + grad_raw)
            if reading:
                grad_u_t += grad * D_c
                store(sums[0], c, LANES, load(sums[0], c, LANES) + grad * u_t)
            if reading and gated:
                z_t, grad_t = (
                    load(z, i * z_b + r * z_l + channel, rest),
                    load(grad_y, i * g_b + r * g_l + channel, rest),
                )
                open_ = sigmoid(z_t)
                store(grad_z, o_z, rest, grad_t * (out + D_c * u_t) * open_ * (1.0 + z_t * (1.0 - open_)))
            store(grad_delta, o_u, rest, grad_raw)
            store(grad_u, o_u, rest, grad_u_t)
        sum_B = ((tile // TILE * b + i) * length + t) * n
        sum_C = ((tile // TILE * b + i) * reads + r) * n
        for k in range(n):
            grad_B[sum_B + k] = lane_sum(load(grad_maps[0], (s * n + k) * LANES, LANES))
            if reading:
                grad_C[sum_C + k] = lane_sum(load(grad_maps[1], (s * n + k) * LANES, LANES))
