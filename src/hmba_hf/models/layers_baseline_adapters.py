"""The adapters that H-MBA is compared with: the current frame alone, the mean of all frames, attention over time."""

import torch
from torch import Tensor, nn

from .layers_adapter_state import AdapterOutput, AdapterState, check_frames, check_padding


class CurrentFrameAdapter(nn.Module):
    """The baseline that sees no video: the current frame's features as they are."""

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
        return AdapterOutput(frame_features[:, -1] if read_out else None, state, {})


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
        b, t, p, d = frame_features.shape
        real = frame_features.new_ones(b, t, dtype=torch.bool) if frame_mask is None else frame_mask.bool()
        dtype = torch.promote_types(frame_features.dtype, torch.float32)
        total = frame_features.to(dtype).masked_fill(~real[:, :, None, None], 0.0).sum(dim=1)
        count = real.sum(dim=1)
        if state is not None and state.tensors:
            state.check({"frames_seen": (b,), "sum": (b, p, d)})
            check_padding(real, state.tensors["frames_seen"])
            total, count = total + state.tensors["sum"], count + state.tensors["frames_seen"]
        after = None if state is None else AdapterState({"frames_seen": count, "sum": total})
        mean = (total / count[:, None, None]).to(frame_features.dtype)
        return AdapterOutput(mean if read_out else None, after, {})


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
        self.layer = nn.TransformerEncoderLayer(
            hidden_size, num_heads, 2 * hidden_size, dropout=0.0, batch_first=True, norm_first=True
        )
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
            ValueError: if a state is given or asked for alone: attention needs every frame again and has nothing of
                one size to carry.
        """
        check_frames(frame_features, frame_mask, state)
        if state is not None or not read_out:
            raise ValueError("an adapter with a state is wanted for a stream, got one that attends to all its frames")
        b, t, p, _ = frame_features.shape
        real = frame_features.new_ones(b, t, dtype=torch.bool) if frame_mask is None else frame_mask.bool()
        table = self.temporal_position_embedding
        positions = (real.cumsum(1) - 1).clamp(0, table.shape[0] - 1)
        frames = frame_features.masked_fill(~real[:, :, None, None], 0.0)
        tracks = (frames + table[positions][:, :, None]).transpose(1, 2).flatten(0, 1)  # (b * p, t, d)
        padding = None if frame_mask is None else ~real.repeat_interleave(p, dim=0)
        read = self.layer(tracks, src_key_padding_mask=padding)[:, -1].unflatten(0, (b, p))
        return AdapterOutput(frame_features[:, -1] + self.gate * read, None, {})
