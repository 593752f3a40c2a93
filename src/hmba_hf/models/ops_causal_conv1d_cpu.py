"""The causal convolution with its SiLU for CPUs, in one pass over memory, forward and backward, compiled by Numba.

A task is a tile of channels in a group of batch rows, and takes some steps at a time. It first copies their inputs and
the few before them into a window, whatever these are: steps, masked steps or the carried tail.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .ops_launch_cpu import compiled, flat, inlined, launch, split, strides
from .ops_scan_inputs import empty_for
from .ops_simd_cpu import LANES, load, sigmoid, splat, store

try:
    import numpy as np
except ImportError as error:
    raise ImportError("the CPU kernels need numpy: pip install numpy") from error

TILE = 128  # channels of a task
STEPS = 32  # that are in the window at once


class Inputs(NamedTuple):
    """What a kernel reads, empty where absent; `grad_y` in the backward pass alone."""

    grad_y: Any
    x: Any
    state: Any
    weight: Any  # `(k, d)`
    bias: Any


class Gradients(NamedTuple):
    """What the backward kernel writes; torch sums over groups."""

    x: Any
    state: Any
    weights: Any  # `(groups, k + 1, d)`, the bias last


class Strides(NamedTuple):
    """How far rows of the batch (`_b`) and steps (`_l`) lie apart in memory."""

    grad_y_b: int
    grad_y_l: int
    x_b: int
    x_l: int
    state_b: int
    state_l: int


class Sizes(NamedTuple):
    """How large the convolution is, and into how many groups of batch rows it is cut."""

    b: int
    length: int
    d: int
    kernel: int
    groups: int


class Call(NamedTuple):
    """What all tasks share."""

    inputs: Any
    mask: Any
    strides: Any
    sizes: Any
    reverse: bool


class Place(NamedTuple):
    """Where a task is: a batch row, a tile of channels, and the scan positions of the steps at work."""

    row: int
    tile: int
    width: int
    start: int
    stop: int


def conv_forward(
    x: Tensor, weight: Tensor, bias: Tensor, state: Tensor | None, mask: Tensor | None, reverse: bool
) -> Tensor:
    """Convolve and apply SiLU; see `causal_conv1d`. `weight` and `bias` are float32 or wider."""
    b, length, d = x.shape
    kernel = weight.shape[1]
    y = x.new_empty(x.shape)
    groups, tiles = split(b, d, TILE)
    inputs = Inputs(*flat(x.dtype, None, x, state), *flat(weight.dtype, weight.T.contiguous(), bias))
    results = flat(x.dtype, y)[0]
    hidden = flat(torch.bool, mask)[0]
    by = Strides(*strides(None, x, state))
    sizes = Sizes(b, length, d, kernel, groups)
    args = (inputs, results, hidden, by, sizes, reverse)
    launch(_forward, args, tasks=groups * tiles, work=b * length * d * kernel)
    return y


def conv_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor | None,
    mask: Tensor | None,
    reverse: bool,
) -> tuple[Any, ...]:
    """Return the gradients of `x, weight, bias, state`; what enters SiLU is recomputed."""
    b, length, d = x.shape
    kernel = weight.shape[1]
    groups, tiles = split(b, d, TILE)
    grad_x = x.new_empty(x.shape)
    grad_state = empty_for(state, x, (b, kernel - 1, d))
    grad_weights = weight.new_empty(groups, kernel + 1, d)  # the bias last
    inputs = Inputs(*flat(x.dtype, grad_y, x, state), *flat(weight.dtype, weight.T.contiguous(), bias))
    results = Gradients(*flat(x.dtype, grad_x, grad_state), *flat(weight.dtype, grad_weights))
    hidden = flat(torch.bool, mask)[0]
    by = Strides(*strides(grad_y, x, state))
    sizes = Sizes(b, length, d, kernel, groups)
    args = (inputs, results, hidden, by, sizes, reverse)
    launch(_backward, args, tasks=groups * tiles, work=3 * b * length * d * kernel)
    grad_weight = grad_weights[:, :kernel].sum(0).T.contiguous()
    grad_bias = grad_weights[:, kernel].sum(0)
    return grad_x, grad_weight, grad_bias, grad_state


# Taking an array out of a record counts a reference, which costs more than a step: records are opened before loops.


@inlined
def _time(length: int, reverse: bool, p: int) -> Any:
    """Return the time of scan position `p`."""
    t = p
    if reverse:
        t = length - 1 - p
    return t


@inlined
def _is_real(mask: Any, o: int) -> Any:
    """Whether the step at `o` is not masked."""
    real = True
    if mask.size:
        real = mask[o]
    return real


@compiled
def _fill(window: Any, call: Any, place: Any) -> None:
    """Read the inputs of the steps at work and the few before them; before the first, those of the state, or zero."""
    x = call.inputs.x
    state = call.inputs.state
    mask = call.mask
    by = call.strides
    length = call.sizes.length
    tail = call.sizes.kernel - 1
    first = place.start - tail
    zero = splat(window.dtype.type(0))
    for p in range(first, place.stop):
        o = (p - first) * TILE
        t = _time(length, call.reverse, p)
        real = p >= 0 and _is_real(mask, place.row * length + t)
        before = -1 - p if call.reverse else tail + p
        x_row = place.row * by.x_b + t * by.x_l + place.tile
        state_row = place.row * by.state_b + before * by.state_l + place.tile
        for c in range(0, place.width, LANES):
            value = zero
            if real:
                value = load(x, x_row + c, place.width - c)
            elif p < 0 and state.size:
                value = load(state, state_row + c, place.width - c)
            store(window, o + c, LANES, value)


@inlined
def _add(x: Any, o: int, value: Any) -> None:
    """Add to lanes in memory."""
    store(x, o, LANES, load(x, o, LANES) + value)


@compiled
def _convolve(window: Any, weight: Any, bias: Any, row: int, c: int, kernel: int) -> Any:
    """Sum the taps of the step whose oldest input stands in `row`."""
    value = load(bias, c, LANES)
    for i in range(kernel):
        value += load(weight, i * TILE + c, LANES) * load(window, (row + i) * TILE + c, LANES)
    return value


@compiled
def _copy_tile(source: Any, target: Any, rows: int, d: int, place: Any) -> None:
    """Copy a tile of `(rows, d)`."""
    tile, width = place
    for i in range(rows):
        for c in range(0, width, LANES):
            store(target, i * TILE + c, LANES, load(source, i * d + tile + c, width - c))


@compiled
def _forward(first: int, last: int, inputs: Any, y: Any, mask: Any, strides: Any, sizes: Any, reverse: bool) -> None:
    """Convolve tasks `first` to `last`."""
    b = sizes.b
    length = sizes.length
    d = sizes.d
    kernel = sizes.kernel
    dtype = inputs.weight.dtype
    call = Call(inputs, mask, strides, sizes, reverse)
    tiles = (d + TILE - 1) // TILE
    tail = kernel - 1
    window = np.empty((STEPS + tail) * TILE, dtype)
    weight = np.empty(kernel * TILE, dtype)
    bias = np.empty(TILE, dtype)
    for task in range(first, last):
        group = task // tiles
        tile = task % tiles * TILE
        width = min(TILE, d - tile)
        _copy_tile(inputs.weight, weight, kernel, d, (tile, width))
        _copy_tile(inputs.bias, bias, 1, d, (tile, width))
        for row in range(group * b // sizes.groups, (group + 1) * b // sizes.groups):
            for start in range(0, length, STEPS):
                place = Place(row, tile, width, start, min(start + STEPS, length))
                _fill(window, call, place)
                for s in range(start, place.stop):
                    o = (row * length + _time(length, reverse, s)) * d + tile
                    for c in range(0, width, LANES):
                        value = _convolve(window, weight, bias, s - start, c, kernel)
                        store(y, o + c, width - c, value * sigmoid(value))


@compiled
def _backward(
    first: int, last: int, inputs: Any, results: Any, mask: Any, strides: Any, sizes: Any, reverse: bool
) -> None:
    """Bring gradients through tasks `first` to `last`, from the end of the scan."""
    b = sizes.b
    length = sizes.length
    d = sizes.d
    kernel = sizes.kernel
    dtype = inputs.weight.dtype
    call = Call(inputs, mask, strides, sizes, reverse)
    grad_y = inputs.grad_y
    grad_x = results.x
    grad_state = results.state
    tiles = (d + TILE - 1) // TILE
    tail = kernel - 1
    window = np.empty((STEPS + tail) * TILE, dtype)
    grads = np.empty((STEPS + tail) * TILE, dtype)  # before the activation; the later steps behind
    weight = np.empty(kernel * TILE, dtype)
    bias = np.empty(TILE, dtype)
    sums = np.empty((kernel + 1) * TILE, dtype)
    zero = splat(dtype.type(0))
    for task in range(first, last):
        group = task // tiles
        tile = task % tiles * TILE
        width = min(TILE, d - tile)
        _copy_tile(inputs.weight, weight, kernel, d, (tile, width))
        _copy_tile(inputs.bias, bias, 1, d, (tile, width))
        sums[:] = 0
        for row in range(group * b // sizes.groups, (group + 1) * b // sizes.groups):
            grads[:] = 0
            for start in range((length - 1) // STEPS * STEPS, -1, -STEPS):
                stop = min(start + STEPS, length)
                place = Place(row, tile, width, start, stop)
                _fill(window, call, place)
                for i in range(stop - start - 1 + tail, stop - start - 1, -1):
                    earlier = i - (stop - start)
                    grads[i * TILE : (i + 1) * TILE] = grads[earlier * TILE : (earlier + 1) * TILE]
                for s in range(start, stop):
                    t = _time(length, reverse, s)
                    at = (s - start) * TILE
                    for c in range(0, width, LANES):
                        value = _convolve(window, weight, bias, s - start, c, kernel)
                        open_ = sigmoid(value)
                        o = row * strides.grad_y_b + t * strides.grad_y_l + tile + c
                        grad = load(grad_y, o, width - c)
                        grad *= open_ * (1.0 + value * (1.0 - open_))
                        store(grads, at + c, LANES, grad)
                        for k in range(kernel):
                            o = k * TILE + c
                            _add(sums, o, grad * load(window, at + o, LANES))
                        _add(sums, kernel * TILE + c, grad)
                for s in range(start, stop):
                    t = _time(length, reverse, s)
                    real = _is_real(mask, row * length + t)
                    for c in range(0, width, LANES):
                        value = zero
                        if real:
                            for k in range(kernel):
                                o = (s - start + k) * TILE + c
                                value += load(grads, o, LANES) * load(weight, (tail - k) * TILE + c, LANES)
                        store(grad_x, (row * length + t) * d + tile + c, width - c, value)
            if grad_state.size:
                for j in range(tail):  # `tail - j` steps before the first
                    kept = tail - 1 - j if reverse else j
                    for c in range(0, width, LANES):
                        value = zero
                        for k in range(tail - j, kernel):
                            o = (k - tail + j) * TILE + c
                            value += load(grads, o, LANES) * load(weight, (tail - k) * TILE + c, LANES)
                        store(grad_state, (row * tail + kept) * d + tile + c, width - c, value)
        for k in range(kernel + 1):
            for c in range(0, width, LANES):
                o = (group * (kernel + 1) + k) * d + tile + c
                store(results.weights, o, width - c, load(sums, k * TILE + c, LANES))
