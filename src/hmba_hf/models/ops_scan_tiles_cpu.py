"""How a task of the CPU scan reads a tile of channels from memory, and how it writes one back.

Rows lie in memory step by step, `(b, l, d)`; in a tile, each column of lanes lies together for all steps of a chunk.
"""

from typing import Any

from .ops_launch_cpu import compiled, inlined
from .ops_scan_records_cpu import Given, Maps
from .ops_simd_cpu import (
    LANES,
    LN_2,
    SPREAD,
    lane_sum,
    largest,
    load,
    longest_step,
    prefetch,
    read,
    sigmoid,
    smallest,
    softplus,
    splat,
    store,
    within_range,
    zeros,
)
from .ops_simd_fours_cpu import write_number

STATES = 4  # in registers at once
FOUR = STATES * LANES
AHEAD = 2  # steps between asking for inputs and reading them: rows lie too far apart for the processor to foresee


@inlined
def room_for_given(size: int, like: Any) -> Any:
    """Make room for what `read_chunk` reads of a tile."""
    return Given(zeros(size, like), zeros(size, like), zeros(size, like), zeros(size, like))


@inlined
def room_for_maps(size: int, like: Any) -> Any:
    """Make room for maps or their gradients; maps of states that do not exist stay zero."""
    return Maps(zeros(size, like), zeros(size, like))


# Taking an array out of a record counts a reference, which costs more than a step: records are opened before loops.


@inlined
def _position(sizes: Any, reverse: bool, p: int) -> Any:
    """Return where step `p` of the scan lies in time, and where among the steps that are read."""
    if reverse:
        t = sizes.length - 1 - p
        r = t
    else:
        t = p
        r = p - (sizes.length - sizes.reads)
    return t, r


@inlined
def _is_masked(mask: Any, o: int) -> Any:
    """Whether the step at `o` is masked."""
    masked = False
    if mask.size:
        masked = not mask[o]
    return masked


@inlined
def read_chunk(given: Any, maps: Any, longest: Any, call: Any, place: Any) -> None:
    """Read the inputs of a chunk, zeros where it is masked; the read-out of a step begins with the skip connection."""
    inputs = call.inputs
    mask = call.mask
    by = call.strides
    sizes = call.sizes
    chunk = sizes.chunk
    n = sizes.n
    row = place.row
    padded = maps.B.size // (chunk * SPREAD)
    zero = splat(given.steps.dtype.type(0))
    ahead = -AHEAD if call.reverse else AHEAD
    for s in range(place.steps):
        t, r = _position(sizes, call.reverse, place.past + s)
        reading = place.past + s >= sizes.length - sizes.reads
        if _is_masked(mask, row * sizes.length + t):
            maps.B[s * padded * SPREAD : (s * padded + n) * SPREAD] = 0
            maps.C[s * padded * SPREAD : (s * padded + n) * SPREAD] = 0
            for c in range(0, place.width, LANES):
                for array in given:
                    store(array, c * chunk + s * LANES, LANES, zero)
            continue
        for k in range(n):
            write_number(maps.B, s * padded + k, read(inputs.B, row * by.B_b + t * by.B_l + k))
            if reading:
                write_number(maps.C, s * padded + k, read(inputs.C, row * by.C_b + r * by.C_l + k))
        for c in range(0, place.width, LANES):
            rest = place.width - c
            channel = place.tile + c
            o = c * chunk + s * LANES
            prefetch(inputs.u, row * by.u_b + (t + ahead) * by.u_l + channel)
            prefetch(inputs.delta, row * by.delta_b + (t + ahead) * by.delta_l + channel)
            u_t = load(inputs.u, row * by.u_b + t * by.u_l + channel, rest)
            raw = load(inputs.delta, row * by.delta_b + t * by.delta_l + channel, rest)
            step = softplus(raw + load(inputs.bias, channel, rest))
            store(given.steps, o, LANES, smallest(load(longest, c, LANES), step))
            store(given.updates, o, LANES, step * u_t)
            if reading:
                store(given.outs, o, LANES, load(inputs.D, channel, rest) * u_t)
                if inputs.z.size:
                    prefetch(inputs.z, row * by.z_b + (r + ahead) * by.z_l + channel)
            if reading and inputs.grad_y.size:
                prefetch(inputs.grad_y, row * by.grad_y_b + (r + ahead) * by.grad_y_l + channel)
                grad = load(inputs.grad_y, row * by.grad_y_b + r * by.grad_y_l + channel, rest)
                if inputs.z.size:
                    z_t = load(inputs.z, row * by.z_b + r * by.z_l + channel, rest)
                    grad *= z_t * sigmoid(z_t)
                store(given.grads, o, LANES, grad)


@inlined
def write_read_out(y: Any, given: Any, call: Any, place: Any) -> None:
    """Write the read-out of a chunk, after the gate; zeros where it is masked."""
    z = call.inputs.z
    mask = call.mask
    by = call.strides
    sizes = call.sizes
    row = place.row
    zero = splat(given.outs.dtype.type(0))
    for s in range(max(0, sizes.length - sizes.reads - place.past), place.steps):
        t, r = _position(sizes, call.reverse, place.past + s)
        masked = _is_masked(mask, row * sizes.length + t)
        for c in range(0, place.width, LANES):
            rest = place.width - c
            channel = place.tile + c
            y_t = load(given.outs, c * sizes.chunk + s * LANES, LANES)
            if masked:
                y_t = zero
            elif z.size:
                z_t = load(z, row * by.z_b + r * by.z_l + channel, rest)
                y_t *= z_t * sigmoid(z_t)
            store(y, (row * sizes.reads + r) * sizes.d + channel, rest, y_t)


@inlined
def write_gradients(gradients: Any, back: Any, given: Any, call: Any, place: Any) -> None:
    """Write the gradients of a chunk's inputs, zeros where it is masked, and add to those of `D` and the bias."""
    inputs = call.inputs
    mask = call.mask
    by = call.strides
    sizes = call.sizes
    found = back.found
    row = place.row
    zero = splat(inputs.D.dtype.type(0))
    for s in range(place.steps):
        t, r = _position(sizes, call.reverse, place.past + s)
        reading = place.past + s >= sizes.length - sizes.reads
        masked = _is_masked(mask, row * sizes.length + t)
        for c in range(0, place.width, LANES):
            rest = place.width - c
            channel = place.tile + c
            o = c * sizes.chunk + s * LANES
            o_u = (row * sizes.length + t) * sizes.d + channel
            o_z = (row * sizes.reads + r) * sizes.d + channel
            if masked:
                store(gradients.u, o_u, rest, zero)
                store(gradients.delta, o_u, rest, zero)
                if reading and inputs.z.size:
                    store(gradients.z, o_z, rest, zero)
                continue
            u_t = load(inputs.u, row * by.u_b + t * by.u_l + channel, rest)
            step = load(given.steps, o, LANES)
            grad_update = load(found.updates, o, LANES)
            grad_step = load(found.steps, o, LANES)
            raw = load(inputs.delta, row * by.delta_b + t * by.delta_l + channel, rest)
            raw += load(inputs.bias, channel, rest)
            grad_raw = (grad_step * LN_2 + grad_update * u_t) * sigmoid(raw)
            grad_u_t = grad_update * step
            store(back.bias, c, LANES, load(back.bias, c, LANES) + grad_raw)
            if reading:
                out = load(given.outs, o, LANES)
                grad = load(given.grads, o, LANES)
                grad_u_t += grad * load(inputs.D, channel, rest)
                store(back.D, c, LANES, load(back.D, c, LANES) + grad * u_t)
                if inputs.z.size:
                    z_t = load(inputs.z, row * by.z_b + r * by.z_l + channel, rest)
                    open_ = sigmoid(z_t)
                    grad_t = load(inputs.grad_y, row * by.grad_y_b + r * by.grad_y_l + channel, rest)
                    store(gradients.z, o_z, rest, grad_t * out * open_ * (1.0 + z_t * (1.0 - open_)))
            store(gradients.delta, o_u, rest, grad_raw)
            store(gradients.u, o_u, rest, grad_u_t)


@inlined
def write_map_gradients(gradients: Any, maps: Any, call: Any, place: Any, block: Any) -> None:
    """Write a block's part of the gradients of `B` and `C`, for four states in a chunk."""
    sizes = call.sizes
    row = block.channel // sizes.block * sizes.b + place.row
    for s in range(place.steps):
        t, r = _position(sizes, call.reverse, place.past + s)
        for m in range(min(STATES, sizes.n - block.k)):
            o = s * FOUR + m * LANES
            k = block.k + m
            gradients.B[(row * sizes.length + t) * sizes.n + k] = lane_sum(load(maps.B, o, LANES))
            if place.past + s >= sizes.length - sizes.reads:
                gradients.C[(row * sizes.reads + r) * sizes.n + k] = lane_sum(load(maps.C, o, LANES))


@compiled
def read_states(source: Any, offset: int, channels: int, tile: Any, size: Any) -> None:
    """Read the states of a tile, whose rows are `channels` apart, into `(columns, padded n)`.

    This writes whole lanes: zeros beyond the width and for states that do not exist, since the row or task before left
    its own numbers there.
    """
    n, padded, width = size
    for k in range(padded):
        for c in range(0, width, LANES):
            count = width - c if k < n else 0
            store(tile, c * padded + k * LANES, LANES, load(source, offset + k * channels + c, count))


@compiled
def read_rates(source: Any, tile: int, channels: int, rates: Any, longest: Any, size: Any) -> None:
    """Read the rates of decay of a tile as `read_states` does, and the longest step that each channel's states take.

    A state that grows faster leaves the range of floats within the step, however long it is beyond that.
    """
    n, padded, width = size
    read_states(source, tile, channels, rates, size)
    for c in range(0, width, LANES):
        fastest = splat(rates.dtype.type(0))
        for k in range(n):
            o = c * padded + k * LANES
            rate = load(rates, o, LANES)
            fastest = largest(fastest, rate)
            store(rates, o, LANES, within_range(rate))
        store(longest, c, LANES, longest_step(fastest))


@compiled
def write_states(tile: Any, target: Any, offset: int, channels: int, size: Any) -> None:
    """Write back what `read_states` reads."""
    n, padded, width = size
    for k in range(n):
        for c in range(0, width, LANES):
            store(target, offset + k * channels + c, width - c, load(tile, c * padded + k * LANES, LANES))
