"""Mamba sequence layers: a mixer, and the block around any mixer."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .layers_linear import Linear
from .layers_state_space import MambaState, Projection, StateSpace, holds_parameters, last_steps, project_rows


class MambaMixer(GradientCheckpointingLayer, StateSpace):
    """The Mamba sequence layer, with mamba_ssm's parameter names and initialisation.

    It inherits from `StateSpace` since checkpoints name the parameters of both side by side.

    Args:
        hidden_size: width of input and output.
        state_size: states per channel, `n`.
        conv_kernel: taps of the causal convolution.
        expand: the inner width `d` is `expand * hidden_size`.

    Source: Gu & Dao 2023, arXiv:2312.00752, section 3.4; `Mamba` of state-spaces/mamba.
    """

    def __init__(self, hidden_size: int, state_size: int = 16, conv_kernel: int = 4, expand: int = 2):
        nn.Module.__init__(self)
        d = expand * hidden_size
        # Optimizers of stored runs count parameters in this order.
        self.in_proj = Projection(hidden_size, 2 * d, bias=False)
        self.add_state_space(d, state_size, conv_kernel, math.ceil(hidden_size / 16))
        self.out_proj = Linear(d, hidden_size, bias=False)
        if holds_parameters(self):
            self.reset_parameters()

    def forward(  # type: ignore[override]  # reads what comes before the scan
        self,
        hidden_states: Tensor,
        state: MambaState | None = None,
        mask: Tensor | None = None,
        reverse: bool = False,
        num_outputs: int | None = None,
        x: Tensor | None = None,
        z: Tensor | None = None,
        return_last_state: bool = True,
    ) -> tuple[Tensor, MambaState | None]:
        """Mix a sequence over time and read its last steps.

        Args:
            hidden_states: `(b, l, hidden_size)`.
            state: after an earlier part of the sequence; absent at the start.
            mask: `(b, l)`, true for real steps, which come last.
            reverse: run from the last step to the first.
            num_outputs: read only this many of the last steps scanned; the others only update the state, which is
                much cheaper. All of them when absent.
            x, z: the results of `project` if it was called before; both or neither. `num_outputs` is then the length
                of `z`.
            return_last_state: without it, the call needs less memory, and the sequence cannot be resumed.

        Returns:
            The outputs, `(b, num_outputs, hidden_size)`, and the state after the last step scanned, if it is wanted.
        """
        if x is None or z is None:
            x, z = self.project(hidden_states, reverse, num_outputs)
        y, state = super().forward(x, z, state=state, mask=mask, reverse=reverse, return_last_state=return_last_state)
        return self.out_proj(y), state

    def project(
        self, hidden_states: Tensor, reverse: bool = False, num_outputs: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Apply `in_proj`: `x` of all steps, `(b, l, d)`, and the gate `z` of those that are read."""
        length = hidden_states.shape[1]
        if num_outputs is None or num_outputs > length:
            num_outputs = length
        last = last_steps(length, num_outputs, reverse)
        return self.project_steps(hidden_states), self.project_gate(hidden_states[:, last])

    def project_steps(self, hidden_states: Tensor) -> Tensor:
        """Apply the half of `in_proj` for the scan to steps, `(..., hidden_size)`: `x`, `(..., d)`."""
        return project_rows(self.in_proj, hidden_states, slice(0, self.intermediate_size))[0]

    def project_gate(self, hidden_states: Tensor) -> Tensor:
        """Apply the half of `in_proj` for the gate to steps that are read, `(..., hidden_size)`: `z`, `(..., d)`."""
        return project_rows(self.in_proj, hidden_states, slice(self.intermediate_size, 2 * self.intermediate_size))[0]

    @property
    def projects_alike_elsewhere(self) -> bool:
        """Whether steps projected alone, or as sums, have the values of a whole projection, to rounding in float32.

        That is not known of layers put in place of `in_proj`, such as quantised ones.
        """
        weight = self.in_proj.weight
        is_ours = type(self.in_proj) is Projection and type(weight) is nn.Parameter
        return is_ours and not weight.is_meta and weight.dtype in (torch.float32, torch.float64)


class DropPath(nn.Module):
    """Set some samples to zero in training, and scale the others up.

    Args:
        rate: share of samples that are set to zero.

    Source: stochastic depth, Huang et al. 2016, arXiv:1603.09382.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of `x`, `(b, ...)`."""
        if self.rate == 0 or not self.training:
            return x
        kept = torch.rand((x.shape[0], *[1] * (x.ndim - 1)), device=x.device) >= self.rate
        return x * kept / (1 - self.rate)

    def extra_repr(self) -> str:
        """Show the rate."""
        return f"rate={self.rate}"


class ResidualNorm(nn.RMSNorm):
    """The norm of a residual, which is wider than the weights where those are in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        """Norm `(b, l, hidden_size)` in its own dtype."""
        return nn.functional.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class MambaBlock(nn.Module):
    """Add, norm, mix: add the previous block's output to the residual, norm the sum, and mix it.

        residual = residual + hidden_states;  hidden_states = mixer(norm(residual))

    Args:
        norm: of `(b, l, hidden_size)`.
        mixer: takes and returns `(b, l, hidden_size)`.
        drop_path_rate: share of samples whose output of the block before is dropped in training.

    Source: `Block` of state-spaces/mamba; `create_block` of OpenGVLab/VideoMamba.
    """

    def __init__(self, norm: nn.Module, mixer: nn.Module, drop_path_rate: float = 0.0):
        super().__init__()
        self.norm = norm
        self.mixer = mixer
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, hidden_states: Tensor, residual: Tensor | None = None, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the mixer's output and the residual, in float32 or wider, each `(b, l, hidden_size)`.

        Args:
            hidden_states: the output of the block before, or the embeddings.
            residual: the sum before it; absent in the first block.
            kwargs: of the mixer.
        """
        residual = add_residual(self.drop_path(hidden_states), residual)
        normed = self.norm(residual).to(hidden_states.dtype)
        return self.mixer(normed, **kwargs), residual


def add_residual(hidden_states: Tensor, residual: Tensor | None) -> Tensor:
    """Return the sum of a block's output and of the residual, if there is one, in float32 or wider."""
    if residual is None:
        return hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
    return residual + hidden_states


def project_input(in_proj: nn.Module, d: int, hidden_states: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
    """Apply the halves of an `in_proj`: `x` of all steps, `(b, l, d)`, and the gate `z` of those that are read."""
    x, _ = project_rows(in_proj, hidden_states, slice(0, d))
    z, _ = project_rows(in_proj, read, slice(d, 2 * d))
    return x, z
