"""The cost of a model in floating point operations, counted on the meta device, which computes nothing.

A multiply-add counts as two. Counted are:

- products of matrices, convolutions and attention, by torch's `FlopCounterMode`; attention as if nothing were masked;
- the scan, which torch does not count: `9 d n` for a step that is read, `7 d n` for one that only updates the state
  and so lacks the multiply-add with `C`;
- the convolution before it, `2 k d` for a step.

Norms, activations, softmax, sums and means are not counted.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves  # torch has no public one
from torch.utils.flop_counter import FlopCounterMode

from .models.ops_fused import NAMESPACE

Shape = Sequence[int]


def count_flops(call: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Count the operations of one call of a module, or of a function of modules, on the meta device.

    Raises:
        ValueError: if it returns a tensor on another device, where the scan may run in an uncountable form.
    """
    operators = getattr(torch.ops, NAMESPACE)
    formulas = {operators.selective_scan: _scan_flops, operators.causal_conv1d: _conv_flops}
    # With gradients: without them, torch's encoder layer takes a path that the counter misses.
    with torch.enable_grad(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        result = call(*args, **kwargs)
    for x in tree_leaves(result):
        if isinstance(x, Tensor) and not x.is_meta:
            raise ValueError(f"modules and tensors must be on the meta device, got a result on {x.device}")
    return counter.get_total_flops()


def _scan_flops(u: Shape, delta: Shape, A: Shape, B: Shape, C: Shape | None, *rest: Any, **kwargs: Any) -> int:
    b, length, d = u
    n = A[1]
    flops = 7 * b * length * d * n
    if C is not None:
        flops += 2 * b * C[1] * d * n
    return flops


def _conv_flops(x: Shape, weight: Shape, *rest: Any, **kwargs: Any) -> int:
    b, length, d = x
    return 2 * b * length * d * weight[1]
