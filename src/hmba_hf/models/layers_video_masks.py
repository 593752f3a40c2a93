"""Which patches of clips are hidden from a model that learns to see what is left."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MASKINGS = ("tube", "random", "clip_row", "frame_row", "attention")
Grid = tuple[int, int]


def draw_mask(
    kind: str,
    batch: int,
    num_frames: int,
    grid: Grid,
    ratio: float = 0.8,
    generator: torch.Generator | None = None,
    attention: Tensor | None = None,
) -> Tensor:
    """Draw which patches of each clip are hidden, as many in each.

    Args:
        kind: of `MASKINGS`; see the function of each, such as `tube_mask`.
        batch: clips, `b`.
        num_frames: of a clip, in tubelets, `t`.
        grid: rows and columns of patches in a frame, of `p` patches.
        ratio: share of the patches that is hidden, rounded down to whole patches, or to whole rows where rows are.
        generator: that the mask depends on; torch's own when absent.
        attention: of a teacher to each patch, `(b, t * p)`, for `"attention"` alone.

    Returns:
        `(b, t * p)` in bool, frame after frame, true for patches that are hidden.

    Raises:
        ValueError: if there is no such kind, if the ratio would hide nothing or everything, or if attention is
            missing or does not fit.

    Source: Li et al. 2024, arXiv:2403.06977, figure 5. The released code calls `clip_row` random_row, and `frame_row`
    tube_row.
    """
    if kind not in MASKINGS:
        raise ValueError(f"masking must be one of {list(MASKINGS)}, got {kind!r}")
    if min(batch, num_frames, *grid) < 1:
        raise ValueError(
            f"masks must be for at least one clip, frame and patch, got {batch} clips, {num_frames} frames and "
            f"{grid[0]} x {grid[1]} patches"
        )
    if kind == "attention":
        if attention is None:
            raise ValueError("attention must be a teacher's for the masking 'attention', got None")
        wanted = (batch, num_frames * grid[0] * grid[1])
        if tuple(attention.shape) != wanted:
            raise ValueError(f"attention must be {wanted}, got {tuple(attention.shape)}")
        return attention_mask(attention, num_frames, ratio, generator)
    return _DRAWN[kind](batch, num_frames, grid, ratio, generator)


def tube_mask(
    batch: int, num_frames: int, grid: Grid, ratio: float = 0.8, generator: torch.Generator | None = None
) -> Tensor:
    """Hide the same patches in all frames of a clip; arguments as in `draw_mask`."""
    num_patches = grid[0] * grid[1]
    hidden = _draw_hidden(batch, num_patches, _hidden_of(num_patches, ratio, "patches of a frame"), generator)
    return hidden.repeat(1, num_frames)


def random_mask(
    batch: int, num_frames: int, grid: Grid, ratio: float = 0.8, generator: torch.Generator | None = None
) -> Tensor:
    """Hide any patches of a clip; arguments as in `draw_mask`."""
    num_patches = num_frames * grid[0] * grid[1]
    return _draw_hidden(batch, num_patches, _hidden_of(num_patches, ratio, "patches of a clip"), generator)


def clip_row_mask(
    batch: int, num_frames: int, grid: Grid, ratio: float = 0.8, generator: torch.Generator | None = None
) -> Tensor:
    """Hide any rows of a clip, more in one frame and fewer in another; arguments as in `draw_mask`."""
    rows, columns = grid
    count = num_frames * _hidden_of(rows, ratio, "rows of a frame")
    hidden = _draw_hidden(batch, num_frames * rows, count, generator)
    return hidden.repeat_interleave(columns, dim=1)


def frame_row_mask(
    batch: int, num_frames: int, grid: Grid, ratio: float = 0.8, generator: torch.Generator | None = None
) -> Tensor:
    """Hide as many rows in each frame, drawn anew for each; arguments as in `draw_mask`."""
    rows, columns = grid
    hidden = _draw_hidden(batch * num_frames, rows, _hidden_of(rows, ratio, "rows of a frame"), generator)
    return hidden.repeat_interleave(columns, dim=1).unflatten(0, (batch, num_frames)).flatten(1)


def attention_mask(
    attention: Tensor, num_frames: int, ratio: float = 0.8, generator: torch.Generator | None = None
) -> Tensor:
    """Leave patches of each frame visible, as many in each, the more likely the more a teacher attends to them.

    Args:
        attention: of the teacher's class token to each patch, `(b, t * p)`.
        num_frames: `t`.
        ratio, generator: as in `draw_mask`.

    Returns:
        As `draw_mask`, on the device of `attention`.

    Raises:
        ValueError: if attention is negative or not finite, or if the ratio would hide nothing or everything.
    """
    if not torch.isfinite(attention).all() or attention.min() < 0:
        raise ValueError("attention must be finite and not negative, got other numbers")
    frames = attention.unflatten(1, (num_frames, -1)).flatten(0, 1)  # (b * t, p)
    num_patches = frames.shape[1]
    visible = num_patches - _hidden_of(num_patches, ratio, "patches of a frame")
    device = "cpu" if generator is None else generator.device
    weights = frames.to(device, torch.float32).clamp_min(torch.finfo(torch.float32).tiny)  # patches of none come last
    chosen = torch.multinomial(weights, visible, generator=generator)
    hidden = torch.ones(frames.shape, dtype=torch.bool, device=device).scatter(1, chosen, False)
    return hidden.unflatten(0, (len(attention), num_frames)).flatten(1).to(attention.device)


_DRAWN: dict[str, Callable[..., Tensor]] = {
    "tube": tube_mask,
    "random": random_mask,
    "clip_row": clip_row_mask,
    "frame_row": frame_row_mask,
}


def _hidden_of(count: int, ratio: float, what: str) -> int:
    """Return how many of some patches or rows are hidden."""
    if not 0 < ratio < 1:
        raise ValueError(f"mask_ratio must be above 0 and below 1, got {ratio}")
    hidden = int(ratio * count)
    if hidden == 0:
        raise ValueError(f"mask_ratio must hide at least one of {count} {what}, got {ratio}, which hides none")
    return hidden


def _draw_hidden(batch: int, count: int, hidden: int, generator: torch.Generator | None) -> Tensor:
    """Draw `hidden` of `count` places for each of `batch` rows, `(batch, count)` in bool."""
    device = None if generator is None else generator.device
    order = torch.rand(batch, count, generator=generator, device=device).argsort(dim=1)
    mask = torch.zeros(batch, count, dtype=torch.bool, device=device)
    return mask.scatter(1, order[:, :hidden], True)


@dataclass(frozen=True)
class Masking:
    """How clips are masked.

    Args:
        kind: of `MASKINGS`.
        ratio: share of the patches that is hidden.

    Raises:
        ValueError: if there is no such kind, or if the ratio would hide everything.
    """

    kind: str = "attention"
    ratio: float = 0.8

    def __post_init__(self) -> None:
        if self.kind not in MASKINGS:
            raise ValueError(f"masking must be one of {list(MASKINGS)}, got {self.kind!r}")
        if not 0 < self.ratio < 1:
            raise ValueError(f"mask_ratio must be above 0 and below 1, got {self.ratio}")

    def draw(self, seeds: Tensor, num_frames: int, grid: tuple[int, int], attention: Tensor | None = None) -> Tensor:
        """Draw the masks of clips, `(b, t * p)`, each from its own seed, whatever clips are beside it.

        Args:
            seeds: `(b,)` in int64.
            num_frames, grid: as in `draw_mask`.
            attention: of a teacher, `(b, t * p)`; read by `"attention"` alone.
        """
        masks = []
        for number, seed in enumerate(seeds.tolist()):
            generator = torch.Generator().manual_seed(seed)
            seen = None
            if attention is not None and self.kind == "attention":
                seen = attention[number : number + 1].cpu()
            masks.append(draw_mask(self.kind, 1, num_frames, grid, self.ratio, generator, seen))
        return torch.cat(masks).to(seeds.device)
