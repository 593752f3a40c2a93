"""Masks of a batch whose clips have seeds of their own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...models.layers_video_masks import MASKINGS, draw_mask


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
