"""The options of `from_pretrained` and `save_pretrained`: which there are, for which part, and who checks them.

Importing this file checks the version of transformers. Files that need a new one import it first, or a file above it.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from transformers.utils.versions import require_version

require_version("transformers>=5.19", "Run `pip install -U 'transformers>=5.19'`")

DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# Options of where the layers of a model lie.
PLACES = ("device_map", "max_memory", "offload_folder")
# Options that load either part of a joined model.
LOADING_OPTIONS = (
    *DOWNLOAD_OPTIONS,
    *PLACES,
    "low_cpu_mem_usage",
    "quantization_config",
    "use_safetensors",
    "variant",
)
# Options of a joined model as a whole.
OPTIONS_OF_WHOLE = ("attn_implementation", "dtype", "torch_dtype")
# Options of `from_pretrained` that no join takes, by the reason.
_REFUSED_BY_JOINS = {
    "a part has the configuration of its checkpoint": ("config",),
    "every weight that is read must be there": ("ignore_mismatched_sizes", "output_loading_info"),
    "no code of a checkpoint is run": ("code_revision", "trust_remote_code"),
    "save a part under the names of its own class first": ("key_mapping",),
    "save a part with its weights first": ("state_dict",),
}
# Other options that `from_pretrained` of every class takes, or that scripts give to a model and its processor alike.
_OF_ANY_CLASS = {
    *LOADING_OPTIONS,
    *OPTIONS_OF_WHOLE,
    "backend",
    "code_revision",
    "config",
    "gguf_file",
    "mistral_format",
    "repo_type",
    "tokenizer_type",
    "trust_remote_code",
    "use_fast",
    "user_agent",
}
# Options that some tokenizers take beside the parameters of their `__init__`.
_OF_ANY_TOKENIZER = {
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "additional_special_tokens",
    "chat_control_tokens",
    "clean_up_tokenization_spaces",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
    "extra_special_tokens",
    "fix_mistral_regex",
    "from_slow",
    "legacy",
    "model_input_names",
    "model_max_length",
    "model_specific_special_tokens",
    "padding_side",
    "response_template",
    "sp_model_kwargs",
    "spaces_between_special_tokens",
    "split_special_tokens",
    "token_type_ids_pattern",
    "tokenizer_file",
    "tokenizer_padding",
    "truncation_side",
    "verbose",
}
# Options that `save_pretrained` passes to `push_to_hub`.
OPTIONS_OF_PUSHES = (
    "repo_id",
    "commit_message",
    "commit_description",
    "private",
    "token",
    "revision",
    "create_pr",
    "tags",
)
_OPTIONS_ARE_CHECKED = ContextVar("options_are_checked", default=False)


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Sort the options of `from_vision_text_pretrained` by the part that they load.

    Options of `from_pretrained` are for both parts, or with `vision_` or `text_` before their name for one of them;
    `gguf_file` is for the language model.

    Returns:
        Options of the vision tower's `from_pretrained`, of the language model's, and all others.
    """
    parts: dict[str, dict[str, Any]] = {"vision": {}, "text": {}}
    known = set()
    for name in LOADING_OPTIONS:
        for part, chosen in parts.items():
            value = options.get(f"{part}_{name}", options.get(name))
            if value is not None:
                chosen[name] = value
            known |= {name, f"{part}_{name}"}
    gguf_file = options.get("text_gguf_file", options.get("gguf_file"))
    if gguf_file is not None:
        parts["text"]["gguf_file"] = gguf_file
    known |= {"gguf_file", "text_gguf_file"}
    others = {name: value for name, value in options.items() if name not in known}
    return parts["vision"], parts["text"], others


def refuse_options_of_join(unknown: Iterable[str], wanted: str) -> None:
    """Raise a `ValueError` for options that a join does not take, if there are any.

    Args:
        unknown: their names.
        wanted: which options it takes.
    """
    names = sorted(unknown)
    if not names:
        return
    reasons = []
    for name in names:
        option = name.removeprefix("vision_").removeprefix("text_")
        for reason, refused in _REFUSED_BY_JOINS.items():
            if option in refused:
                reasons.append(f"{name} is none, for {reason}")
    raise ValueError("; ".join([f"options must be {wanted}, got {names}", *reasons]))


def refuse_unknown_options(options: Iterable[str], known: Iterable[str]) -> None:
    """Raise a `ValueError` for options of `from_pretrained` that nothing reads; transformers ignores them.

    Args:
        options: their names; transformers passes those with an underscore before them to itself.
        known: names beside those that `from_pretrained` of every class takes.
    """
    named = {name for name in options if not name.startswith("_")}
    if unknown := sorted(named - _OF_ANY_CLASS - {*known}):
        raise ValueError(f"options must be those of loading or among {sorted(known)}, got {unknown}")


@contextmanager
def checking_options() -> Iterator[None]:
    """Mark that the caller checks all options, so that each part loaded meanwhile accepts those of others, too."""
    mark = _OPTIONS_ARE_CHECKED.set(True)
    try:
        yield
    finally:
        _OPTIONS_ARE_CHECKED.reset(mark)


def are_options_checked() -> bool:
    """Return whether a caller is within `checking_options`."""
    return _OPTIONS_ARE_CHECKED.get()


def pushing_options(saved: Any, folder: Any, push_to_hub: bool, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `save_pretrained` that `push_to_hub` takes; the folder's name is the default `repo_id`.

    Args:
        saved: the model or processor. Its method `check_push`, where the package adds one, refuses before the folder
            is written what `push_to_hub` would refuse afterwards.
        folder, push_to_hub, options: of `save_pretrained`.

    Raises:
        ValueError: for an option that nothing reads, as those of a push without `push_to_hub=True`; as `check_push`.
    """
    known = OPTIONS_OF_PUSHES if push_to_hub else ()
    # Transformers' own `push_to_hub`, that of a checkpoint's code, passes `max_shard_size` to every object it saves.
    if unknown := sorted(options.keys() - {*known, "max_shard_size"}):
        raise ValueError(
            f"options of save_pretrained must be push_to_hub=True and with it those of a push, {OPTIONS_OF_PUSHES}, "
            f"got push_to_hub={push_to_hub} and {unknown}"
        )
    of_push = dict(options)
    repo_id = of_push.pop("repo_id", None)
    if push_to_hub and hasattr(saved, "check_push"):
        saved.check_push(**of_push)
    return {**of_push, "repo_id": repo_id or Path(folder).absolute().name}


def tokenizer_options(tokenizer_class: type) -> set[str]:
    """Return the options with which a tokenizer of this class can be loaded; it ignores all others."""
    options = set(_OF_ANY_TOKENIZER)
    for owner in tokenizer_class.__mro__:
        if owner is not object and "__init__" in vars(owner):
            options.update(inspect.signature(vars(owner)["__init__"]).parameters)
    return options
