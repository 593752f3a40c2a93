"""What is checked when a checkpoint is loaded: the version of transformers, packages, names of files and in a config.

Importing this file checks the version, so whatever needs a new transformers imports it first.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import is_protobuf_available, is_sentencepiece_available
from transformers.utils.hub import cached_file
from transformers.utils.versions import require_version

require_version("transformers>=5.23", "Run `pip install -U 'transformers>=5.23'`")

# Private names that transformers itself has written into configs; any other would set what no config should.
_KNOWN_PRIVATE = {"_attn_implementation_autoset", "_commit_hash", "_name_or_path"}
_DOWNLOAD = ("cache_dir", "local_files_only", "proxies", "revision", "subfolder", "token")


def unknown_private_keys(config: Iterable[str]) -> list[str]:
    """Name the keys of a config that begin with an underscore and that transformers does not write."""
    return sorted(key for key in config if key.startswith("_") and key not in _KNOWN_PRIVATE)


def load_tokenizer(checkpoint: Any, tokenizer_class: Any = AutoTokenizer, **options: Any) -> Any:
    """Load a tokenizer, also of a sentencepiece model, as many Llamas bring it; `options` are of `from_pretrained`.

    Raises:
        ImportError: if that needs packages that are missing; transformers itself would ask for another one.
    """
    try:
        return tokenizer_class.from_pretrained(checkpoint, **options)
    except (ImportError, OSError, ValueError) as error:
        has_packages = is_sentencepiece_available() and is_protobuf_available()
        if has_packages or _file_of(checkpoint, "tokenizer.model", options) is None:
            raise
        raise ImportError(
            f"{checkpoint} brings its tokenizer as a sentencepiece model: Run `pip install sentencepiece protobuf`"
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
        raise ValueError(f"{file} of {checkpoint} must be JSON: {error}") from error
    if not isinstance(held, dict):
        raise ValueError(f"{file} of {checkpoint} must be a JSON object, got {type(held).__name__}")
    return held


def check_file_names(
    checkpoint: Any, file: str, names: Callable[[dict], Iterable[str]], options: Mapping[str, Any]
) -> None:
    """Refuse a checkpoint of which a JSON file names files that are not beside it.

    transformers joins such names to the folder as they are: they may lead out of it.

    Args:
        checkpoint: folder or Hub id.
        file: the JSON file; it need not be there.
        names: takes the names out of its content.
        options: of `from_pretrained`.

    Raises:
        ValueError: if a name is a path, or if the file is not of the form that has names.
    """
    found = _file_of(checkpoint, file, options)
    if found is None:
        return
    try:
        with open(found, encoding="utf-8") as opened:
            listed = [*names(json.load(opened))]
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{file} of {checkpoint} must be a JSON object that names files: {error}") from error
    paths = sorted({str(name) for name in listed if not _is_plain(name)})
    if paths:
        raise ValueError(f"{file} of {checkpoint} must name files beside it, got {paths}")


def _file_of(checkpoint: Any, file: str, options: Mapping[str, Any]) -> str | None:
    """Return where a file of a checkpoint lies, if it has one."""
    return cached_file(
        checkpoint,
        file,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **{name: options[name] for name in _DOWNLOAD if options.get(name) is not None},
    )


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0", ":"} & {*name}
