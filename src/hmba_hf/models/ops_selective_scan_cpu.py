"""The selective scan for CPUs in one pass over memory, forward and backward, compiled by Numba.

Channels are the lanes. A task is a tile of channels in a group of batch rows, and goes over time in chunks. Of each,
first all inputs are read, row by row as they lie in memory; then each column of lanes goes through it alone, four
states at a time in registers; then all results are written. So nothing of size `(b, l, d, n)` ever exists. Tasks share
no output, and sums across tasks go through partial results whose number does not depend on the threads: the same
inputs give the same bits.

States lie as `(b, n, d)` here, with the channels adjacent.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .ops_launch_cpu import compiled, flat, inlined, launch, split, strides
from .ops_scan_inputs import ScanInputs
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


class Inputs(NamedTuple):
    """What a kernel reads, each as one flat array, empty for what is absent: as `u`, or as `A`, from `rates` on."""

    u: Any
    delta: Any
    B: Any
    C: Any
    z: Any
    grad_y: Any
    rates: Any  # of decay in powers of two, `(n, d)`
    D: Any
    bias: Any
    state: Any
    starts: Any
    grad_end: Any


class Outputs(NamedTuple):
    """What the forward kernel writes."""

    y: Any
    end: Any
    starts: Any


class Gradients(NamedTuple):
    """What the backward kernel writes; sums across tasks are left to torch."""

    u: Any
    delta: Any
    z: Any
    rates: Any  # `(groups, n, d)`
    B: Any  # `(blocks, b, l, n)`
    C: Any  # `(blocks, b, reads, n)`
    D: Any  # `(groups, d)`
    bias: Any  # `(groups, d)`
    state: Any


class Strides(NamedTuple):
    """How far rows of the batch (`_b`) and steps (`_l`) lie apart in memory."""

    u_b: int
    u_l: int
    delta_b: int
    delta_l: int
    B_b: int
    B_l: int
    C_b: int
    C_l: int
    z_b: int
    z_l: int
    grad_y_b: int
    grad_y_l: int


class Sizes(NamedTuple):
    """How large the scan is, and how it is cut."""

    b: int
    length: int
    reads: int  # of the last steps, that are read
    d: int
    n: int
    groups: int  # of batch rows
    chunk: int  # steps that are read at once
    tile: int  # channels of a task, at most
    block: int  # channels of a partial sum, at most


class Call(NamedTuple):
    """What is the same for all tasks."""

    inputs: Any
    mask: Any
    strides: Any
    sizes: Any
    reverse: bool


class Place(NamedTuple):
    """Where a task is: a batch row, a tile of channels, and a chunk of steps."""

    row: int
    tile: int
    width: int
    past: int
    steps: int


class Given(NamedTuple):
    """What is read of a tile in a chunk, `(columns, chunk)`."""

    steps: Any
    updates: Any
    outs: Any
    grads: Any  # of what is read, before the gate


class Maps(NamedTuple):
    """What is read of all channels in a chunk, `(chunk, n)`, or their gradients, `(chunk, FOUR)`."""

    B: Any
    C: Any


class Kept(NamedTuple):
    """Of four states of a column in a chunk: these at its start and after each step, and their decays."""

    states: Any
    decays: Any


class Found(NamedTuple):
    """Gradients of a tile in a chunk, `(columns, chunk)`."""

    updates: Any
    steps: Any


class Sums(NamedTuple):
    """Gradients of a tile that all its steps add to."""

    D: Any
    bias: Any


class Four(NamedTuple):
    """Four states of a column in a chunk: where they lie, and which steps are read."""

    states: int  # in what `_read_states` has read
    chunk: int  # in what `_read_chunk` has read
    steps: int
    unread: int  # steps at the start of the chunk
    n: int  # padded
    k: int  # the first of the four


class Backward(NamedTuple):
    """Gradients that a column takes along through its chunks."""

    states: Any
    rates: Any
    maps: Any
    found: Any


def scan_forward(scan: ScanInputs, return_last_state: bool, chunk: int) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Scan; see `selective_scan`. The state is `(b, n, d)` here.

    Returns:
        `y`; the last state, `(b, n, d)`, if it is wanted; and, unless `chunk` is 0, the states before each chunk of so
        many steps but the first, `(b, chunks - 1, n, d)`.
    """
    u, A = scan.u, scan.A
    b, length, d = u.shape
    n = A.shape[1]
    reads = scan.num_reads
    y = None if scan.C is None else u.new_empty(b, reads, d)
    end = A.new_empty(b, n, d) if return_last_state else None
    starts = A.new_empty(b, -(-length // chunk) - 1 if chunk else 0, n, d)
    tile = _tile(b, d, LANES)
    groups, tiles = split(b, d, tile)
    launch(
        _forward,
        groups * tiles,
        b * length * d * n,
        _inputs(scan),
        Outputs(*flat(u.dtype, y), *flat(A.dtype, end, starts)),
        *flat(torch.bool, scan.mask),
        _strides(scan),
        Sizes(b, length, reads, d, n, groups, chunk=chunk or max(1, min(CHUNK, length)), tile=tile, block=tile),
        scan.reverse,
    )
    return y, end, starts


def scan_backward(
    scan: ScanInputs, grad_y: Tensor | None, grad_end: Tensor | None, starts: Tensor, chunk: int
) -> tuple[Tensor | None, ...]:
    """Return the gradients of `u, delta, A, B, C, D, z, delta_bias, state`; of those that are absent none.

    States are recomputed chunk by chunk from those that the forward pass kept. `grad_end`, of the last state, and the
    gradient of `state` are `(b, n, d)`.
    """
    u, A = scan.u, scan.A
    b, length, d = u.shape
    n = A.shape[1]
    reads = scan.num_reads
    block = _block(d)
    groups, blocks = split(b, d, block)
    tile = _tile(groups, d, block)
    grad_u = u.new_empty(b, length, d)
    grad_delta = u.new_empty(b, length, d)
    grad_z = None if scan.z is None else u.new_empty(b, reads, d)
    grad_state = None if scan.state is None else A.new_empty(b, n, d)
    grad_B = A.new_empty(blocks, b, length, n)
    grad_C = None if scan.C is None else A.new_empty(blocks, b, reads, n)
    grad_A = A.new_empty(groups, n, d)
    grad_D = A.new_empty(groups, d)
    grad_bias = A.new_empty(groups, d)
    launch(
        _backward,
        groups * -(-d // tile),
        3 * b * length * d * n,
        _inputs(scan, grad_y, starts, grad_end),
        Gradients(
            *flat(u.dtype, grad_u, grad_delta, grad_z),
            *flat(A.dtype, grad_A, grad_B, grad_C, grad_D, grad_bias, grad_state),
        ),
        *flat(torch.bool, scan.mask),
        _strides(scan, grad_y),
        Sizes(b, length, reads, d, n, groups, chunk=chunk, tile=tile, block=block),
        scan.reverse,
    )
    return (
        grad_u,
        grad_delta,
        _by_state(grad_A.sum(0)),
        grad_B.sum(0),
        None if grad_C is None else grad_C.sum(0),
        None if scan.D is None else grad_D.sum(0),
        grad_z,
        None if scan.delta_bias is None else grad_bias.sum(0),
        grad_state,
    )


def _inputs(
    scan: ScanInputs, grad_y: Tensor | None = None, starts: Tensor | None = None, grad_end: Tensor | None = None
) -> Inputs:
    """Show a kernel what it reads."""
    A = scan.A
    D = A.new_zeros(A.shape[0]) if scan.D is None else scan.D
    bias = A.new_zeros(A.shape[0]) if scan.delta_bias is None else scan.delta_bias
    return Inputs(
        *flat(scan.u.dtype, scan.u, scan.delta, scan.B, scan.C, scan.z, grad_y),
        *flat(A.dtype, _by_state(A) / LN_2, D, bias, scan.state, starts, grad_end),
    )


def _strides(scan: ScanInputs, grad_y: Tensor | None = None) -> Strides:
    return Strides(*strides(scan.u, scan.delta, scan.B, scan.C, scan.z, grad_y))


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
    first: int, last: int, inputs: Any, outputs: Any, mask: Any, strides: Any, sizes: Any, reverse: bool
) -> None:
    """Scan tasks `first` to `last`: a tile of channels each, over the batch rows of a group."""
    b, length, d, n, chunk = sizes.b, sizes.length, sizes.d, sizes.n, sizes.chunk
    tiles = -(-d // sizes.tile)
    chunks = -(-length // chunk)
    padded = -(-n // STATES) * STATES
    like = inputs.rates
    rates = zeros(padded * sizes.tile, like)
    h = zeros(padded * sizes.tile, like)
    call = Call(inputs, mask, strides, sizes, reverse)
    given, maps = _room_for_inputs(chunk, sizes.tile, padded, like)
    kept = Kept(zeros(0, like), zeros(0, like))
    for task in range(first, last):
        group = task // tiles
        tile = task % tiles * sizes.tile
        width = min(sizes.tile, d - tile)
        _read_states(inputs.rates, tile, d, rates, (n, padded, width))
        for row in range(group * b // sizes.groups, (group + 1) * b // sizes.groups):
            if inputs.state.size:
                _read_states(inputs.state, row * n * d + tile, d, h, (n, padded, width))
            else:
                h[:] = 0
            for part in range(chunks):
                past = part * chunk
                count = min(chunk, length - past)
                unread = max(0, length - sizes.reads - past)  # steps at the start of this chunk that are not read
                if part and outputs.starts.size:
                    start = (row * (chunks - 1) + part - 1) * n * d
                    _write_states(h, outputs.starts, start + tile, d, (n, padded, width))
                place = Place(row, tile, width, past, count)
                _read_chunk(given, maps, call, place)
                for c in range(0, width, LANES):
                    for k in range(0, padded, STATES):
                        four = Four(c * padded + k * LANES, c * chunk, count, unread, padded, k)
                        _go_forth(h, rates, given, maps, kept, four)
                if unread < count:
                    _write_read_out(outputs.y, given, call, place)
            if outputs.end.size:
                _write_states(h, outputs.end, row * n * d + tile, d, (n, padded, width))


@compiled
def _backward(
    first: int, last: int, inputs: Any, gradients: Any, mask: Any, strides: Any, sizes: Any, reverse: bool
) -> None:
    """Bring gradients through tasks `first` to `last`, chunk by chunk from the end of the scan.

    A column goes through each chunk there and back, with its states and decays in the cache in between.
    """
    b, length, d, n, chunk, block = sizes.b, sizes.length, sizes.d, sizes.n, sizes.chunk, sizes.block
    tiles = -(-d // sizes.tile)
    chunks = -(-length // chunk)
    padded = -(-n // STATES) * STATES
    like = inputs.rates
    rates = zeros(padded * sizes.tile, like)
    h = zeros(padded * sizes.tile, like)
    given, maps = _room_for_inputs(chunk, sizes.tile, padded, like)
    kept = Kept(zeros((chunk + 1) * FOUR, like), zeros(chunk * FOUR, like))
    sums = Sums(zeros(sizes.tile, like), zeros(sizes.tile, like))
    back = Backward(
        zeros(padded * sizes.tile, like),
        zeros(padded * sizes.tile, like),
        Maps(zeros(chunk * FOUR, like), zeros(chunk * FOUR, like)),  # of a block, lane by lane
        Found(zeros(chunk * sizes.tile, like), zeros(chunk * sizes.tile, like)),
    )
    call = Call(inputs, mask, strides, sizes, reverse)
    for task in range(first, last):
        group = task // tiles
        tile = task % tiles * sizes.tile
        width = min(sizes.tile, d - tile)
        size = n, padded, width
        back.rates[:] = 0
        sums.D[:] = 0
        sums.bias[:] = 0
        _read_states(inputs.rates, tile, d, rates, size)
        for row in range(group * b // sizes.groups, (group + 1) * b // sizes.groups):
            if inputs.grad_end.size:
                _read_states(inputs.grad_end, row * n * d + tile, d, back.states, size)
            else:
                back.states[:] = 0
            for part in range(chunks - 1, -1, -1):
                past = part * chunk
                count = min(chunk, length - past)
                unread = max(0, length - sizes.reads - past)  # steps at the start of this chunk that are not read
                if part:
                    start = (row * (chunks - 1) + part - 1) * n * d
                    _read_states(inputs.starts, start + tile, d, h, size)
                elif inputs.state.size:
                    _read_states(inputs.state, row * n * d + tile, d, h, size)
                else:
                    h[:] = 0
                place = Place(row, tile, width, past, count)
                _read_chunk(given, maps, call, place)
                for at in range(0, width, block):
                    for k in range(0, padded, STATES):
                        back.maps.B[: count * FOUR] = 0
                        back.maps.C[: count * FOUR] = 0
                        for c in range(at, min(at + block, width), LANES):
                            four = Four(c * padded + k * LANES, c * chunk, count, unread, padded, k)
                            _go_forth(h, rates, given, maps, kept, four)
                            _go_back(back, rates, given, maps, kept, four)
                        _write_map_gradients(gradients, back.maps, call, place, at, k)
                _write_gradients(gradients, sums, given, back.found, call, place)
            if gradients.state.size:
                _write_states(back.states, gradients.state, row * n * d + tile, d, size)
        _write_states(back.rates, gradients.rates, group * n * d + tile, d, size)
        _write_states(sums.D, gradients.D, group * d + tile, d, (1, 1, width))
        _write_states(sums.bias, gradients.bias, group * d + tile, d, (1, 1, width))


@inlined
def _room_for_inputs(chunk: int, widest: int, padded: int, like: Any) -> Any:
    """Make room for what `_read_chunk` reads; maps are zero for states that do not exist."""
    given = Given(
        zeros(chunk * widest, like),
        zeros(chunk * widest, like),
        zeros(chunk * widest, like),
        zeros(chunk * widest, like),
    )
    return given, Maps(zeros(chunk * padded, like), zeros(chunk * padded, like))


@inlined
def _read_chunk(given: Any, maps: Any, call: Any, place: Any) -> None:
    """Read what a chunk is given, zeros where it is masked; what is read of a step begins with the skip connection."""
    inputs, mask, by, sizes = call.inputs, call.mask, call.strides, call.sizes
    row, tile, width, chunk = place.row, place.tile, place.width, sizes.chunk
    length, reads, n = sizes.length, sizes.reads, sizes.n
    padded = maps.B.size // chunk
    zero = splat(given.steps.dtype.type(0))
    ahead = -AHEAD if call.reverse else AHEAD
    for s in range(place.steps):
        t = length - 1 - place.past - s if call.reverse else place.past + s
        reading = place.past + s >= length - reads
        r = t if call.reverse else t - (length - reads)  # where this step is among those that are read
        if mask.size and not mask[row * length + t]:
            maps.B[s * padded : s * padded + n] = 0
            maps.C[s * padded : s * padded + n] = 0
            for c in range(0, width, LANES):
                for array in given:
                    store(array, c * chunk + s * LANES, LANES, zero)
            continue
        for k in range(n):
            maps.B[s * padded + k] = read(inputs.B, row * by.B_b + t * by.B_l + k)
            if reading:
                maps.C[s * padded + k] = read(inputs.C, row * by.C_b + r * by.C_l + k)
        for c in range(0, width, LANES):
            rest = width - c
            channel = tile + c
            o = c * chunk + s * LANES
            prefetch(inputs.u, row * by.u_b + (t + ahead) * by.u_l + channel)
            prefetch(inputs.delta, row * by.delta_b + (t + ahead) * by.delta_l + channel)
            u_t = load(inputs.u, row * by.u_b + t * by.u_l + channel, rest)
            raw = load(inputs.delta, row * by.delta_b + t * by.delta_l + channel, rest)
            step = softplus(raw + load(inputs.bias, channel, rest))
            store(given.steps, o, LANES, step)
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
def _go_forth(h: Any, rates: Any, given: Any, maps: Any, kept: Any, four: Any) -> None:
    """Run four states of a column through a chunk; where there is room, keep them and their decays at each step."""
    rates_k = load_four(rates, four.states)
    h_k = load_four(h, four.states)
    if kept.states.size:
        store_four(kept.states, 0, h_k)
    for s in range(four.steps):
        o = four.chunk + s * LANES
        j = s * four.n + four.k
        step = load(given.steps, o, LANES)
        update = load(given.updates, o, LANES)
        decay = exp2_four(scale_four(rates_k, step))
        h_k = multiply_add_four(decay, h_k, scale_four(four_numbers(maps.B, j), update))
        if kept.states.size:
            store_four(kept.decays, s * FOUR, decay)
            store_four(kept.states, (s + 1) * FOUR, h_k)
        if s >= four.unread:
            store(given.outs, o, LANES, add_products(load(given.outs, o, LANES), h_k, four_numbers(maps.C, j)))
    if not kept.states.size:
        store_four(h, four.states, h_k)


@inlined
def _go_back(back: Any, rates: Any, given: Any, maps: Any, kept: Any, four: Any) -> None:
    """Bring the gradients of four states of a column back through a chunk."""
    zero = splat(rates.dtype.type(0))
    rates_k = load_four(rates, four.states)
    grad_k = load_four(back.states, four.states)
    grad_rates_k = load_four(back.rates, four.states)
    for s in range(four.steps - 1, -1, -1):
        o = four.chunk + s * LANES
        j = s * four.n + four.k
        step = load(given.steps, o, LANES)
        update = load(given.updates, o, LANES)
        grad_update = zero
        grad_step = zero
        if four.k:
            grad_update = load(back.found.updates, o, LANES)
            grad_step = load(back.found.steps, o, LANES)
        if s >= four.unread:
            grad = load(given.grads, o, LANES)
            h = load_four(kept.states, (s + 1) * FOUR)
            add_four(back.maps.C, s * FOUR, scale_four(h, grad))
            grad_k = add_scaled(grad_k, four_numbers(maps.C, j), grad)
        add_four(back.maps.B, s * FOUR, scale_four(grad_k, update))
        grad_update = add_products(grad_update, grad_k, four_numbers(maps.B, j))
        grad_k = multiply_four(grad_k, load_four(kept.decays, s * FOUR))
        inner = multiply_four(grad_k, load_four(kept.states, s * FOUR))  # of the exponents, step * A
        grad_rates_k = add_scaled(grad_rates_k, inner, step)
        grad_step = add_products(grad_step, inner, rates_k)
        store(back.found.updates, o, LANES, grad_update)
        store(back.found.steps, o, LANES, grad_step)
    store_four(back.states, four.states, grad_k)
    store_four(back.rates, four.states, grad_rates_k)


@inlined
def _write_read_out(y: Any, given: Any, call: Any, place: Any) -> None:
    """Write what is read of a chunk, after the gate; zeros where it is masked."""
    z, by, sizes = call.inputs.z, call.strides, call.sizes
    row, tile, width = place.row, place.tile, place.width
    length, reads = sizes.length, sizes.reads
    zero = splat(given.outs.dtype.type(0))
    for s in range(max(0, length - reads - place.past), place.steps):
        t = length - 1 - place.past - s if call.reverse else place.past + s
        r = t if call.reverse else t - (length - reads)
        hidden = call.mask.size and not call.mask[row * length + t]
        for c in range(0, width, LANES):
            y_t = load(given.outs, c * sizes.chunk + s * LANES, LANES)
            if z.size and not hidden:
                z_t = load(z, row * by.z_b + r * by.z_l + tile + c, width - c)
                y_t *= z_t * sigmoid(z_t)
            store(y, (row * reads + r) * sizes.d + tile + c, width - c, zero if hidden else y_t)


@inlined
def _write_gradients(gradients: Any, sums: Any, given: Any, found: Any, call: Any, place: Any) -> None:
    """Write the gradients of what a chunk was given, zeros where it is masked, and add to those of `D` and bias."""
    inputs, mask, by, sizes = call.inputs, call.mask, call.strides, call.sizes
    row, tile, width = place.row, place.tile, place.width
    length, reads, d = sizes.length, sizes.reads, sizes.d
    zero = splat(inputs.D.dtype.type(0))
    for s in range(place.steps):
        t = length - 1 - place.past - s if call.reverse else place.past + s
        reading = place.past + s >= length - reads
        r = t if call.reverse else t - (length - reads)
        for c in range(0, width, LANES):
            rest = width - c
            channel = tile + c
            o = c * sizes.chunk + s * LANES
            o_u = (row * length + t) * d + channel
            o_z = (row * reads + r) * d + channel
            if mask.size and not mask[row * length + t]:
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
            store(sums.bias, c, LANES, load(sums.bias, c, LANES) + grad_raw)
            if reading:
                out = load(given.outs, o, LANES)
                grad = load(given.grads, o, LANES)
                grad_u_t += grad * load(inputs.D, channel, rest)
                store(sums.D, c, LANES, load(sums.D, c, LANES) + grad * u_t)
                if inputs.z.size:
                    z_t = load(inputs.z, row * by.z_b + r * by.z_l + channel, rest)
                    open_ = sigmoid(z_t)
                    grad_t = load(inputs.grad_y, row * by.grad_y_b + r * by.grad_y_l + channel, rest)
                    store(gradients.z, o_z, rest, grad_t * out * open_ * (1.0 + z_t * (1.0 - open_)))
            store(gradients.delta, o_u, rest, grad_raw)
            store(gradients.u, o_u, rest, grad_u_t)


@inlined
def _write_map_gradients(gradients: Any, maps: Any, call: Any, place: Any, at: int, k: int) -> None:
    """Write a block's part of the gradients of `B` and `C`, of four states in a chunk."""
    sizes = call.sizes
    length, reads, n = sizes.length, sizes.reads, sizes.n
    row = (place.tile + at) // sizes.block * sizes.b + place.row
    for s in range(place.steps):
        t = length - 1 - place.past - s if call.reverse else place.past + s
        r = t if call.reverse else t - (length - reads)
        for m in range(min(STATES, n - k)):
            o = s * FOUR + m * LANES
            gradients.B[(row * length + t) * n + k + m] = lane_sum(load(maps.B, o, LANES))
            if place.past + s >= length - reads:
                gradients.C[(row * reads + r) * n + k + m] = lane_sum(load(maps.C, o, LANES))


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
