"""Attention along trajectories: what a patch sees in each frame, and then over the frames."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

from .layers_mamba import DropPath


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU between them.

    Args:
        hidden_size: channels in and out.
        intermediate_size: channels between the layers.
    """

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens, `(..., d)`, of the same shape."""
        return self.fc2(functional.gelu(self.fc1(tokens)))


class TrajectoryAttention(nn.Module):
    """Attention of each token to each frame by itself, and then along what it saw in the frames.

        seen[s, f] = softmax_n(q[s] k[f, n]) v[f, n]
        out[s]     = softmax_f(q2(seen[s, frame of s]) k2(seen[s, f])) seen[s, f]

    The class token attends to all tokens at once.

    Args:
        hidden_size: channels.
        num_heads: of attention.

    Source: Patrick et al. 2021, arXiv:2106.05392; facebookresearch/Motionformer, with its default
        `use_original_code=True`. Its second step mixes what was seen itself, so half of the rows of `proj_kv` have no
        effect; checkpoints have them.
    """

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj_q = nn.Linear(hidden_size, hidden_size)
        self.proj_kv = nn.Linear(hidden_size, 2 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, tokens: Tensor, num_frames: int) -> Tensor:
        """Mix tokens.

        Args:
            tokens: a class token, then those of one frame after the other, `(b, 1 + num_frames * n, d)`.
            num_frames: as above.

        Returns:
            Mixed tokens of the same shape.
        """
        parts = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (b, heads, tokens, d / heads)
        of_class = functional.scaled_dot_product_attention(query[:, :, :1], key, value)
        in_frames = (num_frames, -1)
        seen = functional.scaled_dot_product_attention(
            query[:, :, None, 1:].expand(-1, -1, num_frames, -1, -1),
            key[:, :, 1:].unflatten(2, in_frames),
            value[:, :, 1:].unflatten(2, in_frames),
        )  # (b, heads, frames, tokens, d / heads)
        mixed = self._along(seen.permute(0, 3, 2, 1, 4).flatten(3))
        return self.proj(torch.cat([of_class.transpose(1, 2).flatten(2), mixed], dim=1))

    def _along(self, seen: Tensor) -> Tensor:
        """Mix over frames what each token saw in them, `(b, tokens, frames, d)`, to `(b, tokens, d)`."""
        num_frames = seen.shape[2]
        own = seen.unflatten(1, (num_frames, -1)).diagonal(dim1=1, dim2=3)  # (b, n, d, frames)
        own = own.permute(0, 3, 1, 2).flatten(1, 2)
        in_heads = (self.num_heads, -1)
        query = self.proj_q(own).unflatten(-1, in_heads)
        key = self.proj_kv(seen)[..., : self.hidden_size].unflatten(-1, in_heads)
        weight = torch.einsum("bshc,bsfhc->bshf", query, key) * query.shape[-1] ** -0.5
        return torch.einsum("bshf,bsfhc->bshc", weight.softmax(dim=-1), seen.unflatten(-1, in_heads)).flatten(2)


class TrajectoryBlock(GradientCheckpointingLayer):
    """A pre-norm transformer block whose attention follows trajectories.

    Args:
        hidden_size: channels.
        num_heads: of attention.
        intermediate_size: channels within the feed-forward layers.
        eps: of the norms.
        drop_path_rate: share of samples that skip a half of the block in training.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, intermediate_size: int, eps: float, drop_path_rate: float = 0.0
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=eps)
        self.attention = TrajectoryAttention(hidden_size, num_heads)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(hidden_size, eps=eps)
        self.mlp = FeedForward(hidden_size, intermediate_size)

    def forward(self, tokens: Tensor, boxes: Tensor, size: tuple[int, int, int]) -> Tensor:
        """Mix tokens.

        Args:
            tokens: a class token and the patches of a clip, `(b, 1 + frames * rows * columns, d)`.
            boxes: of objects, `(b, frames, objects, 4)`; see `ObjectBlock`, which reads them.
            size: frames, rows and columns.
        """
        tokens = tokens + self.drop_path(self.mix(tokens, boxes, size))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))

    def mix(self, tokens: Tensor, boxes: Tensor, size: tuple[int, int, int]) -> Tensor:
        """Return what attention adds; arguments as in `forward`."""
        return self.attention(self.norm1(tokens), size[0])
