"""Orders in which the patches of a clip are scanned, and the mixer that scans in them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from .layers_linear import Linear
from .layers_mamba import project_input
from .layers_state_space import Projection, StateSpace


class Reordering(NamedTuple):
    """Where the tokens of one order stand in another one.

    Attributes:
        indices: for each place of the new order, its token's place in the old one, `(l,)` or `(b, l)`.
        inverse: the way back, likewise.
    """

    indices: Tensor
    inverse: Tensor


class Scan(NamedTuple):
    """One pass of a mixer over its tokens.

    Attributes:
        name: of its state space.
        temporal: whether it goes through one place of all frames after the other, else through one frame after the
            other.
        reverse: whether it runs from the last token to the first.
    """

    name: str
    temporal: bool
    reverse: bool


SCANS = {
    "spatial_first": (Scan("forward_ssm", False, False), Scan("reverse_ssm", False, True)),
    "temporal_first": (Scan("forward_ssm", True, False), Scan("reverse_ssm", True, True)),
    "spatiotemporal_v1": (Scan("forward_ssm", False, False), Scan("reverse_ssm", True, True)),
    "spatiotemporal_v2": (
        Scan("forward_ssm", False, False),
        Scan("reverse_ssm", False, True),
        Scan("temporal_forward_ssm", True, False),
        Scan("temporal_reverse_ssm", True, True),
    ),
}


def orders_of_layers(scan_type: str, num_layers: int) -> list[str]:
    """Return the order of each block's mixer: mixed stacks change it from one block to another."""
    spatial = "spatial_first"
    temporal = "temporal_first"
    half = num_layers // 2
    if scan_type == "spatial_then_temporal":
        return [spatial] * half + [temporal] * (num_layers - half)
    if scan_type == "temporal_then_spatial":
        return [temporal] * half + [spatial] * (num_layers - half)
    if scan_type == "alternating":
        return [temporal if layer % 2 else spatial for layer in range(num_layers)]
    return [scan_type] * num_layers


def temporal_order(num_frames: int, num_patches: int, tokens: Tensor) -> Reordering:
    """Order tokens by place first and by time second; the class token stays in front.

    Args:
        num_frames: of the clip, in tubelets.
        num_patches: of a frame.
        tokens: number of each token in the whole sequence of frame after frame, in which the class token is 0: `(l,)`,
            or `(b, l)` where clips differ.
    """
    patch = tokens - 1
    frame = patch.div(num_patches, rounding_mode="floor")
    rank = (patch % num_patches) * num_frames + frame
    rank = torch.where(tokens == 0, -1, rank)
    indices = rank.argsort(dim=-1)
    return Reordering(indices, indices.argsort(dim=-1))


def reorder(tokens: Tensor, indices: Tensor) -> Tensor:
    """Take tokens, `(b, l, d)`, by their places, `(l,)` or `(b, l)`."""
    if indices.ndim == 1:
        return tokens.index_select(1, indices)
    return tokens.take_along_dim(indices[..., None], dim=1)


class OutputProjection(Linear):
    """The projection onto the residual, whose first values depend on the number of blocks; models find it by type."""


class BidirectionalMambaMixer(GradientCheckpointingLayer):
    """A Mamba layer that scans from both ends, in one order or two, between one input and one output projection.

        out = out_proj(sum of each scan's state space of (x, z)),  where  x, z = in_proj(hidden_states)

    Args:
        hidden_size: width of input and output.
        state_size: states per channel, `n`.
        conv_kernel: taps of the causal convolution.
        expand: the inner width `d` is `expand * hidden_size`.
        order: of the scans, `"spatial_first"`, `"temporal_first"`, `"spatiotemporal_v1"` or `"spatiotemporal_v2"`.

    Source: Li et al. 2024, arXiv:2403.06977, section 3.2 and table 3a; `Mamba(bimamba=True)` of OpenGVLab/VideoMamba.
    Differs: the paper does not say how its spatio-temporal scan v1 shares its work. Here each direction has one order.
    """

    def __init__(
        self,
        hidden_size: int,
        state_size: int = 16,
        conv_kernel: int = 4,
        expand: int = 2,
        order: str = "spatial_first",
    ):
        super().__init__()
        d = expand * hidden_size
        self.intermediate_size = d
        self.scans = SCANS[order]
        self.in_proj = Projection(hidden_size, 2 * d, bias=False)
        for scan in self.scans:
            self.add_module(scan.name, StateSpace(d, state_size, conv_kernel, math.ceil(hidden_size / 16)))
        self.out_proj = OutputProjection(d, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None, temporal: Reordering | None = None) -> Tensor:
        """Mix tokens, `(b, l, hidden_size)`, which stand frame after frame.

        Args:
            hidden_states: `(b, l, hidden_size)`.
            mask: `(b, l)`, true for real tokens; masked ones change nothing.
            temporal: how to order them by place first; scans that are `temporal` need it.
        """
        x, z = project_input(self.in_proj, self.intermediate_size, hidden_states, hidden_states)
        total = None
        for scan in self.scans:
            y = self._scan(scan, x, z, mask, temporal)
            total = y if total is None else total + y
        return self.out_proj(total)

    def _scan(self, scan: Scan, x: Tensor, z: Tensor, mask: Tensor | None, temporal: Reordering | None) -> Tensor:
        if not scan.temporal:
            temporal = None
        elif temporal is None:
            raise ValueError(f"temporal must be a Reordering for {scan.name}, got None")
        if temporal is not None:
            x = reorder(x, temporal.indices)
            z = reorder(z, temporal.indices)
            if mask is not None:
                mask = reorder(mask[..., None], temporal.indices)[..., 0]
        state_space = self.get_submodule(scan.name)
        y, _ = state_space(x, z, mask=mask, reverse=scan.reverse, return_last_state=False)
        if temporal is not None:
            y = reorder(y, temporal.inverse)
        return y
