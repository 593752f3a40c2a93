"""The short depthwise causal convolution before every scan, with a carried tail."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops_backends import FUSED, check_device, scan_backends
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
        mask: `(b, l)`, true for real steps, which come last; a masked step enters as zero, as if before the start.
        reverse: look at the future instead of the past; `state` then holds the inputs after the last.

    Returns:
        `y`, `(b, l, d)` in the dtype of `x`, and the tail for the next call, `(b, k - 1, d)`.

    Raises:
        ValueError: if a shape does not fit the others, or if a tensor is on another device than `x`.

    Source: Gu & Dao 2023, arXiv:2312.00752, figure 3; `causal_conv1d_fn` of Dao-AILab/causal-conv1d.
    """
    _check_inputs(x, weight, bias=bias, state=state, mask=mask)
    fused = [name for name in scan_backends(x.device.type) if name in FUSED]
    if fused and x.numel() > 0 and not wants_plain_torch(x, weight, bias, state):
        y = causal_conv1d_fused(fused[0], x, weight, bias, state, mask, reverse)
        return y, _tail(x, weight.shape[1] - 1, state, mask, reverse)
    return causal_conv1d_portable(x, weight, bias, state, mask, reverse)


def causal_conv1d_portable(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: Tensor | None = None,
    mask: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute `causal_conv1d` in plain torch, on any device: the specification, with the contract's arguments."""
    tail, dtype = _tail(x, weight.shape[1] - 1, state, mask, reverse), x.dtype
    before = x.new_zeros(tail.shape) if state is None else state.to(x.dtype)
    if mask is not None:
        x = x.masked_fill(~mask[..., None].bool(), 0.0)
    x = torch.cat([x, before] if reverse else [before, x], dim=1)
    weight = weight.flip(1) if reverse else weight
    bias = None if bias is None else bias.to(x.dtype)
    y = F.conv1d(x.transpose(1, 2), weight[:, None].to(x.dtype), bias, groups=x.shape[2])
    return F.silu(y.transpose(1, 2)).to(dtype), tail  # autocast narrows convolutions


def _tail(x: Tensor, size: int, state: Tensor | None, mask: Tensor | None, reverse: bool) -> Tensor:
    """Return the last `size` inputs, those of the state among them if there are fewer."""
    if torch.compiler.is_exporting():  # whether there are fewer is not known then
        before = x.new_zeros(x.shape[0], size, x.shape[2]) if state is None else state.to(x.dtype)
        x = x if mask is None else x.masked_fill(~mask[..., None].bool(), 0.0)
        return torch.cat([x, before], dim=1)[:, :size] if reverse else torch.cat([before, x], dim=1)[:, x.shape[1] :]
    size_here = min(size, x.shape[1])
    here = slice(0, size_here) if reverse else slice(x.shape[1] - size_here, None)
    inputs = x[:, here]
    if mask is not None:
        inputs = inputs.masked_fill(~mask[:, here, None].bool(), 0.0)
    if size_here == size:  # as a tensor of its own, which does not keep all inputs alive
        return inputs.clone() if mask is None else inputs
    state = x.new_zeros(x.shape[0], size, x.shape[2]) if state is None else state.to(x.dtype)
    if reverse:
        return torch.cat([inputs, state[:, : size - size_here]], dim=1)
    return torch.cat([state[:, size_here:], inputs], dim=1)


def _check_inputs(x: Tensor, weight: Tensor, **others: Tensor | None) -> None:
    """Raise a `ValueError` that names the first argument whose shape or device does not fit `x` and `weight`."""
    if x.ndim != 3 or weight.ndim != 2 or weight.shape[0] != x.shape[2]:
        raise ValueError(f"x must be (b, l, d) and weight (d, k), got {tuple(x.shape)} and {tuple(weight.shape)}")
    (b, length, d), kernel = x.shape, weight.shape[1]
    check_device(x, weight=weight, **others)
    wanted = {"bias": (d,), "state": (b, kernel - 1, d), "mask": (b, length)}
    for name, tensor in others.items():
        if tensor is not None and tuple(tensor.shape) != wanted[name]:
            raise ValueError(f"{name} must be {wanted[name]}, got {tuple(tensor.shape)}")
