"""Language models in fewer bits, whose vision towers, adapters, projectors and heads stay as they are."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig, TorchAoConfig

from .families import Family, auto_class, family_of, read_config
from .installation import missing_extra, missing_package

# `transformers serve` has the first two by these names.
QUANTIZATIONS = ("bnb-4bit", "bnb-8bit", "torchao-int8")
HELP = "of the language model's weights; all other parts stay whole"


def quantising_options(checkpoint: str | Path, quantization: str | None, **options: Any) -> dict[str, Any]:
    """Return the options of `from_pretrained` that load a checkpoint's language model in fewer bits.

    Args:
        checkpoint: folder or Hub id.
        quantization: of `QUANTIZATIONS`; `None` gives no options.
        options: of `from_pretrained` about the files of the configuration, such as `revision`.

    Raises:
        ValueError: if the checkpoint is quantised, or as `build_quantization_config`.
        ImportError: as `build_quantization_config`.
    """
    if quantization is None:
        return {}
    config = read_config(checkpoint, **options)
    family = family_of(config)
    _check(quantization, family)
    held = getattr(config, "quantization_config", None)
    if held is not None:
        method = held["quant_method"] if isinstance(held, dict) else held.quant_method
        raise ValueError(
            f"quantization must be absent for a checkpoint that is quantised, got {quantization!r} for {checkpoint} "
            f"in {getattr(method, 'value', method)}"
        )
    with torch.device("meta"):
        shapes = auto_class(family).from_config(config)
    return {"quantization_config": build_quantization_config(quantization, family, shapes)}


def build_quantization_config(quantization: str, family: Family, model: Any = None) -> Any:
    """Return transformers' configuration of a quantisation that leaves out all but the language model's layers.

    Args:
        quantization: of `QUANTIZATIONS`.
        family: of the model.
        model: with or without weights; needed where a part of the family is all that no other part has.

    Raises:
        ValueError: if there is no such quantisation, or the family has no language model.
        ImportError: if the package that quantises is not installed.

    Source: Dettmers et al. 2023, arXiv:2305.14314, for 4 bits; Dettmers et al. 2022, arXiv:2208.07339, for 8.
    """
    _check(quantization, family)
    whole = whole_modules(family, model)
    if quantization == "torchao-int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=whole)
    if quantization == "bnb-8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=whole,
    )


def whole_modules(family: Family, model: Any = None) -> list[str]:
    """Return the dotted names of the modules that no quantisation changes; arguments as there."""
    quantised = family.low_rank_modules()
    whole: list[str] = []
    for part in family.parts:
        modules = family.modules_of(part) if model is None else family.modules_in(model, part)
        whole += [module for module in modules if module not in quantised]
    return whole


def _check(quantization: str, family: Family) -> None:
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization must be of {list(QUANTIZATIONS)}, got {quantization!r}")
    if family.low_rank_part is None:
        raise ValueError(
            f"quantization must be absent for a {family.name}, which has no language model that answers, got "
            f"{quantization!r}"
        )
    package = "torchao" if quantization == "torchao-int8" else "bitsandbytes"
    if importlib.util.find_spec(package) is None:
        who_needs = f"quantization {quantization!r} needs"
        if package == "torchao":  # 0.18.0 beside torch 2.13.0 writes warnings into the output of every program
            raise missing_package(who_needs, package)
        raise missing_extra(who_needs, "quantised")
