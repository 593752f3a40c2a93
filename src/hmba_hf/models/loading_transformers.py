"""The differences between the versions of transformers on which H-MBA runs, from 5.19 on.

Version 5.24 renames `past_key_values` to `cache`, in every model's `forward`, in `generate` and in outputs.
"""

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, Cache, Pipeline, __version__
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPast

try:
    from transformers.configuration_utils import SubConfigSpec
except ImportError:  # until 5.20 is the oldest

    class SubConfigSpec:  # type: ignore[no-redef]  # for an older transformers
        """The default of a part of a config."""

        def __init__(self, config_class: Any, model_type: str, init_kwargs: dict[str, Any]):
            self.config_class = config_class
            self.model_type = model_type
            self.init_kwargs = init_kwargs


try:
    from transformers.modeling_utils import slice_logits_to_keep
except ImportError:  # until 5.21 is the oldest

    def slice_logits_to_keep(hidden_states: Tensor, logits_to_keep: int | Tensor) -> Tensor:
        """Return the positions, `(batch, positions, d)`, whose logits are wanted.

        Args:
            hidden_states: `(batch, length, d)`.
            logits_to_keep: the number of last positions, all for 0; or positions of all rows, `(positions,)`, or of
                each, `(batch, positions)`; or a mask, `(batch, length)`, which returns `(true values, d)`.
        """
        if isinstance(logits_to_keep, int):
            return hidden_states[:, -logits_to_keep:]
        if logits_to_keep.ndim < 2:
            return hidden_states[:, logits_to_keep]
        if logits_to_keep.dtype == torch.bool:
            return hidden_states[logits_to_keep]
        return hidden_states.take_along_dim(logits_to_keep[..., None], dim=1)


_MAJOR, _MINOR = __version__.split(".")[:2]
# Until 5.23 is the oldest: before, prompts read in chunks lose their videos, processors read `_defaults` of their
# options, chats of two kinds of blocks lose their order, and activation checkpointing has its old name.
_IS_5_23 = (int(_MAJOR), int(_MINOR)) >= (5, 23)
PREFILL_CHUNKS_KEEP_VIDEOS = _IS_5_23
CHATS_KEEP_ORDER = _IS_5_23
CHECKPOINTING = "activation_checkpointing" if _IS_5_23 else "gradient_checkpointing"  # of `TrainingArguments`
CACHE_NAMES = ("cache", "past_key_values")
# The name that the installed transformers uses in `generate` and in outputs.
CACHE_NAME = "cache" if "cache" in {field.name for field in fields(BaseModelOutputWithPast)} else "past_key_values"


def one_cache(past_key_values: Any, cache: Any) -> Any:
    """Return the cache given under either of its names, if any.

    Raises:
        ValueError: if both are given.
    """
    if past_key_values is not None and cache is not None:
        raise ValueError(f"one of {' and '.join(CACHE_NAMES)} must be given, got both")
    return past_key_values if cache is None else cache


def is_for_attention(cache: Any) -> bool:
    """Return whether what came as `cache` is that of continuous batching, which is no `Cache`.

    Attention takes it under this name, also where the language model calls its own cache `past_key_values`.
    """
    return cache is not None and not isinstance(cache, Cache)


def rename_cache(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return arguments with their cache, if they have one, under the name that the installed transformers takes.

    Raises:
        ValueError: if there is one under each name.
    """
    renamed = dict(arguments)
    cache = one_cache(renamed.pop("past_key_values", None), renamed.pop("cache", None))
    if cache is not None:
        renamed[CACHE_NAME] = cache
    return renamed


def with_both_cache_names(output_class: type) -> type:
    """Add to a class of outputs, as a decorator, the name of its cache that the installed transformers lacks."""
    for name in CACHE_NAMES:
        if name != CACHE_NAME and not hasattr(output_class, name):
            setattr(output_class, name, property(lambda output: getattr(output, CACHE_NAME), doc="See `CACHE_NAME`."))
    return output_class


def check_language_model(language_model: Any) -> str:
    """Return the name under which the forward of a language model takes its cache.

    The code of a forward may be older or newer than transformers, as that of a checkpoint. A wrapper that takes all
    arguments, `(*args, **kwargs)`, passes them on.

    Raises:
        ValueError: if the language model takes no cache, or lacks another argument that H-MBA passes to it.
    """
    parameters = inspect.signature(language_model.forward).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    if kinds == {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        return CACHE_NAME
    wanted = ["inputs_embeds", "attention_mask", "position_ids"]
    missing = [name for name in wanted if name not in parameters]
    cache_name = next((name for name in (CACHE_NAME, *CACHE_NAMES) if name in parameters), None)
    if cache_name is None:
        missing.append("cache")
    if cache_name is None or missing:
        raise ValueError(
            f"a language model must take {[*wanted, 'cache']}, got {type(language_model).__name__}, which does not "
            f"take {missing}"
        )
    return cache_name


def generation_options(pipeline: Any, given: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Return a pipeline's options of `generate`: those of the caller, its own settings and its defaults."""
    if hasattr(Pipeline, "_prepare_generate_kwargs"):  # no public method of a pipeline does it
        return pipeline._prepare_generate_kwargs(given, **settings)
    return {"generation_config": pipeline.generation_config, **given, **settings}  # until 5.20 is the oldest


def check_prefill(given: Mapping[str, Any], own: Any) -> None:
    """Refuse to read a prompt in chunks if transformers would leave out its videos.

    Args:
        given: to `generate`.
        own: generation config of the model.

    Raises:
        ValueError: if chunks are wanted, and transformers is older than 5.23.
    """
    config = given.get("generation_config") or own
    chunk = given.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
    if chunk is not None and not PREFILL_CHUNKS_KEEP_VIDEOS:
        raise ValueError(
            f"prefill_chunk_size must be absent with transformers older than 5.23, got {chunk}: it would read the "
            "prompt without its videos"
        )


def with_defaults(options: type) -> type:
    """Add to the options of a processor's call, as a decorator, defaults, none, which transformers reads before 5.23.

    A `TypedDict` inherits no attributes, so that each needs its own.
    """
    if not CHATS_KEEP_ORDER:
        options._defaults = {}  # type: ignore[attr-defined]  # new to the type
    return options


def make_sub_configs(config: Any) -> None:
    """Create the parts of a config that `sub_configs_defaults` lists, as transformers does from 5.20 on."""
    if hasattr(PreTrainedConfig, "sub_configs_defaults"):
        return
    for name, spec in config.sub_configs_defaults.items():
        part = getattr(config, name)
        if isinstance(part, PreTrainedConfig):
            continue
        values = spec.init_kwargs if part is None else part
        setattr(config, name, AutoConfig.for_model(**{"model_type": spec.model_type, **values}))
