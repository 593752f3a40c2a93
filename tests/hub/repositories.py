"""What a Hub keeps: repositories with commits, branches, tags and pull requests."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

FIRST_DATE = datetime(2026, 1, 1)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
LARGE_PATTERNS = (
    "*.arrow *.bin *.gz *.h5 *.mp4 *.npz *.onnx *.parquet *.pkl *.pt *.pth *.safetensors *.tar *.zip".split()
)
GIT_ATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE_PATTERNS).encode()
LARGEST_REGULAR_FILE = 10 * 2**20


class Refusal(Exception):
    """A request that the Hub answers with an error.

    Args:
        status: of HTTP.
        message: in the header `X-Error-Message` and in the body.
        code: in the header `X-Error-Code`, by which the client chooses its exception.
        headers, body: what else the answer carries.
    """

    def __init__(self, status: int, message: str, code: str | None = None, headers: Any = (), body: Any = ()) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers: dict[str, str] = dict(headers)
        self.body: dict[str, Any] = dict(body)


def git_blob_id(content: bytes) -> str:
    """Hash a file as git does."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class RegularFile:
    """A file that git keeps itself."""

    content: bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.content)

    @property
    def blob_id(self) -> str:
        """Name of the content in git, and its ETag."""
        return git_blob_id(self.content)


@dataclass(frozen=True)
class LargeFile:
    """A file that lies in the store of large files; git keeps a pointer to it."""

    sha256: str
    size: int

    @property
    def pointer(self) -> bytes:
        """What git keeps."""
        return POINTER.format(sha256=self.sha256, size=self.size).encode()

    @property
    def blob_id(self) -> str:
        """Name of the pointer in git."""
        return git_blob_id(self.pointer)


File = RegularFile | LargeFile


@dataclass(frozen=True)
class Commit:
    """One state of all files."""

    id: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, File]


@dataclass
class Repository:
    """A model, a dataset or a space.

    Args:
        id: `namespace/name`.
        type: `"model"`, `"dataset"` or `"space"`.
        read_large: gives the bytes of a large file.
        author: who created it.
    """

    id: str
    type: str
    read_large: Callable[[str], bytes]
    author: str
    private: bool = False
    gated: str | bool = False
    granted: set[str] = field(default_factory=set)  # who may read it although it is gated
    branches: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)  # by their refs, such as `refs/pr/1`
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.branches["main"] = ""
        self.commit("main", "initial commit", "", self.author, {".gitattributes": RegularFile(GIT_ATTRIBUTES)})

    @property
    def namespace(self) -> str:
        """Owner: a user or an organization."""
        return self.id.split("/")[0]

    @property
    def head(self) -> str:
        """Commit id of `main`."""
        return self.branches["main"]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Read all files of a branch, tag or commit."""
        return {path: self.read(file) for path, file in self.find(revision).files.items()}

    def read(self, file: File) -> bytes:
        """Read a file of this repository."""
        return file.content if isinstance(file, RegularFile) else self.read_large(file.sha256)

    def find(self, revision: str) -> Commit:
        """Find the commit of a branch, of a tag, of a pull request, or of the beginning of its own id."""
        for names in (self.branches, self.tags, self.pull_requests):
            if revision in names:
                return self.commits[names[revision]]
        matches = [id for id in self.commits if re.fullmatch("[0-9a-f]{7,40}", revision) and id.startswith(revision)]
        if len(matches) != 1:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[matches[0]]

    def find_file(self, revision: str, path: str) -> tuple[Commit, File]:
        """Find a file and the commit that it was asked for at."""
        commit = self.find(revision)
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.id})
        return commit, commit.files[path]

    def log(self, revision: str = "main") -> Iterator[Commit]:
        """Go from a commit back to the first."""
        commit: Commit | None = self.find(revision)
        while commit is not None:
            yield commit
            commit = self.commits.get(commit.parent or "")

    def commit(self, branch: str, title: str, message: str, author: str, files: dict[str, File]) -> Commit:
        """Let a branch, or a pull request, show these files."""
        heads = self.pull_requests if branch in self.pull_requests else self.branches
        parent = heads[branch] or None
        number = len(self.commits)
        tree = [f"{path} {files[path].blob_id}" for path in sorted(files)]
        id = hashlib.sha1("\n".join([self.type, self.id, str(number), str(parent), title, *tree]).encode()).hexdigest()
        date = (FIRST_DATE + timedelta(minutes=number)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self.commits[id] = Commit(id, parent, title, message, author, date, dict(files))
        heads[branch] = id
        return self.commits[id]

    def open_pull_request(self, start: str) -> int:
        """Give the next pull request a ref of its own, at a commit."""
        number = len(self.pull_requests) + 1
        self.pull_requests[f"refs/pr/{number}"] = start
        return number

    def titles(self, revision: str = "main") -> list[str]:
        """Tell what the commits are called, the last first."""
        return [commit.title for commit in self.log(revision)]

    def keeps_large(self, path: str, size: int, sample: bytes) -> bool:
        """Whether a new file belongs into the store of large files: by its name, its size, or as it is binary."""
        attributes = self.find("main").files.get(".gitattributes")
        lines = self.read(attributes).decode().splitlines() if attributes else []
        patterns = [line.split()[0] for line in lines if "filter=lfs" in line.split()]
        named = any(fnmatch(path, pattern) or fnmatch(PurePosixPath(path).name, pattern) for pattern in patterns)
        return size > 0 and (named or size > LARGEST_REGULAR_FILE or b"\0" in sample)


def checked_path(path: str) -> str:
    """Refuse a path that leaves the repository or enters git's own folder."""
    parts = path.split("/")
    if not path or path.startswith("/") or "\\" in path or {"", ".", "..", ".git"} & set(parts):
        raise Refusal(400, f"Invalid path in repo: {path!r}")
    return path
