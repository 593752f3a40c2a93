"""Files that the real Xet client has stored: its library keeps them in a folder when its server is `local://folder`."""

import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import hf_xet

RECORD = 48  # bytes: every record of a shard has this size, its header too
END_OF_FILES = b"\xff" * 32
HAS_VERIFICATION, HAS_SHA256 = 1 << 31, 1 << 30


class XetFiles:
    """The content store of the Xet client, by the SHA-256 of whole files.

    Args:
        folder: where the client keeps it; it outlives a test, for clients remember what they have stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, tuple[str, int]] = {}
        self._seen: set[Path] = set()
        self._contents: dict[str, bytes] = {}  # by SHA-256
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Address of the store, for the client."""
        return f"local://{self.folder}"

    def hash_of(self, sha256: str) -> str | None:
        """Find Xet's name of a file."""
        return self._found(sha256)[0]

    def size_of(self, sha256: str) -> int | None:
        """Find the size of a file, in bytes."""
        return self._found(sha256)[1]

    def _found(self, sha256: str) -> tuple[str, int] | tuple[None, None]:
        with self._lock:
            while new := self._shards() - self._seen:
                self._seen |= new
                for shard in new:
                    with suppress(FileNotFoundError):  # the client puts shards together: what it held is in another
                        self._files.update(files_of_shard(shard.read_bytes()))
            return self._files.get(sha256, (None, None))

    def _shards(self) -> set[Path]:
        while True:
            try:
                return {*self.folder.rglob("shards/*.mdb")}
            except FileNotFoundError:  # the client has removed a folder meanwhile
                continue

    def read(self, sha256: str) -> bytes:
        """Put a file together again, for those who ask over plain HTTP; the client may leave it out under load."""
        if sha256 in self._contents:
            return self._contents[sha256]
        xet_hash, size = self._found(sha256)
        assert xet_hash is not None, f"{sha256} is not in {self.folder}"
        pause = threading.Event()
        for _ in range(100):
            self._download(sha256, hf_xet.XetFileInfo(xet_hash, size))
            if sha256 in self._contents:
                break
            pause.wait(0.1)  # tests may replace time.sleep
        return self._contents[sha256]

    def _download(self, sha256: str, info: hf_xet.XetFileInfo) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            with hf_xet.XetSession().new_file_download_group(endpoint=self.url) as group:
                group.start_download_file(info, str(path))
            if path.exists():
                self._contents[sha256] = path.read_bytes()


def files_of_shard(content: bytes) -> dict[str, tuple[str, int]]:
    """Read the files that a shard describes: SHA-256 to Xet's hash and the size.

    Source: spec/shard.md in huggingface/xet-core, "File Info Section".
    """
    files: dict[str, tuple[str, int]] = {}
    position = RECORD
    while (header := content[position : position + RECORD])[:32] != END_OF_FILES:
        assert len(header) == RECORD, "a shard must end its list of files with a record of ones"
        flags, segments = (int.from_bytes(header[i : i + 4], "little") for i in (32, 36))
        records = [content[position + RECORD * i :][:RECORD] for i in range(1, segments + 1)]
        size = sum(int.from_bytes(record[36:40], "little") for record in records)
        position += RECORD * (1 + segments * (2 if flags & HAS_VERIFICATION else 1))
        if flags & HAS_SHA256:
            files[hash_text(content[position : position + 32])] = hash_text(header[:32]), size
            position += RECORD
    return files


def hash_text(content: bytes) -> str:
    """Write a hash as Xet does: as four little-endian numbers."""
    return "".join(f"{int.from_bytes(content[i : i + 8], 'little'):016x}" for i in range(0, 32, 8))
