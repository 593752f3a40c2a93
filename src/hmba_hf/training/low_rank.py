"""Low-rank updates of a model, as PEFT has them, which go to the Hub as every checkpoint does."""

from typing import Any

from huggingface_hub import CommitInfo

from ..hub import push_model
from ..installation import missing_extra

try:
    import peft
except ImportError as missing:
    raise missing_extra("low-rank updates (LoRA) need", "train") from missing


class LowRankModel(peft.PeftModel):
    """A `PeftModel` whose `push_to_hub` ends where `push_checkpoint` does, with the same card.

    (PEFT's own loses the card of a new repository.)
    """

    def push_to_hub(self, repo_id: str, **options: Any) -> CommitInfo:
        """Upload the updates; arguments as in `hmba_hf.hub.push_model`."""
        return push_model(self, repo_id, **options)
