"""A checkpoint as a folder and as a commit: safetensors, configuration, code, processor, card, and nothing pickled."""

import json
import tempfile
import warnings
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo

from ..repositories import claim_repository, commit_files
from .cards import CARD_FILE, PICTURE_FILE, CardDetails, compose_card, is_adapter
from .stored_runs import StoredRun, read_runs

TRAINING_FILE = "training_arguments.json"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_CONFIGS = ("adapter_config.json", "config.json", "generation_config.json")
_CODE = tuple(
    f"{floor}_*.py"
    for floor in "configuration joining layers loading modeling ops outputs pipeline processing video".split()
)
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
_CHECKPOINT = (*_WEIGHTS, *_CONFIGS, *_CODE, *_PROCESSOR, CARD_FILE, PICTURE_FILE, TRAINING_FILE)
# Of an earlier push: what a loader would mix with the new files, and what `Trainer` and old transformers pickled.
_STALE = (*_WEIGHTS, *_CONFIGS, *_CODE, "*.bin", "*.bin.index.json", PICTURE_FILE, TRAINING_FILE)


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
        processor: of the model.
        results: folders that `examples/evaluate.py` has written about this model.
        card: what its card tells besides.
        max_shard_size: of a file of weights.

    Raises:
        ValueError: if a result is not of a stored run of this model, or if the folder holds another kind of
            checkpoint.
    """
    folder, card = Path(folder), card or CardDetails()
    runs = read_runs(results)  # before anything is written
    other = "config.json" if is_adapter(model) else "adapter_config.json"
    if (folder / other).exists():
        raise ValueError(f"a folder without another kind of checkpoint is wanted, {folder} holds {other}")
    _save(folder, model, processor, runs, card, max_shard_size)
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

    The token is that of `hf auth login` or `HF_TOKEN`. Weights, code and configuration of an earlier push that are
    not part of this one are deleted in the first commit, and until it is there nothing has changed.

    Args:
        model, processor, results, card, max_shard_size: as in `save_checkpoint`.
        repo_id: repository, made if it is not there.
        private: an existing public repository is refused unless this is false.
        commit: `message`, `revision` (a branch) and `parent_commit`, as in `commit_files`.

    Returns:
        The first commit.

    Raises:
        ValueError: if the repository is public, if low-rank updates belong to a base that is not on the Hub, or as
            `save_checkpoint`.
        RuntimeError: if somebody else pushes at the same time.
    """
    card = card or CardDetails()
    runs = read_runs(results)
    check_base(model)
    with tempfile.TemporaryDirectory() as folder:
        _save(Path(folder), model, processor, runs, card, max_shard_size)
        address = claim_repository(repo_id, private=private)
        return upload_checkpoint(Path(folder), model, address.repo_id, runs, card, **commit)


def upload_checkpoint(
    folder: Path, model: Any, repo_id: str, runs: Sequence[StoredRun], card: CardDetails, **commit: Any
) -> CommitInfo:
    """Upload a folder that the model and its processor have been saved to; arguments as in `push_checkpoint`."""
    write_card(folder, model, runs, card, repo_id)
    info = commit_checkpoint(folder, repo_id, **{"message": "Upload model", **commit})
    pinned = str(compose_card(model, card, runs, repo_id, info.oid))
    (folder / CARD_FILE).write_text(pinned, encoding="utf-8")
    branch = commit.get("revision")
    try:
        commit_files(repo_id, {CARD_FILE: folder / CARD_FILE}, _nothing, "Pin the revision", branch, info.oid)
    except RuntimeError as error:
        warnings.warn(f"the checkpoint is commit {info.oid}, but its card does not say so: {error}", stacklevel=3)
    return info


def write_card(
    folder: Path, model: Any, runs: Sequence[StoredRun], card: CardDetails, repo_id: str | None = None
) -> None:
    """Write a checkpoint's card, its picture, and how it was trained, into its folder."""
    if card.training:
        (folder / TRAINING_FILE).write_text(json.dumps(dict(card.training), indent=1) + "\n")
    (folder / PICTURE_FILE).unlink(missing_ok=True)
    if card.picture is not None:
        card.picture.save(folder / PICTURE_FILE)
    (folder / CARD_FILE).write_text(str(compose_card(model, card, runs, repo_id or folder.name)), encoding="utf-8")


def recorded_training(folder: str | Path) -> dict[str, Any]:
    """Read how the model of a folder was trained, as `finetune` has left it there; nothing for another folder."""
    path = Path(folder) / TRAINING_FILE
    return json.loads(path.read_text()) if path.is_file() else {}


def checkpoint_files(folder: Path) -> dict[str, Path | bytes]:
    """Name what of a folder belongs to a checkpoint: whatever else lies there, such as pickles, stays here."""
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return {name: folder / name for name in names if _matches(name, _CHECKPOINT)}


def commit_checkpoint(folder: Path, repo_id: str, message: str, **commit: Any) -> CommitInfo:
    """Put the checkpoint of a folder into a repository, and stale files out of it; other arguments as `commit_files`.

    Raises:
        ValueError: if the folder holds no weights in safetensors.
    """
    files = checkpoint_files(folder)
    if not any(name.endswith(".safetensors") for name in files):
        raise ValueError(f"weights in safetensors are wanted, got none in {folder}")
    return commit_files(repo_id, files, _is_stale, message, **commit)


def check_base(model: Any) -> None:
    """Raise a `ValueError` if low-rank updates belong to a base that nobody else can load."""
    for settings in (getattr(model, "peft_config", None) or {}).values():
        base = settings.base_model_name_or_path
        if base is None or Path(base).exists():
            raise ValueError(
                f"low-rank updates on the Hub belong to a base on the Hub, got {base!r}: push the base first and "
                "learn from its Hub id, or push the whole model, `model.merge_and_unload()`"
            )


def _save(
    folder: Path, model: Any, processor: Any, runs: Sequence[StoredRun], card: CardDetails, max_shard_size: int | str
) -> None:
    """Save weights, configuration, code and processor, and compare them with what the runs are about."""
    compose_card(model, card, runs)  # fails before anything is written
    if is_adapter(model):
        model.save_pretrained(folder)
    else:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        if (folder / "model.safetensors").exists():  # the list of the shards of an earlier save is left there
            (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    processor.save_pretrained(folder)
    for run in runs:
        run.check_model(folder)


def _is_stale(name: str) -> bool:
    return _matches(name, _STALE)


def _nothing(name: str) -> bool:
    return False


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)
