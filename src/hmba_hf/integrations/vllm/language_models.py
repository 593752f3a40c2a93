"""Language models as vLLM has them: the name of its class, and the names within a checkpoint."""

from typing import Any, NamedTuple

from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

# Language models within a vision-language model that transformers has under no name of their own, and vLLM's class.
_WITHIN = {"qwen2_vl_text": "Qwen2ForCausalLM", "qwen2_5_vl_text": "Qwen2ForCausalLM"}


class NamesWithin(NamedTuple):
    """Names within a causal language model of transformers, as in a checkpoint of its own.

    Attributes:
        body: of all but its head.
        head: of its head, or of the weights that are its head, too.
    """

    body: str = "model"
    head: str = "lm_head"


def architectures_of(text_config: Any) -> list[str] | None:
    """Name vLLM's class for a language model; `None` where transformers knows no class for it."""
    kind = text_config.model_type
    if kind in _WITHIN:
        return [_WITHIN[kind]]
    if text_config.architectures or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return text_config.architectures
    return [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]]


def names_within(text_config: Any) -> NamesWithin:
    """Return the names within a language model."""
    if text_config.model_type in _WITHIN:
        return NamesWithin()
    language_model: Any = AutoModelForCausalLM._model_mapping[type(text_config)]
    head = "lm_head"
    for tied in language_model._tied_weights_keys or ():
        head = tied.removesuffix(".weight")
    return NamesWithin(language_model.base_model_prefix, head)


__all__ = ["NamesWithin", "architectures_of", "names_within"]
