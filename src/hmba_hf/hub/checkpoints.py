"""A checkpoint as a folder and as a commit: safetensors, configuration, code, processor, card, and nothing pickled."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import CommitInfo

from ..house import code_files
from ..models.loading_checkpoints import read_settings
from ..repositories import CARD_FILE, claim_repository, commit_files, commit_with_card
from ..weight_files import stale_weights
from .cards import PICTURE_FILE, PICTURE_OF_VERSION_0_1, CardDetails, compose_card, is_adapter, tagged_card
from .stored_runs import StoredRun, read_runs

TRAINING_FILE = "training_arguments.json"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_CONFIGS = ("adapter_config.json", "config.json", "generation_config.json")
_MODEL_CODE = code_files("model")
_PROCESSOR_CODE = (*code_files("processor"), "video_decoding_*.py")  # the last one of version 0.1
_PROCESSOR_FILE = "processor_config.json"
_PROCESSOR = (
    "added_tokens.json",
    "additional_chat_templates/*.jinja",
    "chat_template.jinja",
    "merges.txt",
    "*processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_CHECKPOINT = (
    *(*_WEIGHTS, *_CONFIGS, *_MODEL_CODE, *_PROCESSOR_CODE, *_PROCESSOR),
    *(CARD_FILE, PICTURE_FILE, PICTURE_OF_VERSION_0_1, TRAINING_FILE),
)
# Of an earlier push: files that a loader would mix with the new ones, and pickles of `Trainer` and old transformers.
_STALE = (
    *(*_WEIGHTS, *_CONFIGS, *_MODEL_CODE, "*.bin", "*.bin.index.json"),
    *(PICTURE_FILE, PICTURE_OF_VERSION_0_1, TRAINING_FILE),
)
_PLACE = {"message", "revision", "parent_commit"}
# Options of transformers' own `push_to_hub` that are not offered: another token, or a pull request.
_NOT_OFFERED = ("token", "create_pr", "commit_description")


def save_checkpoint(
    folder: str | Path,
    model: Any,
    processor: Any,
    results: Sequence[str | Path] = (),
    card: CardDetails | None = None,
    max_shard_size: int | str = "5GB",
) -> Path:
    """Save a model with its code, its processor and its card, as `push_checkpoint` would upload it.

    Args:
        folder: new, or that of an earlier checkpoint of the same kind.
        model: of any family of this package, or a `PeftModel` around one, of which the updates are saved.
        processor: of the model; `None` saves none.
        results: folders that `hmba evaluate` has written about this model.
        card: further details of its card.
        max_shard_size: of a file of weights.

    Raises:
        ValueError: if a result is not of a stored run of this model, or if the folder holds another kind of
            checkpoint.
    """
    folder = Path(folder)
    card = card or CardDetails()
    runs = read_runs(results)  # before anything is written
    other = "config.json" if is_adapter(model) else "adapter_config.json"
    if (folder / other).exists():
        raise ValueError(f"{folder} must hold no other kind of checkpoint, got {other}")
    _save(folder, model, processor, runs=runs, card=card, max_shard_size=max_shard_size)
    write_card(folder, model, runs, card)
    return folder


def push_checkpoint(
    model: Any,
    processor: Any,
    repo_id: str,
    results: Sequence[str | Path] = (),
    card: CardDetails | None = None,
    private: bool = True,
    max_shard_size: int | str = "5GB",
    **commit: Any,
) -> CommitInfo:
    """Upload a checkpoint in one commit, and then, in a second one, a card that pins the first.

    The token comes from `hf auth login` or `HF_TOKEN`. The first commit also deletes weights, code and configuration
    of an earlier push that are not part of this one. Before it, nothing in the repository changes. Pushing unchanged
    files creates no commit. Without a processor the repository keeps its own, and nothing is pinned while it has none.

    Args:
        model, processor, results, card, max_shard_size: as in `save_checkpoint`.
        repo_id: repository, created if it does not exist.
        private: an existing public repository is refused unless this is false.
        commit: `message`, `revision` (a branch) and `parent_commit`, as in `commit_files`.

    Returns:
        The commit that holds the checkpoint.

    Raises:
        ValueError: if the repository is public, if low-rank updates belong to a base that is not on the Hub, or as
            `save_checkpoint`.
        RuntimeError: if another push changes the repository meanwhile.
    """
    unknown = sorted(commit.keys() - _PLACE)
    if unknown:
        raise TypeError(f"options of a commit must be of {sorted(_PLACE)}, got {unknown}")
    card = card or CardDetails()
    runs = read_runs(results)
    check_base(model)
    with tempfile.TemporaryDirectory() as folder:
        _save(Path(folder), model, processor, runs=runs, card=card, max_shard_size=max_shard_size)
        address = claim_repository(repo_id, private=private)
        return upload_checkpoint(Path(folder), model, address.repo_id, runs, card, **commit)


def upload_checkpoint(
    folder: Path, model: Any, repo_id: str, runs: Sequence[StoredRun], card: CardDetails, **commit: Any
) -> CommitInfo:
    """Upload a folder with a saved model and its processor; arguments as in `push_checkpoint`."""
    write_card(folder, model, runs, card, repo_id)

    def compose(revision: str | None) -> str:
        return str(compose_card(model, card, runs, repo_id, revision))

    commit = {"message": "Upload model", **commit}
    if not _has_processor(folder, repo_id, commit.get("revision")):
        return commit_checkpoint(folder, repo_id, **commit)  # of no use without a processor, so nothing is pinned yet
    files = {name: path for name, path in _whole_checkpoint(folder).items() if name != CARD_FILE}
    info = commit_with_card(repo_id, files, compose, _stale(folder), **commit)
    (folder / CARD_FILE).write_text(compose(info.oid), encoding="utf-8")
    return info


def push_model(model: Any, repo_id: str, processor: Any = None, **options: Any) -> CommitInfo:
    """Upload a model as `push_checkpoint` does, called as the `push_to_hub` of transformers is.

    Args:
        model, repo_id, processor: as in `push_checkpoint`.
        options: its others, and by transformers' names `commit_message` and `tags`, which the card gets.

    Raises:
        ValueError: if a token or a pull request is among the options, or as `push_checkpoint`.
    """
    check_model_push(model, **options)
    options = {name: value for name, value in options.items() if name not in _NOT_OFFERED}
    card = options.pop("card", None) or CardDetails()
    tags = options.pop("tags", None) or ()
    if isinstance(tags, str):
        tags = [tags]
    options["card"] = replace(card, tags=[*card.tags, *tags])
    options["message"] = options.pop("commit_message", None) or "Upload model"
    if options.get("private") is None:
        options["private"] = True
    return push_checkpoint(model, processor, repo_id, **options)


def check_model_push(model: Any, **options: Any) -> None:
    """Raise a `ValueError` for options that `push_model` refuses, or for updates whose base is not on the Hub."""
    refused = []
    for name in _NOT_OFFERED:
        value = options.get(name)
        is_usual = name == "token" and value is True
        if value and not is_usual:
            refused.append(name)
    if refused:
        raise ValueError(
            f"a push must be to a branch, with the token of `hf auth login` or HF_TOKEN, got {', '.join(refused)}"
        )
    check_base(model)


def push_processor(
    processor: Any,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    tags: str | Sequence[str] | None = None,
    max_shard_size: int | str | None = None,
    **details: Any,
) -> CommitInfo:
    """Upload a processor or a video processor in one commit, called as the `push_to_hub` of transformers is.

    Other files of the repository, such as weights and a card, stay there.

    Args:
        repo_id: repository, created if it does not exist.
        private: an existing public repository is refused unless this is false.
        token: instead of that of `hf auth login` or `HF_TOKEN`.
        revision: a branch, created if it does not exist; `main` when absent.
        commit_message: of the commit.
        tags: added to those of the card.
        max_shard_size: of weights alone; it must be absent.
        details: `commit_description` and `create_pr`, as `huggingface_hub` has them.

    Raises:
        ValueError: if the repository is public, if `max_shard_size` is given, or a branch for a pull request.
        RuntimeError: if another push changes the repository meanwhile.
    """
    known = {"commit_description", "create_pr"}
    unknown = sorted(details.keys() - known)
    if unknown:
        raise TypeError(f"details of a push must be of {sorted(known)}, got {unknown}")
    check_processor_push(processor, max_shard_size=max_shard_size, revision=revision, **details)
    with tempfile.TemporaryDirectory() as saved:
        folder = Path(saved)
        processor.save_pretrained(folder)
        repo_id = claim_repository(repo_id, private=private is None or private, token=token).repo_id
        files: dict[str, Path | bytes] = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = path
        if tags:
            files[CARD_FILE] = tagged_card(repo_id, tags, revision, token).encode()
        stale = _PROCESSOR_CODE if _PROCESSOR_FILE in files else ()
        place = {"revision": revision, "token": token, **details}
        return commit_files(
            repo_id,
            files,
            is_stale=lambda name: _matches(name, stale),
            message=commit_message or "Upload processor",
            **place,
        )


def check_processor_push(processor: Any, **options: Any) -> None:
    """Raise a `ValueError` for options that `push_processor` refuses, whatever the processor."""
    max_shard_size = options.get("max_shard_size")
    if max_shard_size is not None:
        raise ValueError(f"max_shard_size must be absent, since a processor has no weights, got {max_shard_size!r}")
    revision = options.get("revision")
    if options.get("create_pr") and revision not in (None, "main"):
        raise ValueError(f"a pull request begins at main, so revision must be absent with create_pr, got {revision!r}")


def write_card(
    folder: Path, model: Any, runs: Sequence[StoredRun], card: CardDetails, repo_id: str | None = None
) -> None:
    """Write a checkpoint's card, its picture and its training options into its folder."""
    if card.training:
        (folder / TRAINING_FILE).write_text(json.dumps(dict(card.training), indent=1) + "\n")
    for name in (PICTURE_FILE, PICTURE_OF_VERSION_0_1):
        (folder / name).unlink(missing_ok=True)
    if card.picture is not None:
        card.picture.save(folder / PICTURE_FILE)
    text = str(compose_card(model, card, runs, repo_id or folder.name))
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def recorded_training(checkpoint: str | Path) -> dict[str, Any]:
    """Read the training options that `finetune` has stored with a model, a folder or a Hub id; none of another."""
    return read_settings(str(checkpoint), TRAINING_FILE)


def checkpoint_files(folder: Path) -> dict[str, Path | bytes]:
    """Name the files of a folder that belong to its checkpoint: no others, such as pickles, are pushed.

    Weights of an earlier save, which transformers would not load, are not pushed either.

    Raises:
        FileNotFoundError, ValueError: if weights are missing or their index is damaged, as in `find_weights`.
    """
    stale = stale_weights(folder)
    files: dict[str, Path | bytes] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and _matches(name, _CHECKPOINT) and name not in stale:
            files[name] = path
    return files


def commit_checkpoint(folder: Path, repo_id: str, message: str, **commit: Any) -> CommitInfo:
    """Put the checkpoint of a folder into a repository, and stale files out of it; other arguments as `commit_files`.

    Raises:
        ValueError: if the folder holds no weights in safetensors.
    """
    return commit_files(repo_id, _whole_checkpoint(folder), _stale(folder), message, **commit)


def check_base(model: Any) -> None:
    """Raise a `ValueError` if low-rank updates belong to a base that is not on the Hub."""
    for settings in (getattr(model, "peft_config", None) or {}).values():
        base = settings.base_model_name_or_path
        if base is None or Path(base).exists():
            raise ValueError(
                f"low-rank updates on the Hub must belong to a base on the Hub, got {base!r}: push the base first and "
                "train from its Hub id, or push the whole model, `model.merge_and_unload()`"
            )


def _save(
    folder: Path, model: Any, processor: Any, runs: Sequence[StoredRun], card: CardDetails, max_shard_size: int | str
) -> None:
    """Save weights, configuration, code and processor, and compare them with the model of the runs."""
    compose_card(model, card, runs)  # to fail before anything is written
    if is_adapter(model):
        model.save_pretrained(folder)
    else:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        if (folder / "model.safetensors").exists():  # the index of an earlier save's shards is still there
            (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    if processor is not None:
        processor.save_pretrained(folder)
    for run in runs:
        run.check_model(folder)


def _whole_checkpoint(folder: Path) -> dict[str, Path | bytes]:
    files = checkpoint_files(folder)
    if not any(name.endswith(".safetensors") for name in files):
        raise ValueError(f"a checkpoint must have weights in safetensors, got none in {folder}")
    return files


def _has_processor(folder: Path, repo_id: str, branch: str | None) -> bool:
    there = huggingface_hub.HfApi().file_exists
    return (folder / _PROCESSOR_FILE).exists() or there(repo_id, _PROCESSOR_FILE, revision=branch)


def _stale(folder: Path) -> Callable[[str], bool]:
    """Return the rule for files of a repository that the checkpoint of a folder replaces or makes stale."""
    patterns = _STALE
    if (folder / _PROCESSOR_FILE).exists():
        patterns = (*_STALE, *_PROCESSOR_CODE)
    return lambda name: _matches(name, patterns)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)
