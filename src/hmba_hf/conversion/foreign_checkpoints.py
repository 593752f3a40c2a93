"""The foreign checkpoint that a command line names: tensors, settings, tokenizer."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from hmba_hf.conversion.tensor_files import FileTensors, hub_id, local_path, parse_hashes, read_json
from hmba_hf.models.loading_checkpoints import load_tokenizer

LEGACY = {"add_bos_token": True, "legacy": True}
VOCABULARIES = ("tokenizer.json", "tokenizer.model")
KEPT = (
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "padding_side",
    "chat_template",
    "clean_up_tokenization_spaces",
    "model_max_length",
)


class ForeignCheckpoint(NamedTuple):
    """A checkpoint of another code.

    Args:
        tensors: under their names there.
        settings: its config.json.
        folder: that of config.json and tokenizer.
        hub_id: of the checkpoint; the empty string if it is not on the Hub.
    """

    tensors: FileTensors
    settings: dict[str, Any]
    folder: Path
    hub_id: str


def open_checkpoint(args: argparse.Namespace) -> ForeignCheckpoint:
    """Open the checkpoint that a command line names.

    Raises:
        FileNotFoundError: if something is missing.
        ValueError: if something is damaged.
    """
    path = local_path(args.checkpoint)
    if args.config:
        folder = local_path(args.config)
    elif path.is_dir():
        folder = path
    else:
        folder = path.parent
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} must have a config.json, got none: name a folder that has it by --config")
    return ForeignCheckpoint(
        settings=read_json(folder / "config.json"),
        tensors=FileTensors(path, parse_hashes(args.sha256)),
        folder=folder,
        hub_id=hub_id(args.checkpoint),
    )


def open_tokenizer(folder: Path, **options: Any) -> Any:
    """Load the tokenizer of a folder; it pads on the left, as batches of prompts need it.

    Raises:
        ImportError: if it needs packages that are missing.
        ValueError: if there is none.
    """
    try:
        return load_tokenizer(folder, padding_side="left", **options)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} must have a tokenizer, got none that loads: {error}") from error


def open_legacy_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a code that used transformers' slow one of 2023.

    Its defaults were those of `LEGACY`; transformers 5 has others. So each text begins with a special token, and the
    text after each special token with a space, as sentencepiece begins every text.
    """
    path = folder / "tokenizer_config.json"
    settings: dict[str, Any] = {}
    if path.is_file():
        settings = read_json(path)
    if not str(settings.get("tokenizer_class", "Llama")).lower().startswith("llama"):
        return open_tokenizer(folder)
    if not any((folder / name).is_file() for name in VOCABULARIES):  # transformers would invent one
        raise ValueError(f"{folder} must have a tokenizer, one of {VOCABULARIES}, got none")
    options = {name: settings.get(name, value) for name, value in LEGACY.items()}
    llama = open_tokenizer(folder, tokenizer_class=LlamaTokenizer, **options)
    # Saved by its own class, it would lose `legacy`; this class has it in tokenizer.json.
    kept = {name: getattr(llama, name) for name in KEPT}
    return PreTrainedTokenizerFast(tokenizer_object=llama.backend_tokenizer, **kept)


def card_name(source: str) -> str:
    """Return the name of a source for a card: its Hub id, or the name of a folder or file without its path."""
    path = Path(source)
    if not path.exists():
        return source
    return path.resolve().name
