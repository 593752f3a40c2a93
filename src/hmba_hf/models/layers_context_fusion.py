"""How the current frame selects among the contexts that a clip gives it.

Axes: `b` clips, `p` patches of the current frame, `d` channels.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .layers_linear import Linear
from .layers_state_space import holds_parameters

Contexts = dict[tuple[str, int], Tensor]
"""The clip as each branch at each stride summarises it: `{(branch, stride): (b, 1 or p, d)}`."""


class CrossAttentionFusion(nn.Module):
    """Let each patch of the current frame attend to all context tokens, Perceiver style.

        weights = softmax(query key / sqrt(d / heads) + bias of the query's own patch)

    Every context carries a learned embedding of its branch and one of its stride. Each head has one learned bias for
    each context, added where a token stands for the query's own patch; the one token of `temporal` stands for all.
    It is a relative position bias with two distances: the own patch, and the rest. At the start head `h` reads its own
    patch in context `h mod k`, so that each patch starts from its own context, not from the mean of all.

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
        self.query_proj = Linear(hidden_size, hidden_size)
        self.key_proj = Linear(hidden_size, hidden_size)
        self.value_proj = Linear(hidden_size, hidden_size)
        self.out_proj = Linear(hidden_size, hidden_size)
        if holds_parameters(self):
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
        init.copy_(self.own_patch_bias, 10.0 * read)  # gives it most of a softmax over a thousand tokens

    def forward(self, current: Tensor, contexts: Contexts) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the selected context, `(b, p, d)`, and the attention to each context, `(b, heads, p, 1 or p)`."""
        like: dict[str, Any] = {"device": current.device, "dtype": current.dtype}
        p = current.shape[1]
        tagged = []
        biases = []
        for (branch, stride), own_patch_bias in zip(contexts, self.own_patch_bias.T, strict=True):
            context = contexts[branch, stride]
            embedding = self.branch_embedding[self.branches.index(branch)]
            tagged.append(context + embedding + self.stride_embedding[self.strides.index(stride)])
            if context.shape[1] == p:
                is_own = torch.eye(p, **like)
            else:
                is_own = torch.ones(p, 1, **like)
            biases.append(own_patch_bias[:, None, None] * is_own)
        tokens = torch.cat(tagged, dim=1)  # (b, k, d)
        query = self._by_head(self.query_proj(self.norm(current)))
        key = self._by_head(self.key_proj(tokens))
        value = self._by_head(self.value_proj(tokens))
        scores = query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1]) + torch.cat(biases, dim=-1)
        dtype = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(dim=-1, dtype=dtype).to(value.dtype)  # (b, heads, p, k)
        selected = self.out_proj((weights @ value).transpose(1, 2).flatten(2))
        maps = {}
        start = 0
        for (branch, stride), context in contexts.items():
            maps[f"{branch}/stride_{stride}"] = weights[..., start : start + context.shape[1]]
            start += context.shape[1]
        return selected, maps

    def _by_head(self, x: Tensor) -> Tensor:
        """Part the channels by head: `(b, k, d)` becomes `(b, heads, k, d / heads)`."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


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
        self.weights = [1.0] * len(contexts)
        if weights is not None:
            self.weights = [weights[branch] for branch, _ in contexts]
        self.query_proj = Linear(hidden_size, hidden_size)
        self.context_scales = nn.Parameter(torch.empty(len(contexts)))
        if holds_parameters(self):
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
        if holds_parameters(self):
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start with every scale at one."""
        init.ones_(self.context_scales)

    def forward(self, current: Tensor, contexts: Contexts) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum, `(b, p, d)`, and no attention maps."""
        total = torch.zeros_like(current)
        for scale, context in zip(self.context_scales, contexts.values(), strict=True):
            total = total + scale * context
        return total, {}


class ConcatFusion(nn.Module):
    """Concatenate the contexts over channels and project: inception style, the paper's other ablation."""

    def __init__(self, hidden_size: int, contexts: list[tuple[str, int]]):
        super().__init__()
        self.out_proj = Linear(len(contexts) * hidden_size, hidden_size)

    def forward(self, current: Tensor, contexts: Contexts) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the projection, `(b, p, d)`, and no attention maps."""
        expanded = [context.expand_as(current) for context in contexts.values()]
        joined = torch.cat(expanded, dim=-1)
        return self.out_proj(joined), {}
