"""Baselines of H-MBA's adapter: the current frame alone, the mean of all frames, attention over time."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .layers_adapter_state import AdapterOutput, AdapterState, check_frames, check_padding
from .layers_state_space import holds_parameters
from .ops_derivatives import wants_plain_torch

# Attention for the long sequences of language models, from which a query of one step gains nothing.
_OF_LONG_SEQUENCES = ("flash_attention", "flex_attention", "paged|")


class CurrentFrameAdapter(nn.Module):
    """The baseline without video: it returns the current frame's features unchanged."""

    def forward(
        self,
        frame_features: Tensor,
        state: AdapterState | None = None,
        frame_mask: Tensor | None = None,
        read_out: bool = True,
    ) -> AdapterOutput:
        """Return the last frame of `(b, t, p, d)`; arguments are those of `TemporalAdapter`."""
        check_frames(frame_features, frame_mask, state)
        if state is not None:
            state.check({})
        if not read_out:
            return AdapterOutput(None, state, {})
        return AdapterOutput(frame_features[:, -1], state, {})


class MeanFrameAdapter(nn.Module):
    """The baseline that pools: the average of all real frames, patch by patch."""

    def forward(
        self,
        frame_features: Tensor,
        state: AdapterState | None = None,
        frame_mask: Tensor | None = None,
        read_out: bool = True,
    ) -> AdapterOutput:
        """Average `(b, t, p, d)` over its frames and those of the state; arguments are those of `TemporalAdapter`."""
        check_frames(frame_features, frame_mask, state)
        b, _, p, d = frame_features.shape
        real = _real_frames(frame_features, frame_mask)
        dtype = torch.promote_types(frame_features.dtype, torch.float32)
        total = frame_features.to(dtype).masked_fill(~real[:, :, None, None], 0.0).sum(dim=1)
        count = real.sum(dim=1)
        if state is not None and state.tensors:
            state.check({"frames_seen": (b,), "sum": (b, p, d)})
            check_padding(real, state.tensors["frames_seen"])
            total = total + state.tensors["sum"]
            count = count + state.tensors["frames_seen"]
        after = None
        if state is not None:
            after = AdapterState({"frames_seen": count, "sum": total})
        if not read_out:
            return AdapterOutput(None, after, {})
        mean = (total / count[:, None, None]).to(frame_features.dtype)
        return AdapterOutput(mean, after, {})


def _real_frames(frame_features: Tensor, frame_mask: Tensor | None) -> Tensor:
    """Return which frames are real, `(b, t)`: all of them without a mask."""
    if frame_mask is None:
        return frame_features.new_ones(frame_features.shape[:2], dtype=torch.bool)
    return frame_mask.bool()


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attend in plain torch, with the arguments and results of transformers' attention functions.

    Args:
        module: the one that attends.
        query, key, value: `(b, heads, steps, channels of a head)`.
        attention_mask: true where a key may be read, in a shape that broadcasts to `(b, heads, steps, steps)`.
        scaling: of the products.
        kwargs: those of other attention functions, unused.

    Returns:
        The read-out, `(b, steps, heads, channels of a head)`, and the weights.
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, -torch.inf)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(dim=-1, dtype=dtype).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


class SelfAttention(nn.Module):
    """Attention of a sequence's last step to all of its steps, with the parameter names of `nn.MultiheadAttention`.

    That module reads the weights of its projection itself, and so bypasses a layer put in the projection's place.

    Args:
        hidden_size: channels of a step.
        num_heads: attention heads.

    Attributes:
        implementation: `"eager"`, `"sdpa"`, or the name of another one in transformers' `ALL_ATTENTION_FUNCTIONS`; one
            for long sequences stands for `"sdpa"`.
    """

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.implementation = "sdpa"
        self.scaling = (hidden_size // num_heads) ** -0.5
        self.in_proj_weight = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * hidden_size))
        self.out_proj = nn.Linear(hidden_size, hidden_size)
        if holds_parameters(self):
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as `nn.MultiheadAttention` does."""
        init.xavier_uniform_(self.in_proj_weight)
        init.zeros_(self.in_proj_bias)
        init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Read `(b, t, d)`, where `mask`, `(b, t)`, is true for real steps; `(b, 1, d)`."""
        d = x.shape[-1]
        query = F.linear(x[:, -1:], self.in_proj_weight[:d], self.in_proj_bias[:d])
        key, value = F.linear(x, self.in_proj_weight[d:], self.in_proj_bias[d:]).chunk(2, dim=-1)
        by_head = [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value)]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self._chosen(by_head), eager_attention_forward)
        if mask is not None:
            mask = mask[:, None, None]
        read, _ = attend(self, *by_head, attention_mask=mask, scaling=self.scaling, is_causal=False)
        return self.out_proj(read.flatten(2))

    def _chosen(self, inputs: list[Tensor]) -> str:
        """Return the name of the implementation for these inputs."""
        if self.implementation != "sdpa" and not self.implementation.startswith(_OF_LONG_SEQUENCES):
            return self.implementation
        # On a CPU the fused attention has neither tangents nor second derivatives. One query needs little memory.
        if torch.is_grad_enabled() or wants_plain_torch(*inputs):
            return "eager"
        return "sdpa"


class TransformerLayer(nn.Module):
    """The last step of a pre-norm transformer layer, with the parameter names of `nn.TransformerEncoderLayer`."""

    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int):
        super().__init__()
        self.self_attn = SelfAttention(hidden_size, num_heads)
        self.linear1 = nn.Linear(hidden_size, intermediate_size)
        self.linear2 = nn.Linear(intermediate_size, hidden_size)
        self.norm1 = nn.LayerNorm(hidden_size)
        self.norm2 = nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Read `(b, t, d)`, where `mask`, `(b, t)`, is true for real steps; `(b, d)`."""
        last = x[:, -1:] + self.self_attn(self.norm1(x), mask)
        return (last + self.linear2(F.relu(self.linear1(self.norm2(last))))).squeeze(1)


class TransformerAdapter(nn.Module):
    """The baseline that attends: self-attention over time for each patch, read at the current frame through a gate.

    Args:
        hidden_size: channels of a patch.
        num_frames: rows of the temporal position table; a later frame takes the last row.
        num_heads: attention heads; must divide `hidden_size`.
    """

    def __init__(self, hidden_size: int, num_frames: int, num_heads: int):
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads={num_heads}, got {hidden_size}")
        self.temporal_position_embedding = nn.Parameter(torch.zeros(num_frames, hidden_size))
        self.layer = TransformerLayer(hidden_size, num_heads, 2 * hidden_size)
        self.gate = nn.Parameter(torch.zeros(hidden_size))

    def forward(
        self,
        frame_features: Tensor,
        state: AdapterState | None = None,
        frame_mask: Tensor | None = None,
        read_out: bool = True,
    ) -> AdapterOutput:
        """Adapt the current frame of `(b, t, p, d)`.

        Raises:
            ValueError: if a state is given, or wanted alone: attention needs every frame again, and no state of a
                fixed size replaces them.
        """
        check_frames(frame_features, frame_mask, state)
        if state is not None or not read_out:
            raise ValueError("the adapter of a stream must have a state, got one that attends to all its frames")
        b, _, p, _ = frame_features.shape
        real = _real_frames(frame_features, frame_mask)
        table = self.temporal_position_embedding
        positions = (real.cumsum(1) - 1).clamp(0, table.shape[0] - 1)
        frames = frame_features.masked_fill(~real[:, :, None, None], 0.0)
        tracks = (frames + table[positions][:, :, None]).transpose(1, 2).flatten(0, 1)  # (b * p, t, d)
        mask = None
        if frame_mask is not None:
            mask = real.repeat_interleave(p, dim=0)
        read = self.layer(tracks, mask).unflatten(0, (b, p))
        return AdapterOutput(frame_features[:, -1] + self.gate * read, None, {})
