"""What VideoMamba's models return."""

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import ModelOutput


@dataclass
class VideoMambaClassifierOutput(ImageClassifierOutput):
    """Output of the classifiers.

    Attributes:
        loss: of labels, and of the teacher's features if they are given.
        logits: `(b, num_labels)`.
        hidden_states: as in `VideoMambaModel`, when asked for.
        distillation_features: of each token, of length one, `(b, l, distillation_size)`, if the model has this head.
    """

    distillation_features: Tensor | None = None


@dataclass
class VideoMambaPreTrainingOutput(ModelOutput):
    """Output of `VideoMambaForPreTraining`.

    Attributes:
        loss: distance from the teacher's features, if they are given.
        aligned_features: of each visible token, of length one, `(k, b, visible, alignment_size)`, from the earliest
            aligned layer to the last.
        hidden_states: as in `VideoMambaModel`, when asked for.
    """

    loss: Tensor | None = None
    aligned_features: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
