"""The cost of an H-MBA in floating point operations, part by part."""

from typing import Any

import torch
from torch import Tensor

from ...flops import count_flops
from ...models.configuration_hmba import HMBAConfig
from ...models.layers_adapter_state import AdapterState
from ...models.layers_temporal_adapter import TemporalAdapter
from ...models.modeling_hmba import HMBAForConditionalGeneration, HMBAModel


def answer_flops(config: HMBAConfig, num_frames: int | None = None, text_tokens: int = 64) -> dict[str, int]:
    """Count the operations for one clip and the first token of an answer, by part of the model.

    Args:
        config: of the model.
        num_frames: frames of the clip; the config's when absent.
        text_tokens: tokens of the prompt besides the `p` visual ones.

    Returns:
        Operations by `"vision_tower"` (all frames), `"adapter"`, `"projector"`, and `"language_model"` (the whole
        prompt, and one token in its head).
    """
    with torch.device("meta"):
        model = HMBAForConditionalGeneration(config).eval()
        frames = _frame_features(config, num_frames or config.num_frames)
        channels = getattr(model.model.vision_tower.config, "num_channels", 3)
        pixels = torch.empty(1, frames.shape[1], channels, *config.frame_size)
        width = model.get_input_embeddings().embedding_dim
        prompt = torch.empty(1, config.num_patches + text_tokens, width)
    reading = count_flops(model.model.language_model, inputs_embeds=prompt, use_cache=True)
    return {
        "vision_tower": count_flops(model.get_frame_features, pixels),
        "adapter": count_flops(model.model.temporal_adapter, frames),
        "projector": count_flops(model.model.multi_modal_projector, frames[:, -1]),
        "language_model": reading + count_flops(model.lm_head, prompt[:, -1]),
    }


def adapter_flops(config: HMBAConfig, num_frames: int | None = None, is_stream: bool = False) -> dict[str, int]:
    """Count the adapter's operations for one clip, or for the next frames of a video stream.

    Args:
        config: of the model.
        num_frames: frames of the clip, or new frames of the stream; the config's when absent.
        is_stream: whether the adapter takes and returns a state, which it must have.

    Returns:
        Operations by `"context"` (the scans) and `"query"` (fusion and latent Mamba); a baseline has no query.
    """
    adapter = _build_adapter(config)
    frames = _frame_features(config, num_frames or config.num_frames)
    state = AdapterState() if is_stream else None
    whole = count_flops(adapter, frames, state)
    if not isinstance(adapter, TemporalAdapter):
        return {"context": whole, "query": 0}
    context = count_flops(adapter.context, frames, state)
    return {"context": context, "query": whole - context}


def context_flops(config: HMBAConfig, num_frames: int | None = None) -> dict[str, int]:
    """Count the operations of each branch at each stride alone for one clip, by `"branch/stride_n"`.

    Together they may cost less, since the strides of a branch share some results.

    Raises:
        ValueError: if the adapter is a baseline, which has no branches.
    """
    if config.adapter != "mamba":
        raise ValueError(f"the adapter must be one with branches, 'mamba', got {config.adapter!r}")
    frames = _frame_features(config, num_frames or config.num_frames)
    costs = {}
    for stride in sorted(config.temporal_strides):
        for branch in config.branches:
            one = {"branches": [branch], "temporal_strides": [stride], "fusion": "add", "fusion_weights": None}
            alone: Any = _build_adapter(HMBAConfig.from_dict({**config.to_dict(), **one}))
            costs[f"{branch}/stride_{stride}"] = count_flops(alone.context, frames)
    return costs


def _build_adapter(config: HMBAConfig) -> torch.nn.Module:
    with torch.device("meta"):
        return HMBAModel(config).temporal_adapter.eval()


def _frame_features(config: HMBAConfig, num_frames: int) -> Tensor:
    return torch.empty(1, num_frames, config.num_patches, config.vision_config.hidden_size, device="meta")
