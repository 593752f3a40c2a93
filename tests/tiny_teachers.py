"""CLIP vision towers small enough for any test: random weights, 32 px frames of 2 x 2 patches."""

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection


def tiny_tower(**kwargs) -> CLIPVisionModelWithProjection:
    """Build a tower whose attention differs from patch to patch; `kwargs` override single values."""
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = CLIPVisionConfig(**{**sizes, "image_size": 32, "patch_size": 16, "projection_dim": 20, **kwargs})
    tower = CLIPVisionModelWithProjection(config)
    with torch.no_grad():
        for name, weight in tower.named_parameters():
            if "_proj." in name or "norm" in name or "fc" in name:
                weight.add_(torch.randn_like(weight) * 0.3)
    return tower.eval()


def save_tiny_teacher(folder, **kwargs):
    """Save a tower, and return its folder."""
    tiny_tower(**kwargs).save_pretrained(folder)
    return folder
