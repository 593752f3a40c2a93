"""Sizes of an original MambaVL and of its video model, read off the shapes of its tensors."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from mambavl_names import MOTIONFORMER, SHARED
from rename_keys import Rule, TensorSpec, shape_of
from videomamba_sizes import count_parts

# Tensors that every file of this family with the fusion by Mamba has.
SIGNS = (SHARED, "mamba_video.in_proj.weight", "mamba_text.in_proj.weight", "txt_proj.0.weight", "head0.weight")
EMBEDDINGS = "text_model.embeddings."


class FusionSizes(NamedTuple):
    """Sizes of all but the video model.

    Args:
        text_size: channels of the text model.
        vocab_size, max_position_embeddings, type_vocab_size: rows of its tables.
        heads: classes of each head.
    """

    hidden_size: int
    state_size: int
    conv_kernel: int
    expand: int
    text_size: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    heads: dict[str, int]


class VisionSizes(NamedTuple):
    """Sizes of AVION's video model."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_channels: int
    patch_size: int
    image_size: int
    num_frames: int


def read_fusion_sizes(specs: Mapping[str, TensorSpec]) -> FusionSizes:
    """Read the sizes of all but the video model.

    Raises:
        ValueError: if it is of another family or fusion, or if a shape cannot be one of this family.
    """
    check_family(specs)
    inner, state_size = shape_of(specs, SHARED, 2)
    _, hidden_size = shape_of(specs, "mamba_video.in_proj.weight", 2)
    if hidden_size < 1 or inner % hidden_size:
        raise ValueError(f"{SHARED} must have a multiple of {hidden_size} rows, the width of the mixers, got {inner}")
    vocab_size, text_size = shape_of(specs, f"{EMBEDDINGS}word_embeddings.weight", 2)
    return FusionSizes(
        hidden_size=hidden_size,
        state_size=state_size,
        conv_kernel=shape_of(specs, "mamba_video.conv1d.weight", 3)[-1],
        expand=inner // hidden_size,
        text_size=text_size,
        vocab_size=vocab_size,
        max_position_embeddings=shape_of(specs, f"{EMBEDDINGS}position_embeddings.weight", 2)[0],
        type_vocab_size=shape_of(specs, f"{EMBEDDINGS}token_type_embeddings.weight", 2)[0],
        heads={
            "verb": shape_of(specs, "head0.weight", 2)[0],
            "noun": shape_of(specs, "head1.weight", 2)[0],
        },
    )


def check_family(specs: Mapping[str, TensorSpec]) -> None:
    """Raise a `ValueError` unless tensors are of a MambaVL with the fusion by Mamba."""
    if any(name.startswith("fuser.") for name in specs):
        raise ValueError(
            "the checkpoint must be fused by Mamba, got fuser.* of another fusion, which reads pooled features alone"
        )
    missing = [name for name in SIGNS if name not in specs]
    if missing:
        few = ", ".join(sorted(specs)[:3])
        raise ValueError(f"the checkpoint must be of a MambaVL, which has {', '.join(missing)}, got {few} ...")


def is_motionformer(specs: Mapping[str, TensorSpec]) -> bool:
    """Return whether a file has the video model of an ORViT-Motionformer."""
    rules = [Rule(pattern) for pattern in MOTIONFORMER]
    return any(rule.match(name) is not None for name in specs for rule in rules)


def read_vision_sizes(specs: Mapping[str, TensorSpec], prefix: str) -> VisionSizes:
    """Read the sizes of AVION's video model.

    Args:
        specs: of all tensors, by the names of a MambaVL with flash-attn.
        prefix: of the video model's names.

    Raises:
        ValueError: if a tensor is missing, or if a shape cannot be one of it.
    """
    hidden_size, num_channels, patch_size = _patches(specs, f"{prefix}conv1.weight")
    places = shape_of(specs, f"{prefix}positional_embedding", 2)[0] - 1
    side = math.isqrt(max(places, 0))
    if side < 1 or side * side != places:
        raise ValueError(
            f"{prefix}positional_embedding must have a class token and a square of rows, got {places + 1}"
        )
    blocks = re.compile(re.escape(f"{prefix}transformer.resblocks.") + r"(\d+)\.")
    num_frames = 1
    if f"{prefix}temporal_embedding" in specs:
        num_frames = shape_of(specs, f"{prefix}temporal_embedding", 2)[0]
    return VisionSizes(
        hidden_size=hidden_size,
        intermediate_size=shape_of(specs, f"{prefix}transformer.resblocks.0.mlp.fc1.weight", 2)[0],
        num_hidden_layers=count_parts(specs, blocks),
        num_channels=num_channels,
        patch_size=patch_size,
        image_size=side * patch_size,
        num_frames=num_frames,
    )


def _patches(specs: Mapping[str, TensorSpec], name: str) -> tuple[int, int, int]:
    """Return width, channels of a picture and side of a patch of the first layer, a matrix or a convolution."""
    if name in specs and len(specs[name].shape) == 4:
        hidden_size, num_channels, side, _ = specs[name].shape
        return hidden_size, num_channels, side
    hidden_size, columns = shape_of(specs, name, 2)
    side = math.isqrt(columns // 3)
    if side < 1 or 3 * side * side != columns:
        raise ValueError(f"{name} must have a column for each of 3 colours of a square of pixels, got {columns}")
    return hidden_size, 3, side
