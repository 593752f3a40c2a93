"""The selective scan for CPUs in one pass over memory, forward and backward, compiled by Numba.

Channels are the lanes. A task is a tile of channels in a group of batch rows, and goes over time in chunks. Of each,
first all inputs are read, row by row as they lie in memory; then each column of lanes goes through it alone, four
states at a time in registers; then all results are written. So nothing of size `(b, l, d, n)` ever exists. Tasks share
no output, and sums across tasks go through partial results whose number does not depend on the threads: the same
inputs give the same bits.

States lie as `(b, n, d)` here, with the channels adjacent.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .ops_launch_cpu import compiled, flat, inlined, launch, split, strides
from .ops_simd_cpu import (
    LANES,
    add_four,
    add_products,
    add_scaled,
    exp2_four,
    four_numbers,
    lane_sum,
    load,
    load_four,
    multiply_add_four,
    multiply_four,
    prefetch,
    read,
    scale_four,
    sigmoid,
    softplus,
    splat,
    store,
    store_four,
    zeros,
)

TILE = 1024  # channels of a task, at most; rows lie pages apart, and with few channels pages are looked up too often
BLOCK = 256  # channels of a partial sum, at most
CHUNK = 32  # steps that are read at once, where no state is kept between chunks
STATES = 4  # in registers at once
FOUR = STATES * LANES
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
    tile = _tile(b, d, LANES)
    groups, tiles = split(b, d, tile)
    launch(
        _forward,
        groups * tiles,
        b * length * d * n,
        (
            *flat(u.dtype, u, delta, B, C, z, None),
            *flat(A.dtype, _by_state(A) / LN_2, *weights, state, None, None),
        ),
        (*flat(u.dtype, y), *flat(A.dtype, end, starts)),
        *flat(torch.bool, mask),
        strides(u, delta, B, C, z, None),
        (b, length, reads, d, n, groups, chunk or max(1, min(CHUNK, length)), tile, tile),
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
    block = _block(d)
    groups, blocks = split(b, d, block)
    tile = _tile(groups, d, block)
    grad_u, grad_delta = u.new_empty(b, length, d), u.new_empty(b, length, d)
    grad_z = None if z is None else u.new_empty(b, reads, d)
    grad_state = None if state is None else A.new_empty(b, n, d)
    grad_B = A.new_empty(blocks, b, length, n)
    grad_C = None if C is None else A.new_empty(blocks, b, reads, n)
    grad_A = A.new_empty(groups, n, d)
    grad_weights = A.new_empty(2, groups, d)
    launch(
        _backward,
        groups * -(-d // tile),
        3 * b * length * d * n,
        (
            *flat(u.dtype, u, delta, B, C, z, grad_y),
            *flat(A.dtype, _by_state(A) / LN_2, *weights, state, starts, grad_end),
        ),
        (
            *flat(u.dtype, grad_u, grad_delta, grad_z),
            *flat(A.dtype, grad_A, grad_B, grad_C, *grad_weights, grad_state),
        ),
        *flat(torch.bool, mask),
        strides(u, delta, B, C, z, grad_y),
        (b, length, reads, d, n, groups, chunk, tile, block),
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


def _tile(groups: int, d: int, whole: int) -> int:
    """As many channels for a task as leave one for each thread: a multiple of `whole`, or all that there are."""
    tasks_of_group = -(-torch.get_num_threads() // max(1, groups))
    channels = min(-(-d // (tasks_of_group * whole)), TILE // whole) * whole
    return min(channels, -(-d // LANES) * LANES)


def _block(d: int) -> int:
    """Channels of a partial sum, whatever the number of threads, which must change no bit.

    There are 1, 2, 4, 8, ... blocks, so that threads have equal shares.
    """
    blocks = 1 << (-(-d // BLOCK) - 1).bit_length()
    return -(-d // (blocks * LANES)) * LANES


def _by_state(x: Tensor) -> Tensor:
    return x.T.contiguous()


@compiled
def _forward(
    first: int, last: int, inputs: Any, results: Any, mask: Any, strides: Any, sizes: Any, reverse: bool
) -> None:
    """Scan tasks `first` to `last`: a tile of channels each, over the batch rows of a group."""
    _, _, _, _, _, _, A, _, _, state, _, _ = inputs
    y, end, starts = results
    b, length, reads, d, n, groups, chunk, widest, _ = sizes
    tiles, chunks, padded = -(-d // widest), -(-length // chunk), -(-n // STATES) * STATES
    rates, h = zeros(padded * widest, A), zeros(padded * widest, A)
    call = inputs, mask, strides, sizes, reverse
    given, maps = _room_for_inputs(chunk, widest, padded, A)
    kept = zeros(0, A), zeros(0, A)
    for task in range(first, last):
        group, tile = task // tiles, task % tiles * widest
        width = min(widest, d - tile)
        _read_states(A, tile, d, rates, (n, padded, width))
        for i in range(group * b // groups, (group + 1) * b // groups):
            if state.size:
                _read_states(state, i * n * d + tile, d, h, (n, padded, width))
            else:
                h[:] = 0
            for part in range(chunks):
                past = part * chunk
                count = min(chunk, length - past)
                unread = max(0, length - reads - past)  # steps at the start of this chunk that are not read
                if part and starts.size:
                    start = (i * (chunks - 1) + part - 1) * n * d
                    _write_states(h, starts, start + tile, d, (n, padded, width))
                place = i, tile, width, past, count
                _read_chunk(given, maps, call, place)
                for c in range(0, width, LANES):
                    for k in range(0, padded, STATES):
                        four = c * padded + k * LANES, c * chunk, count, unread, padded, k
                        _go_forth(h, rates, given, maps, kept, four)
                if unread < count:
                    _write_read_out(y, given, call, place)
            if end.size:
                _write_states(h, end, i * n * d + tile, d, (n, padded, width))


@compiled
def _backward(
    first: int, last: int, inputs: Any, results: Any, mask: Any, strides: Any, sizes: Any, reverse: bool
) -> None:
    """Bring gradients through tasks `first` to `last`, chunk by chunk from the end of the scan.

    A column goes through each chunk there and back, with its states and decays in the cache in between.
    """
    _, _, _, _, _, _, A, _, _, state, starts, grad_end = inputs
    _, _, _, grad_A, _, _, grad_D, grad_bias, grad_state = results
    b, length, reads, d, n, groups, chunk, widest, block = sizes
    tiles, chunks, padded = -(-d // widest), -(-length // chunk), -(-n // STATES) * STATES
    rates, h = zeros(padded * widest, A), zeros(padded * widest, A)
    grad_rates, grad_h = zeros(padded * widest, A), zeros(padded * widest, A)
    sums = zeros(widest, A), zeros(widest, A)  # gradients of D and bias
    given, maps = _room_for_inputs(chunk, widest, padded, A)
    # Of a tile in a chunk, `(columns, chunk)`: gradients of the update and of the step.
    found = zeros(chunk * widest, A), zeros(chunk * widest, A)
    # Of four states of a block in a chunk: gradients of B and C, lane by lane.
    grad_maps = zeros(chunk * FOUR, A), zeros(chunk * FOUR, A)
    # Of four states of a column in a chunk: these at its start and after each step, and their decays.
    kept = zeros((chunk + 1) * FOUR, A), zeros(chunk * FOUR, A)
    call, grads = (inputs, mask, strides, sizes, reverse), (grad_h, grad_rates, grad_maps, found)
    for task in range(first, last):
        group, tile = task // tiles, task % tiles * widest
        width = min(widest, d - tile)
        size = n, padded, width
        grad_rates[:] = 0
        sums[0][:] = 0
        sums[1][:] = 0
        _read_states(A, tile, d, rates, size)
        for i in range(group * b // groups, (group + 1) * b // groups):
            if grad_end.size:
                _read_states(grad_end, i * n * d + tile, d, grad_h, size)
            else:
                grad_h[:] = 0
            for part in range(chunks - 1, -1, -1):
                past = part * chunk
                count = min(chunk, length - past)
                unread = max(0, length - reads - past)  # steps at the start of this chunk that are not read
                if part:
                    _read_states(starts, (i * (chunks - 1) + part - 1) * n * d + tile, d, h, size)
                elif state.size:
                    _read_states(state, i * n * d + tile, d, h, size)
                else:
                    h[:] = 0
                place = i, tile, width, past, count
                _read_chunk(given, maps, call, place)
                for at in range(0, width, block):
                    for k in range(0, padded, STATES):
                        grad_maps[0][: count * FOUR] = 0
                        grad_maps[1][: count * FOUR] = 0
                        for c in range(at, min(at + block, width), LANES):
                            four = c * padded + k * LANES, c * chunk, count, unread, padded, k
                            _go_forth(h, rates, given, maps, kept, four)
                            _go_back(grads, rates, given, maps, kept, four)
                        _write_map_gradients(results, grad_maps, call, place, at, k)
                _write_gradients(results, sums, given, found, call, place)
            if grad_state.size:
                _write_states(grad_h, grad_state, i * n * d + tile, d, size)
        _write_states(grad_rates, grad_A, group * n * d + tile, d, size)
        _write_states(sums[0], grad_D, group * d + tile, d, (1, 1, width))
        _write_states(sums[1], grad_bias, group * d + tile, d, (1, 1, width))


@inlined
def _room_for_inputs(chunk: int, widest: int, padded: int, like: Any) -> Any:
    """Make room for what `_read_chunk` reads.

    First of a tile, `(columns, chunk)`: step, update, what is read, and the gradient of that before the gate. Then of
    all channels, `(chunk, n)`: `B` and `C`, with zeros for states that do not exist.
    """
    given = (
        zeros(chunk * widest, like),
        zeros(chunk * widest, like),
        zeros(chunk * widest, like),
        zeros(chunk * widest, like),
    )
    return given, (zeros(chunk * padded, like), zeros(chunk * padded, like))


@inlined
def _read_chunk(given: Any, maps: Any, call: Any, place: Any) -> None:
    """Read what a chunk is given, zeros where it is masked; what is read of a step begins with the skip connection."""
    inputs, mask, strides, sizes, reverse = call
    u, delta, B, C, z, grad_y, _, D, bias, _, _, _ = inputs
    _, length, reads, _, n, _, chunk, _, _ = sizes
    u_b, u_l, delta_b, delta_l, B_b, B_l, C_b, C_l, z_b, z_l, g_b, g_l = strides
    i, tile, width, past, count = place
    steps, updates, outs, grads = given
    padded, zero, ahead = maps[0].size // chunk, splat(steps.dtype.type(0)), -AHEAD if reverse else AHEAD
    for s in range(count):
        t = length - 1 - past - s if reverse else past + s
        reading = past + s >= length - reads
        r = t if reverse else t - (length - reads)  # where this step is among those that are read
        if mask.size and not mask[i * length + t]:
            maps[0][s * padded : s * padded + n] = 0
            maps[1][s * padded : s * padded + n] = 0
            for c in range(0, width, LANES):
                for array in given:
                    store(array, c * chunk + s * LANES, LANES, zero)
            continue
        for k in range(n):
            maps[0][s * padded + k] = read(B, i * B_b + t * B_l + k)
            if reading:
                maps[1][s * padded + k] = read(C, i * C_b + r * C_l + k)
        for c in range(0, width, LANES):
            rest, channel, o = width - c, tile + c, c * chunk + s * LANES
            prefetch(u, i * u_b + (t + ahead) * u_l + channel)
            prefetch(delta, i * delta_b + (t + ahead) * delta_l + channel)
            u_t = load(u, i * u_b + t * u_l + channel, rest)
            step = softplus(load(delta, i * delta_b + t * delta_l + channel, rest) + load(bias, channel, rest))
            store(steps, o, LANES, step)
            store(updates, o, LANES, step * u_t)
            if reading:
                store(outs, o, LANES, load(D, channel, rest) * u_t)
                if z.size:
                    prefetch(z, i * z_b + (r + ahead) * z_l + channel)
            if reading and grad_y.size:
                prefetch(grad_y, i * g_b + (r + ahead) * g_l + channel)
                grad = load(grad_y, i * g_b + r * g_l + channel, rest)
                if z.size:
                    z_t = load(z, i * z_b + r * z_l + channel, rest)
                    grad *= z_t * sigmoid(z_t)
                store(grads, o, LANES, grad)


@inlined
def _go_forth(h: Any, rates: Any, given: Any, maps: Any, kept: Any, four: Any) -> None:
    """Run four states of a column through a chunk; where there is room, keep them and their decays at each step."""
    m, chunk_row, count, unread, n, k = four
    steps, updates, outs, _ = given
    states, decays = kept
    rates_k, h_k = load_four(rates, m), load_four(h, m)
    if states.size:
        store_four(states, 0, h_k)
    for s in range(count):
        o, j = chunk_row + s * LANES, s * n + k
        step, update = load(steps, o, LANES), load(updates, o, LANES)
        decay = exp2_four(scale_four(rates_k, step))
        h_k = multiply_add_four(decay, h_k, scale_four(four_numbers(maps[0], j), update))
        if states.size:
            store_four(decays, s * FOUR, decay)
            store_four(states, (s + 1) * FOUR, h_k)
        if s >= unread:
            store(outs, o, LANES, add_products(load(outs, o, LANES), h_k, four_numbers(maps[1], j)))
    if not states.size:
        store_four(h, m, h_k)


@inlined
def _go_back(grads: Any, rates: Any, given: Any, maps: Any, kept: Any, four: Any) -> None:
    """Bring the gradients of four states of a column back through a chunk."""
    grad_h, grad_rates, grad_maps, found = grads
    m, chunk_row, count, unread, n, k = four
    steps, updates, _, grads_read = given
    states, decays = kept
    zero = splat(rates.dtype.type(0))
    rates_k, grad_k, grad_rates_k = load_four(rates, m), load_four(grad_h, m), load_four(grad_rates, m)
    for s in range(count - 1, -1, -1):
        o, j = chunk_row + s * LANES, s * n + k
        step, update = load(steps, o, LANES), load(updates, o, LANES)
        grad_update, grad_step = zero, zero
        if k:
            grad_update, grad_step = load(found[0], o, LANES), load(found[1], o, LANES)
        if s >= unread:
            grad, h = load(grads_read, o, LANES), load_four(states, (s + 1) * FOUR)
            add_four(grad_maps[1], s * FOUR, scale_four(h, grad))
            grad_k = add_scaled(grad_k, four_numbers(maps[1], j), grad)
        add_four(grad_maps[0], s * FOUR, scale_four(grad_k, update))
        grad_update = add_products(grad_update, grad_k, four_numbers(maps[0], j))
        grad_k = multiply_four(grad_k, load_four(decays, s * FOUR))
        inner = multiply_four(grad_k, load_four(states, s * FOUR))  # of the exponents, step * A
        grad_rates_k = add_scaled(grad_rates_k, inner, step)
        grad_step = add_products(grad_step, inner, rates_k)
        store(found[0], o, LANES, grad_update)
        store(found[1], o, LANES, grad_step)
    store_four(grad_h, m, grad_k)
    store_four(grad_rates, m, grad_rates_k)


@inlined
def _write_read_out(y: Any, given: Any, call: Any, place: Any) -> None:
    """Write what is read of a chunk, after the gate; zeros where it is masked."""
    inputs, mask, strides, sizes, reverse = call
    z = inputs[4]
    _, length, reads, d, _, _, chunk, _, _ = sizes
    i, tile, width, past, count = place
    zero = splat(given[2].dtype.type(0))
    for s in range(max(0, length - reads - past), count):
        t = length - 1 - past - s if reverse else past + s
        r = t if reverse else t - (length - reads)
        hidden = mask.size and not mask[i * length + t]
        for c in range(0, width, LANES):
            y_t = load(given[2], c * chunk + s * LANES, LANES)
            if z.size and not hidden:
                z_t = load(z, i * strides[8] + r * strides[9] + tile + c, width - c)
                y_t *= z_t * sigmoid(z_t)
            store(y, (i * reads + r) * d + tile + c, width - c, zero if hidden else y_t)


@inlined
def _write_gradients(results: Any, sums: Any, given: Any, found: Any, call: Any, place: Any) -> None:
    """Write the gradients of what a chunk was given, zeros where it is masked, and add to those of `D` and bias."""
    inputs, mask, strides, sizes, reverse = call
    u, delta, _, _, z, grad_y, _, D, bias, _, _, _ = inputs
    grad_u, grad_delta, grad_z, _, _, _, _, _, _ = results
    _, length, reads, d, _, _, chunk, _, _ = sizes
    u_b, u_l, delta_b, delta_l, _, _, _, _, z_b, z_l, g_b, g_l = strides
    i, tile, width, past, count = place
    zero = splat(D.dtype.type(0))
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
                if reading and z.size:
                    store(grad_z, o_z, rest, zero)
                continue
            u_t, step = load(u, i * u_b + t * u_l + channel, rest), load(given[0], o, LANES)
            grad_update, grad_step = load(found[0], o, LANES), load(found[1], o, LANES)
            raw = load(delta, i * delta_b + t * delta_l + channel, rest) + load(bias, channel, rest)
            grad_raw = (grad_step * LN_2 + grad_update * u_t) * sigmoid(raw)
            grad_u_t = grad_update * step
            store(sums[1], c, LANES, load(sums[1], c, LANES) + grad_raw)
            if reading:
                out, grad = load(given[2], o, LANES), load(given[3], o, LANES)
                grad_u_t += grad * load(D, channel, rest)
                store(sums[0], c, LANES, load(sums[0], c, LANES) + grad * u_t)
                if z.size:
                    z_t = load(z, i * z_b + r * z_l + channel, rest)
                    open_, grad_t = sigmoid(z_t), load(grad_y, i * g_b + r * g_l + channel, rest)
                    store(grad_z, o_z, rest, grad_t * out * open_ * (1.0 + z_t * (1.0 - open_)))
            store(grad_delta, o_u, rest, grad_raw)
            store(grad_u, o_u, rest, grad_u_t)


@inlined
def _write_map_gradients(results: Any, grad_maps: Any, call: Any, place: Any, at: int, k: int) -> None:
    """Write a block's part of the gradients of `B` and `C`, of four states in a chunk."""
    _, _, _, _, grad_B, grad_C, _, _, _ = results
    _, _, _, (b, length, reads, _, n, _, _, _, block), reverse = call
    i, tile, _, past, count = place
    row = (tile + at) // block * b + i
    for s in range(count):
        t = length - 1 - past - s if reverse else past + s
        r = t if reverse else t - (length - reads)
        for m in range(min(STATES, n - k)):
            o = s * FOUR + m * LANES
            grad_B[(row * length + t) * n + k + m] = lane_sum(load(grad_maps[0], o, LANES))
            if past + s >= length - reads:
                grad_C[(row * reads + r) * n + k + m] = lane_sum(load(grad_maps[1], o, LANES))


@compiled
def _read_states(source: Any, offset: int, channels: int, tile: Any, size: Any) -> None:
    """Read the states of a tile, whose rows are `channels` apart, into `(columns, padded n)`; a column is some lanes.

    Whole lanes are written, zeros beyond the width and for states that do not exist: what a row or a task before left
    there must not be met.
    """
    n, padded, width = size
    for k in range(padded):
        for c in range(0, width, LANES):
            count = width - c if k < n else 0
            store(tile, c * padded + k * LANES, LANES, load(source, offset + k * channels + c, count))


@compiled
def _write_states(tile: Any, target: Any, offset: int, channels: int, size: Any) -> None:
    """Write back what `_read_states` reads."""
    n, padded, width = size
    for k in range(n):
        for c in range(0, width, LANES):
            store(target, offset + k * channels + c, width - c, load(tile, c * padded + k * LANES, LANES))
