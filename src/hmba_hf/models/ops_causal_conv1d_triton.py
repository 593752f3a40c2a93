"""The short causal convolution as Triton kernels, forward and backward, equal to `ops_causal_conv1d`.

A program owns one row of the batch, a tile of steps and a block of channels. Steps are counted in the order of the
convolution, so that each looks at those before it; the state holds the steps `-1` to `-(k - 1)`.
"""

# mypy: allow-untyped-defs
# Triton compiles a kernel from its source, in which `tl.constexpr` is the only annotation of an argument.

from typing import Any

from torch import Tensor

from .ops_launch_triton import device_of, sigmoid, strides_of
from .ops_scan_inputs import empty_for

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("the Triton kernel needs `pip install triton`") from error

TIMES = 16
CHANNELS = 64
TILE = {"TIMES": TIMES, "CHANNELS": CHANNELS, "enable_fp_fusion": True}


def conv_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, mask: Tensor | None, reverse: bool
) -> Tensor:
    """Return `y` of `causal_conv1d`, `(b, l, d)`.

        y[t] = silu(bias + sum_i weight[k - 1 - i] x[t - i])

    Arguments are checked and not empty. `x` and `state` have unit stride in the last dimension; `weight` `(d, k)` and
    `bias` `(d,)` are contiguous and wide.
    """
    b, length, d = x.shape
    taps = weight.shape[1]
    if taps == 1:
        state = None
    y = x.new_empty(b, length, d)
    with device_of(x):
        _forward[_grid(b, triton.cdiv(length, TIMES), d)](
            *(x, weight, bias, state, mask, y),
            *strides_of(x, state, mask),
            *(length, d),
            REVERSE=reverse,
            TAPS=taps,
            **TILE,
        )
    return y


def conv_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    mask: Tensor | None,
    reverse: bool,
) -> tuple[Any, ...]:
    """Return the gradients in `x`, `weight`, `bias`, `state`: `None` where the argument is, wide for the weights."""
    b, length, d = x.shape
    taps = weight.shape[1]
    grad_x = x.new_empty(b, length, d)
    grad_state = empty_for(state, x, (b, taps - 1, d))
    tiles = triton.cdiv(length + taps - 1, TIMES)  # the state has gradients, too
    grad_weight = weight.new_empty(b, tiles, d, taps)
    grad_bias = empty_for(bias, weight, (b, tiles, d))
    if taps == 1:
        state = None
    with device_of(x):
        _backward[_grid(b, tiles, d)](
            *(grad_y, x, weight, bias, state, mask, grad_x, grad_weight, grad_bias, grad_state),
            *strides_of(grad_y, x, state, mask),
            *(length, d),
            REVERSE=reverse,
            TAPS=taps,
            **TILE,
        )
    if grad_bias is not None:
        grad_bias = grad_bias.sum((0, 1))
    return grad_x, grad_weight.sum((0, 1)), grad_bias, grad_state


def _grid(b: int, tiles: int, d: int) -> tuple[int, int]:
    """Return the numbers of programs. Rows and tiles share the first axis: no other may exceed 65,535 on a GPU."""
    return b * tiles, triton.cdiv(d, CHANNELS)


@triton.jit
def _load_inputs(
    x, state, mask, step, channel, length, channels, x_time, state_time, mask_time,
    wide: tl.constexpr, REVERSE: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Load a row's inputs at any steps, `(steps, channels)`; masked steps and those before the state are zero."""
    present = (channel < channels)[None, :]
    time = length - 1 - step if REVERSE else step
    real = (step >= 0) & (step < length)
    if mask is not None:
        real = real & (tl.load(mask + time * mask_time, mask=real, other=0) != 0)
    inputs = tl.load(x + time[:, None] * x_time + channel[None, :], mask=real[:, None] & present, other=0.0).to(wide)
    if state is not None:
        early = (step < 0) & (step >= 1 - TAPS)
        place = -1 - step if REVERSE else step + TAPS - 1
        kept = state + place[:, None] * state_time + channel[None, :]
        inputs += tl.load(kept, mask=early[:, None] & present, other=0.0).to(wide)
    return inputs


@triton.jit
def _convolve(
    x, weight, bias, state, mask, step, channel, length, channels, x_time, state_time, mask_time,
    wide: tl.constexpr, REVERSE: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Compute what enters SiLU at some steps, `(steps, channels)`."""
    total = tl.zeros((step.shape[0], channel.shape[0]), wide)
    if bias is not None:
        total += tl.load(bias + channel, mask=channel < channels, other=0.0)[None, :]
    for i in tl.static_range(TAPS):
        tap = tl.load(weight + channel * TAPS + (TAPS - 1 - i), mask=channel < channels, other=0.0)[None, :]
        total += tap * _load_inputs(
            x, state, mask, step - i, channel, length, channels, x_time, state_time, mask_time, wide, REVERSE, TAPS
        )
    return total


@triton.jit
def _forward(
    x, weight, bias, state, mask, y,
    x_batch, x_time, state_batch, state_time, mask_batch, mask_time, length, channels,
    REVERSE: tl.constexpr, TAPS: tl.constexpr, TIMES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    wide: tl.constexpr = weight.dtype.element_ty
    tiles = tl.cdiv(length, TIMES)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    step = (tl.program_id(0) % tiles).to(tl.int64) * TIMES + tl.arange(0, TIMES)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    x += row * x_batch
    if state is not None:
        state += row * state_batch
    if mask is not None:
        mask += row * mask_batch
    total = _convolve(
        x, weight, bias, state, mask, step, channel, length, channels, x_time, state_time, mask_time,
        wide, REVERSE, TAPS,
    )  # fmt: skip
    time = length - 1 - step if REVERSE else step
    where = (step < length)[:, None] & (channel < channels)[None, :]
    out = (row * length + time[:, None]) * channels + channel[None, :]
    tl.store(y + out, (total * sigmoid(total)).to(y.dtype.element_ty), mask=where)


@triton.jit
def _backward(
    grad_y, x, weight, bias, state, mask, grad_x, grad_weight, grad_bias, grad_state,
    grad_y_batch, grad_y_time, x_batch, x_time, state_batch, state_time, mask_batch, mask_time, length, channels,
    REVERSE: tl.constexpr, TAPS: tl.constexpr, TIMES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    wide: tl.constexpr = weight.dtype.element_ty
    tiles = tl.cdiv(length + TAPS - 1, TIMES)
    part = tl.program_id(0).to(tl.int64)  # of all rows and tiles, as the sums are ordered
    row = part // tiles
    # The first tile begins at the state. A step's gradient comes from itself and from the `k - 1` steps after it.
    step = part % tiles * TIMES + tl.arange(0, TIMES) - (TAPS - 1)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    present = channel < channels
    x += row * x_batch
    if state is not None:
        state += row * state_batch
    if mask is not None:
        mask += row * mask_batch
    inputs = _load_inputs(
        x, state, mask, step, channel, length, channels, x_time, state_time, mask_time, wide, REVERSE, TAPS
    )
    ginputs = tl.zeros((TIMES, CHANNELS), wide)
    shared = (part * channels + channel) * TAPS
    for i in tl.static_range(TAPS):
        later = step + i
        total = _convolve(
            x, weight, bias, state, mask, later, channel, length, channels, x_time, state_time, mask_time,
            wide, REVERSE, TAPS,
        )  # fmt: skip
        time = length - 1 - later if REVERSE else later
        read = ((later >= 0) & (later < length))[:, None] & present[None, :]
        gy = grad_y + row * grad_y_batch + time[:, None] * grad_y_time + channel[None, :]
        gate = sigmoid(total)
        gtotal = tl.load(gy, mask=read, other=0.0).to(wide) * gate * (1.0 + total * (1.0 - gate))
        ginputs += gtotal * tl.load(weight + channel * TAPS + (TAPS - 1 - i), mask=present, other=0.0)[None, :]
        tl.store(grad_weight + shared + (TAPS - 1 - i), tl.sum(gtotal * inputs, 0), mask=present)
        if i == 0 and bias is not None:
            tl.store(grad_bias + part * channels + channel, tl.sum(gtotal, 0), mask=present)
    time = length - 1 - step if REVERSE else step
    exists = (step >= 0) & (step < length)
    real = exists
    if mask is not None:
        real = real & (tl.load(mask + time * mask_time, mask=exists, other=0) != 0)
    out = grad_x + (row * length + time[:, None]) * channels + channel[None, :]
    gx = tl.where(real[:, None], ginputs, 0.0).to(grad_x.dtype.element_ty)
    tl.store(out, gx, mask=exists[:, None] & present[None, :])
    if state is not None:
        place = -1 - step if REVERSE else step + TAPS - 1
        kept = grad_state + (row * (TAPS - 1) + place[:, None]) * channels + channel[None, :]
        early = (step < 0)[:, None] & present[None, :]
        tl.store(kept, ginputs.to(grad_state.dtype.element_ty), mask=early)
