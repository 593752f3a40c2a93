"""Mamba sequence layers: one mixer, and a pair of mixers that read a sequence in both directions."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .ops_causal_conv1d import causal_conv1d
from .ops_selective_scan import selective_scan


class MambaState(NamedTuple):
    """What a mixer carries from one part of a sequence to the next, whatever the length of either.

    Attributes:
        conv: the last `conv_kernel - 1` inputs of the convolution, `(b, conv_kernel - 1, d)`.
        ssm: the state of the scan, `(b, d, n)` in float32 or wider.
    """

    conv: Tensor
    ssm: Tensor


class MambaMixer(GradientCheckpointingLayer):
    """The Mamba sequence layer, with mamba_ssm's parameter names and initialisation.

    Args:
        hidden_size: width of input and output.
        state_size: states per channel, `n`.
        conv_kernel: taps of the causal convolution.
        expand: the inner width `d` is `expand * hidden_size`.
        time_step_rank: rank of the step size's projection; `ceil(hidden_size / 16)` when absent.

    Source: Gu & Dao 2023, arXiv:2312.00752, section 3.4; `Mamba` of state-spaces/mamba.
    Differs: carries a state of `conv_kernel - 1` inputs, not `conv_kernel`; takes a mask and a direction.
    """

    def __init__(
        self,
        hidden_size: int,
        state_size: int = 16,
        conv_kernel: int = 4,
        expand: int = 2,
        time_step_rank: int | None = None,
    ):
        super().__init__()
        self.state_size = state_size
        self.intermediate_size = d = expand * hidden_size
        self.time_step_rank = time_step_rank or math.ceil(hidden_size / 16)
        self.in_proj = nn.Linear(hidden_size, 2 * d, bias=False)
        self.conv1d = nn.Conv1d(d, d, conv_kernel, groups=d)
        self.x_proj = nn.Linear(d, self.time_step_rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(self.time_step_rank, d)
        self.A_log = nn.Parameter(torch.empty(d, state_size))
        self.D = nn.Parameter(torch.empty(d))
        self.out_proj = nn.Linear(d, hidden_size, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, step_min: float = 1e-3, step_max: float = 1e-1, step_floor: float = 1e-4) -> None:
        """Initialise as mamba_ssm does: S4D-real decays and step sizes log-uniform in `[step_min, step_max]`."""
        for layer in (self.in_proj, self.conv1d, self.x_proj, self.out_proj):
            init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
        bound = 1 / math.sqrt(self.conv1d.kernel_size[0])
        init.uniform_(self.get_parameter("conv1d.bias"), -bound, bound)
        init.uniform_(self.dt_proj.weight, -(self.time_step_rank**-0.5), self.time_step_rank**-0.5)
        uniform = torch.rand(self.intermediate_size, device=self.dt_proj.bias.device)
        step = torch.exp(uniform * math.log(step_max / step_min) + math.log(step_min)).clamp(min=step_floor)
        init.copy_(self.dt_proj.bias, step + torch.log(-torch.expm1(-step)))  # softplus of it is `step`
        decay = torch.arange(1, self.state_size + 1, dtype=torch.float32, device=self.A_log.device)
        init.copy_(self.A_log, torch.log(decay).expand_as(self.A_log))
        init.ones_(self.D)

    def forward(
        self,
        hidden_states: Tensor,
        state: MambaState | None = None,
        mask: Tensor | None = None,
        reverse: bool = False,
        num_outputs: int | None = None,
    ) -> tuple[Tensor, MambaState]:
        """Mix a sequence over time and read its last steps.

        Args:
            hidden_states: `(b, l, hidden_size)`.
            state: what an earlier part of the sequence left; absent at the start.
            mask: `(b, l)`, true for real steps, which come last.
            reverse: run from the last step to the first.
            num_outputs: read only this many of the last steps scanned; the others only move the state, which is
                much cheaper. All of them when absent.

        Returns:
            The outputs, `(b, num_outputs, hidden_size)`, and the state after the last step scanned.
        """
        length = hidden_states.shape[1]
        num_outputs = length if num_outputs is None else min(num_outputs, length)
        conv_state, ssm_state = state if state is not None else (None, None)
        x_weight, z_weight = self.in_proj.weight.chunk(2)
        x = nn.functional.linear(hidden_states, x_weight)  # (b, l, d)
        x, conv_state = causal_conv1d(x, self.conv1d.weight[:, 0], self.conv1d.bias, conv_state, mask, reverse)
        first, last = slice(0, length - num_outputs), slice(length - num_outputs, length)
        if reverse:
            first, last = slice(num_outputs, length), slice(0, num_outputs)
        if first.start < first.stop:
            ssm_state = self._scan(x[:, first], None, ssm_state, _part(mask, first), reverse)[1]
        z = nn.functional.linear(hidden_states[:, last], z_weight)
        y, ssm_state = self._scan(x[:, last], z, ssm_state, _part(mask, last), reverse)
        return self.out_proj(y), MambaState(conv_state, ssm_state)

    def _scan(
        self, x: Tensor, z: Tensor | None, state: Tensor | None, mask: Tensor | None, reverse: bool
    ) -> tuple[Tensor | None, Tensor]:
        """Scan `x`, `(b, l, d)`; without a gate `z` only the state is computed."""
        rank, n = self.time_step_rank, self.state_size
        x_proj = self.x_proj.weight if z is not None else self.x_proj.weight[: rank + n]
        delta, B, C = nn.functional.linear(x, x_proj).tensor_split((rank, rank + n), dim=-1)
        return selective_scan(
            x,
            nn.functional.linear(delta, self.dt_proj.weight),
            -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32))),
            B,
            C if z is not None else None,
            D=self.D if z is not None else None,
            z=z,
            delta_bias=self.dt_proj.bias,
            state=state,
            mask=mask,
            reverse=reverse,
        )


class BidirectionalMambaMixer(nn.Module):
    """Two mixers over one sequence, one from each end, read at the last steps.

        y = norm(forward(x)) + norm(reverse(x))

    Read at the last `num_outputs` steps, the reverse direction has seen nothing but these steps: it starts at them.
    So it never runs over the rest of the sequence, and the result is exactly that of two whole scans.

    Args:
        forward_mixer: scans from the first step to the last.
        reverse_mixer: scans from the last step to the first; absent for a causal layer.

    Source: arXiv:2501.04302, figure 2; Sranc3/H-MBA, `dual_forward`.
    """

    def __init__(self, forward_mixer: MambaMixer, reverse_mixer: MambaMixer | None):
        super().__init__()
        self.forward_mixer = forward_mixer
        self.reverse_mixer = reverse_mixer

    def forward(self, hidden_states: Tensor, norm: nn.Module, num_outputs: int, mask: Tensor | None = None) -> Tensor:
        """Mix `(b, l, hidden_size)` and return the last `num_outputs` steps, each direction through `norm`.

        `mask`, `(b, l)`, is true for real steps; the steps that are read must be real.
        """
        mixed = norm(self.forward_mixer(hidden_states, mask=mask, num_outputs=num_outputs)[0])
        if self.reverse_mixer is None:
            return mixed
        current = hidden_states[:, hidden_states.shape[1] - num_outputs :]
        return mixed + norm(self.reverse_mixer(current, reverse=True)[0])


def _part(mask: Tensor | None, steps: slice) -> Tensor | None:
    return None if mask is None else mask[:, steps]
