"""The files of those who visit a page, each visit in a folder of its own, and the drives that end with it."""

import hashlib
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

_LONGEST_REST = 3600.0  # seconds; a question that waited while its visit ended begins another one, which nobody ends


class Drive(Protocol):
    """Something that ends with a visit."""

    def leave(self) -> None:
        """Take no more, and let go of all that is held."""


class Visit:
    """One visit and its folder, which is written to while the visit lasts.

    Args:
        folder: of its own.

    Attributes:
        turn: held while a frame of a camera is taken, so that frames that come at once follow each other.
        watched: the drive that is watched, or was watched last.
        is_over: whether it has ended.
        used: when something was written last, on the clock of this machine.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.turn = threading.Lock()
        self.watched: Any = None
        self.is_over = False
        self.used = time.monotonic()
        self._lock = threading.Lock()
        self._drives: weakref.WeakSet[Drive] = weakref.WeakSet()

    @contextmanager
    def files(self) -> Iterator[Path | None]:
        """Hold the end of the visit off while files are written; `None` in place of the folder once it is over."""
        with self._lock:
            self.used = time.monotonic()
            yield None if self.is_over else self.folder

    def add(self, drive: Drive) -> None:
        """Let a drive end with the visit."""
        with self._lock:
            self._drives.add(drive)
        if self.is_over:
            drive.leave()

    def end(self) -> None:
        """Delete the files, and end the drives."""
        with self._lock:
            self.is_over = True
            shutil.rmtree(self.folder, ignore_errors=True)
            drives = list(self._drives)
        for drive in drives:
            drive.leave()


class Visits:
    """The visits of a page by their names; their folders end with the process at the latest."""

    def __init__(self) -> None:
        self._root = tempfile.TemporaryDirectory(prefix="hmba-app-")
        self._visits: dict[bytes, Visit] = {}
        self._lock = threading.Lock()

    def open(self, name: str | None) -> Visit:
        """Return a visit, whose name comes from a browser and becomes no path."""
        self._end_resting()
        with self._lock:
            digest = _digest(name)
            if digest not in self._visits:
                self._visits[digest] = Visit(Path(tempfile.mkdtemp(dir=self._root.name)))
            self._visits[digest].used = time.monotonic()
            return self._visits[digest]

    def end(self, name: str | None) -> None:
        """End a visit, if it has begun."""
        with self._lock:
            visit = self._visits.pop(_digest(name), None)
        if visit is not None:
            visit.end()

    def _end_resting(self) -> None:
        now = time.monotonic()
        with self._lock:
            resting = [digest for digest, visit in self._visits.items() if now - visit.used > _LONGEST_REST]
            ended = [self._visits.pop(digest) for digest in resting]
        for visit in ended:
            visit.end()


def _digest(name: str | None) -> bytes:
    return hashlib.sha256((name or "").encode("utf-8", "replace")).digest()
