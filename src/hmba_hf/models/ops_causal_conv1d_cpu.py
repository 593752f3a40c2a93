"""The causal convolution with its SiLU for CPUs, in one pass over memory, forward and backward, compiled by Numba.

A task is a tile of channels in a group of batch rows, some steps at a time. Their inputs and the few before them are
brought into a window first, whatever these are: steps, masked steps or the carried tail.
"""

from typing import Any

import torch
from torch import Tensor

from .ops_launch_cpu import compiled, flat, launch, split, strides
from .ops_simd_cpu import LANES, load, sigmoid, splat, store

try:
    import numpy as np
except ImportError as error:
    raise ImportError("the CPU kernels need numpy: pip install numpy") from error

TILE = 128  # channels of a task
STEPS = 32  # that are in the window at once


def conv_forward(
    x: Tensor, weight: Tensor, bias: Tensor, state: Tensor | None, mask: Tensor | None, reverse: bool
) -> Tensor:
    """Convolve and apply SiLU; see `causal_conv1d`. `weight` and `bias` are float32 or wider."""
    (b, length, d), kernel = x.shape, weight.shape[1]
    y = x.new_empty(x.shape)
    groups, tiles = split(b, d, TILE)
    launch(
        _forward,
        groups * tiles,
        b * length * d * kernel,
        (*flat(x.dtype, x, state), *flat(weight.dtype, weight.T.contiguous(), bias)),
        flat(x.dtype, y)[0],
        *flat(torch.bool, mask),
        strides(x, state),
        (b, length, d, kernel, groups),
        reverse,
    )
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
    """Return the gradients of `x, weight, bias, state`; what stands before the activation is computed again."""
    (b, length, d), kernel = x.shape, weight.shape[1]
    groups, tiles = split(b, d, TILE)
    grad_x = x.new_empty(x.shape)
    grad_state = None if state is None else x.new_empty(b, kernel - 1, d)
    grad_weights = weight.new_empty(groups, kernel + 1, d)  # the bias last
    launch(
        _backward,
        groups * tiles,
        3 * b * length * d * kernel,
        (*flat(x.dtype, grad_y, x, state), *flat(weight.dtype, weight.T.contiguous(), bias)),
        (*flat(x.dtype, grad_x, grad_state), *flat(weight.dtype, grad_weights)),
        *flat(torch.bool, mask),
        strides(grad_y, x, state),
        (b, length, d, kernel, groups),
        reverse,
    )
    grad_weight, grad_bias = grad_weights[:, :kernel].sum(0).T.contiguous(), grad_weights[:, kernel].sum(0)
    return grad_x, grad_weight, grad_bias, grad_state


@compiled
def _fill(window: Any, x: Any, state: Any, mask: Any, position: Any, strides: Any, sizes: Any, reverse: bool) -> None:
    """Bring in the inputs of scan positions `first` to `last`; those below zero are the state's, or zero."""
    i, first, last, tile, width = position
    x_b, x_l, state_b, state_l = strides
    length, tail = sizes
    for p in range(first, last):
        row, zero = (p - first) * TILE, splat(window.dtype.type(0))
        t = length - 1 - p if reverse else p
        real = p >= 0 and (not mask.size or mask[i * length + t])
        carried = i * state_b + (-1 - p if reverse else tail + p) * state_l
        for c in range(0, width, LANES):
            value = zero
            if real:
                value = load(x, i * x_b + t * x_l + tile + c, width - c)
            elif p < 0 and state.size:
                value = load(state, carried + tile + c, width - c)
            store(window, row + c, LANES, value)


@compiled
def _convolve(window: Any, weight: Any, bias: Any, row: int, c: int, kernel: int) -> Any:
    """Sum the taps of the step whose oldest input stands in `row`."""
    value = load(bias, c, LANES)
    for i in range(kernel):
        value += load(weight, i * TILE + c, LANES) * load(window, (row + i) * TILE + c, LANES)
    return value


@compiled
def _copy_tile(source: Any, target: Any, rows: int, d: int, tile: int, width: int) -> None:
    """Copy a tile of `(rows, d)`."""
    for i in range(rows):
        for c in range(0, width, LANES):
            store(target, i * TILE + c, LANES, load(source, i * d + tile + c, width - c))


@compiled
def _forward(first: int, last: int, inputs: Any, y: Any, mask: Any, strides: Any, sizes: Any, reverse: bool) -> None:
    """Convolve tasks `first` to `last`."""
    x, state, all_weights, all_biases = inputs
    b, length, d, kernel, groups = sizes
    tiles, tail = (d + TILE - 1) // TILE, kernel - 1
    window = np.empty((STEPS + tail) * TILE, all_weights.dtype)
    weight, bias = np.empty(kernel * TILE, all_weights.dtype), np.empty(TILE, all_weights.dtype)
    for task in range(first, last):
        group, tile = task // tiles, task % tiles * TILE
        width = min(TILE, d - tile)
        _copy_tile(all_weights, weight, kernel, d, tile, width)
        _copy_tile(all_biases, bias, 1, d, tile, width)
        for i in range(group * b // groups, (group + 1) * b // groups):
            for start in range(0, length, STEPS):
                stop = min(start + STEPS, length)
                position = i, start - tail, stop, tile, width
                _fill(window, x, state, mask, position, strides, (length, tail), reverse)
                for s in range(start, stop):
                    t = length - 1 - s if reverse else s
                    for c in range(0, width, LANES):
                        value = _convolve(window, weight, bias, s - start, c, kernel)
                        store(y, (i * length + t) * d + tile + c, width - c, value * sigmoid(value))


@compiled
def _backward(
    first: int, last: int, inputs: Any, results: Any, mask: Any, strides: Any, sizes: Any, reverse: bool
) -> None:
    """Bring gradients through tasks `first` to `last`, from the end of the scan."""
    grad_y, x, state, all_weights, all_biases = inputs
    grad_x, grad_state, grad_weights = results
    b, length, d, kernel, groups = sizes
    g_b, g_l, x_b, x_l, state_b, state_l = strides
    tiles, tail = (d + TILE - 1) // TILE, kernel - 1
    window = np.empty((STEPS + tail) * TILE, all_weights.dtype)
    grads = np.empty((STEPS + tail) * TILE, all_weights.dtype)  # before the activation; the later steps behind
    weight, bias = np.empty(kernel * TILE, all_weights.dtype), np.empty(TILE, all_weights.dtype)
    sums, zero = np.empty((kernel + 1) * TILE, all_weights.dtype), splat(all_weights.dtype.type(0))
    for task in range(first, last):
        group, tile = task // tiles, task % tiles * TILE
        width = min(TILE, d - tile)
        _copy_tile(all_weights, weight, kernel, d, tile, width)
        _copy_tile(all_biases, bias, 1, d, tile, width)
        sums[:] = 0
        for i in range(group * b // groups, (group + 1) * b // groups):
            grads[:] = 0
            for start in range((length - 1) // STEPS * STEPS, -1, -STEPS):
                stop = min(start + STEPS, length)
                position = i, start - tail, stop, tile, width
                _fill(window, x, state, mask, position, (x_b, x_l, state_b, state_l), (length, tail), reverse)
                for row in range(stop - start - 1 + tail, stop - start - 1, -1):
                    grads[row * TILE : (row + 1) * TILE] = grads[
                        (row - stop + start) * TILE : (row + 1 - stop + start) * TILE
                    ]
                for s in range(start, stop):
                    t = length - 1 - s if reverse else s
                    for c in range(0, width, LANES):
                        value = _convolve(window, weight, bias, s - start, c, kernel)
                        open_ = sigmoid(value)
                        grad = load(grad_y, i * g_b + t * g_l + tile + c, width - c)
                        grad *= open_ * (1.0 + value * (1.0 - open_))
                        store(grads, (s - start) * TILE + c, LANES, grad)
                        for k in range(kernel):
                            o = k * TILE + c
                            store(
                                sums,
                                o,
                                LANES,
                                load(sums, o, LANES) + grad * load(window, (s - start) * TILE + o, LANES),
                            )
                        o = kernel * TILE + c
                        store(sums, o, LANES, load(sums, o, LANES) + grad)
                for s in range(start, stop):
                    t = length - 1 - s if reverse else s
                    real = not mask.size or mask[i * length + t]
                    for c in range(0, width, LANES):
                        value = zero
                        if real:
                            for k in range(kernel):
                                o = (s - start + k) * TILE + c
                                value += load(grads, o, LANES) * load(weight, (tail - k) * TILE + c, LANES)
                        store(grad_x, (i * length + t) * d + tile + c, width - c, value)
            if grad_state.size:
                for j in range(tail):  # `tail - j` steps before the first
                    row = (i * tail + (tail - 1 - j if reverse else j)) * d + tile
                    for c in range(0, width, LANES):
                        value = zero
                        for k in range(tail - j, kernel):
                            o = (k - tail + j) * TILE + c
                            value += load(grads, o, LANES) * load(weight, (tail - k) * TILE + c, LANES)
                        store(grad_state, row + c, width - c, value)
        for k in range(kernel + 1):
            for c in range(0, width, LANES):
                o = (group * (kernel + 1) + k) * d + tile + c
                store(grad_weights, o, width - c, load(sums, k * TILE + c, LANES))
