"""The files of those who visit a page, each visit in a folder of its own."""

import hashlib
import shutil
import tempfile
from pathlib import Path


class Visits:
    """Folders of visits, which end with the process at the latest."""

    def __init__(self) -> None:
        self._root = tempfile.TemporaryDirectory(prefix="hmba-app-")

    def folder(self, name: str | None) -> Path:
        """Return the folder of a visit, whose name comes from a browser and becomes no path."""
        folder = self._place(name)
        folder.mkdir(exist_ok=True)
        return folder

    def end(self, name: str | None) -> None:
        """Delete the files of a visit."""
        shutil.rmtree(self._place(name), ignore_errors=True)

    def _place(self, name: str | None) -> Path:
        digest = hashlib.sha256((name or "").encode("utf-8", "replace")).hexdigest()
        return Path(self._root.name) / digest[:32]
