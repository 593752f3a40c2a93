"""What H-MBA's models return."""

from dataclasses import dataclass

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, ModelOutput

from .layers_adapter_state import AdapterState


@dataclass
class HMBAVideoFeatures(BaseModelOutputWithPooling):
    """What `get_video_features` returns.

    Attributes:
        last_hidden_state: adapted features of each video's current frame, `(videos, p, d)`.
        pooler_output: the same, projected to the language model, `(videos, p, hidden_size)`.
        hidden_states, attentions: of the vision tower, for all frames, when asked for.
        adapter_attentions: the query's attention to each context, `{"branch/stride_n": (videos, heads, p, 1 or p)}`,
            with `output_attentions`, and always from `adapt_frame_features`.
        adapter_state: what later frames of the same streams go on from, if a state was given.
    """

    adapter_attentions: dict[str, Tensor] | None = None
    adapter_state: AdapterState | None = None


@dataclass
class HMBAModelOutputWithPast(BaseModelOutputWithPast):
    """Output of `HMBAModel`.

    Attributes:
        video_hidden_states: projected features of each video, `(videos, p, hidden_size)`.
        adapter_attentions: as in `HMBAVideoFeatures`.
    """

    video_hidden_states: Tensor | None = None
    adapter_attentions: dict[str, Tensor] | None = None


@dataclass
class HMBACausalLMOutputWithPast(ModelOutput):
    """Output of `HMBAForConditionalGeneration`.

    Attributes:
        loss: next-token cross entropy over labels other than -100, when labels are given.
        logits: `(batch, length, vocab_size)`.
        past_key_values: the language model's cache.
        hidden_states, attentions: of the language model, when asked for.
        video_hidden_states, adapter_attentions: as in `HMBAModelOutputWithPast`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    video_hidden_states: Tensor | None = None
    adapter_attentions: dict[str, Tensor] | None = None
