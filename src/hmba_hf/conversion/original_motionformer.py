"""The ORViT-Motionformer of the released MambaVL, restated step by step from its description, under its own names.

Axes: `b` clips, `t` steps of `frames / tubelet` each, `s` rows and columns of patches, `p = s * s`, `o` objects, `d`
channels. `weights` are the tensors of the video model by their names there. Times, and tables by step, may be longer
than the clip: the first ones are used.

Source: Dongzhikang/MambaVL at 601b789, `video_model_builder.py`; facebookresearch/Motionformer, `vit_helper.py`;
eladb3/ORViT, `orvit.py`, `utils.py`; roeiherz/AG2Video, `layout.py`; pytorch/vision, `roi_align`.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from hmba_hf.conversion.original_adapter import Weights, part_of


def original_motionformer(weights: Weights, clips: Tensor, boxes: Tensor, num_heads: int) -> Tensor:
    """Return the tokens, `(b, 1 + t * p, d)`, of clips, `(b, frames, channels, height, width)`.

    Args:
        weights: of the video model.
        clips: as above.
        boxes: `(b, frames, o, 4)`, centre, width and height in parts of the frame, zeros where there is no object.
        num_heads: of attention, which no tensor shows.
    """
    kernel = weights["patch_embed_3d.proj.weight"]
    embedded = functional.conv3d(
        clips.transpose(1, 2), kernel, weights["patch_embed_3d.proj.bias"], stride=kernel.shape[2:]
    )
    steps, side = embedded.shape[2:4]
    places = weights["pos_embed"]
    times = weights["temp_embed"]
    tokens = [(weights["cls_token"] + places[:, :1]).expand(len(clips), 1, -1)]
    for step in range(steps):
        patches = embedded[:, :, step].flatten(2).transpose(1, 2)
        tokens.append(patches + places[:, 1:] + times[:, step : step + 1])
    x = torch.cat(tokens, dim=1)
    seen = boxes[:, :: boxes.shape[1] // steps]
    layer = 0
    while block := part_of(weights, f"blocks.{layer}."):
        if "box_categories" in block:
            x = x + _mix_with_objects(block, x, seen, num_heads, side)
        else:
            x = x + _trajectories(part_of(block, "attn."), _norm(block, "norm1", x), steps, num_heads)
        x = x + _mlp(part_of(block, "mlp."), _norm(block, "norm2", x))
        layer += 1
    return torch.tanh(_linear(weights, "pre_logits.fc", _norm(weights, "norm", x)))


def _trajectories(weights: Weights, x: Tensor, steps: int, num_heads: int) -> Tensor:
    """Attend to each step by itself, and then along the steps; the first token attends to all."""
    query, key, value = _linear(weights, "qkv", x).chunk(3, dim=-1)
    scale = (x.shape[-1] // num_heads) ** -0.5
    of_heads = []
    first = []
    for q, k, v in zip(*(part.chunk(num_heads, dim=-1) for part in (query, key, value)), strict=True):
        first.append((scale * q[:, :1] @ k.transpose(1, 2)).softmax(-1) @ v)
        by_step = []
        for k_step, v_step in zip(k[:, 1:].chunk(steps, dim=1), v[:, 1:].chunk(steps, dim=1), strict=True):
            by_step.append((scale * q[:, 1:] @ k_step.transpose(1, 2)).softmax(-1) @ v_step)
        of_heads.append(torch.stack(by_step, dim=2))
    seen = torch.cat(of_heads, dim=-1)  # (b, tokens, t, d)
    width = seen.shape[1] // steps
    own = torch.cat([seen[:, step * width : (step + 1) * width, step] for step in range(steps)], dim=1)
    query = _linear(weights, "proj_q", own)
    key, _ = _linear(weights, "proj_kv", seen).chunk(2, dim=-1)
    mixed = []
    for q, k, v in zip(*(part.chunk(num_heads, dim=-1) for part in (query, key, seen)), strict=True):
        weight = (scale * q[:, :, None] * k).sum(-1).softmax(-1)
        mixed.append((weight[..., None] * v).sum(2))
    return _linear(weights, "proj", torch.cat([torch.cat(first, -1), torch.cat(mixed, -1)], dim=1))


def _mix_with_objects(block: Weights, x: Tensor, boxes: Tensor, num_heads: int, side: int) -> Tensor:
    """Return what a block that reads objects adds before its perceptron."""
    b, steps, count, _ = boxes.shape
    patches = x[:, 1:].reshape(b, steps, side * side, -1)
    crops = torch.stack([_crop(patches[i, t], boxes[i, t], side) for i in range(b) for t in range(steps)])
    objects = _two_relus(block, "patch_to_d", crops).amax(2).reshape(b, steps, count, -1)
    objects = objects + block["box_categories"][:steps] + _two_relus(block, "c_coord_to_feature", boxes)
    tokens = torch.cat([x[:, :1], torch.cat([patches, objects], dim=2).flatten(1, 2)], dim=1)
    mixed = _trajectories(part_of(block, "attn."), _norm(block, "norm1", tokens), steps, num_heads)
    of_patches = mixed[:, 1:].reshape(b, steps, side * side + count, -1)[:, :, : side * side]
    motion = _motion(part_of(block, "motion_stream."), boxes, num_heads, side)
    added = of_patches.flatten(1, 2) + _mlp(part_of(block, "motion_mlp."), motion.flatten(1, 2))
    return torch.cat([mixed[:, :1], added], dim=1)


def _crop(patches: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Align boxes, `(o, 4)`, of one picture, `(p, d)`, as `roi_align` does: one point for each bin, `(o, p, d)`."""
    picture = patches.reshape(side, side, -1)
    crops = []
    for centre_x, centre_y, width, height in boxes.tolist():
        crop = torch.zeros_like(picture)
        for row in range(side):
            for column in range(side):
                y = (centre_y - height / 2) * side - 0.5 + (row + 0.5) * height
                x = (centre_x - width / 2) * side - 0.5 + (column + 0.5) * width
                if width > 0 and height > 0:
                    crop[row, column] = _between(picture, y, x)
        crops.append(crop.reshape(side * side, -1))
    return torch.stack(crops)


def _between(picture: Tensor, y: float, x: float) -> Tensor:
    """Interpolate a picture at a point, whose edge goes on outside."""
    y = min(max(y, 0.0), len(picture) - 1.0)
    x = min(max(x, 0.0), picture.shape[1] - 1.0)
    top = math.floor(y)
    left = math.floor(x)
    bottom = min(top + 1, len(picture) - 1)
    right = min(left + 1, picture.shape[1] - 1)
    upper = picture[top, left] * (1 - (x - left)) + picture[top, right] * (x - left)
    lower = picture[bottom, left] * (1 - (x - left)) + picture[bottom, right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)


def _motion(weights: Weights, boxes: Tensor, num_heads: int, side: int) -> Tensor:
    """Return pictures of what objects do, `(b, t, p, d)`."""
    b, steps, count, _ = boxes.shape
    x = _two_relus(weights, "c_coord_to_feature", boxes) + weights["box_categories"][:steps]
    x = x.flatten(1, 2)
    block = part_of(weights, "attn.")
    query, key, value = _linear(block, "attn.qkv", _norm(block, "norm1", x)).chunk(3, dim=-1)
    mixed = []
    for q, k, v in zip(*(part.chunk(num_heads, dim=-1) for part in (query, key, value)), strict=True):
        mixed.append((q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v)
    x = x + _linear(block, "attn.proj", torch.cat(mixed, dim=-1))
    x = x + _mlp(part_of(block, "mlp."), _norm(block, "norm2", x))
    moving = x.reshape(b, steps, count, -1)
    pictures = [_layout(moving[i, t], boxes[i, t], side) for i in range(b) for t in range(steps)]
    return torch.stack(pictures).reshape(b, steps, side * side, -1)


def _layout(vectors: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Paint vectors, `(o, d)`, where their boxes are, `(p, d)`; the lower right corner serves as width and height."""
    painted = vectors.new_zeros(side * side, vectors.shape[-1])
    lines = torch.linspace(0, 1, side, dtype=vectors.dtype)
    for vector, (centre_x, centre_y, width, height) in zip(vectors, boxes.tolist(), strict=True):
        if not any((centre_x, centre_y, width, height)):
            continue
        x = (lines - (centre_x - width / 2)) / (centre_x + width / 2)
        y = (lines - (centre_y - height / 2)) / (centre_y + height / 2)
        grid = torch.stack([x.expand(side, side), y[:, None].expand(side, side)], dim=-1) * 2 - 1
        plain = vector[None, :, None, None].expand(1, -1, 8, 8)
        sampled = functional.grid_sample(plain, grid[None], align_corners=True)
        painted = painted + sampled[0].flatten(1).T
    return painted


def _two_relus(weights: Weights, name: str, x: Tensor) -> Tensor:
    hidden = functional.relu(functional.linear(x, weights[f"{name}.0.weight"]))
    return functional.relu(functional.linear(hidden, weights[f"{name}.2.weight"]))


def _mlp(weights: Weights, x: Tensor) -> Tensor:
    return _linear(weights, "fc2", functional.gelu(_linear(weights, "fc1", x)))


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)
