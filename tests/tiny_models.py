"""H-MBA models small enough for any test: random weights, 28 px frames of 2 x 2 patches."""

import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig

from hmba_hf import HMBAConfig, HMBAForConditionalGeneration
from hmba_hf.families import FAMILIES

VIDEO_TOKEN_ID = 99
NUM_PATCHES = 4
FAMILY = next(family for family in FAMILIES if family.model_type == "hmba")
PARTS = FAMILY.parts
part_of = FAMILY.part_of


def tiny_tower(**kwargs) -> CLIPVisionConfig:
    """Build the configuration of a vision tower; `kwargs` override single values."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    return CLIPVisionConfig(**{**sizes, "image_size": 28, "patch_size": 14, **kwargs})


def tiny_text(**kwargs) -> LlamaConfig:
    """Build the configuration of a language model; `kwargs` override single values."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"vocab_size": 104, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 102}
    return LlamaConfig(**{**sizes, **tokens, "max_position_embeddings": 2048, **kwargs})


def tiny_config(**kwargs) -> HMBAConfig:
    """Build a configuration; `kwargs` override single values, also those of the preset."""
    defaults = {
        "vision_config": tiny_tower(),
        "text_config": tiny_text(),
        "video_token_id": VIDEO_TOKEN_ID,
        "adapter_num_heads": 4,
    }
    return HMBAConfig(**{**defaults, **kwargs})


def tiny_model(**kwargs) -> HMBAForConditionalGeneration:
    """Build a model for `tiny_config(**kwargs)`, in evaluation mode."""
    return HMBAForConditionalGeneration(tiny_config(**kwargs)).eval()


def open_adapter(adapter: nn.Module) -> nn.Module:
    """Let a fresh adapter act: random gates, positions and latent mixer instead of zeros."""
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if name.endswith(("gate", "temporal_position_embedding", "latent_mixer.out_proj.weight")):
                parameter.normal_(std=0.5)
    return adapter


def open_gate(model: HMBAForConditionalGeneration) -> HMBAForConditionalGeneration:
    """Let the adapter of a fresh model act."""
    open_adapter(model.model.temporal_adapter)
    return model


def lively_model(scale: float = 16, seed: int = 0, **kwargs) -> HMBAForConditionalGeneration:
    """Build a random model whose greedy answers depend on the video and on the question."""
    torch.manual_seed(seed)
    model = open_gate(tiny_model(**kwargs))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and any(part in name for part in ("language_model", "projector", "lm_head")):
                weight.mul_(scale)
    return model


def tiny_inputs(batch: int = 1, frames: int = 5, videos: int = 1, **kwargs) -> dict[str, torch.Tensor]:
    """Build a prompt with `videos` videos for each row, and their random pixels."""
    row = [1, 10, 11, *(videos * [*[VIDEO_TOKEN_ID] * NUM_PATCHES, 12]), 13, 14, 15]
    input_ids = torch.tensor([row] * batch)
    input_ids[:, -2] += torch.arange(batch)
    pixels = torch.randn(batch * videos, frames, 3, 28, 28)
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values_videos": pixels,
        **kwargs,
    }


def assert_equal_weights(model, other):
    """The same weights, to the bit."""
    weights = other.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
