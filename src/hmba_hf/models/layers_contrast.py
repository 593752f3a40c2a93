"""Videos against texts: their similarities, the contrast of matching pairs, and pairs that are hard to tell."""

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather


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


def gathered(features: Tensor) -> Tensor:
    """Return the rows of all processes in the order of their ranks, with gradients for each; else the rows alone."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return features
    return torch.cat(all_gather(features))
