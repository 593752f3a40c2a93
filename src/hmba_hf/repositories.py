"""Repositories on the Hub: private unless said, written in one commit, never over what somebody else has pushed."""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import huggingface_hub
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, RepoUrl
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

PICKLES = {".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}


def claim_repository(repo_id: str, repo_type: str = "model", private: bool = True) -> RepoUrl:
    """Create a repository, or take one that is there, with the token of `hf auth login` or `HF_TOKEN`.

    Raises:
        ValueError: if what is pushed is to stay private and the repository exists and is public.
    """
    api = huggingface_hub.HfApi()
    address = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
    if private and not api.repo_info(address.repo_id, repo_type=repo_type).private:
        raise ValueError(
            f"{address.repo_id} is public: name another repository, or say that the {repo_type} may be public"
        )
    return address


def commit_files(
    repo_id: str,
    files: Mapping[str, Path | bytes],
    is_stale: Callable[[str], bool],
    message: str,
    revision: str | None = None,
    parent_commit: str | None = None,
) -> CommitInfo:
    """Put files into a model repository, and take stale ones out, in one commit.

    Until that commit is there nothing has changed for who loads the repository, wherever the upload is cut off.
    (`upload_folder` would make several commits of a large model.)

    Args:
        files: name in the repository to the file here, or to its content.
        is_stale: whether a file of the repository that is none of these has to go.
        revision: a branch, which is made if it is not there; `main` when absent.
        parent_commit: what the branch must be at; what it is at now when absent.

    Raises:
        ValueError: if a file is a pickle, which whoever loads it would execute.
        RuntimeError: if somebody else has pushed in between.
    """
    if pickles := sorted(name for name in files if PurePosixPath(name).suffix in PICKLES):
        raise ValueError(f"files that nobody has to trust are wanted, got pickles: {pickles}")
    api = huggingface_hub.HfApi()
    try:
        there = api.model_info(repo_id, revision=revision)
    except RevisionNotFoundError:
        api.create_branch(repo_id, branch=str(revision), exist_ok=True)
        there = api.model_info(repo_id, revision=revision)
    stale = [file.rfilename for file in there.siblings or () if file.rfilename not in files]
    operations = [
        *(CommitOperationDelete(name, is_folder=False) for name in stale if is_stale(name)),
        *(CommitOperationAdd(name, content) for name, content in files.items()),
    ]
    parent = parent_commit or there.sha
    options = {"commit_message": message, "revision": revision, "parent_commit": parent}
    try:
        return api.create_commit(repo_id, operations, **options)  # type: ignore[call-overload]
    except HfHubHTTPError as error:
        if error.response.status_code != 412:
            raise
        raise RuntimeError(
            f"{repo_id} is no longer at commit {parent}: somebody else has pushed, and nothing of this push is there. "
            "Look at what they have changed, and push again"
        ) from error
