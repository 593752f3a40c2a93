"""The released adapter, restated step by step from its description: all frames, all patches, every scan in full.

Axes: `b` clips, `t` frames with the current one last, `p` patches per frame, `d` channels, `n` states. `weights` are
the tensors under `model.hmba.` in a checkpoint of the released code, without this prefix.

Source: Sranc3/H-MBA at 9a8645d, `mamba_adaptation.py`, with its syntax error mended.
Differs: without `f1`, which it computes and drops.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

Weights = Mapping[str, Tensor]


def original_adapter(weights: Weights, video: Tensor) -> Tensor:
    """Return the adapted features of the current frame, `(b, p, d)`, for a video of all frames, `(b, t, p, d)`."""
    current = video[:, -1]
    query = functional.linear(current, weights["fc_q.weight"], weights["fc_q.bias"])
    divided = _gate(query, _divided_space_time(weights, video))
    joint = _gate(query, _joint_space_time(weights, video))
    v2 = weights["v2"]
    v3 = weights["v3"]
    return current + (0.1 * v3 * joint + 0.005 * v2 * divided + 0.01 * v3 * joint)


def _gate(query: Tensor, context: Tensor) -> Tensor:
    """Weigh each patch of a context by its cosine with the query."""
    cosine = (query * context).sum(-1) / (query.square().sum(-1) * context.square().sum(-1)).sqrt()
    return cosine[..., None] * context


def _divided_space_time(weights: Weights, video: Tensor) -> Tensor:
    b, t, p, _ = video.shape
    over_time = _norm(weights, _mixer(weights, "t_mamba", video.transpose(1, 2).flatten(0, 1)))  # (b * p, t, d)
    summed = video + over_time.unflatten(0, (b, p)).transpose(1, 2)
    return _both_directions(weights, summed.flatten(0, 1)).unflatten(0, (b, t))[:, -1]


def _joint_space_time(weights: Weights, video: Tensor) -> Tensor:
    tokens = (video + weights["time_embed"][:, :, None]).flatten(1, 2)  # (b, t * p, d), frame after frame
    return _norm(weights, _both_directions(weights, tokens)).unflatten(1, video.shape[1:3])[:, -1]


def _both_directions(weights: Weights, x: Tensor) -> Tensor:
    there = _norm(weights, _mixer(weights, "layer_2.0", x))
    back = _norm(weights, _mixer(weights, "reverse_layer_2.0", x.flip(1)))
    return there + back.flip(1)


def _norm(weights: Weights, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weights["layer_norm.weight"], weights["layer_norm.bias"])


def _mixer(weights: Weights, name: str, x: Tensor) -> Tensor:
    return original_mixer(part_of(weights, f"{name}."), x)


def part_of(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a part by their names in it."""
    found = {}
    for name, tensor in weights.items():
        if name.startswith(prefix):
            found[name.removeprefix(prefix)] = tensor
    return found


def original_mixer(w: Weights, x: Tensor) -> Tensor:
    """Run one Mamba mixer over `(b, l, d)`, step by step.

    Source: Gu & Dao 2023, arXiv:2312.00752, algorithm 2 and figure 3.
    """
    length = x.shape[1]
    channels, n = w["A_log"].shape
    x, z = functional.linear(x, w["in_proj.weight"]).chunk(2, dim=-1)
    kernel = w["conv1d.weight"].shape[-1]
    x = functional.conv1d(x.transpose(1, 2), w["conv1d.weight"], w["conv1d.bias"], padding=kernel - 1, groups=channels)
    x = functional.silu(x[..., :length].transpose(1, 2))
    rank = w["dt_proj.weight"].shape[1]
    delta, B, C = functional.linear(x, w["x_proj.weight"]).split([rank, n, n], dim=-1)
    delta = functional.softplus(functional.linear(delta, w["dt_proj.weight"], w["dt_proj.bias"]))
    A = -torch.exp(w["A_log"])
    state = x.new_zeros(x.shape[0], channels, n)
    y = []
    for i in range(length):
        state = torch.exp(delta[:, i, :, None] * A) * state + (delta[:, i] * x[:, i])[..., None] * B[:, i, None]
        y.append((state * C[:, i, None]).sum(-1))
    return functional.linear((torch.stack(y, dim=1) + w["D"] * x) * functional.silu(z), w["out_proj.weight"])
