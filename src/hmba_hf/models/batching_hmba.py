"""Inputs of H-MBA for single prompts, joined to those of a batch."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


def join_inputs(encoded: list[dict[str, Tensor]], tokenizer: Any) -> dict[str, Tensor]:
    """Join inputs of batch size one: texts are padded on the left, clips on their old side.

    Args:
        encoded: of each prompt, `input_ids` and `attention_mask`, `(1, l)`, and where it has videos
            `pixel_values_videos`, `(n, t, c, h, w)`, with a `frame_mask`, `(n, t)`, if their lengths differ.
        tokenizer: pads the texts.
    """
    texts = []
    clips = []
    masks = []
    for inputs in encoded:
        texts.append({"input_ids": inputs["input_ids"][0], "attention_mask": inputs["attention_mask"][0]})
        videos = inputs.get("pixel_values_videos")
        if videos is not None:
            clips += list(videos)
            masks += list(inputs.get("frame_mask", videos.new_ones(videos.shape[:2], dtype=torch.bool)))
    device = encoded[0]["input_ids"].device
    joined = dict(tokenizer.pad(texts, padding_side="left", return_tensors="pt").to(device))
    if clips:
        length = max(len(clip) for clip in clips)
        for i, clip in enumerate(clips):
            missing = length - len(clip)
            clips[i] = pad(clip, (0, 0, 0, 0, 0, 0, missing, 0))
            masks[i] = pad(masks[i], (missing, 0))
        joined["pixel_values_videos"] = torch.stack(clips)
        joined["frame_mask"] = torch.stack(masks)
    return joined


__all__ = ["join_inputs"]
