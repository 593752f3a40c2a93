"""A checkpoint to convert, as the command line names it: what every converter asks for, and what it opens."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from hmba_hf.models.loading_checkpoints import load_tokenizer
from tensor_files import FileTensors, hub_id, local_path, parse_hashes, read_json

LEGACY = {"add_bos_token": True, "legacy": True}
VOCABULARIES = ("tokenizer.json", "tokenizer.model")
KEPT = (
    *("bos_token", "eos_token", "unk_token", "pad_token", "padding_side"),
    *("chat_template", "clean_up_tokenization_spaces", "model_max_length"),
)


class ForeignCheckpoint(NamedTuple):
    """A checkpoint of another code.

    Args:
        tensors: under their names there.
        settings: its config.json.
        folder: where that lies, and its tokenizer.
        hub_id: of the checkpoint; the empty string if it was not taken from the Hub.
    """

    tensors: FileTensors
    settings: dict[str, Any]
    folder: Path
    hub_id: str


def conversion_parser(description: str | None) -> argparse.ArgumentParser:
    """Start a command line with the options of every converter."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder, Hub id or file")
    parser.add_argument("--vision", help="the tower, where the checkpoint has none; when absent what its config names")
    parser.add_argument("--config", help="folder with config.json and tokenizer, where the checkpoint has none")
    parser.add_argument("--output_dir", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--num_frames", type=int, help="of a new adapter; 5 when absent")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="that of the checkpoint if absent")
    parser.add_argument("--license", help="of the weights, for the card, as the Hub names it, such as llama2")
    parser.add_argument("--sha256", nargs="+", default=[], metavar="NAME=HASH", help="of files of the checkpoint")
    parser.add_argument("--max_shard_size", default="5GB", help="of the files that are written")
    parser.add_argument("--seed", type=int, default=0, help="of a new adapter")
    return parser


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
        raise FileNotFoundError(
            f"a config.json is wanted, got none in {folder}: name a folder that has it by --config"
        )
    return ForeignCheckpoint(
        settings=read_json(folder / "config.json"),
        tensors=FileTensors(path, parse_hashes(args.sha256)),
        folder=folder,
        hub_id=hub_id(args.checkpoint),
    )


def open_tokenizer(folder: Path, **options: Any) -> Any:
    """Load the tokenizer of a folder; it pads on the left, as answering a batch needs it.

    Raises:
        ImportError: if it needs packages that are missing.
        ValueError: if there is none.
    """
    try:
        return load_tokenizer(folder, padding_side="left", **options)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"a folder with a tokenizer is wanted, got {folder}: {error}") from error


def open_legacy_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a code that used transformers' slow one of 2023.

    What its settings leave open, that one took as `LEGACY` has it, and transformers 5 the other way: each text begins
    with a special token, and the text after each special token with a space, as sentencepiece begins every text.
    """
    path = folder / "tokenizer_config.json"
    settings: dict[str, Any] = {}
    if path.is_file():
        settings = read_json(path)
    if not str(settings.get("tokenizer_class", "Llama")).lower().startswith("llama"):
        return open_tokenizer(folder)
    if not any((folder / name).is_file() for name in VOCABULARIES):  # for which transformers would make up one
        raise ValueError(f"a folder with a tokenizer, one of {VOCABULARIES}, is wanted, got {folder}")
    options = {name: settings.get(name, value) for name, value in LEGACY.items()}
    llama = open_tokenizer(folder, tokenizer_class=LlamaTokenizer, **options)
    # Its own class forgets `legacy` when it is saved; this one is what its tokenizer.json says.
    kept = {name: getattr(llama, name) for name in KEPT}
    return PreTrainedTokenizerFast(tokenizer_object=llama.backend_tokenizer, **kept)


def card_name(source: str) -> str:
    """Return what a card calls a source: its Hub id, or the name of a folder or file without where it lies."""
    path = Path(source)
    if not path.exists():
        return source
    return path.resolve().name
