"""What predictions depend on besides the options: the settings of a checkpoint, and the commit of a dataset."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..digests import digest_text


def settings(model: Any, processor: Any) -> dict[str, str]:
    """Digest what predictions depend on besides the weights: the files of a checkpoint that may be edited.

    Returns:
        A short digest of each of `"config"`, `"processor"`, which is that of frames, prompts and tokens, and, of a
        model that generates, `"generation_config"`.
    """
    prepares = dict(processor.to_dict())
    if hasattr(processor, "chat_template"):
        prepares["chat_template"] = processor.chat_template
    if hasattr(processor, "tokenizer"):
        prepares["vocabulary"] = processor.tokenizer.get_vocab()
    digests = {"config": _digest(model.config.to_dict())}
    if model.can_generate():
        digests["generation_config"] = _digest(model.generation_config.to_dict())
    digests["processor"] = _digest(prepares)
    return digests


def _digest(part: Mapping[str, Any]) -> str:
    text = json.dumps(_without_origin(part), sort_keys=True, default=str)
    return digest_text(text)[:16]


def _without_origin(part: Any) -> Any:
    """Leave out where a configuration was loaded from, and which version wrote it."""
    if isinstance(part, Mapping):
        kept = {}
        for name, value in part.items():
            if name not in ("auto_map", "transformers_version") and not str(name).startswith("_"):
                kept[str(name)] = _without_origin(value)
        return kept
    if isinstance(part, list | tuple):
        return [_without_origin(value) for value in part]
    return part


def dataset_revision(samples: Any) -> str | None:
    """The commit at which `load_samples` read a dataset of the Hub, as its cache has it; `None` for any other."""
    files = getattr(getattr(samples, "rows", None), "cache_files", ())
    for file in files:
        folder = Path(file["filename"]).parent.name
        if re.fullmatch("[0-9a-f]{40}", folder):
            return folder
    return None
