"""Files that clients have uploaded, on disk until they are deleted, an hour has passed or the server ends."""

import secrets
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..messages import logger
from .errors import RequestError
from .limits import ServingLimits

LIFETIME = 3600  # seconds


class Upload(NamedTuple):
    """One uploaded file."""

    path: Path
    name: str
    size: int
    created: float

    @property
    def is_old(self) -> bool:
        """Whether its time is over."""
        return time.time() - self.created > LIFETIME


class Uploads:
    """The uploaded files by their ids, which nobody can guess; a client's name of a file never becomes a path."""

    def __init__(self, limits: ServingLimits):
        self._limits = limits
        self._folder = tempfile.TemporaryDirectory(prefix="hmba-uploads-")
        self._files: dict[str, Upload] = {}
        self._lock = threading.Lock()

    def add(self, file: IO[bytes], name: str, size: int) -> dict[str, Any]:
        """Keep a file; return what OpenAI's clients read of it.

        Raises:
            RequestError: if all files together would be larger, or more, than allowed.
        """
        number = f"file-{secrets.token_hex(16)}"
        upload = Upload(Path(self._folder.name) / number, name, size, time.time())
        with self._lock:
            self._drop_old()
            self._check_room(size)
            self._files[number] = upload
        try:
            with open(upload.path, "wb") as kept:
                shutil.copyfileobj(file, kept)
        except BaseException:
            self.delete(number)
            raise
        return _described(number, upload)

    def describe(self, number: str) -> dict[str, Any]:
        """Return what OpenAI's clients read of a file.

        Raises:
            RequestError: if there is no such file.
        """
        with self._lock:
            return _described(number, self._find(number))

    def open(self, number: str) -> IO[bytes]:
        """Open a file, which stays readable while it is open.

        Raises:
            RequestError: if there is no such file.
        """
        with self._lock:
            return open(self._find(number).path, "rb")

    def delete(self, number: str) -> None:
        """Delete a file.

        Raises:
            RequestError: if there is no such file.
        """
        with self._lock:
            self._find(number).path.unlink(missing_ok=True)
            del self._files[number]

    def delete_old(self) -> None:
        """Delete the files whose time is over."""
        with self._lock:
            self._drop_old()

    def close(self) -> None:
        """Delete all files."""
        self._folder.cleanup()

    def _find(self, number: str) -> Upload:
        self._drop_old()
        if number not in self._files or self._files[number].is_old:
            raise RequestError(404, "file_not_found", "file_id must be one of an uploaded file, got another one")
        return self._files[number]

    def _check_room(self, size: int) -> None:
        stored = size + sum(known.size for known in self._files.values())
        for wanted, number, limit in (
            ("have at most max_stored_bytes", stored, self._limits.max_stored_bytes),
            ("be at most max_stored_files", len(self._files) + 1, self._limits.max_stored_files),
        ):
            if number > limit:
                what = f"uploaded files must {wanted}={limit} together, got {number}: delete some"
                raise RequestError(429, "uploads_full", what, retry_after=60)

    def _drop_old(self) -> None:
        for number, upload in list(self._files.items()):
            if not upload.is_old:
                continue
            try:
                upload.path.unlink(missing_ok=True)
            except OSError as error:  # no client's fault: the disk is asked again at the next look
                logger.warning(f"an upload whose time is over could not be deleted: {error}")
                continue
            del self._files[number]


def _described(number: str, upload: Upload) -> dict[str, Any]:
    return {
        "id": number,
        "object": "file",
        "bytes": upload.size,
        "created_at": int(upload.created),
        "expires_at": int(upload.created) + LIFETIME,
        "filename": upload.name,
        "purpose": "user_data",
        "status": "processed",
    }
