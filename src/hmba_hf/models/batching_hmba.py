"""Inputs of H-MBA for single prompts, joined to those of a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

# Inputs with a value for each token, `(b, l)`, and what stands for padding.
TEXT_INPUTS = {
    "input_ids": 0,
    "attention_mask": 0,
    "token_type_ids": 0,
    "mm_token_type_ids": 0,
    "special_tokens_mask": 1,
    "assistant_masks": 0,
    "labels": -100,
}
_CLIPS = ("pixel_values_videos", "frame_features")


def join_inputs(encoded: Sequence[Mapping[str, Any]], pad_token_id: int, padding_side: str = "left") -> dict[str, Any]:
    """Join inputs of single prompts: texts are padded, and clips on their old side.

    Args:
        encoded: of each prompt, inputs of texts, `(1, l)`, and where it has videos `pixel_values_videos`,
            `(n, t, c, h, w)`, or in their place `frame_features`, `(n, t, p, d)`, with a `frame_mask`, `(n, t)`, if
            their lengths differ.
        pad_token_id: fills `input_ids`.
        padding_side: of texts, `"left"` for generation or `"right"`.

    Returns:
        The same for all prompts, with a `frame_mask` if the lengths of clips differ.

    Raises:
        ValueError: as `join_texts`.
    """
    joined = join_texts(encoded, pad_token_id, padding_side)
    for name in _CLIPS:
        clips = []
        masks = []
        for inputs in encoded:
            own = inputs.get(name, ())
            clips += list(own)
            masks += list(inputs.get("frame_mask", [torch.ones(len(clip), dtype=torch.bool) for clip in own]))
        if clips:
            length = max(map(len, clips))
            joined[name] = torch.stack([_pad_in_front(clip, length) for clip in clips])
            mask = torch.stack([_pad_in_front(mask, length) for mask in masks])
            if not mask.all():
                joined["frame_mask"] = mask.to(joined[name].device)
    return joined


def join_texts(encoded: Sequence[Mapping[str, Any]], pad_token_id: int, padding_side: str) -> dict[str, Tensor]:
    """Pad inputs of texts, `(1, l)` each, to one length and join them to `(b, l)`.

    Raises:
        ValueError: if there is no prompt, if there is no such side, or if one prompt lacks what another has.
    """
    if not encoded:
        raise ValueError("encoded must hold the inputs of at least one prompt, got none")
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', got {padding_side!r}")
    joined = {}
    for name, filler in {**TEXT_INPUTS, "input_ids": pad_token_id}.items():
        rows = [inputs[name] for inputs in encoded if name in inputs]
        if not rows:
            continue
        if len(rows) < len(encoded):
            raise ValueError(f"every prompt must have {name}, got {len(rows)} of {len(encoded)}")
        length = max(row.shape[1] for row in rows)
        padded = []
        for row in rows:
            missing = length - row.shape[1]
            widths = (missing, 0) if padding_side == "left" else (0, missing)
            padded.append(pad(row, widths, value=filler))
        joined[name] = torch.cat(padded)
    return joined


def _pad_in_front(frames: Tensor, length: int) -> Tensor:
    missing = frames.new_zeros(length - len(frames), *frames.shape[1:])
    return torch.cat([missing, frames])


__all__ = ["TEXT_INPUTS", "join_inputs", "join_texts"]
