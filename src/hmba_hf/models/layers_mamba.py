"""Mamba sequence layers: one mixer, and a pair of mixers that read a sequence in both directions."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

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


def holds_parameters(module: nn.Module) -> bool:
    """Tell whether the parameters have room for values; DeepSpeed's ZeRO-3 parts them while a model is built.

    `from_pretrained` then fills them, or has them drawn once they are together.
    """
    return all(parameter.numel() for parameter in module.parameters())


class Projection(nn.Linear):
    """A linear layer of which a call may ask for some rows alone."""

    def forward(self, x: Tensor, rows: slice | None = None) -> Any:
        """Project `(..., in)` to `(..., out)`; given rows, return these without their bias, and their bias."""
        if rows is None:
            return super().forward(x)
        return nn.functional.linear(x, self.weight[rows]), None if self.bias is None else self.bias[rows]


class CausalConv1d(nn.Conv1d):
    """The weights of a depthwise `causal_conv1d`."""

    def forward(  # type: ignore[override]
        self, x: Tensor, state: Tensor | None = None, mask: Tensor | None = None, reverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Convolve `(b, l, d)` with its past; arguments and results are those of `causal_conv1d`."""
        return causal_conv1d(x, self.weight[:, 0], self.bias, state, mask, reverse)


class MambaMixer(GradientCheckpointingLayer):
    """The Mamba sequence layer, with mamba_ssm's parameter names and initialisation.

    Args:
        hidden_size: width of input and output.
        state_size: states per channel, `n`.
        conv_kernel: taps of the causal convolution.
        expand: the inner width `d` is `expand * hidden_size`.

    Source: Gu & Dao 2023, arXiv:2312.00752, section 3.4; `Mamba` of state-spaces/mamba.
    Differs: carries a state of `conv_kernel - 1` inputs, not `conv_kernel`; takes a mask and a direction.
    """

    def __init__(self, hidden_size: int, state_size: int = 16, conv_kernel: int = 4, expand: int = 2):
        super().__init__()
        self.state_size = state_size
        self.intermediate_size = d = expand * hidden_size
        self.time_step_rank = math.ceil(hidden_size / 16)
        self.in_proj = Projection(hidden_size, 2 * d, bias=False)
        self.conv1d = CausalConv1d(d, d, conv_kernel, groups=d)
        self.x_proj = nn.Linear(d, self.time_step_rank + 2 * state_size, bias=False)
        self.dt_proj = Projection(self.time_step_rank, d)
        precise = torch.promote_types(torch.get_default_dtype(), torch.float32)
        self.A_log = nn.Parameter(torch.empty(d, state_size, dtype=precise))
        self.D = nn.Parameter(torch.empty(d))
        self.out_proj = nn.Linear(d, hidden_size, bias=False)
        if holds_parameters(self):
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as mamba_ssm does: S4D-real decays and step sizes log-uniform in `[1e-3, 1e-1]`."""
        for layer in (self.in_proj, self.conv1d, self.x_proj, self.out_proj):
            init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
        bound = 1 / math.sqrt(self.conv1d.kernel_size[0])
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
            state: what an earlier part of the sequence left; absent at the start.
            mask: `(b, l)`, true for real steps, which come last.
            reverse: run from the last step to the first.
            num_outputs: read only this many of the last steps scanned; the others only move the state, which is
                much cheaper. All of them when absent.
            x, z: what `project` makes of `hidden_states`, where it has been called before; both or neither.
                `num_outputs` is then the length of `z`.
            return_last_state: a sequence on its own leaves nothing to carry on from, and needs less memory.

        Returns:
            The outputs, `(b, num_outputs, hidden_size)`, and the state after the last step scanned, if it is wanted.
        """
        if x is None or z is None:
            x, z = self.project(hidden_states, reverse, num_outputs)
        length, num_outputs = hidden_states.shape[1], z.shape[1]
        conv_state, ssm_state = state if state is not None else (None, None)
        x, conv_state = self.conv1d(x, conv_state, mask, reverse)
        low_rank, B, C = self.x_proj(x).split((self.time_step_rank, self.state_size, self.state_size), dim=-1)
        delta, delta_bias = _project(self.dt_proj, low_rank, slice(0, self.intermediate_size))
        A = -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))
        last = slice(0, num_outputs) if reverse else slice(length - num_outputs, length)
        options = mask, reverse, return_last_state
        y, ssm_state = selective_scan(x, delta, A, B, C[:, last], self.D, z, delta_bias, ssm_state, *options)
        return self.out_proj(y), None if ssm_state is None else MambaState(conv_state, ssm_state)

    @property
    def state_shapes(self) -> MambaState:
        """The shapes of a state without its batch, where tensors are in one."""
        d = self.intermediate_size
        return MambaState((self.conv1d.kernel_size[0] - 1, d), (d, self.state_size))  # type: ignore[arg-type]

    def project(
        self, hidden_states: Tensor, reverse: bool = False, num_outputs: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Apply `in_proj`: `x` of all steps, `(b, l, d)`, and the gate `z` of those that are read."""
        length, d = hidden_states.shape[1], self.intermediate_size
        num_outputs = length if num_outputs is None else min(num_outputs, length)
        last = slice(0, num_outputs) if reverse else slice(length - num_outputs, length)
        x, _ = _project(self.in_proj, hidden_states, slice(0, d))
        z, _ = _project(self.in_proj, hidden_states[:, last], slice(d, 2 * d))
        return x, z


class BidirectionalMambaMixer(nn.Module):
    """Two mixers over one sequence, one from each end, read at the last steps.

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

    def forward(
        self,
        hidden_states: Tensor,
        num_outputs: int,
        mask: Tensor | None = None,
        strides: Sequence[int] = (1,),
        frame_length: int = 1,
        states: Sequence[Sequence[MambaState]] | None = None,
    ) -> tuple[list[list[Tensor]], list[list[MambaState]]]:
        """Mix a sequence of frames and read its last steps, at one stride or several.

        Args:
            hidden_states: `(b, l, hidden_size)`.
            num_outputs: how many steps to read, of the last frame alone at strides above 1; if none, the sequence only
                moves the states.
            mask: `(b, l)`, true for real steps; those that are read must be real.
            strides: frames are taken in each of these steps, counted back from the last one.
            frame_length: steps that belong to one frame.
            states: for each stride `n` the `n` states of an earlier part, the `k`-th left by the frames of which the
                last was `k` frames before its end. Absent for a sequence on its own, which leaves no states.

        Returns:
            For each stride what each direction says, `(b, num_outputs, hidden_size)`, and the states, ordered alike.

        Raises:
            ValueError: if more than the last frame is to be read at a stride above 1.
        """
        if max(strides) > 1 and num_outputs > frame_length:
            raise ValueError(
                f"at strides {tuple(strides)} at most {frame_length} steps can be read, got {num_outputs}"
            )
        frames, first_read = hidden_states.shape[1] // frame_length, hidden_states.shape[1] - num_outputs
        # Neither the projection of a step nor the way back, from the same last steps, depends on the stride.
        x, z = self.forward_mixer.project(hidden_states, False, num_outputs) if len(strides) > 1 else (None, None)
        back = []
        if self.reverse_mixer is not None and num_outputs:
            back = [self.reverse_mixer(hidden_states[:, first_read:], reverse=True, return_last_state=False)[0]]
        outputs, left = [], []
        for i, stride in enumerate(strides):
            left.append([] if states is None else [states[i][(ago - frames) % stride] for ago in range(stride)])
            for ago in range(min(frames, stride if states is not None else 1)):
                taken = [_take_frames(i, frame_length, stride, ago) for i in (hidden_states, mask, x)]
                before = left[-1][ago] if states is not None else None
                reads = num_outputs if ago == 0 else 0
                gate, leaves = None if z is None else z[:, :reads], states is not None
                read, after = self.forward_mixer(taken[0], before, taken[1], False, reads, taken[2], gate, leaves)
                if ago == 0:
                    outputs.append([read, *back])
                if states is not None:
                    left[-1][ago] = after
        return outputs, left


def _take_frames(x: Tensor | None, frame_length: int, stride: int, ago: int) -> Tensor | None:
    """Take every `stride`-th frame of `(b, frames * frame_length, ...)`, the last of them `ago` before its last."""
    if x is None:
        return None
    end = x.shape[1] // frame_length - ago
    if torch.compiler.is_exporting():  # of a slice from an unknown start, torch could not bound the length
        count = (end + stride - 1) // stride
        steps = torch.arange(count * frame_length, device=x.device)
        frames = end - 1 - stride * (count - 1 - steps // frame_length)
        return x.index_select(1, frames * frame_length + steps % frame_length)
    return x.unflatten(1, (-1, frame_length))[:, (end - 1) % stride :: stride].flatten(1, 2)


def _project(layer: nn.Module, x: Tensor, rows: slice) -> tuple[Tensor, Tensor | None]:
    """Project to some rows, their bias apart; a layer put in place of ours (LoRA, 8 bit) gives whole results."""
    return layer(x, rows) if isinstance(layer, Projection) else (layer(x)[..., rows], None)
