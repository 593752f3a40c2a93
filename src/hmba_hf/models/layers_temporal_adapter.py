"""The temporal adapter, H-MBA's trained part: video context at several temporal strides, and the frame's query for it.

Axes: `b` clips, `t` frames with the current one last, `p` patches per frame, `d` channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .layers_adapter_state import AdapterOutput, AdapterState, check_frames, check_padding
from .layers_context_fusion import AddFusion, ConcatFusion, Contexts, CosineFusion, CrossAttentionFusion
from .layers_mamba import MambaMixer
from .layers_state_space import MambaState, holds_parameters
from .layers_strided_mamba import StridedMambaMixer

BRANCHES = ("temporal", "divided_space_time", "joint_space_time")
# Multiplications in projecting a frame, below which its projection is not kept for a window. In the micro-world, with
# 2^18, all projections take a twentieth of the adapter's time. H-MBA has 2^29.
FEWEST_KEPT = 2**24


class ContextMamba(nn.Module):
    """C-Mamba: read a clip at its current frame through several scans at several temporal strides.

    - `temporal`: frames pooled over their patches, scanned over time.
    - `divided_space_time`: each patch scanned over time and added to the current frame, then its patches scanned.
    - `joint_space_time`: temporal position added, all tokens scanned frame by frame.

    Only the current frame is read out: earlier frames update the state of the forward scans and are needed for nothing
    else (see `StridedMambaMixer`).

    Args:
        hidden_size: channels of a patch.
        num_frames: rows of the temporal position table; a later frame takes the last row.
        temporal_strides: of the scans, counted back from the current frame; in any order.
        branches: which of the three scans to read; in any order.
        bidirectional_time: also scan `divided_space_time` back over time.
        share_mixers: one pair of mixers for the two spatial scans and one norm for all, as in the released code. Else
            each branch has its own, `joint_space_time` one for each stride, with a norm for each branch and stride.
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
                    forward_mixer = MambaMixer(hidden_size, **mixer)
                    reverse_mixer = None
                    if bidirectional_time or scan != "divided_time":
                        reverse_mixer = MambaMixer(hidden_size, **mixer)
                    self.mixers[scan] = StridedMambaMixer(forward_mixer, reverse_mixer)
            self.norms[self._norm(branch, stride)] = nn.LayerNorm(hidden_size)
        if "joint_space_time" in self.branches:
            self.temporal_position_embedding = nn.Parameter(torch.zeros(num_frames, hidden_size))

    @property
    def contexts(self) -> list[tuple[str, int]]:
        """The `(branch, stride)` of every context, in the order of `forward`'s result."""
        return [(branch, stride) for stride in self.temporal_strides for branch in self.branches]

    def _scans(self, branch: str, stride: int) -> list[str]:
        """Return the names of the mixer pairs that a branch runs, in their order."""
        if branch == "temporal":
            return ["temporal"]
        if branch == "divided_space_time":
            return ["divided_time", "space" if self.share_mixers else "divided_space"]
        return ["space" if self.share_mixers else f"joint_stride_{stride}"]

    def _norm(self, branch: str, stride: int) -> str:
        """Return the name of the norm of a branch at a stride."""
        if self.share_mixers:
            return "shared"
        return f"{branch}_stride_{stride}"

    def _norms(self, branch: str) -> list[nn.Module]:
        """Return the norms of a branch, one for each stride."""
        return [self.norms[self._norm(branch, stride)] for stride in self.temporal_strides]

    def forward(
        self,
        frame_features: Tensor,
        state: AdapterState | None = None,
        frame_mask: Tensor | None = None,
        read_out: bool = True,
        projected: Mapping[str, Tensor] | None = None,
    ) -> tuple[Contexts, AdapterState | None]:
        """Summarise clips, or the next frames of streams, at their current frame.

        Args:
            frame_features: `(b, t, p, d)`, the current frame last.
            state: after the streams' earlier frames; absent for whole clips, which return none.
            frame_mask: `(b, t)`, true for real frames; padding comes first and changes nothing.
            read_out: whether to compute the contexts; without them the call only updates the state, which is much
                cheaper.
            projected: `project_frames` of these frames, as far as it was computed before.

        Returns:
            `{(branch, stride): context}`, with `(b, 1, d)` for `temporal`, else `(b, p, d)`; and the state after the
            current frame.
        """
        check_frames(frame_features, frame_mask, state)
        b, t = frame_features.shape[:2]
        states, seen = self._unpack(state, frame_features)
        mask = None
        real = frame_features.new_ones(b, t, dtype=torch.bool)
        if frame_mask is not None:
            check_padding(frame_mask, seen)
            mask = real = frame_mask.bool()
            frame_features = frame_features.masked_fill(~real[:, :, None, None], 0.0)
        positions = (seen[:, None] + real.cumsum(1) - 1).clamp(min=0)  # (b, t), from each stream's own first frame
        found = {}
        left = {}
        for branch in self.branches:
            read = getattr(self, f"_read_{branch}")
            found[branch], left[branch] = read(
                frame_features, positions, mask, states.get(branch), int(read_out), projected or {}
            )
        contexts = {}
        if read_out:
            for branch, stride in self.contexts:
                contexts[branch, stride] = found[branch][self.temporal_strides.index(stride)]
        if state is None:
            return contexts, None
        return contexts, self._pack(left, b, seen + real.sum(1))

    def project_frames(self, frame_features: Tensor) -> dict[str, Tensor]:
        """Return what scans over frames read of each frame wherever it stands, `(b, t, p, channels)` by name of scan.

        There is nothing of a scan whose projection is small or has been replaced.

        A window that moves on needs it of the new frame alone. The scans of `joint_space_time` add what they read of
        the position, since a projection of a sum is the sum of projections.

        Args:
            frame_features: `(b, t, p, d)`.
        """
        projected = {}
        for branch, stride in self.contexts:
            scan = self._scans(branch, stride)[0]
            mixer: Any = self.mixers[scan]
            is_large = frame_features[0, 0].numel() * mixer.intermediate_size >= FEWEST_KEPT
            if branch == "temporal" or scan in projected or not (is_large and mixer.projects_alike_elsewhere):
                continue
            projected[scan] = mixer.project_steps(frame_features)
        return projected

    def _state_names(self, branch: str) -> list[list[tuple[str, str]]]:
        """Return the names of a branch's states in an `AdapterState`, in the order of `StridedMambaMixer`."""
        names = []
        for stride in self.temporal_strides:
            prefixes = [f"{branch}/stride_{stride}/ago_{ago}" for ago in range(stride)]
            names.append([(f"{prefix}/conv", f"{prefix}/ssm") for prefix in prefixes])
        return names

    def _unpack(self, state: AdapterState | None, frames: Tensor) -> tuple[dict[str, list[list[MambaState]]], Tensor]:
        """Return the states by branch, zeros before the first frame, and how many frames each stream has seen."""
        if state is None:
            return {}, torch.zeros(frames.shape[0], dtype=torch.long, device=frames.device)
        shapes = self._state_shapes(frames)
        tensors: Mapping[str, Tensor] = state.tensors
        if tensors:
            state.check(shapes)
        else:
            tensors = _zero_states(shapes, frames)
        states: dict[str, list[list[MambaState]]] = {}
        for branch in self.branches:
            rows_in_front = 1 if branch == "divided_space_time" else 0
            states[branch] = []
            for names in self._state_names(branch):
                of_stride = []
                for conv_name, ssm_name in names:
                    conv = tensors[conv_name].flatten(0, rows_in_front)
                    ssm = tensors[ssm_name].flatten(0, rows_in_front)
                    of_stride.append(MambaState(conv, ssm))
                states[branch].append(of_stride)
        return states, tensors["frames_seen"]

    def _state_shapes(self, frames: Tensor) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor in a state for these streams, by name."""
        b, _, p, _ = frames.shape
        shapes: dict[str, tuple[int, ...]] = {"frames_seen": (b,)}
        for branch, stride in self.contexts:
            pair: Any = self.mixers[self._scans(branch, stride)[0]]
            tail, state_of_scan = pair.state_shapes
            rows = (b, p) if branch == "divided_space_time" else (b,)
            for conv, ssm in self._state_names(branch)[self.temporal_strides.index(stride)]:
                shapes[conv] = (*rows, *tail)
                shapes[ssm] = (*rows, *state_of_scan)
        return shapes

    def _pack(self, left: dict[str, list[list[MambaState]]], b: int, seen: Tensor) -> AdapterState:
        """Give the states their names, with one row for each stream."""
        tensors = {"frames_seen": seen}
        for branch, strides in left.items():
            for names, states in zip(self._state_names(branch), strides, strict=True):
                for pair, state in zip(names, states, strict=True):
                    for name, x in zip(pair, state, strict=True):
                        if branch == "divided_space_time":
                            x = x.unflatten(0, (b, -1))
                        tensors[name] = x
        return AdapterState(tensors)

    def _read_temporal(
        self,
        frames: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        states: Any,
        reads: int,
        projected: Mapping[str, Tensor],
    ) -> tuple[list[Tensor], Any]:
        pooled = frames.mean(dim=2)  # (b, t, d)
        read, states = self.mixers["temporal"](
            pooled, num_outputs=reads, mask=mask, strides=self.temporal_strides, states=states
        )
        return self._normed_sums("temporal", read), states

    def _read_divided_space_time(
        self,
        frames: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        states: Any,
        reads: int,
        projected: Mapping[str, Tensor],
    ) -> tuple[list[Tensor], Any]:
        p = frames.shape[2]
        current = frames[:, -1]
        strides = self.temporal_strides
        time, space = self._scans("divided_space_time", strides[0])
        tracks = frames.transpose(1, 2).flatten(0, 1)  # (b * p, t, d), each patch over time
        if mask is not None:
            mask = mask.repeat_interleave(p, dim=0)
        x = projected.get(time)
        if x is not None:
            x = x.transpose(1, 2).flatten(0, 1)
        read, states = self.mixers[time](
            tracks, num_outputs=reads, mask=mask, strides=strides, states=states, projected=x
        )
        over_time = self._normed_sums("divided_space_time", read)
        if not reads:
            return over_time, states
        mixed = torch.cat([current + y.view_as(current) for y in over_time])  # (strides * b, p, d)
        over_space, _ = self.mixers[space](mixed, p)
        directions = [y.unflatten(0, (len(strides), -1)).unbind() for y in over_space[0]]
        by_stride = list(zip(*directions, strict=True))
        return self._normed_sums("divided_space_time", by_stride), states

    def _read_joint_space_time(
        self,
        frames: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        states: Any,
        reads: int,
        projected: Mapping[str, Tensor],
    ) -> tuple[list[Tensor], Any]:
        p = frames.shape[2]
        read: list[Any] = []
        left: list[Any] = []
        table = self.temporal_position_embedding.to(frames.dtype)
        position = table[positions.clamp(max=table.shape[0] - 1)]
        tokens = (frames + position[:, :, None]).flatten(1, 2)  # (b, t * p, d)
        if mask is not None:
            mask = mask.repeat_interleave(p, dim=1)
        for i, stride in enumerate(self.temporal_strides):
            (scan,) = self._scans("joint_space_time", stride)
            before = None if states is None else states[i : i + 1]
            mixers: Any = self.mixers[scan]
            x = projected.get(scan)
            if x is not None:
                x = (x + mixers.project_steps(position)[:, :, None]).flatten(1, 2)
            found, after = mixers(
                tokens,
                num_outputs=reads * p,
                mask=mask,
                strides=(stride,),
                frame_length=p,
                states=before,
                projected=x,
            )
            read += found
            left += after
        sums = self._normed_sums("joint_space_time", read)
        return [norm(y) for norm, y in zip(self._norms("joint_space_time"), sums, strict=True)], left

    def _normed_sums(self, branch: str, read: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Norm each direction of a scan, then sum the directions, at each stride."""
        sums = []
        for norm, directions in zip(self._norms(branch), read, strict=True):
            total = norm(directions[0])
            for y in directions[1:]:
                total = total + norm(y)
            sums.append(total)
        return sums


def _zero_states(shapes: Mapping[str, tuple[int, ...]], frames: Tensor) -> dict[str, Tensor]:
    """Return the states before the first frame: those of scans in float32 or wider, counts as whole numbers."""
    wide = torch.promote_types(frames.dtype, torch.float32)
    tensors = {}
    for name, shape in shapes.items():
        dtype = frames.dtype
        if name == "frames_seen":
            dtype = torch.long
        elif name.endswith("/ssm"):
            dtype = wide
        tensors[name] = torch.zeros(shape, dtype=dtype, device=frames.device)
    return tensors


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
        self.latent_norm = None
        self.latent_mixer = None
        if latent_mamba:
            self.latent_norm = nn.LayerNorm(hidden_size)
            self.latent_mixer = MambaMixer(hidden_size, **mixer)
        if holds_parameters(self):
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Let the latent mixer add nothing at the start."""
        if self.latent_mixer is not None:
            init.zeros_(self.latent_mixer.out_proj.weight)

    def forward(self, current: Tensor, contexts: Contexts) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the selection from the contexts for the current frame, `(b, p, d)`, and attention maps by name."""
        selected, attentions = self.fusion(current, contexts)
        if self.latent_mixer is not None and self.latent_norm is not None:
            mixed, _ = self.latent_mixer(self.latent_norm(selected), return_last_state=False)
            selected = selected + mixed
        return selected, attentions


class TemporalAdapter(nn.Module):
    """H-MBA: add the selected context of the clip to the current frame's features.

        out = current + gate * QueryMamba(current, ContextMamba(clip))

    With a gate, zero at the start, a fresh adapter is the identity. Without one (`gated=False`) it adds the selection
    unscaled, as the released code does.

    Source: arXiv:2501.04302; Sranc3/H-MBA, `mamba_adaptation.py`.
    """

    def __init__(self, hidden_size: int, context: ContextMamba, query: QueryMamba, gated: bool):
        super().__init__()
        self.context = context
        self.query = query
        self.gate = nn.Parameter(torch.zeros(hidden_size)) if gated else None

    def forward(
        self,
        frame_features: Tensor,
        state: AdapterState | None = None,
        frame_mask: Tensor | None = None,
        read_out: bool = True,
        projected: Mapping[str, Tensor] | None = None,
    ) -> AdapterOutput:
        """Adapt the current frame's features.

        A clip at once, or frame by frame, or in parts of any size gives the same features at its current frame.

        Args:
            frame_features: `(b, t, p, d)`, the current frame last.
            state: after the streams' earlier frames: `AdapterState()` before the first, then that of the last call.
                Absent for whole clips, which return none.
            frame_mask: `(b, t)`, true for real frames; padding comes before a stream's first frame.
            read_out: whether features are wanted; without them the call only updates the state, which is much cheaper.
            projected: `project_frames` of these frames, as far as it was computed before.

        Raises:
            ValueError: if the frames or the mask do not fit, if the mask has padding behind a real frame, if the state
                belongs to another adapter or number of streams, or if a stream that has frames is padded.
        """
        contexts, state = self.context(frame_features, state, frame_mask, read_out, projected)
        if not read_out:
            return AdapterOutput(None, state, {})
        current = frame_features[:, -1]
        update, attentions = self.query(current, contexts)
        if self.gate is not None:
            update = self.gate * update
        return AdapterOutput(current + update, state, attentions)

    def project_frames(self, frame_features: Tensor) -> dict[str, Tensor]:
        """Return what `ContextMamba.project_frames` does."""
        return self.context.project_frames(frame_features)
