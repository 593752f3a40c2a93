"""What every adapter takes and returns: frames, and the state of a video stream between two calls."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .layers_conditions import require

WIDE = ("ssm", "sum")  # endings of the names of sums over the whole stream
KIND = {"format": "pt", "kind": "hmba adapter state"}


@dataclass(frozen=True)
class AdapterState:
    """An adapter's state over a batch of video streams: its size does not depend on their length.

    `AdapterState()` is the state before the first frame. An adapter never changes a state but returns the next one, so
    a caller may keep an older one and resume from it.

    Attributes:
        tensors: by name, each with one row for each stream. Those of a scan are named `branch/stride_n/ago_k/conv` and
            `/ssm` (see `MambaState`): the state after every `n`-th frame, the last of them `k` frames ago.
            `frames_seen` counts each stream's frames.
        weights: a digest of the model that computed it, where that is known (see `VideoStream`).
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    weights: str = ""

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> "AdapterState":
        """Move to a device, a dtype or both; states of scans stay in float32 or wider, counts stay whole numbers."""

        def move(name: str, x: Tensor) -> Tensor:
            if dtype is None or not x.is_floating_point():
                return x.to(device)
            if name.endswith(WIDE):
                return x.to(device, torch.promote_types(dtype, torch.float32))
            return x.to(device, dtype)

        return replace(self, tensors={name: move(name, x) for name, x in self.tensors.items()})

    def detach(self) -> "AdapterState":
        """Cut the streams off from the gradients of their earlier frames."""
        return replace(self, tensors={name: x.detach() for name, x in self.tensors.items()})

    def select(self, streams: Sequence[int] | Tensor) -> "AdapterState":
        """Return the state of these streams in this order, without the others.

        Raises:
            IndexError: if there is no such stream.
        """
        if isinstance(streams, Tensor):
            rows = streams
        else:
            rows = torch.tensor(streams, dtype=torch.long)
        return replace(self, tensors={name: x[rows.to(x.device)] for name, x in self.tensors.items()})

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file, whole or not at all."""
        half = Path(f"{os.fspath(path)}.half")
        tensors = {name: x.detach().contiguous() for name, x in self.tensors.items()}
        content = save(tensors, metadata={**KIND, "weights": self.weights})
        try:
            with open(half, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            half.replace(path)
        finally:
            half.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "AdapterState":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged or holds something else.
        """
        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if not KIND.items() <= metadata.items():
                    raise ValueError(f"{path} must hold an adapter's state, got a file of metadata {metadata}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return cls(tensors, metadata.get("weights", ""))
        except SafetensorError as error:
            raise ValueError(f"{path} must be a safetensors file, got one that cannot be read: {error}") from error

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise a `ValueError` unless the tensors have these names and shapes."""
        got = {name: tuple(x.shape) for name, x in self.tensors.items()}
        for name in [*shapes, *got]:
            if got.get(name) != shapes.get(name):
                raise ValueError(
                    f"state must be one of this very adapter for as many streams: {name} must be "
                    f"{shapes.get(name, 'absent')}, got {got.get(name, 'none')}"
                )


class AdapterOutput(NamedTuple):
    """What an adapter returns.

    Attributes:
        features: the current frame's, adapted, `(b, p, d)`; absent without read-out.
        state: from which the next frames resume, if the call had one.
        attentions: the query's attention by `"branch/stride_n"`, each `(b, heads, p, 1 or p)`; empty for fusions
            without attention.
    """

    features: Tensor | None
    state: AdapterState | None
    attentions: dict[str, Tensor]


def check_frames(frame_features: Tensor, frame_mask: Tensor | None, state: AdapterState | None = None) -> None:
    """Raise a `ValueError` unless the frames are `(b, t, p, d)` with `t` at least 1 and the mask fits them."""
    if frame_features.ndim != 4 or frame_features.shape[1] < 1:
        raise ValueError(
            f"frame_features must be (clips, frames, patches, channels) with at least one frame, "
            f"got {tuple(frame_features.shape)}"
        )
    if frame_mask is not None:
        check_frame_mask(frame_mask, tuple(frame_features.shape[:2]), of_clips=state is None)


def check_frame_mask(frame_mask: Tensor, shape: tuple[int, ...], of_clips: bool = True) -> None:
    """Raise a `ValueError` unless a mask has one value for each frame and padding comes first.

    Args:
        frame_mask: true for real frames.
        shape: `(b, t)` of the frames.
        of_clips: a clip has a real frame, its last; a stream may not have begun yet.
    """
    if not isinstance(frame_mask, Tensor):
        raise ValueError(f"frame_mask must be a tensor of {shape}, got {type(frame_mask).__name__}")
    if tuple(frame_mask.shape) != shape:
        raise ValueError(f"frame_mask must be {shape}, one value for each frame, got {tuple(frame_mask.shape)}")
    mask = frame_mask.bool().long()
    fits = (mask.cummax(dim=1).values == mask).all()
    if of_clips:
        fits = fits & mask[:, -1].all()
    require(
        fits,
        "frame_mask must be false for padding in front and true from each video's first frame to its last, "
        "got another pattern",
    )


def check_padding(frame_mask: Tensor, seen: Tensor) -> None:
    """Raise a `ValueError` if a stream that has begun is padded: its earlier frames would seem a frame older."""
    require(
        ((seen == 0)[:, None] | frame_mask.bool()).all(),
        "frame_mask must be true for streams that have seen frames, got padding for one; "
        "`AdapterState.select` separates the streams without a new frame",
    )
