"""Heads that bring tokens to a teacher's features, and the distance between them."""

import torch
from torch import Tensor, nn

from .layers_conditions import require


class AlignmentHead(nn.Module):
    """Project tokens to a teacher's channels, norm them, and bring them to length one.

    Args:
        hidden_size: width of the tokens.
        alignment_size: channels of the teacher's features.

    Source: Li et al. 2023, arXiv:2303.16058, section 3.2.
    """

    def __init__(self, hidden_size: int, alignment_size: int):
        super().__init__()
        self.projection = nn.Linear(hidden_size, alignment_size)
        self.norm = nn.LayerNorm(alignment_size, eps=1e-5)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Align tokens, `(b, l, hidden_size)`."""
        return nn.functional.normalize(self.norm(self.projection(hidden_states)), dim=-1)


class DistillationHead(nn.Module):
    """Norm tokens, project them to a teacher's channels, and bring them to length one.

    Args:
        hidden_size: width of the tokens.
        distillation_size: channels of the teacher's features.
        eps: of the norm.

    Source: Li et al. 2024, arXiv:2403.06977, section 3.3.
    """

    def __init__(self, hidden_size: int, distillation_size: int, eps: float):
        super().__init__()
        self.norm = nn.RMSNorm(hidden_size, eps)
        self.projection = nn.Linear(hidden_size, distillation_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Align tokens, `(b, l, hidden_size)`."""
        return nn.functional.normalize(self.projection(self.norm(hidden_states)), dim=-1)


def alignment_distance(features: Tensor, teacher_features: Tensor, kind: str = "cosine") -> Tensor:
    """Return the mean distance from a teacher's features, which are brought to length one.

        cosine: 2 - 2 <features, teacher_features>

    Args:
        features: of length one, `(..., c)`.
        teacher_features: likewise, of any length.
        kind: `"cosine"`, or `"mse"` or `"smooth_l1"` of single channels.

    Raises:
        ValueError: if a teacher's features are not finite.
    """
    require(torch.isfinite(teacher_features).all(), "teacher_features must be finite, got NaN or infinity")
    features = features.float()
    wanted = nn.functional.normalize(teacher_features.to(features), dim=-1)
    if kind == "mse":
        return nn.functional.mse_loss(features, wanted)
    if kind == "smooth_l1":
        return nn.functional.smooth_l1_loss(features, wanted)
    return (2 - 2 * (features * wanted).sum(dim=-1)).mean()
