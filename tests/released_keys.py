"""Where the released code's weights stand in this package: its adapter, and its whole model."""

import re

import torch
from torch import Tensor

MIXERS = {
    "t_mamba": "context.mixers.divided_time.forward_mixer",
    "layer_2.0": "context.mixers.space.forward_mixer",
    "reverse_layer_2.0": "context.mixers.space.reverse_mixer",
}
OTHERS = {"layer_norm": "context.norms.shared", "fc_q": "query.fusion.query_proj"}
# Of the language model and the projector: what a name starts with, and what it starts with here.
WHOLE_MODEL = {
    "lm_head.": "lm_head.",
    "model.mm_projector.": "model.multi_modal_projector.",
    "model.": "model.language_model.",
}


def released_adapter(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights, or gradients, that the released adapter uses; what it never uses is left out."""
    renamed = {
        "context.temporal_position_embedding": tensors["time_embed"][0],
        "query.fusion.context_scales": torch.cat([tensors["v2"], tensors["v3"]]),
    }
    for name, tensor in tensors.items():
        for original, ours in (MIXERS | OTHERS).items():
            if re.match(rf"{re.escape(original)}\.", name):
                renamed[ours + name.removeprefix(original)] = tensor
    return renamed


def released_model(tensors: dict[str, Tensor], tower: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of the whole released model and of the vision tower that it keeps outside."""
    adapter = {k.removeprefix("model.hmba."): v for k, v in tensors.items() if k.startswith("model.hmba.")}
    renamed = {f"model.temporal_adapter.{k}": v for k, v in released_adapter(adapter).items()}
    renamed |= {f"model.vision_tower.{k}": v for k, v in tower.items()}
    for name, tensor in tensors.items():
        if not name.startswith("model.hmba."):
            original = next(start for start in WHOLE_MODEL if name.startswith(start))
            renamed[WHOLE_MODEL[original] + name.removeprefix(original)] = tensor
    return renamed
