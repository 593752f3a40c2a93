"""Mamba sequence layers: a mixer, a mixer that reads in both directions, and the block around either."""

import math

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

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
        self.out_proj = nn.Linear(d, hidden_size, bias=False)
        if holds_parameters(self):
            self.reset_parameters()

    def forward(  # type: ignore[override]
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
        return _project_input(self.in_proj, self.intermediate_size, hidden_states, hidden_states[:, last])


class BidirectionalMambaMixer(GradientCheckpointingLayer):
    """A Mamba layer that scans in both directions between one input and one output projection.

        out = out_proj(forward_ssm(x, z) + reverse_ssm(x, z)),  where  x, z = in_proj(hidden_states)

    Args:
        hidden_size: width of input and output.
        state_size: states per channel, `n`.
        conv_kernel: taps of the causal convolution.
        expand: the inner width `d` is `expand * hidden_size`.

    Source: Li et al. 2024, arXiv:2403.06977, section 3.2; `Mamba(bimamba=True)` of OpenGVLab/VideoMamba.
    """

    def __init__(self, hidden_size: int, state_size: int = 16, conv_kernel: int = 4, expand: int = 2):
        super().__init__()
        d = expand * hidden_size
        sizes = (d, state_size, conv_kernel, math.ceil(hidden_size / 16))
        self.intermediate_size = d
        self.in_proj = Projection(hidden_size, 2 * d, bias=False)
        self.forward_ssm = StateSpace(*sizes)
        self.reverse_ssm = StateSpace(*sizes)
        self.out_proj = nn.Linear(d, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix a sequence, `(b, l, hidden_size)`, from both ends.

        Args:
            hidden_states: `(b, l, hidden_size)`.
            mask: `(b, l)`, true for real steps; masked steps change nothing.
        """
        x, z = _project_input(self.in_proj, self.intermediate_size, hidden_states, hidden_states)
        read, _ = self.forward_ssm(x, z, mask=mask, return_last_state=False)
        read_back, _ = self.reverse_ssm(x, z, mask=mask, reverse=True, return_last_state=False)
        return self.out_proj(read + read_back)


class MambaBlock(nn.Module):
    """Add, norm, mix: add the previous block's output to the residual, norm the sum, and mix it.

        residual = residual + hidden_states;  hidden_states = mixer(norm(residual))

    Args:
        norm: of `(b, l, hidden_size)`.
        mixer: takes and returns `(b, l, hidden_size)`.

    Source: `Block` of state-spaces/mamba; `create_block` of OpenGVLab/VideoMamba.
    """

    def __init__(self, norm: nn.Module, mixer: nn.Module):
        super().__init__()
        self.norm = norm
        self.mixer = mixer

    def forward(self, hidden_states: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the mixer's output and the residual, in float32 or wider, each `(b, l, hidden_size)`.

        Args:
            hidden_states: the output of the block before, or the embeddings.
            residual: the sum before it; absent in the first block.
        """
        if residual is None:
            residual = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        else:
            residual = residual + hidden_states
        normed = self.norm(residual).to(hidden_states.dtype)
        return self.mixer(normed), residual


def _project_input(in_proj: nn.Module, d: int, hidden_states: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
    """Apply the halves of an `in_proj`: `x` of all steps, `(b, l, d)`, and the gate `z` of those that are read."""
    x, _ = project_rows(in_proj, hidden_states, slice(0, d))
    z, _ = project_rows(in_proj, read, slice(d, 2 * d))
    return x, z
