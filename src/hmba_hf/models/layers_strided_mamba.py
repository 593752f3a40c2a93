"""H-MBA's pair of mixers: a sequence of frames at one stride or several, read at the current frame."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers_mamba import MambaMixer
from .layers_state_space import MambaState


class StridedMambaMixer(nn.Module):
    """Two mixers over one sequence, one from each end, read at the last steps.

    Whatever wraps a mixer is called as the mixer is, and nothing else of it is asked for.

    The reverse direction starts at the end, so at the last `num_outputs` steps it has seen these steps alone. It
    never runs over the rest of the sequence, and the result is exactly that of two whole scans.

    Args:
        forward_mixer: scans from the first step to the last.
        reverse_mixer: scans from the last step to the first; absent for a causal layer.

    Source: arXiv:2501.04302, figure 2; Sranc3/H-MBA, `dual_forward`.
    """

    def __init__(self, forward_mixer: MambaMixer, reverse_mixer: MambaMixer | None):
        super().__init__()
        self.forward_mixer = forward_mixer
        self.reverse_mixer = reverse_mixer
        self.intermediate_size = forward_mixer.intermediate_size
        self.state_shapes = forward_mixer.state_shapes

    @property
    def projects_alike_elsewhere(self) -> bool:
        """Whether steps may be projected before the call; see `MambaMixer`."""
        return isinstance(self.forward_mixer, MambaMixer) and self.forward_mixer.projects_alike_elsewhere

    def project_steps(self, hidden_states: Tensor) -> Tensor:
        """Return what the forward mixer reads of steps, `(..., hidden_size)`; see `MambaMixer`."""
        return self.forward_mixer.project_steps(hidden_states)

    def forward(
        self,
        hidden_states: Tensor,
        num_outputs: int,
        mask: Tensor | None = None,
        strides: Sequence[int] = (1,),
        frame_length: int = 1,
        states: Sequence[Sequence[MambaState]] | None = None,
        projected: Tensor | None = None,
    ) -> tuple[list[list[Tensor]], list[list[MambaState]]]:
        """Mix a sequence of frames and read its last steps, at one stride or several.

        Args:
            hidden_states: `(b, l, hidden_size)`.
            num_outputs: how many steps to read, of the last frame alone at strides above 1; if 0, the sequence only
                updates the states.
            mask: `(b, l)`, true for real steps; those that are read must be real.
            strides: take every frame, every second, ...: each counted back from the last one.
            frame_length: steps of a frame.
            states: for each stride `n` the `n` states after an earlier part; the `k`-th belongs to the frames of which
                the last was `k` frames before its end. Absent for a whole sequence, which returns no states.
            projected: `project_steps` of the sequence, if it was computed before.

        Returns:
            For each stride the read-out of each direction, `(b, num_outputs, hidden_size)`, and the states, ordered
            alike.

        Raises:
            ValueError: if more than the last frame is to be read at a stride above 1.
        """
        _check_outputs(num_outputs, strides, frame_length)
        # No stride changes the projection of a step, or the reverse scan, which starts from the same last steps.
        x = projected
        z = None
        if x is not None:
            z = self.forward_mixer.project_gate(hidden_states[:, hidden_states.shape[1] - num_outputs :])
        elif len(strides) > 1 and isinstance(self.forward_mixer, MambaMixer):
            x, z = self.forward_mixer.project(hidden_states, num_outputs=num_outputs)
        back = self._read_back(hidden_states, num_outputs)
        frames = hidden_states.shape[1] // frame_length
        outputs = []
        left = []
        for i, stride in enumerate(strides):
            tracks: list[MambaState | None] = [None]
            if states is not None:
                tracks = _tracks_before(states[i], stride, frames)
            for ago in range(min(frames, len(tracks))):
                reads = num_outputs if ago == 0 else 0
                # By position: re-entrant activation checkpoints follow no named argument.
                read, tracks[ago] = self.forward_mixer(
                    _take_frames(hidden_states, frame_length, stride, ago),
                    tracks[ago],
                    _take_frames(mask, frame_length, stride, ago),
                    False,
                    reads,
                    _take_frames(x, frame_length, stride, ago),
                    None if z is None else z[:, :reads],
                    states is not None,
                )
                if ago == 0:
                    outputs.append([read, *back])
            left.append([] if states is None else tracks)
        return outputs, left  # type: ignore[return-value]  # all states are there once all is read

    def _read_back(self, hidden_states: Tensor, num_outputs: int) -> list[Tensor]:
        """Read the reverse direction, if there is one, at the last steps."""
        if self.reverse_mixer is None or not num_outputs:
            return []
        last = hidden_states[:, hidden_states.shape[1] - num_outputs :]
        read, _ = self.reverse_mixer(last, reverse=True, return_last_state=False)
        return [read]


def _check_outputs(num_outputs: int, strides: Sequence[int], frame_length: int) -> None:
    if max(strides) > 1 and num_outputs > frame_length:
        raise ValueError(
            f"num_outputs must be at most {frame_length}, the steps of a frame, at strides {tuple(strides)}, "
            f"got {num_outputs}"
        )


def _tracks_before(states: Sequence[MambaState], stride: int, frames: int) -> list[MambaState | None]:
    """Order the states of one stride by the tracks that the new frames continue; the current frame ends the first."""
    return [states[(ago - frames) % stride] for ago in range(stride)]


def _take_frames(x: Tensor | None, frame_length: int, stride: int, ago: int) -> Tensor | None:
    """Take every `stride`-th frame of `(b, frames * frame_length, ...)`, the last of them `ago` before its last."""
    if x is None:
        return None
    end = x.shape[1] // frame_length - ago
    if torch.compiler.is_exporting():  # torch cannot bound the length of a slice from an unknown start
        count = (end + stride - 1) // stride
        steps = torch.arange(count * frame_length, device=x.device)
        frames = end - 1 - stride * (count - 1 - steps // frame_length)
        return x.index_select(1, frames * frame_length + steps % frame_length)
    return x.unflatten(1, (-1, frame_length))[:, (end - 1) % stride :: stride].flatten(1, 2)
