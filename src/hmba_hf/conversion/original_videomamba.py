"""VideoMamba's backbone, restated step by step from its description, under the original's names.

Axes: `b` clips, `t` tokens over time, `p` patches per frame, `d` channels. `weights` are the tensors of a checkpoint,
by their names without a prefix.

Source: Li et al. 2024, arXiv:2403.06977, section 3; OpenGVLab/VideoMamba at f3427e4, `videomamba.py`.
"""

import torch
from torch import Tensor
from torch.nn import functional

from hmba_hf.conversion.original_adapter import Weights, original_mixer, part_of

SHARED = ("in_proj.weight", "out_proj.weight")  # by the two directions of a mixer


def original_videomamba(weights: Weights, clips: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the normed tokens, `(b, 1 + t * p, d)`, of clips of any length and size.

    Args:
        weights: of the backbone.
        clips: `(b, channels, frames, height, width)`.
        grid: rows and columns of the table of places.
    """
    kernel = weights["patch_embed.proj.weight"]
    if kernel.ndim == 4:
        kernel = kernel[:, :, None]
    tokens = functional.conv3d(clips, kernel, weights["patch_embed.proj.bias"], stride=kernel.shape[2:])
    places = _places(weights["pos_embed"], grid, tokens.shape[-2:])
    tokens = tokens.flatten(3).permute(0, 2, 3, 1) + places[:, None, 1:]  # (b, t, p, d)
    if "temporal_pos_embedding" in weights:
        times = weights["temporal_pos_embedding"].transpose(1, 2)
        times = functional.interpolate(times, size=tokens.shape[1], mode="linear", align_corners=False)
        tokens = tokens + times.transpose(1, 2)[:, :, None]
    cls_token = weights["cls_token"] + places[:, :1]
    hidden = torch.cat([cls_token.expand(len(tokens), -1, -1), tokens.flatten(1, 2)], dim=1)
    residual = torch.zeros_like(hidden)
    layer = 0
    while block := part_of(weights, f"layers.{layer}."):
        residual = residual + hidden
        hidden = _both_directions(part_of(block, "mixer."), _norm(block["norm.weight"], residual))
        layer += 1
    final = "norm_f.weight" if "norm_f.weight" in weights else "norm.weight"
    return _norm(weights[final], residual + hidden)


def _places(table: Tensor, grid: tuple[int, int], wanted: tuple[int, ...]) -> Tensor:
    """Resize a table of a class token and of places, `(1, 1 + p, d)`."""
    places = table[:, 1:].transpose(1, 2).unflatten(2, grid)
    places = functional.interpolate(places, size=wanted, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], places.flatten(2).transpose(1, 2)], dim=1)


def _norm(weight: Tensor, x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


def _both_directions(weights: Weights, x: Tensor) -> Tensor:
    """Scan forwards and back; the projections are the same, and that of the sum is the sum of both."""
    forward = {}
    reverse = {}
    for name, tensor in weights.items():
        if name in SHARED:
            forward[name] = tensor
            reverse[name] = tensor
        elif "_b" in name:
            reverse[name.replace("_b", "", 1)] = tensor
        else:
            forward[name] = tensor
    return original_mixer(forward, x) + original_mixer(reverse, x.flip(1)).flip(1)
