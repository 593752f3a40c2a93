"""Repositories on the Hub: private by default, written in one commit, never over another person's push."""

import io
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import huggingface_hub
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, RepoUrl
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError
from huggingface_hub.utils.sha import git_hash, sha_fileobj

CARD_FILE = "README.md"
PICKLES = {".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
_PINNED = re.compile(r'^revision = "([0-9a-f]{40})"$', re.MULTILINE)  # in the snippet of a card


def split_revision(name: str) -> tuple[str, str | None]:
    """Split `org/drama@v1` into the Hub id and the branch, tag or commit; a local folder has none."""
    repo_id, _, revision = name.partition("@")
    if not revision or Path(name).exists():
        return name, None
    return repo_id, revision


def check_revision(name: str, revision: str | None) -> None:
    """Raise a `ValueError` if a revision is given for a folder, which has none."""
    if revision is not None and Path(name).exists():
        raise ValueError(f"revision={revision!r} needs a Hub repository; {name!r} is a local folder")


def claim_repository(
    repo_id: str, repo_type: str = "model", private: bool = True, token: str | bool | None = None
) -> RepoUrl:
    """Create a repository, or take an existing one, with the token of `hf auth login` or `HF_TOKEN` or another one.

    Raises:
        ValueError: if the push is to be private and the repository is public already.
    """
    api = huggingface_hub.HfApi(token=token)
    address = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
    if private and not api.repo_info(address.repo_id, repo_type=repo_type).private:
        raise ValueError(f"{address.repo_id} is public: name another repository, or allow a public {repo_type}")
    return address


def commit_files(
    repo_id: str,
    files: Mapping[str, Path | bytes],
    is_stale: Callable[[str], bool],
    message: str,
    revision: str | None = None,
    parent_commit: str | None = None,
    repo_type: str = "model",
    token: str | bool | None = None,
    **details: Any,
) -> CommitInfo:
    """Add files to a repository, and delete stale ones, in one commit.

    Before that commit nothing changes for users of the repository, wherever the upload is cut off. Another try sends
    only what has not arrived. (`upload_folder` makes several commits of much data.)

    Args:
        files: name in the repository to the local file, or to its content.
        is_stale: whether another file of the repository is deleted.
        revision: a branch, created if it does not exist; `main` when absent.
        parent_commit: the commit at which the branch must be; its present one when absent.
        token: instead of that of `hf auth login` or `HF_TOKEN`.
        details: `commit_description` and `create_pr`, as `huggingface_hub` has them.

    Raises:
        ValueError: if a file is a pickle, which runs code when it is loaded.
        RuntimeError: if somebody else has pushed in between.
    """
    pickles = sorted(name for name in files if PurePosixPath(name).suffix in PICKLES)
    if pickles:
        raise ValueError(f"files of a push must hold no code that runs on loading, got pickles: {pickles}")
    api = huggingface_hub.HfApi(token=token)
    place: dict[str, Any] = {"repo_type": repo_type, "revision": revision}
    try:
        there: Any = api.repo_info(repo_id, **place)
    except RevisionNotFoundError:
        api.create_branch(repo_id, branch=str(revision), repo_type=repo_type, exist_ok=True)
        there = api.repo_info(repo_id, **place)
    operations: list[Any] = []
    for file in there.siblings or ():
        if file.rfilename not in files and is_stale(file.rfilename):
            operations.append(CommitOperationDelete(file.rfilename, is_folder=False))
    for name, content in files.items():
        operations.append(CommitOperationAdd(name, content))
    parent = parent_commit or there.sha
    try:
        return api.create_commit(repo_id, operations, commit_message=message, parent_commit=parent, **place, **details)
    except HfHubHTTPError as error:
        if error.response.status_code != 412:
            raise
        raise RuntimeError(
            f"{repo_id} is no longer at commit {parent}: somebody else has pushed, and nothing of this push is there. "
            "Look at their changes, and push again"
        ) from error


def commit_with_card(
    repo_id: str,
    files: Mapping[str, Path | bytes],
    compose: Callable[[str | None], str],
    is_stale: Callable[[str], bool],
    message: str,
    **place: Any,
) -> CommitInfo:
    """Commit files with their card, and then a card whose snippet pins that commit, which cannot name itself.

    Pushing unchanged files creates no commit.

    Args:
        files, is_stale, message: as in `commit_files`; the card is not among the files.
        compose: writes the card, for the id of the commit that holds the files, or for `None` while there is none.
        place: `revision`, `parent_commit` and `repo_type`, as in `commit_files`.

    Returns:
        The commit that holds the files.

    Raises:
        ValueError, RuntimeError: as `commit_files`.
    """
    pinned = _find_pinned(repo_id, files, compose, is_stale=is_stale, **place)
    if pinned is not None:
        return _commit_info(repo_id, pinned, message, place.get("repo_type", "model"))
    unpinned = {**files, CARD_FILE: compose(None).encode()}
    info = commit_files(repo_id, unpinned, is_stale, message=message, **place)
    card = {CARD_FILE: compose(info.oid).encode()}
    place["parent_commit"] = info.oid
    try:
        commit_files(repo_id, card, _nothing, message="Pin the revision", **place)
    except Exception as error:  # the files are pushed, whatever fails with the card
        warnings.warn(f"the push is commit {info.oid}, but its card does not pin it: {error}", stacklevel=3)
    return info


def _find_pinned(
    repo_id: str,
    files: Mapping[str, Path | bytes],
    compose: Callable[[str | None], str],
    is_stale: Callable[[str], bool],
    revision: str | None = None,
    parent_commit: str | None = None,
    repo_type: str = "model",
) -> str | None:
    """Find the commit that a branch's card pins, if the branch holds exactly these files and this card."""
    api = huggingface_hub.HfApi()
    place: dict[str, Any] = {"repo_id": repo_id, "repo_type": repo_type}
    try:
        head = api.repo_info(**place, revision=revision, files_metadata=True)
        held = _held_files(head)
        if CARD_FILE not in held or parent_commit not in (None, head.sha):
            return None
        card = Path(api.hf_hub_download(filename=CARD_FILE, revision=head.sha, **place)).read_bytes().decode()
        found = _PINNED.search(card)
        if found is None or compose(found[1]) != card:
            return None
        pinned = _held_files(api.repo_info(**place, revision=found[1], files_metadata=True))
    except (EntryNotFoundError, RevisionNotFoundError, UnicodeDecodeError):
        return None
    others = held.keys() - files.keys() - {CARD_FILE}
    if not files.keys() <= held.keys() & pinned.keys() or any(map(is_stale, others)):
        return None
    for name in sorted(files, key=lambda name: held[name].size):  # the small ones first
        if held[name].blob_id != pinned[name].blob_id or not _is_held(files[name], held[name]):
            return None
    return found[1]


def _held_files(info: Any) -> dict[str, Any]:
    return {file.rfilename: file for file in info.siblings or ()}


def _is_held(content: Path | bytes, there: Any) -> bool:
    """Return whether a repository has a local file with the same content."""
    if isinstance(content, Path):
        if content.stat().st_size != there.size:
            return False
        with open(content, "rb") as file:
            return _has_digest(file, there)
    return len(content) == there.size and _has_digest(io.BytesIO(content), there)


def _has_digest(file: BinaryIO, there: Any) -> bool:
    if there.lfs:
        return sha_fileobj(file).hex() == there.lfs.sha256
    return git_hash(file.read()) == there.blob_id


def _commit_info(repo_id: str, commit: str, message: str, repo_type: str = "model") -> CommitInfo:
    folder = "" if repo_type == "model" else f"{repo_type}s/"
    url = f"{huggingface_hub.HfApi().endpoint}/{folder}{repo_id}/commit/{commit}"
    return CommitInfo(commit_url=url, commit_message=message, commit_description="", oid=commit)


def _nothing(name: str) -> bool:
    return False
