"""What MambaVL's models return."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class MambaVLModelOutput(ModelOutput):
    """Output of `MambaVLModel`.

    Attributes:
        last_hidden_state: mixed tokens of the clip, `(b, n, hidden_size)`.
        head_features: of the clip and the question of each head, `(b, heads, hidden_size)`.
        hidden_states, attentions: of the video model, when asked for.
    """

    last_hidden_state: Tensor | None = None
    head_features: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MambaVLClassifierOutput(ModelOutput):
    """Output of `MambaVLForVideoClassification`.

    Attributes:
        loss: the sum of the heads' losses, and of the answers' if they are learned.
        logits: of the joint classes, `(b, classes)`: those of the only head, or the log probability of each
            combination of the heads' classes, the last head's running fastest; absent where these are too many.
        head_logits: of each head by its name, `(b, classes)`.
        head_features: as in `MambaVLModelOutput`.
        answer_loss: of the answers, if they are learned.
        hidden_states, attentions: as in `MambaVLModelOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    head_logits: dict[str, Tensor] | None = None
    head_features: Tensor | None = None
    answer_loss: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None

    @property
    def verb_logits(self) -> Tensor | None:
        """Logits of the head `verb`, if there is one."""
        return (self.head_logits or {}).get("verb")

    @property
    def noun_logits(self) -> Tensor | None:
        """Logits of the head `noun`, if there is one."""
        return (self.head_logits or {}).get("noun")

    @property
    def action_logits(self) -> Tensor | None:
        """`logits`, by the name that EPIC-KITCHENS has for its combinations."""
        return self.logits
