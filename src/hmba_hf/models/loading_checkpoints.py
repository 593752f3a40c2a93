"""What is checked before a checkpoint is trusted: the version of transformers, names of files, names in a config.

Importing this file checks the version, so whatever needs a new transformers imports it first.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from transformers.utils.hub import cached_file
from transformers.utils.versions import require_version

require_version("transformers>=5.23", "Run `pip install -U 'transformers>=5.23'`")

# Private names that transformers itself has written into configs; any other would set what no config should.
_KNOWN_PRIVATE = {"_attn_implementation_autoset", "_commit_hash", "_name_or_path"}
_DOWNLOAD = ("cache_dir", "local_files_only", "proxies", "revision", "subfolder", "token")


def unknown_private_keys(config: Iterable[str]) -> list[str]:
    """Name the keys of a config that begin with an underscore and that transformers does not write."""
    return sorted(key for key in config if key.startswith("_") and key not in _KNOWN_PRIVATE)


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
    found = cached_file(
        checkpoint,
        file,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **{name: options[name] for name in _DOWNLOAD if options.get(name) is not None},
    )
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


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0", ":"} & {*name}
