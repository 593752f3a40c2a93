"""Building an H-MBA on a pretrained vision-language model."""

import inspect
from typing import Any

from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from .configuration_adapter import TemporalAdapterConfig
from .configuration_hmba_vlm import HMBAVLMConfig
from .joining_adapter import carry_quantiser, check_type, device_map_of, draw_weights
from .loading_checkpoints import (
    check_holds_a_model,
    file_options,
    load_with_report,
    refuse_lacking,
)
from .loading_options import LOADING_OPTIONS, refuse_options_of_join
from .loading_weights import build_without_weights, choose_dtype


def check_door(base: Any) -> None:
    """Check that a model takes features in the place of pictures.

    Raises:
        ValueError: if it lacks what an adapter needs.
    """
    lacks = []
    arguments = inspect.signature(base.forward).parameters
    if "mm_encoder_outputs" not in arguments:
        lacks.append("an argument mm_encoder_outputs of its forward")
    if "pixel_values" in arguments and arguments["pixel_values"].default is inspect.Parameter.empty:
        lacks.append("a forward that does without pixel_values")
    if not hasattr(base.base_model, "get_image_features"):
        lacks.append("a method get_image_features")
    if base.config.is_encoder_decoder:
        lacks.append("a language model without an encoder of texts")
    if lacks:
        raise ValueError(
            f"the base must take features in the place of pictures, got {type(base).__name__}, which lacks "
            f"{' and '.join(lacks)}"
        )


def tied_within(name: str, part: Any) -> dict[str, str]:
    """Return the weights that are tied in a part of a model, by their names in the model.

    Their configuration may say otherwise: transformers ties no weights of which a checkpoint holds different ones.
    """
    return {f"{name}.{tied}": f"{name}.{source}" for tied, source in part.all_tied_weights_keys.items()}


def adapt_pretrained(model_class: Any, base: str, dtype: Any, values: dict[str, Any]) -> Any:
    """Build a model on a pretrained one; see `HMBAVLMForConditionalGeneration.from_base_pretrained`.

    Args:
        model_class: of the model, which takes an `HMBAVLMConfig`.
        base, dtype: as there.
        values: values of the adapter, and options of `from_pretrained`.
    """
    of_adapter = {name: values[name] for name in values if name in TemporalAdapterConfig.__annotations__}
    options = {name: values[name] for name in values if name not in of_adapter}
    dtype = choose_dtype(dtype, options)
    unknown = options.keys() - {*LOADING_OPTIONS, "attn_implementation"}
    refuse_options_of_join(unknown, "those of loading or values of HMBAVLMConfig")
    check_holds_a_model(base, options)
    config = AutoConfig.from_pretrained(base, **file_options(options))
    if config.model_type == HMBAVLMConfig.model_type or type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ValueError(
            f"the base must be a vision-language model of transformers, got {config.model_type!r} in {base}; what has "
            "an adapter already is loaded by from_pretrained"
        )
    vlm, lacking = load_with_report(AutoModelForImageTextToText, base, dtype=dtype, **options)
    check_door(vlm)
    refuse_lacking(base, lacking)
    config = HMBAVLMConfig(base_config=vlm.config, **of_adapter)
    model = build_without_weights(model_class, config)
    check_type(vlm, model.model.base)
    model.model.base = vlm
    device = next((parameter.device for parameter in vlm.parameters() if not parameter.is_meta), "cpu")
    draw_weights(model, model.model.temporal_adapter, device)
    if options.get("attn_implementation") is not None:  # a new model has chosen its own
        model.set_attn_implementation(options["attn_implementation"])
    model.model.all_tied_weights_keys = tied_within("base", vlm)  # it comes tied
    model.all_tied_weights_keys = tied_within("model", model.model)
    model.generation_config = vlm.generation_config
    carry_quantiser(model, [vlm])
    places = device_map_of(model)
    if len(set(places.values())) > 1:
        model.hf_device_map = places
    return model.eval()
