"""The base of a run that answers: its temporal adapter, and a processor that samples as the model reads."""

from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoProcessor, PreTrainedModel

from ...families import Family, family_of, has_family, load_model, read_config
from ...messages import logger
from ...models.configuration_hmba_vlm import HMBAVLMConfig
from ...models.modeling_hmba_vlm import HMBAVLMForConditionalGeneration
from ...models.parsing_dialects import find_dialect
from ...models.processing_hmba_vlm import HMBAVLMProcessor
from ...models.prompting_hmba import check_time_format
from ...training import base_model
from ...training.base_model import Adapting, BaseRules
from ...training.parts import gathered
from .arguments import ModelArguments


def load_base(arguments: ModelArguments, run: Path, is_resumed: bool) -> tuple[PreTrainedModel, Any, str | None]:
    """Load the base with the adapter that is asked for; arguments as in `hmba_hf.training.base_model.load_base`.

    An untrained adapter is replaced by one of another shape or kind. A trained one is not. A vision-language model of
    transformers gets a fresh adapter.

    Raises:
        ValueError: if the base holds an adapter that has learned and does not fit what is asked for.
    """
    return base_model.load_base(arguments, run, is_resumed, _rules())


def load_encoder(path: str, dtype: Any) -> tuple[PreTrainedModel, Any]:
    """Load a model for the features of its frames; a vision-language model of transformers gets a fresh adapter.

    Args:
        path: folder or Hub id.
        dtype: of the weights.

    Returns:
        The model, and its processor.
    """
    if has_family(read_config(path)):
        return load_model(path, dtype=dtype), AutoProcessor.from_pretrained(path)
    model = HMBAVLMForConditionalGeneration.from_base_pretrained(path, dtype=dtype)
    return model, HMBAVLMProcessor.from_base_pretrained(path)


def read_family_of_base(arguments: ModelArguments) -> Family:
    """Return the family of what `load_base` loads; see `hmba_hf.training.base_model.read_family_of_base`."""
    return base_model.read_family_of_base(arguments, _rules())


def _rules() -> BaseRules:
    return BaseRules(
        task="answering",
        may_lack=("adapter",),
        check=_check_adapter,
        prepare=_prepare_processor,
        adapting=Adapting(family_of(HMBAVLMConfig), _is_vision_language_model, _put_adapter_on),
    )


def _is_vision_language_model(config: Any) -> bool:
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def _put_adapter_on(base: str, revision: str | None, arguments: ModelArguments) -> tuple[PreTrainedModel, Any]:
    """Put a fresh adapter on a vision-language model of transformers."""
    model = HMBAVLMForConditionalGeneration.from_base_pretrained(base, revision=revision, **arguments.config())
    own: dict[str, Any] = {}
    if arguments.boxes_dialect is not None:
        own["boxes_dialect"] = arguments.boxes_dialect
    return model, HMBAVLMProcessor.from_base_pretrained(base, revision=revision, **own)


def _prepare_processor(processor: Any, model: Any, arguments: ModelArguments) -> None:
    processor.video_processor.num_frames = model.config.num_frames
    if arguments.boxes_dialect is not None:
        if not hasattr(processor, "boxes_dialect"):
            raise ValueError(
                f"boxes_dialect must be absent for {type(processor).__name__}, which writes boxes in one way, got "
                f"{arguments.boxes_dialect!r}"
            )
        processor.boxes_dialect = find_dialect(arguments.boxes_dialect).name
    if arguments.time_format is not None:
        processor.time_format = arguments.time_format or None
        check_time_format(processor.time_format)


def _check_adapter(model: Any, loading: dict[str, Any], arguments: ModelArguments, path: str) -> None:
    """Raise a `ValueError` for a trained adapter of another shape; an untrained one is initialised again."""
    part_of = family_of(model).part_of
    wanted = [name for name, _ in model.named_parameters() if part_of(name) == "adapter"]
    odd: dict[str, str] = {}
    for name, held, shape in loading["mismatched_keys"]:
        odd[name] = f"must be {tuple(shape)}, got {tuple(held)}"
    odd |= {name: "must be there" for name in loading["missing_keys"] if part_of(name) == "adapter"}
    odd |= {name: "must be absent" for name in loading["unexpected_keys"] if part_of(name) == "adapter"}
    if not wanted or odd.keys() >= set(wanted) or not odd:  # none is wanted, there is none, or it fits
        return
    gates = [parameter for name, parameter in model.named_parameters() if name.endswith("temporal_adapter.gate")]
    with gathered(gates):
        has_learned = not gates or "model.temporal_adapter.gate" in odd or bool(gates[0].count_nonzero())
    if has_learned:
        name = min(odd)
        raise ValueError(
            f"{path} holds an adapter that does not fit {arguments.config()}: {name} {odd[name]}; leave out what "
            "differs from its adapter, or start from a base without one"
        )
    logger.info(f"the adapter of {path} is untrained, and a new one replaces it")
