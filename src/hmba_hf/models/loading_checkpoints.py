"""Checks while a checkpoint is loaded: packages, file names, names in a config, weights."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import is_protobuf_available, is_sentencepiece_available
from transformers.utils.hub import cached_file

from .loading_options import DOWNLOAD_OPTIONS

# Private names that transformers itself has written into configs; no config should set any other.
_KNOWN_PRIVATE = {"_attn_implementation_autoset", "_commit_hash", "_name_or_path"}
# Settings of PEFT's learned prompts, in front of the words or of layers, which change no weights.
_OF_PROMPTS = {"num_virtual_tokens", "adapter_len"}
# Layers of bitsandbytes that compute only with packed weights.
_QUANTISED_LAYERS = {"Linear4bit", "Linear8bitLt"}

# Files with the normalisation of pictures, and the part of each that holds it; the first one counts.
_PIXEL_SETTINGS = (
    ("processor_config.json", "image_processor"),
    ("preprocessor_config.json", None),
    ("processor_config.json", "video_processor"),
    ("video_preprocessor_config.json", None),
)
_PIXEL_OPTIONS = ("image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor")


def unknown_private_keys(config: Iterable[str]) -> list[str]:
    """Return the keys of a config that begin with an underscore and that transformers does not write."""
    return sorted(key for key in config if key.startswith("_") and key not in _KNOWN_PRIVATE)


def file_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `from_pretrained` that a configuration and a tokenizer take, too."""
    return {name: value for name, value in options.items() if name in (*DOWNLOAD_OPTIONS, "gguf_file")}


def load_vision_config(vision: Any, **options: Any) -> tuple[Any, Any]:
    """Load the configuration of a checkpoint that has a vision tower, and find the tower's own in it.

    Args:
        vision: folder or Hub id of a vision model or of a vision-text model.
        options: of `AutoConfig.from_pretrained`, as `file_options` returns them.

    Returns:
        The configuration of the checkpoint, and that of the tower: a part of it, or the same one. The tower's
        `image_size` is a multiple of its `patch_size`, since no patch covers the rest.

    Raises:
        ValueError: if the checkpoint holds low-rank updates.
    """
    check_holds_a_model(vision, options)
    config = AutoConfig.from_pretrained(vision, **options)
    tower = vision_half(config)
    size = getattr(tower, "image_size", None)
    patch_size = getattr(tower, "patch_size", None)
    if isinstance(size, int) and isinstance(patch_size, int):
        tower.image_size = size - size % patch_size
    return config, tower


def vision_half(config: Any) -> Any:
    """Return the part of a configuration that describes its vision tower, or all of it."""
    return getattr(config, "vision_config", config)


def load_pixel_options(vision: str, **options: Any) -> dict[str, Any]:
    """Return a vision model's normalisation of pictures, whichever kind of processor its checkpoint has."""
    for file, part in _PIXEL_SETTINGS:
        held = read_settings(vision, file, **options)
        settings = held if part is None else held.get(part)
        if settings:
            return {name: settings[name] for name in _PIXEL_OPTIONS if settings.get(name) is not None}
    return {}


def load_text_config(text: Any, **options: Any) -> Any:
    """Load the configuration of a causal language model; `options` as in `load_vision_config`.

    Raises:
        ValueError: if the checkpoint holds low-rank updates, or a model that reads more than text.
    """
    check_holds_a_model(text, options)
    with _reading_gguf(text, options):
        config = AutoConfig.from_pretrained(text, **options)
    if vision_half(config) is not config:
        raise ValueError(f"{text} must be a language model of text alone, got {type(config).__name__}")
    return config


def check_holds_a_model(checkpoint: Any, options: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if a checkpoint holds weights of PEFT, also beside the model that they belong to.

    Transformers would wrap the layers of the model in low-rank updates, and their weights are saved under other names.
    """
    _check_is_a_name(checkpoint)
    check_quantization_config(read_settings(checkpoint, "config.json", **options), checkpoint)
    if _file_of(checkpoint, "adapter_config.json", options) is None:
        return
    settings = read_settings(checkpoint, "adapter_config.json", **options)
    if _OF_PROMPTS & settings.keys():
        base = settings.get("base_model_name_or_path")
        raise ValueError(
            f"a part of a joined model must be a whole model, got a learned prompt ({settings.get('peft_type')}) in "
            f"{checkpoint}, which cannot be merged into weights: name its base, {base}, which answers without it"
        )
    raise ValueError(
        f"a part of a joined model must be a whole model, got low-rank updates in {checkpoint}: merge them first, "
        f"`peft.PeftModel.from_pretrained(base, {str(checkpoint)!r}).merge_and_unload()`, and save the result"
    )


def check_quantization_config(config: Mapping[str, Any], source: Any) -> None:
    """Raise a `ValueError` if the settings of a quantiser are neither a mapping nor have a `to_dict`.

    Args:
        config: of a model; its parts are checked, too.
        source: its path or Hub id.
    """
    for part in (config, *(config.get(f"{name}_config") for name in ("vision", "text", "base"))):
        if not isinstance(part, Mapping):
            continue
        settings = part.get("quantization_config")
        if settings is not None and not isinstance(settings, Mapping) and not hasattr(settings, "to_dict"):
            raise ValueError(f"quantization_config of {source} must be an object of settings, got {settings!r:.60}")


def check_quantised(model: Any, checkpoint: Any) -> None:
    """Raise a `ValueError` if layers of bitsandbytes hold plain weights, as after a false `quantization_config`.

    A forward pass of theirs would end in an empty `AssertionError`.
    """
    if getattr(model, "hf_quantizer", None) is None:
        return
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        if weight is None or weight.is_meta or not type(layer).__module__.startswith("bitsandbytes."):
            continue
        # Those of 4 bits, of 8 bits, and of 8 bits in a layer that has been used. The dtype tells nothing:
        # transformers 5.19 casts plain weights to whole numbers.
        scales = [getattr(weight, "quant_state", None), getattr(weight, "SCB", None)]
        scales.append(getattr(getattr(layer, "state", None), "SCB", None))
        is_packed = any(scale is not None for scale in scales)
        if not is_packed and type(layer).__name__ in _QUANTISED_LAYERS:
            raise ValueError(
                f"{checkpoint} must hold weights as its quantization_config says, got plain ones of {weight.dtype} "
                f"for {name}: leave quantization_config out of its config.json, or save it quantised"
            )


def check_holds_updates(checkpoint: Any, options: Mapping[str, Any]) -> str:
    """Return the path of a checkpoint's low-rank updates in safetensors: transformers would open pickles.

    Args:
        checkpoint: folder or Hub id.
        options: of `from_pretrained`.

    Raises:
        OSError: if there are none.
    """
    file = "adapter_model.safetensors"
    found = _file_of(checkpoint, file, options)
    if found is None:
        raise OSError(f"{checkpoint} must have its low-rank updates in {file}, for pickles are never opened, got none")
    return found


def _check_is_a_name(checkpoint: Any) -> None:
    """Raise a `ValueError` for a model in memory, which may have wrapped layers and has no tokenizer."""
    if not isinstance(checkpoint, str | os.PathLike):
        name = type(checkpoint).__name__
        raise ValueError(f"a part of a joined model must be a folder or a Hub id, got {name}: save it whole first")
    if str(checkpoint).endswith(".gguf") and os.path.isfile(checkpoint):
        raise ValueError(
            f"a part of a joined model must be a folder or a Hub id, got the file {checkpoint}: name it as gguf_file, "
            "and its folder in its place"
        )


@contextmanager
def _reading_gguf(checkpoint: Any, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn errors of reading the `gguf_file` of some options, if there is one, into a `ValueError` with its name."""
    file = options.get("gguf_file")
    try:
        yield
    except (IndexError, KeyError, ValueError) as error:
        if file is None:
            raise
        raise ValueError(
            f"gguf_file must be a whole GGUF file of a language model, got {file} in {checkpoint}: {error}"
        ) from error


def load_with_report(model_class: Any, checkpoint: Any, **options: Any) -> tuple[Any, set[str]]:
    """Load a model, and return the names of weights that the checkpoint lacks or holds in another shape.

    Transformers initialises them and logs it. Errors are those of `check_index` and `check_quantised`.
    """
    check_index(checkpoint, options)
    model, report = model_class.from_pretrained(
        checkpoint, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    check_quantised(model, checkpoint)
    lacking = set(report["missing_keys"])
    for name, *_ in report["mismatched_keys"]:
        lacking.add(name)
    return model, lacking


def check_index(checkpoint: Any, options: Mapping[str, Any]) -> None:
    """Refuse a checkpoint in shards whose index leads out of it, names no weights, or names missing files.

    So is one in a folder, two of whose shards hold a tensor. Transformers would end in an `IndexError` or a
    `KeyError`, or take either of the two. An index beside one file of all weights is not read, but must be an index.

    Args:
        checkpoint: folder or Hub id.
        options: of `from_pretrained`.

    Raises:
        ValueError: for such an index or shards, an incomplete index, or a path whose letters are not UTF-8.
        FileNotFoundError: if a folder lacks a shard.
    """
    try:
        str(checkpoint).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the path of a checkpoint must be UTF-8, for safetensors opens no other, got {str(checkpoint)!r}"
        ) from error
    variant = options.get("variant")
    kinds = ["model.safetensors"] if options.get("use_safetensors") else ["model.safetensors", "pytorch_model.bin"]
    for kind in kinds:
        index = ".".join(filter(None, (kind, "index", variant, "json")))
        if _file_of(checkpoint, index, options) is None:
            continue
        check_file_names(checkpoint, index, lambda held: held.get("weight_map", {}).values(), options)
        stem, suffix = kind.split(".")
        if _file_of(checkpoint, ".".join(filter(None, (stem, variant, suffix))), options) is not None:
            continue
        held = read_settings(checkpoint, index, **options)
        if not held.get("weight_map") or not isinstance(held.get("metadata"), dict):
            raise ValueError(
                f"{index} of {checkpoint} must have metadata and a weight_map that names the tensors of its shards, "
                f"got {str(held)[:60]}"
            )
        if not Path(checkpoint).is_dir():
            continue
        places = {}
        for shard in sorted(set(held["weight_map"].values())):
            place = _file_of(checkpoint, shard, options)
            if place is None:
                raise FileNotFoundError(
                    f"{shard} must be there for {index} of {checkpoint}, got no such file beside it"
                )
            places[shard] = place
        if kind.endswith(".safetensors"):
            _check_each_in_one(checkpoint, places)


def _check_each_in_one(checkpoint: Any, shards: Mapping[str, str]) -> None:
    """Raise a `ValueError` if two shards hold a tensor: transformers takes the last, whatever the index says."""
    found: dict[str, str] = {}
    for shard, place in shards.items():
        try:
            with safe_open(place, framework="pt") as tensors:
                names = list(tensors.keys())
        except SafetensorError:  # a torn file, which is named when it is loaded
            return
        for name in names:
            if name in found:
                raise ValueError(f"{name} of {checkpoint} must be in one shard, got it in {found[name]} and {shard}")
            found[name] = shard


def refuse_other_files(options: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if the options of `from_pretrained` want pickles or a GGUF file.

    Transformers would build a model of default size around a GGUF file's language model.
    """
    refuse_pickles(options.get("use_safetensors"))
    if options.get("gguf_file") is not None:
        raise ValueError(
            f"weights must be in safetensors, got gguf_file={str(options['gguf_file'])!r}: GGUF files hold language "
            "models, which HMBAForConditionalGeneration.from_vision_text_pretrained joins"
        )


def refuse_pickles(use_safetensors: bool | None) -> None:
    """Raise a `ValueError` if the caller wants pickles."""
    if use_safetensors is False:
        raise ValueError("weights must be in safetensors, got use_safetensors=False: pickles can hold programs")


def refuse_lacking(checkpoint: Any, lacking: Iterable[str]) -> None:
    """Raise a `ValueError` that names the weights that a checkpoint lacks, if there are any."""
    if listed := first_names(lacking):
        raise ValueError(f"{checkpoint} must hold every weight that is read, in its shape, got none for {listed}")


def first_names(names: Iterable[str]) -> str:
    """List the first names in words; empty if there are none."""
    found = sorted(names)
    listed = ", ".join(found[:3])
    if len(found) > 3:
        listed += f" and {len(found) - 3} more"
    return listed


def say_what_is_tied(model: Any) -> None:
    """Correct the configuration of a loaded model whose checkpoint has a head of its own, which is not tied then."""
    head = model.get_output_embeddings()
    names = {f"{name}.weight" for name, module in model.named_modules() if module is head}
    if not names & model.all_tied_weights_keys.keys():
        model.config.tie_word_embeddings = False


def load_tokenizer(checkpoint: Any, tokenizer_class: Any = AutoTokenizer, **options: Any) -> Any:
    """Load a tokenizer, also one of a sentencepiece model, as of many Llamas; `options` are of `from_pretrained`.

    Raises:
        ImportError: if packages for it are missing; transformers itself would name another one.
        ValueError: if the checkpoint is a model in memory.
    """
    _check_is_a_name(checkpoint)
    try:
        with _reading_gguf(checkpoint, options):
            return tokenizer_class.from_pretrained(checkpoint, **options)
    except (ImportError, OSError, ValueError) as error:
        has_packages = is_sentencepiece_available() and is_protobuf_available()
        if has_packages or _file_of(checkpoint, "tokenizer.model", options) is None:
            raise
        raise ImportError(
            f"the tokenizer of {checkpoint} is a sentencepiece model: Run `pip install sentencepiece protobuf`"
        ) from error


def read_settings(checkpoint: Any, file: str, **options: Any) -> dict[str, Any]:
    """Return the JSON object in a file of a checkpoint, an empty one if it has no such file.

    Args:
        checkpoint: folder or Hub id.
        file: its name there.
        options: of `from_pretrained`.

    Raises:
        ValueError: if the file holds anything else.
    """
    found = _file_of(checkpoint, file, options)
    if found is None:
        return {}
    try:
        with open(found, encoding="utf-8") as opened:
            held = json.load(opened)
    except ValueError as error:
        raise ValueError(f"{file} of {checkpoint} must be JSON, got something else: {error}") from error
    if not isinstance(held, dict):
        raise ValueError(f"{file} of {checkpoint} must be a JSON object, got {type(held).__name__}")
    return held


def check_file_names(
    checkpoint: Any, file: str, names: Callable[[dict], Iterable[str]], options: Mapping[str, Any]
) -> None:
    """Refuse a checkpoint with a JSON file that names files outside of its folder.

    Transformers joins such names to the folder unchecked, and they may lead out of it.

    Args:
        checkpoint: folder or Hub id.
        file: the JSON file; it need not exist.
        names: extracts the names from its content.
        options: of `from_pretrained`.

    Raises:
        ValueError: if a name is a path, or if the file is not of a form that has names.
    """
    found = _file_of(checkpoint, file, options)
    if found is None:
        return
    try:
        with open(found, encoding="utf-8") as opened:
            listed = [*names(json.load(opened))]
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} of {checkpoint} must be a JSON object that names files, got something else: {error}"
        ) from error
    paths = sorted({str(name) for name in listed if not _is_plain(name)})
    if paths:
        raise ValueError(f"{file} of {checkpoint} must name files beside it, got {paths}")


def _file_of(checkpoint: Any, file: str, options: Mapping[str, Any]) -> str | None:
    """Return the path of a checkpoint's file, if it has one.

    Transformers has no public way to ask for a file that may be missing: hence the options with an underscore.
    """
    download = {name: options[name] for name in DOWNLOAD_OPTIONS if options.get(name) is not None}
    return cached_file(
        checkpoint,
        file,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **download,
    )


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0", ":"} & {*name}
