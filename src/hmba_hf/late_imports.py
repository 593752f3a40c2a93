"""Import a module as soon as another one is there, without importing that one."""

import importlib
import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# A module of these may import others of them in a circle, so nothing is started before the outermost one is complete.
_PACKAGES = ("hmba_hf", "transformers")


def after_importing(awaited: str, wanted: str) -> None:
    """Import the module `wanted` once the module `awaited` has been imported, now if it has been.

    It happens at the end of the import that brings `awaited`, before its importer can use it.
    """
    if awaited in sys.modules:
        importlib.import_module(wanted)
    else:
        sys.meta_path.insert(0, _Watching(awaited, wanted))


class _Watching:
    """A finder that finds what the others do, and knows when an import of transformers or this package is complete."""

    def __init__(self, awaited: str, wanted: str) -> None:
        self.awaited = awaited
        self.wanted = wanted
        self.running = threading.local()

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        if name.partition(".")[0] not in _PACKAGES:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                self.watch(spec)
                return spec
        return None

    def watch(self, spec: ModuleSpec) -> None:
        """Let the execution of a module end with a look at what is there."""
        loader: Any = spec.loader
        if loader is None or not hasattr(loader, "exec_module"):  # a folder without `__init__.py`
            return
        execute = loader.exec_module

        def execute_and_look(module: ModuleType) -> None:
            depth = getattr(self.running, "depth", 0)
            self.running.depth = depth + 1
            try:
                execute(module)
            finally:
                self.running.depth = depth
            if depth == 0:
                self.look()

        loader.exec_module = execute_and_look

    def look(self) -> None:
        """Import the wanted module if its time has come, once."""
        if self in sys.meta_path and self.awaited in sys.modules:
            sys.meta_path.remove(self)
            importlib.import_module(self.wanted)
