"""Quantised parts of joins, and what keeps a quantised model such that it can be saved."""

from collections.abc import Mapping
from typing import Any

_PACKED_ROWS = 32  # rows of weights that bitsandbytes packs together


def keep_savable(model: Any) -> None:
    """Let a quantised model be saved as it was loaded, also after evaluations, and if it was quantised on disk.

    On CPUs with AVX512-BF16, bitsandbytes (0.50) packs a layer in 4 bits at its first evaluation, and unpacks it for a
    save with other scales. Scales that are quantised, too, are kept beside; other layers stay as they lie in memory,
    and so do those whose rows or columns do not fill its blocks, which it refuses to pack and to evaluate.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        conversions = vars(model).get("_weight_conversions") or ()
        model._weight_conversions = [change for change in conversions if _can_be_undone(change)]
    for layer in model.modules():
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if not getattr(layer, "support_avx512bf16_for_cpu", False) or state is None:
            continue
        rows, columns = state.shape
        can_be_packed = rows % _PACKED_ROWS == 0 and columns % state.blocksize == 0
        if not (state.nested and can_be_packed):
            layer.support_avx512bf16_for_cpu = False
        elif not getattr(state, "packing_format_for_cpu", False):
            layer.register_state_dict_post_hook(_Scales(state))


class _Scales:
    """The scales of a layer in 4 bits, which a save shall hold instead of those that an evaluation has rounded.

    Args:
        state: of bitsandbytes, whose scales are quantised.
    """

    def __init__(self, state: Any):
        self._held = {name: getattr(state, name) for name in ("absmax", "offset", "state2")}

    def __call__(self, layer: Any, weights: dict[str, Any], prefix: str, metadata: Any) -> None:
        """Put the scales into the layer, which has been unpacked, and into its saved weights."""
        state = layer.weight.quant_state
        for name, value in self._held.items():
            setattr(state, name, value)
        state.to(layer.weight.device)
        for name, value in state.as_dict(packed=True).items():
            weights[f"{prefix}weight.{name}"] = value


def _can_be_undone(conversion: Any) -> bool:
    """Return whether transformers can undo what it has done to weights that it has read.

    It cannot (5.24) for weights that were quantised on disk, and need not: they are saved as they lie in memory.
    """
    try:
        conversion.reverse_transform()
    except NotImplementedError:
        return False
    return True


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
