"""Quantised parts of joins, and layers in 4 bits on a CPU, as bitsandbytes holds them."""

from collections.abc import Mapping
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


def refuse_quantised(part: Any, config: Any, options: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if a part of a join is quantised, or shall be.

    Args:
        part: folder or Hub id.
        config: of its checkpoint.
        options: with which it is loaded.
    """
    if "quantization_config" in options or getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"the parts of this join must have plain weights, got a quantization_config for {part}: join plain parts, "
            "save the model, and load it with one"
        )
