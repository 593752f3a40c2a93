"""Loading the vision tower of a checkpoint, of a vision model or of a vision-text model."""

from typing import Any

from .loading_checkpoints import load_with_report, vision_half  # first: it refuses an old transformers

# isort: split
import torch
from transformers import AutoModel


def load_vision_tower(vision: str, config: Any, dtype: torch.dtype, options: dict[str, Any]) -> tuple[Any, set[str]]:
    """Load a vision tower, and name its weights that the checkpoint lacks.

    The tower of a vision-text model is taken from the whole model, which reads the names of all its checkpoints, old
    ones, too. In the dtype of the checkpoint the other weights are mapped from the files and never read: of 650 MiB
    beside a tower of 7 MiB, memory grows by less than 10.

    Args:
        vision: folder or Hub id of a vision model or of a vision-text model.
        config: of the whole checkpoint, as `load_vision_config` returns it.
        dtype: of the tower.
        options: of `from_pretrained`.

    Raises:
        ValueError: if a vision-text model has no tower of its own.
    """
    tower_config = vision_half(config)
    is_quantised = "quantization_config" in options or getattr(config, "quantization_config", None) is not None
    keeps_dtype = tower_config is not config and not is_quantised
    loaded_dtype = "auto" if keeps_dtype else dtype
    whole, lacking = load_with_report(AutoModel, vision, config=config, dtype=loaded_dtype, **options)
    if tower_config is config:
        return whole, lacking
    tower = whole.get_encoder("image")
    if getattr(tower, "config", None) is None or tower.config.model_type != tower_config.model_type:
        raise ValueError(
            f"a vision-text model must have a vision tower of its own, got {type(whole).__name__} in {vision}"
        )
    prefix = next(f"{name}." for name, module in whole.named_modules() if module is tower)
    lacking = {name.removeprefix(prefix) for name in lacking if name.startswith(prefix)}
    if is_quantised:
        tower.hf_quantizer = getattr(whole, "hf_quantizer", None)
    if keeps_dtype:
        tower = tower.to(dtype)
    return tower, lacking
