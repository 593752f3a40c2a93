"""Videos against texts: their similarities, the contrast of matching pairs, and pairs that are hard to tell."""

from typing import Any

import torch
from torch import Tensor, nn


def similarities(video_features: Tensor, text_features: Tensor) -> Tensor:
    """Return the cosine of each video and each text, `(videos, texts)`, as the mean over a video's frames.

    Args:
        video_features: `(videos, frames, c)`, of any length.
        text_features: `(texts, c)`.
    """
    videos = nn.functional.normalize(video_features, dim=-1)
    texts = nn.functional.normalize(text_features, dim=-1)
    return torch.einsum("vfc,tc->vtf", videos, texts).mean(dim=-1)


def contrastive_loss(scaled: Tensor, is_match: Tensor) -> Tensor:
    """Return the mean of both ways' cross entropies, with equal shares for all matches of a row.

    Args:
        scaled: similarities over the temperature, `(videos, texts)`.
        is_match: `(videos, texts)`.

    Source: Li et al. 2021, arXiv:2107.07651, section 3.2.
    """
    wanted = is_match.to(scaled.dtype)
    to_texts = nn.functional.cross_entropy(scaled, wanted / wanted.sum(dim=1, keepdim=True))
    to_videos = nn.functional.cross_entropy(scaled.T, (wanted / wanted.sum(dim=0)).T)
    return (to_texts + to_videos) / 2


def hard_negatives(scaled: Tensor, is_match: Tensor) -> Tensor:
    """Draw for each row a column that does not match, the likelier the more similar it is, `(rows,)`.

    Args:
        scaled: similarities over the temperature, `(rows, columns)`.
        is_match: `(rows, columns)`.

    Raises:
        ValueError: if a row has none.
    """
    if not len(is_match):
        return torch.zeros(0, dtype=torch.long, device=is_match.device)
    if is_match.all(dim=1).any():
        raise ValueError("each row must have a column that does not match, got rows without")
    chances = scaled.detach().float().softmax(dim=1).clamp(min=1e-5)
    return torch.multinomial(chances.masked_fill(is_match, 0.0), 1)[:, 0]


class _Gather(torch.autograd.Function):
    """The rows of all processes; a row's gradient is the sum of what all processes have for it.

    Torch's own differentiable `all_gather` mixes up gradients whose memory is not in the order of their dimensions.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        own = features.contiguous()
        everyone = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(everyone, own)
        return torch.cat(everyone)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


def gathered(features: Tensor) -> Tensor:
    """Return the rows of all processes in the order of their ranks, with gradients for each; else the rows alone.

    Each process must have as many rows.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return features
    rows: Any = _Gather.apply(features)
    return rows
