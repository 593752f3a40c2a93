"""Compiled CPU kernels on disk: one file for each, and a file that is wrong in any way is a miss.

A file ends with the digest of its content, so that a damaged one is found before any of it is used.
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
_warned: set[str] = set()  # folders


def _digest_sources() -> str:
    """Hash the source of all CPU kernels and this module's name, by which compiled code refers to its types."""
    digest = hashlib.sha256(__name__.encode())
    for path in sorted(Path(__file__).parent.glob("ops_*_cpu.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_SOURCES = _digest_sources()


def _warn_once(folder: str, reason: object) -> None:
    if folder not in _warned:
        _warned.add(folder)
        logger.warning("kernels cannot be kept in %s (%s); each process compiles them anew", folder, reason)


class KernelFiles(IndexDataCacheFile):
    """The files of one kernel, named after its source and signature; a file is used only if it is whole.

    Numba has no public way to name or check the files of its cache: names with an underscore are those of its class.
    """

    def load(self, key: Any) -> Any:
        """Return what was saved, or nothing.

        Raises:
            OSError: if a file exists but cannot be read.
        """
        name = self._name(key)
        path = Path(self._data_path(name))
        try:
            content = b"" if path.is_fifo() else path.read_bytes()  # the end of a pipe may never come
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
    """Numba's cache of one kernel; a kernel runs without it, too.

    Numba has no public way to set a kernel's cache or the class of its files: `_cache`, `_cache_file` and `_impl` are
    its private names.

    Raises:
        RuntimeError: if no folder can be written.
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
    if isinstance(cache, KernelCache) and cache.is_kept:
        return cache.cache_path
    return None


def kept_on_disk(kernel: Any) -> Any:
    """Keep a kernel on disk, if a folder can be written."""
    try:
        kernel._cache = KernelCache(kernel.py_func)
    except RuntimeError:  # Numba has tried every folder that it may use
        folder = config.CACHE_DIR or str(Path(__file__).parent / "__pycache__")  # type: ignore[attr-defined]  # Numba's, unseen
        _warn_once(folder, "neither it nor another folder that Numba tries can be written")
    return kernel
