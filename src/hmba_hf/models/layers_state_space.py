"""The selective state space of one direction: convolution, input-dependent maps and steps, and the scan."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from transformers import initialization as init

from .layers_linear import Linear
from .ops_causal_conv1d import causal_conv1d
from .ops_compile_ahead import compile_ahead
from .ops_linear import linear
from .ops_selective_scan import selective_scan


class MambaState(NamedTuple):
    """The state between two parts of a sequence, whatever their lengths.

    Attributes:
        conv: the last `conv_kernel - 1` inputs of the convolution, `(b, conv_kernel - 1, d)`.
        ssm: the state of the scan, `(b, d, n)` in float32 or wider.
    """

    conv: Tensor
    ssm: Tensor


def holds_parameters(module: nn.Module) -> bool:
    """Return whether the parameters are whole; DeepSpeed's ZeRO-3 shards them while a model is built.

    `from_pretrained` then fills them, or gathers and initialises them.
    """
    return all(parameter.numel() for parameter in module.parameters())


class Projection(Linear):
    """A linear layer that can compute some of its rows alone."""

    def forward(self, x: Tensor, rows: slice | None = None) -> Any:
        """Project `(..., in)` to `(..., out)`; given rows, return these without their bias, and their bias."""
        if rows is None:
            return super().forward(x)
        bias = None if self.bias is None else self.bias[rows]
        return linear(x, self.weight[rows]), bias


def project_rows(layer: nn.Module, x: Tensor, rows: slice) -> tuple[Tensor, Tensor | None]:
    """Project to some rows, and return their bias separately, if a `Projection` has not been replaced.

    A layer in its place (LoRA, 8 bit) computes all rows and adds the bias itself.
    """
    if isinstance(layer, Projection):
        return layer(x, rows)
    return layer(x)[..., rows], None


class CausalConv1d(nn.Module):
    """The weights of a depthwise `causal_conv1d`, in the shape and by the draws of `nn.Conv1d`.

    It is none, since tools that wrap an `nn.Conv1d`, as low-rank updates do, expect channels before time and one
    result.

    Args:
        channels: `d`.
        kernel_size: taps.
    """

    def __init__(self, channels: int, kernel_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel_size))
        self.bias = nn.Parameter(torch.empty(channels))
        bound = 1 / math.sqrt(kernel_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self, x: Tensor, state: Tensor | None = None, mask: Tensor | None = None, reverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Convolve `(b, l, d)` with its past; arguments and results are those of `causal_conv1d`."""
        return causal_conv1d(x, self.weight[:, 0], self.bias, state=state, mask=mask, reverse=reverse)


class StateSpace(nn.Module):
    """The part of a Mamba layer between its projections, for one direction, with mamba_ssm's parameter names.

        x = silu(conv1d(x));  low_rank, B, C = x_proj(x);  delta = dt_proj(low_rank)
        y = selective_scan(x, delta, -exp(A_log), B, C, D, z)

    `MambaMixer` is one with projections of its own, and a mixer of two directions has two of them. Two of them may
    share one `A_log`, and then `shares_decays` is true.

    Args:
        intermediate_size: channels `d`.
        state_size: states per channel, `n`.
        conv_kernel: taps of the causal convolution.
        time_step_rank: rank of the step sizes.

    Source: Gu & Dao 2023, arXiv:2312.00752, section 3.4; `Mamba` of state-spaces/mamba.
    Differs: carries a state of `conv_kernel - 1` inputs, not `conv_kernel`; takes a mask and a direction.
    """

    shares_decays = False

    def __init__(self, intermediate_size: int, state_size: int, conv_kernel: int, time_step_rank: int):
        super().__init__()
        self.add_state_space(intermediate_size, state_size, conv_kernel, time_step_rank)
        if holds_parameters(self):
            self.reset_parameters()

    def add_state_space(self, intermediate_size: int, state_size: int, conv_kernel: int, time_step_rank: int) -> None:
        """Create the parameters without values; `MambaMixer` creates others before them."""
        d = intermediate_size
        self.intermediate_size = d
        self.state_size = state_size
        self.conv_kernel = conv_kernel
        self.time_step_rank = time_step_rank
        self.conv1d = CausalConv1d(d, conv_kernel)
        self.x_proj = Linear(d, time_step_rank + 2 * state_size, bias=False)
        self.dt_proj = Projection(time_step_rank, d)
        precise = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.A_log = nn.Parameter(torch.empty(d, state_size, dtype=precise))
        self.D = nn.Parameter(torch.empty(d))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as mamba_ssm does: S4D-real decays and step sizes log-uniform in `[1e-3, 1e-1]`."""
        for name, _ in self.named_children():
            if name != "dt_proj":
                init.kaiming_uniform_(self.get_parameter(f"{name}.weight"), a=math.sqrt(5))
        bound = 1 / math.sqrt(self.conv_kernel)
        init.uniform_(self.get_parameter("conv1d.bias"), -bound, bound)
        init.uniform_(self.dt_proj.weight, -(self.time_step_rank**-0.5), self.time_step_rank**-0.5)
        uniform = torch.rand(self.intermediate_size, device=self.dt_proj.bias.device)
        step = 1e-3 * torch.exp(uniform * math.log(100))
        init.copy_(self.dt_proj.bias, step + torch.log(-torch.expm1(-step)))  # softplus of it is `step`
        decay = torch.arange(1, self.state_size + 1, dtype=torch.float32, device=self.A_log.device)
        init.copy_(self.A_log, torch.log(decay).expand_as(self.A_log))
        init.ones_(self.D)

    def forward(
        self,
        x: Tensor,
        z: Tensor,
        state: MambaState | None = None,
        mask: Tensor | None = None,
        reverse: bool = False,
        return_last_state: bool = True,
    ) -> tuple[Tensor, MambaState | None]:
        """Scan a sequence and read its last steps.

        Args:
            x: `(b, l, d)`.
            z: gate of the last `m` steps scanned, `(b, m, d)`, which are read; the others only update the state.
            state: after an earlier part of the sequence; absent at the start.
            mask: `(b, l)`, true for real steps, which come last.
            reverse: run from the last step to the first.
            return_last_state: without it, the call needs less memory, and the sequence cannot be resumed.

        Returns:
            The read-out, `(b, m, d)`, and the state after the last step scanned, if it is wanted.

        Raises:
            ValueError: if a shared `A_log` has an update in one of those that share it, such as one of low rank.
        """
        if self.shares_decays and is_parametrized(self, "A_log"):
            raise ValueError(
                "A_log must be without updates where two mixers share it, got updates for one of them: leave it out "
                "of target_parameters, or load the model with share_A=False"
            )
        last = last_steps(x.shape[1], z.shape[1], reverse)
        conv_state = None
        ssm_state = None
        if state is not None:
            conv_state = state.conv
            ssm_state = state.ssm
        x, conv_state = self.conv1d(x, conv_state, mask, reverse)
        low_rank, B, C = self.x_proj(x).split((self.time_step_rank, self.state_size, self.state_size), dim=-1)
        delta, delta_bias = project_rows(self.dt_proj, low_rank, slice(0, self.intermediate_size))
        A = -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))
        y: Any
        y, ssm_state = selective_scan(
            x,
            delta,
            A,
            B,
            C=C[:, last],
            D=self.D,
            z=z,
            delta_bias=delta_bias,
            state=ssm_state,
            mask=mask,
            reverse=reverse,
            return_last_state=return_last_state,
        )
        if conv_state is None or ssm_state is None:
            return y, None
        return y, MambaState(conv_state, ssm_state)

    @property
    def state_shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The shapes of the two parts of a `MambaState` without their batch."""
        d = self.intermediate_size
        return (self.conv_kernel - 1, d), (d, self.state_size)


def last_steps(length: int, count: int, reverse: bool) -> slice:
    """Return the slice of a sequence that a scan reaches last, `count` steps long."""
    if reverse:
        return slice(0, count)
    return slice(length - count, length)


def compile_kernels_of(model: nn.Module) -> None:
    """Begin to compile the kernels that a model will run forward, if it has a state space."""
    compile_ahead({part.conv1d.weight.dtype for part in model.modules() if isinstance(part, StateSpace)})
