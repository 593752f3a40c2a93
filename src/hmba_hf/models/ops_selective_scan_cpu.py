"""The selective scan for CPUs in one pass over memory, forward and backward, compiled by Numba.

A task is a tile of channels in a group of batch rows, and walks over time in chunks. It first reads all inputs of a
chunk, row by row as they lie in memory. Then each column of lanes goes through the chunk alone, four states at a time
in registers. Last, the task writes the results of the chunk. So nothing of size `(b, l, d, n)` ever exists.

Tasks share no output. Sums across tasks go through partial results whose number does not depend on the threads: the
same inputs give the same bits.

States lie as `(b, n, d)` here, with the channels adjacent.
"""

from typing import Any

import torch
from torch import Tensor

from .ops_launch_cpu import compiled, flat, inlined, launch, split, strides
from .ops_scan_inputs import ScanInputs, count_starts, empty_for, sum_parts
from .ops_scan_records_cpu import (
    Backward,
    Block,
    Call,
    Found,
    Four,
    Gradients,
    Inputs,
    Kept,
    Outputs,
    Place,
    Sizes,
    Strides,
)
from .ops_scan_tiles_cpu import (
    FOUR,
    STATES,
    read_chunk,
    read_rates,
    read_states,
    room_for_given,
    room_for_maps,
    write_gradients,
    write_map_gradients,
    write_read_out,
    write_states,
)
from .ops_simd_cpu import LANES, LN_2, SPREAD, load, splat, store, zeros
from .ops_simd_fours_cpu import (
    add_four,
    add_products,
    add_scaled,
    decay_four,
    four_numbers,
    load_four,
    multiply_add_four,
    multiply_four,
    scale_four,
    store_four,
)

# Channels of a task, at most: rows lie pages apart, and with few channels pages are looked up too often; with many, a
# chunk of them leaves the cache, the sooner in the backward pass, which holds more of it.
TILE = 2048
TILE_BACK = 1024
BLOCK = 256  # channels of a partial sum, at most
CHUNK = 16  # steps that are read at once, where no state is kept between chunks


def scan_forward(scan: ScanInputs, return_last_state: bool, chunk: int) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Scan; see `selective_scan`. The state is `(b, n, d)` here.

    Returns:
        `y`; the last state, `(b, n, d)`, if it is wanted; and the states before each chunk but the first,
        `(b, chunks - 1, n, d)`, none if `chunk` is 0.
    """
    u = scan.u
    A = scan.A
    b, length, d = u.shape
    n = A.shape[1]
    y = empty_for(scan.C, u, (b, scan.num_reads, d))
    end = A.new_empty(b, n, d) if return_last_state else None
    starts = A.new_empty(b, count_starts(length, chunk), n, d)
    tile = _tile(b, d, LANES, TILE)
    groups, tiles = split(b, d, tile)
    sizes = Sizes(
        b=b,
        length=length,
        reads=scan.num_reads,
        d=d,
        n=n,
        groups=groups,
        chunk=chunk or max(1, min(CHUNK, length)),
        tile=tile,
        block=tile,
    )
    outputs = Outputs(*flat(u.dtype, y), *flat(A.dtype, end, starts))
    (mask,) = flat(torch.bool, scan.mask)
    args = (_inputs(scan), outputs, mask, _strides(scan), sizes, scan.reverse)
    launch(_forward, args, tasks=groups * tiles, work=b * length * d * n)
    return y, end, starts


def scan_backward(
    scan: ScanInputs, grad_y: Tensor | None, grad_end: Tensor | None, starts: Tensor, chunk: int
) -> tuple[Tensor | None, ...]:
    """Return the gradients of `u, delta, A, B, C, D, z, delta_bias, state`; `None` for those that are absent.

    The kernel recomputes states chunk by chunk from those that the forward pass kept. `grad_end`, of the last state,
    and the gradient of `state` are `(b, n, d)`.
    """
    u = scan.u
    A = scan.A
    b, length, d = u.shape
    n = A.shape[1]
    reads = scan.num_reads
    block = _block(d)
    groups, blocks = split(b, d, block)
    tile = _tile(groups, d, block, TILE_BACK)
    grad_u = u.new_empty(b, length, d)
    grad_delta = u.new_empty(b, length, d)
    grad_z = empty_for(scan.z, u, (b, reads, d))
    grad_state = empty_for(scan.state, A, (b, n, d))
    grad_B = A.new_empty(blocks, b, length, n)
    grad_C = empty_for(scan.C, A, (blocks, b, reads, n))
    grad_A = A.new_empty(groups, n, d)
    grad_D = A.new_empty(groups, d)
    grad_bias = A.new_empty(groups, d)
    sizes = Sizes(
        b=b,
        length=length,
        reads=reads,
        d=d,
        n=n,
        groups=groups,
        chunk=chunk,
        tile=tile,
        block=block,
    )
    gradients = Gradients(
        *flat(u.dtype, grad_u, grad_delta, grad_z),
        *flat(A.dtype, grad_A, grad_B, grad_C, grad_D, grad_bias, grad_state),
    )
    (mask,) = flat(torch.bool, scan.mask)
    args = (_inputs(scan, grad_y, starts, grad_end), gradients, mask, _strides(scan, grad_y), sizes, scan.reverse)
    launch(_backward, args, tasks=groups * -(-d // tile), work=3 * b * length * d * n)
    return (
        grad_u,
        grad_delta,
        _by_state(grad_A.sum(0)),
        grad_B.sum(0),
        sum_parts(grad_C),
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


def _tile(groups: int, d: int, whole: int, most: int) -> int:
    """Return how many channels a task has so that each thread gets one: a multiple of `whole`; at most `most`."""
    tasks_of_group = -(-torch.get_num_threads() // max(1, groups))
    channels = min(-(-d // (tasks_of_group * whole)), most // whole) * whole
    return min(channels, -(-d // LANES) * LANES)


def _block(d: int) -> int:
    """Return the channels of a partial sum, which must not depend on the number of threads, as no bit may.

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
    b = sizes.b
    length = sizes.length
    d = sizes.d
    n = sizes.n
    chunk = sizes.chunk
    tiles = -(-d // sizes.tile)
    chunks = -(-length // chunk)
    padded = -(-n // STATES) * STATES
    like = inputs.rates
    call = Call(inputs, mask, strides, sizes, reverse)
    rates = zeros(padded * sizes.tile, like)
    longest = zeros(sizes.tile, like)
    h = zeros(padded * sizes.tile, like)
    given = room_for_given(chunk * sizes.tile, like)
    maps = room_for_maps(chunk * padded * SPREAD, like)
    kept = Kept(zeros(0, like), zeros(0, like))
    for task in range(first, last):
        group = task // tiles
        tile = task % tiles * sizes.tile
        width = min(sizes.tile, d - tile)
        size = n, padded, width
        read_rates(inputs.rates, tile, d, rates, longest, size)
        for row in range(group * b // sizes.groups, (group + 1) * b // sizes.groups):
            if inputs.state.size:
                read_states(inputs.state, row * n * d + tile, d, h, size)
            else:
                h[:] = 0
            for part in range(chunks):
                past = part * chunk
                steps = min(chunk, length - past)
                unread = max(0, length - sizes.reads - past)  # steps at the start of this chunk
                if part and outputs.starts.size:
                    start = (row * (chunks - 1) + part - 1) * n * d
                    write_states(h, outputs.starts, start + tile, d, size)
                place = Place(row, tile, width, past, steps)
                read_chunk(given, maps, longest, call, place)
                for c in range(0, width, LANES):
                    for k in range(0, padded, STATES):
                        four = Four(
                            states=c * padded + k * LANES,
                            chunk=c * chunk,
                            steps=steps,
                            unread=unread,
                            n=padded,
                            k=k,
                        )
                        _go_forth(h, rates, given, maps, kept, four)
                if unread < steps:
                    write_read_out(outputs.y, given, call, place)
            if outputs.end.size:
                write_states(h, outputs.end, row * n * d + tile, d, size)


@compiled
def _backward(
    first: int, last: int, inputs: Any, gradients: Any, mask: Any, strides: Any, sizes: Any, reverse: bool
) -> None:
    """Bring gradients through tasks `first` to `last`, chunk by chunk from the end of the scan.

    A column goes through each chunk there and back, with its states and decays in the cache in between.
    """
    b = sizes.b
    length = sizes.length
    d = sizes.d
    n = sizes.n
    chunk = sizes.chunk
    tiles = -(-d // sizes.tile)
    chunks = -(-length // chunk)
    padded = -(-n // STATES) * STATES
    like = inputs.rates
    call = Call(inputs, mask, strides, sizes, reverse)
    rates = zeros(padded * sizes.tile, like)
    longest = zeros(sizes.tile, like)
    h = zeros(padded * sizes.tile, like)
    given = room_for_given(chunk * sizes.tile, like)
    maps = room_for_maps(chunk * padded * SPREAD, like)
    kept = Kept(zeros((chunk + 1) * FOUR, like), zeros(chunk * FOUR, like))
    back = Backward(
        states=zeros(padded * sizes.tile, like),
        rates=zeros(padded * sizes.tile, like),
        D=zeros(sizes.tile, like),
        bias=zeros(sizes.tile, like),
        maps=room_for_maps(chunk * FOUR, like),  # of a block, lane by lane
        found=Found(zeros(chunk * sizes.tile, like), zeros(chunk * sizes.tile, like)),
    )
    for task in range(first, last):
        group = task // tiles
        tile = task % tiles * sizes.tile
        width = min(sizes.tile, d - tile)
        size = n, padded, width
        back.rates[:] = 0
        back.D[:] = 0
        back.bias[:] = 0
        read_rates(inputs.rates, tile, d, rates, longest, size)
        for row in range(group * b // sizes.groups, (group + 1) * b // sizes.groups):
            if inputs.grad_end.size:
                read_states(inputs.grad_end, row * n * d + tile, d, back.states, size)
            else:
                back.states[:] = 0
            for part in range(chunks - 1, -1, -1):
                past = part * chunk
                steps = min(chunk, length - past)
                unread = max(0, length - sizes.reads - past)  # steps at the start of this chunk
                if part:
                    start = (row * (chunks - 1) + part - 1) * n * d
                    read_states(inputs.starts, start + tile, d, h, size)
                elif inputs.state.size:
                    read_states(inputs.state, row * n * d + tile, d, h, size)
                else:
                    h[:] = 0
                place = Place(row, tile, width, past, steps)
                read_chunk(given, maps, longest, call, place)
                for at in range(0, width, sizes.block):
                    for k in range(0, padded, STATES):
                        back.maps.B[: steps * FOUR] = 0
                        back.maps.C[: steps * FOUR] = 0
                        for c in range(at, min(at + sizes.block, width), LANES):
                            four = Four(
                                states=c * padded + k * LANES,
                                chunk=c * chunk,
                                steps=steps,
                                unread=unread,
                                n=padded,
                                k=k,
                            )
                            _go_forth(h, rates, given, maps, kept, four)
                            _go_back(back, rates, given, maps, kept, four)
                        write_map_gradients(gradients, back.maps, call, place, Block(tile + at, k))
                write_gradients(gradients, back, given, call, place)
            if gradients.state.size:
                write_states(back.states, gradients.state, row * n * d + tile, d, size)
        write_states(back.rates, gradients.rates, group * n * d + tile, d, size)
        write_states(back.D, gradients.D, group * d + tile, d, (1, 1, width))
        write_states(back.bias, gradients.bias, group * d + tile, d, (1, 1, width))


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
        decay = decay_four(scale_four(rates_k, step))
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
