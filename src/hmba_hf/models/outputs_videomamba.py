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


@dataclass
class VideoMambaVideoFeatures(ModelOutput):
    """What `get_video_features` returns.

    Attributes:
        last_hidden_state: normed visible patches, `(b, visible, d)`, which texts attend to.
        pooler_output: of each frame, `(b, t, d)`, or of the whole clip, `(b, 1, d)`.
        video_embeds: the same, projected to the space that videos and texts share, `(b, t or 1, projection_size)`.
        aligned_features: as in `VideoMambaPreTrainingOutput`, if some patches are hidden.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    video_embeds: Tensor | None = None
    aligned_features: Tensor | None = None


@dataclass
class VideoMambaTextFeatures(ModelOutput):
    """What `get_text_features` returns.

    Attributes:
        last_hidden_state: `(b, l, hidden_size)` of the text encoder.
        text_embeds: its first token, projected to the space that videos and texts share, `(b, projection_size)`.
    """

    last_hidden_state: Tensor | None = None
    text_embeds: Tensor | None = None


@dataclass
class VideoMambaRetrievalOutput(ModelOutput):
    """Output of `VideoMambaForVideoTextRetrieval`.

    Attributes:
        loss: the sum of the losses below that are there.
        contrastive_loss: of matching pairs against all others.
        matching_loss: of pairs, read together, that match or do not.
        masked_language_loss: of hidden tokens, read together with their video.
        alignment_loss: distance from a teacher's features of visible patches.
        logits_per_video: similarities over the temperature, `(videos, texts)`.
        logits_per_text: the same, `(texts, videos)`.
        video_embeds, text_embeds: as in `VideoMambaVideoFeatures` and `VideoMambaTextFeatures`.
    """

    loss: Tensor | None = None
    contrastive_loss: Tensor | None = None
    matching_loss: Tensor | None = None
    masked_language_loss: Tensor | None = None
    alignment_loss: Tensor | None = None
    logits_per_video: Tensor | None = None
    logits_per_text: Tensor | None = None
    video_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
