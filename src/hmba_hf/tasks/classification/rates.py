"""Learning rates that fall from the head of a VideoMamba to its embeddings."""

import re
from collections.abc import Callable

DECAYS = ("released", "blocks")
_BLOCK = re.compile(r"videomamba\.encoder\.layers\.(\d+)\.")
_EMBEDDINGS = "videomamba.embeddings."
_TIMES = "videomamba.embeddings.temporal_embeddings"


def layer_scale(decay: float, kind: str, num_layers: int) -> Callable[[str], float]:
    """Return the factor of the learning rate of a parameter, by its name.

        embeddings: decay^(num_layers + 1)
        block i:    decay^(num_layers - i), with i from 0
        all others: 1

    Args:
        decay: factor from one block to the one before it.
        kind: `"blocks"` is the rule above. `"released"` is what the released code does: it has the rule for blocks
            commented out and forgets the table of times, so their factor is 1.
        num_layers: number of blocks.

    Raises:
        ValueError: if `decay` or `kind` is none.

    Source: Bao et al. 2021, arXiv:2106.08254; OpenGVLab/VideoMamba.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, got {decay}")
    if kind not in DECAYS:
        raise ValueError(f"layer_decay_kind must be of {list(DECAYS)}, got {kind!r}")

    def scale(name: str) -> float:
        block = _BLOCK.match(name)
        if kind == "released" and (block is not None or name == _TIMES):
            return 1.0
        if name.startswith(_EMBEDDINGS):
            return decay ** (num_layers + 1)
        if block is not None:
            return decay ** (num_layers - int(block[1]))
        return 1.0

    return scale
