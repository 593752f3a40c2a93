"""H-MBA's trained part: video context at several temporal strides, and the current frame's query for it.

Axes: `b` clips, `t` frames with the current one last, `p` patches per frame, `d` channels.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .layers_mamba import BidirectionalMambaMixer, MambaMixer

BRANCHES = ("temporal", "divided_space_time", "joint_space_time")

Contexts = dict[tuple[str, int], Tensor]
"""What each branch at each stride says of the clip: `{(branch, stride): (b, 1 or p, d)}`."""


class ContextMamba(nn.Module):
    """C-Mamba: read a clip at its current frame through several scans at several temporal strides.

    - `temporal`: frames pooled over their patches, scanned over time.
    - `divided_space_time`: each patch scanned over time and added to the current frame, then its patches scanned.
    - `joint_space_time`: temporal position added, all tokens scanned frame by frame.

    Only what the current frame reads is computed: earlier frames move the state of the forward scans, and nothing else
    of them is ever needed (see `BidirectionalMambaMixer`).

    Args:
        hidden_size: channels of a patch.
        num_frames: rows of the temporal position table; a later frame takes the last row.
        temporal_strides: frames are counted back from the current one in each of these steps; in any order.
        branches: which of the three scans to read; in any order.
        bidirectional_time: also scan `divided_space_time` back over time.
        share_mixers: one pair of mixers for the two spatial scans and one norm for all, as the released code has it;
            else each branch has its own, `joint_space_time` one for each stride, with a norm for each branch and
            stride.
        mixer: `state_size`, `conv_kernel` and `expand` of every `MambaMixer`.

    Source: arXiv:2501.04302, figures 1 and 2; Sranc3/H-MBA, `mamba_adaptation.py`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_frames: int,
        temporal_strides: Sequence[int],
        branches: Sequence[str],
        bidirectional_time: bool,
        share_mixers: bool,
        mixer: dict[str, int],
    ):
        super().__init__()
        if set(branches) - set(BRANCHES):
            raise ValueError(f"branches must be of {list(BRANCHES)}, got {list(branches)}")
        self.temporal_strides = tuple(sorted(temporal_strides))
        self.branches = tuple(branch for branch in BRANCHES if branch in branches)
        self.share_mixers = share_mixers
        self.mixers = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        for branch, stride in self.contexts:
            for scan in self._scans(branch, stride):
                if scan not in self.mixers:
                    reverse = bidirectional_time or scan != "divided_time"
                    self.mixers[scan] = BidirectionalMambaMixer(
                        MambaMixer(hidden_size, **mixer), MambaMixer(hidden_size, **mixer) if reverse else None
                    )
            self.norms[self._norm(branch, stride)] = nn.LayerNorm(hidden_size)
        if "joint_space_time" in self.branches:
            self.temporal_position_embedding = nn.Parameter(torch.zeros(num_frames, hidden_size))

    @property
    def contexts(self) -> list[tuple[str, int]]:
        """The `(branch, stride)` of every context, in the order of `forward`'s result."""
        return [(branch, stride) for stride in self.temporal_strides for branch in self.branches]

    def _scans(self, branch: str, stride: int) -> list[str]:
        """Name the mixer pairs that a branch runs, in their order."""
        joint = "space" if self.share_mixers else f"joint_stride_{stride}"
        space = "space" if self.share_mixers else "divided_space"
        return {
            "temporal": ["temporal"],
            "divided_space_time": ["divided_time", space],
            "joint_space_time": [joint],
        }[branch]

    def _norm(self, branch: str, stride: int) -> str:
        return "shared" if self.share_mixers else f"{branch}_stride_{stride}"

    def forward(self, frame_features: Tensor, frame_mask: Tensor | None = None) -> Contexts:
        """Summarise clips at their current frame.

        Args:
            frame_features: `(b, t, p, d)`, the current frame last.
            frame_mask: `(b, t)`, true for real frames; padding comes first and changes nothing.

        Returns:
            `{(branch, stride): context}`; `(b, 1, d)` for `temporal`, else `(b, p, d)`.
        """
        b, t = frame_features.shape[:2]
        real = frame_features.new_ones(b, t, dtype=torch.bool) if frame_mask is None else frame_mask.bool()
        positions = (real.cumsum(1) - 1).clamp(min=0)  # (b, t), from each clip's own first frame
        if frame_mask is not None:
            frame_features = frame_features.masked_fill(~real[:, :, None, None], 0.0)
        mask = None if frame_mask is None else real
        contexts = {}
        for branch in self.branches:
            read = getattr(self, f"_read_{branch}")(frame_features, positions, mask)
            contexts.update({(branch, stride): c for stride, c in zip(self.temporal_strides, read, strict=True)})
        return {context: contexts[context] for context in self.contexts}

    def _read_temporal(self, frames: Tensor, positions: Tensor, mask: Tensor | None) -> list[Tensor]:
        pooled = frames.mean(dim=2)  # (b, t, d)
        read = self.mixers["temporal"](pooled, 1, mask, self.temporal_strides)
        return self._normed_sums("temporal", read)

    def _read_divided_space_time(self, frames: Tensor, positions: Tensor, mask: Tensor | None) -> list[Tensor]:
        p, current, strides = frames.shape[2], frames[:, -1], self.temporal_strides
        time, space = self._scans("divided_space_time", strides[0])
        tracks = frames.transpose(1, 2).flatten(0, 1)  # (b * p, t, d), each patch over time
        mask = None if mask is None else mask.repeat_interleave(p, dim=0)
        over_time = self._normed_sums("divided_space_time", self.mixers[time](tracks, 1, mask, strides))
        mixed = torch.cat([current + y.view_as(current) for y in over_time])  # (strides * b, p, d)
        directions = [y.chunk(len(strides)) for y in self.mixers[space](mixed, p)[0]]
        return self._normed_sums("divided_space_time", list(zip(*directions, strict=True)))

    def _read_joint_space_time(self, frames: Tensor, positions: Tensor, mask: Tensor | None) -> list[Tensor]:
        t, p, read = *frames.shape[1:3], []
        table = self.temporal_position_embedding.to(frames.dtype)
        embedded = frames + table[positions.clamp(max=table.shape[0] - 1)][:, :, None]
        for stride in self.temporal_strides:
            grid = slice((t - 1) % stride, None, stride)  # counted back: the current frame is always on it
            real = None if mask is None else mask[:, grid].repeat_interleave(p, dim=1)
            (scan,) = self._scans("joint_space_time", stride)
            read += self.mixers[scan](embedded[:, grid].flatten(1, 2), p, real)
        sums = self._normed_sums("joint_space_time", read)
        return [
            self.norms[self._norm("joint_space_time", s)](y) for s, y in zip(self.temporal_strides, sums, strict=True)
        ]

    def _normed_sums(self, branch: str, read: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Norm what each direction of a scan says, then sum, at each stride."""
        norms = [self.norms[self._norm(branch, stride)] for stride in self.temporal_strides]
        return [sum((norm(y) for y in ys[1:]), start=norm(ys[0])) for norm, ys in zip(norms, read, strict=True)]


class CrossAttentionFusion(nn.Module):
    """Let each patch of the current frame attend to all context tokens, Perceiver style.

        weights = softmax(query key / sqrt(d / heads) + bias of the query's own patch)

    Every context carries a learned embedding of its branch and one of its stride. Each head has one learned bias for
    each context, which it adds where a token stands for the query's own patch; the one token of `temporal` stands
    for all. It is a relative position bias that tells one distance from the rest. At the start head `h` reads its
    own patch in context `h mod k`: what a context says of a patch arrives whole, not as the mean of all patches and
    contexts.

    Source: arXiv:2501.04302, "Q-Mamba"; Jaegle et al. 2021, arXiv:2103.03206.
    Differs: the bias, which the paper does not mention; without it the adapter learns far later.
    """

    def __init__(self, hidden_size: int, contexts: list[tuple[str, int]], num_heads: int):
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads={num_heads}, got {hidden_size}")
        self.num_heads = num_heads
        self.branches = sorted({branch for branch, _ in contexts})
        self.strides = sorted({stride for _, stride in contexts})
        self.branch_embedding = nn.Parameter(torch.empty(len(self.branches), hidden_size))
        self.stride_embedding = nn.Parameter(torch.empty(len(self.strides), hidden_size))
        self.own_patch_bias = nn.Parameter(torch.empty(num_heads, len(contexts)))
        self.norm = nn.LayerNorm(hidden_size)
        self.query_proj = nn.Linear(hidden_size, hidden_size)
        self.key_proj = nn.Linear(hidden_size, hidden_size)
        self.value_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the embeddings small and the projections with unit gain, and give each head one context to read."""
        for embedding in (self.branch_embedding, self.stride_embedding):
            init.normal_(embedding, std=0.02)
        for layer in (self.query_proj, self.key_proj, self.value_proj, self.out_proj):
            init.xavier_uniform_(layer.weight)
            init.zeros_(layer.bias)
        heads, contexts = self.own_patch_bias.shape
        read = torch.arange(heads)[:, None] % contexts == torch.arange(contexts)
        init.copy_(self.own_patch_bias, 10.0 * read)  # most of a softmax over a thousand tokens

    def forward(self, current: Tensor, contexts: Contexts) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the selected context, `(b, p, d)`, and the attention to each context, `(b, heads, p, 1 or p)`."""
        like: dict[str, Any] = {"device": current.device, "dtype": current.dtype}
        p, tagged, biases = current.shape[1], [], []
        for (branch, stride), own_patch_bias in zip(contexts, self.own_patch_bias.T, strict=True):
            context = contexts[branch, stride]
            embedding = self.branch_embedding[self.branches.index(branch)]
            tagged.append(context + embedding + self.stride_embedding[self.strides.index(stride)])
            is_own = torch.eye(p, **like) if context.shape[1] == p else torch.ones(p, 1, **like)
            biases.append(own_patch_bias[:, None, None] * is_own)
        tokens = torch.cat(tagged, dim=1)  # (b, k, d)
        query, key, value = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (b, heads, p or k, d / heads)
            for projection, x in (
                (self.query_proj, self.norm(current)),
                (self.key_proj, tokens),
                (self.value_proj, tokens),
            )
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1]) + torch.cat(biases, dim=-1)
        dtype = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(dim=-1, dtype=dtype).to(value.dtype)  # (b, heads, p, k)
        selected = self.out_proj((weights @ value).transpose(1, 2).flatten(2))
        maps = weights.split([context.shape[1] for context in tagged], dim=-1)
        return selected, {f"{branch}/stride_{stride}": m for (branch, stride), m in zip(contexts, maps, strict=True)}


class CosineFusion(nn.Module):
    """Weigh each context, patch by patch, by its cosine with the current frame's query, and sum.

        out = sum_k weight_k scale_k cos(query, context_k) context_k

    Args:
        hidden_size: channels of a patch.
        contexts: the `(branch, stride)` of each context.
        weights: constant `weight_k` of each branch; 1 when absent.

    Source: Sranc3/H-MBA, `mamba_adaptation.py`.
    Differs: the cosine is computed in float32 or wider with an epsilon, so neither half precision nor a zero vector
        breaks it.
    """

    def __init__(self, hidden_size: int, contexts: list[tuple[str, int]], weights: dict[str, float] | None):
        super().__init__()
        self.weights = [1.0 if weights is None else weights[branch] for branch, _ in contexts]
        self.query_proj = nn.Linear(hidden_size, hidden_size)
        self.context_scales = nn.Parameter(torch.empty(len(contexts)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start with the frame itself as the query and every scale at one."""
        init.eye_(self.query_proj.weight)
        init.zeros_(self.query_proj.bias)
        init.ones_(self.context_scales)

    def forward(self, current: Tensor, contexts: Contexts) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum, `(b, p, d)`, and no attention maps."""
        dtype = torch.promote_types(current.dtype, torch.float32)
        query = self.query_proj(current).to(dtype)
        selected = torch.zeros_like(query)
        for weight, scale, context in zip(self.weights, self.context_scales, contexts.values(), strict=True):
            context = context.to(dtype)
            cosine = nn.functional.cosine_similarity(context, query, dim=-1, eps=1e-12)
            selected = selected + weight * scale * cosine[..., None] * context
        return selected.to(current.dtype), {}


class AddFusion(nn.Module):
    """Sum the contexts, each with a learned scale: direct addition, the paper's ablation of the query."""

    def __init__(self, contexts: list[tuple[str, int]]):
        super().__init__()
        self.context_scales = nn.Parameter(torch.empty(len(contexts)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start with every scale at one."""
        init.ones_(self.context_scales)

    def forward(self, current: Tensor, contexts: Contexts) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum, `(b, p, d)`, and no attention maps."""
        scaled = [scale * context for scale, context in zip(self.context_scales, contexts.values(), strict=True)]
        return sum(scaled, start=torch.zeros_like(current)), {}


class ConcatFusion(nn.Module):
    """Concatenate the contexts over channels and project: inception style, the paper's other ablation."""

    def __init__(self, hidden_size: int, contexts: list[tuple[str, int]]):
        super().__init__()
        self.out_proj = nn.Linear(len(contexts) * hidden_size, hidden_size)

    def forward(self, current: Tensor, contexts: Contexts) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the projection, `(b, p, d)`, and no attention maps."""
        joined = torch.cat([context.expand_as(current) for context in contexts.values()], dim=-1)
        return self.out_proj(joined), {}


class QueryMamba(nn.Module):
    """Q-Mamba: select among the contexts for the current frame, then let a latent Mamba mix the patches.

    Args:
        hidden_size: channels of a patch.
        contexts: the `(branch, stride)` of each context.
        fusion: `"query"`, `"cosine"`, `"add"` or `"concat"`.
        num_heads: heads of the `"query"` fusion.
        fusion_weights: constant weight of each branch in the `"cosine"` fusion.
        latent_mamba: add a mixer over the patches, which starts at zero.
        mixer: `state_size`, `conv_kernel` and `expand` of that mixer.
    """

    def __init__(
        self,
        hidden_size: int,
        contexts: list[tuple[str, int]],
        fusion: str,
        num_heads: int,
        fusion_weights: dict[str, float] | None,
        latent_mamba: bool,
        mixer: dict[str, int],
    ):
        super().__init__()
        self.fusion: nn.Module
        if fusion == "query":
            self.fusion = CrossAttentionFusion(hidden_size, contexts, num_heads)
        elif fusion == "cosine":
            self.fusion = CosineFusion(hidden_size, contexts, fusion_weights)
        elif fusion == "add":
            self.fusion = AddFusion(contexts)
        elif fusion == "concat":
            self.fusion = ConcatFusion(hidden_size, contexts)
        else:
            raise ValueError(f'fusion must be "query", "cosine", "add" or "concat", got {fusion!r}')
        self.latent_norm = nn.LayerNorm(hidden_size) if latent_mamba else None
        self.latent_mixer = MambaMixer(hidden_size, **mixer) if latent_mamba else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Let the latent mixer add nothing at the start."""
        if self.latent_mixer is not None:
            init.zeros_(self.latent_mixer.out_proj.weight)

    def forward(self, current: Tensor, contexts: Contexts) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what the current frame, `(b, p, d)`, takes from the contexts, and the attention maps by name."""
        selected, attentions = self.fusion(current, contexts)
        if self.latent_mixer is not None and self.latent_norm is not None:
            selected = selected + self.latent_mixer(self.latent_norm(selected))[0]
        return selected, attentions


class TemporalAdapter(nn.Module):
    """H-MBA: add to the current frame's features what the clip says of it.

        out = current + gate * QueryMamba(current, ContextMamba(clip))

    With a gate, zero at the start, a fresh adapter is the identity. Without one (`gated=False`) the sum is added as it
    is, as the released code does.

    Source: arXiv:2501.04302; Sranc3/H-MBA, `mamba_adaptation.py`.
    """

    def __init__(self, hidden_size: int, context: ContextMamba, query: QueryMamba, gated: bool):
        super().__init__()
        self.context = context
        self.query = query
        self.gate = nn.Parameter(torch.zeros(hidden_size)) if gated else None

    def forward(self, frame_features: Tensor, frame_mask: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Adapt the current frame's features.

        Args:
            frame_features: `(b, t, p, d)`, the current frame last.
            frame_mask: `(b, t)`, true for real frames; padding comes first.

        Returns:
            `(b, p, d)`, and the query's attention by `"branch/stride_n"`, each `(b, heads, p, 1 or p)`; empty for
            fusions without attention.
        """
        check_frames(frame_features, frame_mask)
        current = frame_features[:, -1]
        update, attentions = self.query(current, self.context(frame_features, frame_mask))
        return current + (update if self.gate is None else self.gate * update), attentions


class CurrentFrameAdapter(nn.Module):
    """The baseline that sees no video: the current frame's features as they are."""

    def forward(self, frame_features: Tensor, frame_mask: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the last frame of `(b, t, p, d)`."""
        check_frames(frame_features, frame_mask)
        return frame_features[:, -1], {}


class MeanFrameAdapter(nn.Module):
    """The baseline that pools: the average of all real frames, patch by patch."""

    def forward(self, frame_features: Tensor, frame_mask: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Average `(b, t, p, d)` over its frames."""
        check_frames(frame_features, frame_mask)
        if frame_mask is None:
            return frame_features.mean(dim=1), {}
        real = frame_mask[:, :, None, None].bool()
        total = frame_features.masked_fill(~real, 0.0).sum(dim=1)
        return total / real.sum(dim=1).to(total.dtype), {}


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

    def forward(self, frame_features: Tensor, frame_mask: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Adapt the current frame of `(b, t, p, d)`."""
        check_frames(frame_features, frame_mask)
        b, t, p, _ = frame_features.shape
        real = frame_features.new_ones(b, t, dtype=torch.bool) if frame_mask is None else frame_mask.bool()
        table = self.temporal_position_embedding
        positions = (real.cumsum(1) - 1).clamp(0, table.shape[0] - 1)
        frames = frame_features.masked_fill(~real[:, :, None, None], 0.0)
        tracks = (frames + table[positions][:, :, None]).transpose(1, 2).flatten(0, 1)  # (b * p, t, d)
        padding = None if frame_mask is None else ~real.repeat_interleave(p, dim=0)
        read = self.layer(tracks, src_key_padding_mask=padding)[:, -1].unflatten(0, (b, p))
        return frame_features[:, -1] + self.gate * read, {}


def check_frames(frame_features: Tensor, frame_mask: Tensor | None) -> None:
    """Raise a `ValueError` unless `frame_features` is `(b, t, p, d)` with `t` at least 1 and the mask fits it."""
    if frame_features.ndim != 4 or frame_features.shape[1] < 1:
        raise ValueError(
            f"frame_features must be (clips, frames, patches, channels) with at least one frame, "
            f"got {tuple(frame_features.shape)}"
        )
    if frame_mask is not None and frame_mask.shape != frame_features.shape[:2]:
        raise ValueError(
            f"frame_mask must be {tuple(frame_features.shape[:2])}, one value for each frame, "
            f"got {tuple(frame_mask.shape)}"
        )
