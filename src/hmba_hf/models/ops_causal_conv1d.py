"""The short depthwise causal convolution before every scan, with a carried tail."""

import torch
import torch.nn.functional as F
from torch import Tensor


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

    Source: Gu & Dao 2023, arXiv:2312.00752, figure 3; `causal_conv1d_fn` of Dao-AILab/causal-conv1d.
    """
    if x.ndim != 3 or weight.shape[0] != x.shape[2]:
        raise ValueError(f"x must be (b, l, d) and weight (d, k), got {tuple(x.shape)} and {tuple(weight.shape)}")
    tail = weight.shape[1] - 1
    if mask is not None:
        x = x.masked_fill(~mask[..., None].bool(), 0.0)
    if state is None:
        state = x.new_zeros(x.shape[0], tail, x.shape[2])
    if reverse:
        x = torch.cat([x, state.to(x.dtype)], dim=1)
        weight, state = weight.flip(1), x[:, :tail]
    else:
        x = torch.cat([state.to(x.dtype), x], dim=1)
        state = x[:, x.shape[1] - tail :]
    bias = None if bias is None else bias.to(x.dtype)
    y = F.conv1d(x.transpose(1, 2), weight[:, None].to(x.dtype), bias, groups=x.shape[2])
    return F.silu(y.transpose(1, 2)), state
