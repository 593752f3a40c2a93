"""Layers in 4 bits on a CPU, as bitsandbytes holds them."""

from typing import Any

from torch import nn

_PACKED_ROWS = 32  # rows of weights that bitsandbytes packs together


def keep_scales(model: nn.Module) -> None:
    """Keep layers in 4 bits as they lie in memory, unless their scales are quantised, too, and they can be packed.

    On CPUs with AVX512-BF16, bitsandbytes (0.50) packs a layer at its first evaluation, and a later save then gets
    other scales. A layer whose rows or columns do not fill its blocks, it refuses to pack and to evaluate.
    """
    layers: Any = model.modules()
    for layer in layers:
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if not getattr(layer, "support_avx512bf16_for_cpu", False) or state is None:
            continue
        rows, columns = state.shape
        can_be_packed = rows % _PACKED_ROWS == 0 and columns % state.blocksize == 0
        if not (state.nested and can_be_packed):
            layer.support_avx512bf16_for_cpu = False
