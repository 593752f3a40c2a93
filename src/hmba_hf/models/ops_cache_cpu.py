"""Compiled CPU kernels on disk: one file for each, and whatever is wrong with a file is a miss.

A file ends with the digest of what stands before it, so that a damaged one is known before anything in it is used.
"""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    from numba import config
    from numba.core.caching import FunctionCache, IndexDataCacheFile
except ImportError as error:
    raise ImportError("the CPU kernels need Numba: pip install numba") from error

logger = logging.getLogger(__name__)
DIGEST_SIZE = hashlib.sha256().digest_size
# Of all kernels' files, under the name by which they were imported: what is compiled refers to its types by that name.
_SOURCES = hashlib.sha256(
    b"".join([__name__.encode(), *(path.read_bytes() for path in sorted(Path(__file__).parent.glob("ops_*_cpu.py")))])
).hexdigest()


_warned: set[str] = set()  # of these folders


def _warn_once(folder: str, reason: object) -> None:
    if folder not in _warned:
        _warned.add(folder)
        logger.warning("kernels cannot be kept in %s (%s); each process compiles them anew", folder, reason)


class KernelFiles(IndexDataCacheFile):
    """The files of one kernel, by what it was compiled for and from; none is believed unless it is whole."""

    def load(self, key: Any) -> Any:
        """Return what was saved, or nothing.

        Raises:
            OSError: if there is a file that cannot be read.
        """
        name = self._name(key)
        path = Path(self._data_path(name))
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content[:-DIGEST_SIZE]).digest() != content[-DIGEST_SIZE:]:
            logger.warning("the kernel kept in %s is damaged and compiled anew", path)
            return None
        return self._load_data(name)

    def save(self, key: Any, data: Any) -> None:
        """Write a file, whole or not at all.

        Raises:
            OSError: if it cannot be written.
        """
        self._save_data(self._name(key), data)

    def _name(self, key: Any) -> str:
        made_of = repr((_SOURCES, self._version, key)).encode()
        return f"{Path(self._index_name).stem}.{hashlib.sha256(made_of).hexdigest()[:16]}.nbc"

    def _dump(self, obj: Any) -> bytes:
        content = super()._dump(obj)
        return content + hashlib.sha256(content).digest()


class KernelCache(FunctionCache):
    """Numba's cache of one kernel, without which a kernel still runs.

    Raises:
        RuntimeError: if there is no folder that can be written.
    """

    def __init__(self, function: Callable):
        super().__init__(function)
        self.is_kept = True
        theirs = self._cache_file
        self._cache_file = KernelFiles(theirs._cache_path, self._impl.filename_base, theirs._source_stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return a compiled kernel, or nothing."""
        try:
            return super().load_overload(sig, target_context)
        except OSError as error:
            _warn_once(self.cache_path, error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled kernel for other processes, if that is possible."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            self.is_kept = False
            _warn_once(self.cache_path, error)


def folder_of(kernel: Any) -> str | None:
    """Return the folder in which a kernel is kept, if it is."""
    cache = kernel._cache
    return cache.cache_path if isinstance(cache, KernelCache) and cache.is_kept else None


def kept_on_disk(kernel: Any) -> Any:
    """Let a kernel be kept on disk, where there is a folder for it."""
    try:
        kernel._cache = KernelCache(kernel.py_func)
    except RuntimeError:  # Numba has tried every folder that it may use
        folder = config.CACHE_DIR or str(Path(__file__).parent / "__pycache__")  # type: ignore[attr-defined]
        _warn_once(folder, "neither it nor another folder that Numba tries can be written")
    return kernel
