"""What H-MBA's models return."""

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)

from .layers_adapter_state import AdapterState
from .loading_transformers import with_both_cache_names


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


@with_both_cache_names
@dataclass
class HMBAModelOutputWithPast(BaseModelOutputWithPast):
    """Output of `HMBAModel`.

    Attributes:
        video_hidden_states: projected features of each video, `(videos, p, hidden_size)`.
        adapter_attentions: as in `HMBAVideoFeatures`.
    """

    video_hidden_states: Tensor | None = None
    adapter_attentions: dict[str, Tensor] | None = None


@with_both_cache_names
@dataclass
class HMBACausalLMOutputWithPast(CausalLMOutputWithPast):
    """Output of `HMBAForConditionalGeneration`.

    Attributes:
        loss: next-token cross entropy over labels other than -100, when labels are given.
        logits: `(batch, length, vocab_size)`.
        past_key_values, cache: two names of the language model's cache.
        hidden_states, attentions: of the language model, when asked for.
        video_hidden_states, adapter_attentions: as in `HMBAModelOutputWithPast`.
    """

    video_hidden_states: Tensor | None = None
    adapter_attentions: dict[str, Tensor] | None = None
