"""The short depthwise causal convolution before every scan, with a carried tail."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops_backends import FUSED, check_storage, scan_backends
from .ops_derivatives import wants_plain_torch
from .ops_fused import causal_conv1d_fused


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: Tensor | None = None,
    mask: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Convolve each channel with its past and apply SiLU.

        y[t] = silu(bias + sum_i weight[k - 1 - i] x[t - i])

    Args:
        x: `(b, l, d)`.
        weight: `(d, k)`, its last column for the present step.
        bias: `(d,)`.
        state: the `k - 1` inputs before the first, `(b, k - 1, d)`; zeros when absent.
        mask: `(b, l)`, true for real steps, which come last; masked steps count as zero, as steps before the start do.
        reverse: convolve with the future instead of the past; `state` then holds the inputs after the last.

    Returns:
        `y`, `(b, l, d)` in the dtype of `x`, and the tail for the next call, `(b, k - 1, d)`.

    Raises:
        ValueError: if a shape does not fit the others, or if a tensor is on another device than `x`.

    Source: Gu & Dao 2023, arXiv:2312.00752, figure 3; `causal_conv1d_fn` of Dao-AILab/causal-conv1d.
    """
    _check_inputs(x, weight, bias=bias, state=state, mask=mask)
    fused = [name for name in scan_backends(x.device.type, x.dtype) if name in FUSED]
    if fused and x.numel() > 0 and not wants_plain_torch(x, weight, bias, state):
        y = causal_conv1d_fused(fused[0], x, weight, bias=bias, state=state, mask=mask, reverse=reverse)
        return y, _tail(x, weight.shape[1] - 1, state, mask, reverse)
    return causal_conv1d_portable(x, weight, bias, state, mask=mask, reverse=reverse)


def causal_conv1d_portable(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: Tensor | None = None,
    mask: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute `causal_conv1d` in plain torch, on any device: the specification, with the contract's arguments."""
    dtype = x.dtype
    size = weight.shape[1] - 1
    tail = _tail(x, size, state, mask, reverse)
    before = _inputs_before(x, size, state)
    x = _clear_masked(x, mask)
    if reverse:
        x = torch.cat([x, before], dim=1)
        weight = weight.flip(1)
    else:
        x = torch.cat([before, x], dim=1)
    if bias is not None:
        bias = bias.to(x.dtype)
    y = F.conv1d(x.transpose(1, 2), weight[:, None].to(x.dtype), bias, groups=x.shape[2])
    return F.silu(y.transpose(1, 2)).to(dtype), tail  # autocast narrows convolutions


def _clear_masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set masked steps to zero."""
    if mask is None:
        return x
    return x.masked_fill(~mask[..., None].bool(), 0.0)


def _inputs_before(x: Tensor, size: int, state: Tensor | None) -> Tensor:
    """Return the inputs before the first: those of the state, or zeros."""
    if state is None:
        return x.new_zeros(x.shape[0], size, x.shape[2])
    return state.to(x.dtype)


def _tail(x: Tensor, size: int, state: Tensor | None, mask: Tensor | None, reverse: bool) -> Tensor:
    """Return the last `size` inputs, those of the state among them if there are fewer."""
    if torch.compiler.is_exporting():  # an exported graph serves any length
        before = _inputs_before(x, size, state)
        x = _clear_masked(x, mask)
        if reverse:
            return torch.cat([x, before], dim=1)[:, :size]
        return torch.cat([before, x], dim=1)[:, x.shape[1] :]
    size_here = min(size, x.shape[1])
    here = slice(0, size_here) if reverse else slice(x.shape[1] - size_here, None)
    inputs = x[:, here]
    if mask is not None:
        inputs = _clear_masked(inputs, mask[:, here])
    if size_here == size:  # a copy, since a view would keep all inputs alive
        return inputs.clone() if mask is None else inputs
    state = _inputs_before(x, size, state)
    if reverse:
        return torch.cat([inputs, state[:, : size - size_here]], dim=1)
    return torch.cat([state[:, size_here:], inputs], dim=1)


def _check_inputs(x: Tensor, weight: Tensor, **others: Tensor | None) -> None:
    """Raise a `ValueError` that names the first argument whose shape or device does not fit `x` and `weight`."""
    if x.ndim != 3 or weight.ndim != 2 or weight.shape[0] != x.shape[2]:
        raise ValueError(f"x must be (b, l, d) and weight (d, k), got {tuple(x.shape)} and {tuple(weight.shape)}")
    b, length, d = x.shape
    kernel = weight.shape[1]
    check_storage(x, weight=weight, **others)
    wanted = {"bias": (d,), "state": (b, kernel - 1, d), "mask": (b, length)}
    for name, tensor in others.items():
        if tensor is not None and tuple(tensor.shape) != wanted[name]:
            raise ValueError(f"{name} must be {wanted[name]}, got {tuple(tensor.shape)}")
