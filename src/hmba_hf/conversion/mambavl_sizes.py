"""Sizes of an original MambaVL and of its video model, read off the shapes of its tensors."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from hmba_hf.conversion.mambavl_names import MOTIONFORMER, ORVIT, SHARED
from hmba_hf.conversion.rename_keys import Rule, TensorSpec, shape_of
from hmba_hf.conversion.videomamba_sizes import count_parts

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


class MotionformerSizes(NamedTuple):
    """Sizes of an ORViT-Motionformer.

    Args:
        object_layers: numbers of the blocks that read boxes.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_channels: int
    patch_size: int
    image_size: int
    tubelet_size: int
    num_frames: int
    object_layers: list[int]
    num_objects: int


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


def motionformer_prefix(specs: Mapping[str, TensorSpec]) -> str | None:
    """Return what stands before the names of an ORViT-Motionformer in a file; `None` where there is none."""
    for prefix in ("", ORVIT):
        rules = [Rule(f"{prefix}{pattern}") for pattern in MOTIONFORMER]
        if any(rule.match(name) is not None for name in specs for rule in rules):
            return prefix
    return None


def read_motionformer_sizes(specs: Mapping[str, TensorSpec], prefix: str) -> MotionformerSizes:
    """Read the sizes of an ORViT-Motionformer.

    Args:
        specs: of all tensors.
        prefix: of the video model's names.

    Raises:
        ValueError: if a tensor is missing, or if a shape cannot be one of it.
    """
    hidden_size, num_channels, tubelet_size, patch_size, _ = shape_of(specs, f"{prefix}patch_embed_3d.proj.weight", 5)
    side = _side_of(f"{prefix}pos_embed", shape_of(specs, f"{prefix}pos_embed", 3)[1])
    blocks = re.compile(re.escape(f"{prefix}blocks.") + r"(\d+)\.")
    num_layers = count_parts(specs, blocks)
    seeing = [number for number in range(num_layers) if f"{prefix}blocks.{number}.box_categories" in specs]
    num_objects = 1
    if seeing:
        num_objects = shape_of(specs, f"{prefix}blocks.{seeing[0]}.box_categories", 3)[1]
    return MotionformerSizes(
        hidden_size=hidden_size,
        intermediate_size=shape_of(specs, f"{prefix}blocks.0.mlp.fc1.weight", 2)[0],
        num_hidden_layers=num_layers,
        num_channels=num_channels,
        patch_size=patch_size,
        image_size=side * patch_size,
        tubelet_size=tubelet_size,
        num_frames=shape_of(specs, f"{prefix}temp_embed", 3)[1] * tubelet_size,
        object_layers=seeing,
        num_objects=num_objects,
    )


def _side_of(name: str, rows: int) -> int:
    """Return the side of the square of places that a table has rows for, behind that of a class token."""
    side = math.isqrt(max(rows - 1, 0))
    if side < 1 or side * side != rows - 1:
        raise ValueError(f"{name} must have a class token and a square of rows, got {rows}")
    return side


def read_vision_sizes(specs: Mapping[str, TensorSpec], prefix: str) -> VisionSizes:
    """Read the sizes of AVION's video model.

    Args:
        specs: of all tensors, by the names of a MambaVL with flash-attn.
        prefix: of the video model's names.

    Raises:
        ValueError: if a tensor is missing, or if a shape cannot be one of it.
    """
    hidden_size, num_channels, patch_size = _patches(specs, f"{prefix}conv1.weight")
    side = _side_of(f"{prefix}positional_embedding", shape_of(specs, f"{prefix}positional_embedding", 2)[0])
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
