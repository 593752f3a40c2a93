"""A kernel runs, whatever is wrong with the folder in which it is kept."""

import importlib.util
import logging
import os
import resource
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from numba import config, njit

from hmba_hf.models import ops_backends, ops_cache_cpu
from hmba_hf.models.ops_cache_cpu import folder_of, kept_on_disk
from hmba_hf.models.ops_selective_scan import selective_scan
from test_ops_selective_scan import scan_inputs


@pytest.fixture(autouse=True)
def warned_of_nothing():
    ops_cache_cpu._warned.clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Stand for a new process: `start()` returns a kernel that is not in memory yet."""
    source = tmp_path / "added.py"
    source.write_text("def add(x, y):\n    return x + y\n")
    spec = importlib.util.spec_from_file_location("added", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, spec.name, module)  # a kernel from the disk imports its module
    return lambda: kept_on_disk(njit(module.add))


def loaded(kernel):
    """Call a kernel and tell whether it came from the disk."""
    assert kernel(20, 22) == 42
    return bool(kernel.stats.cache_hits)


def kept_file(folder):
    (file,) = folder.rglob("*.nbc")
    return file


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_kernel_is_compiled_once_for_all_processes(folder, start, caplog):
    assert [loaded(start()) for _ in range(3)] == [False, True, True]
    assert warnings_of(caplog) == []


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGE = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "one bit turned": flip,
    "something else": lambda content: b"no kernel",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_a_miss_and_is_mended(kind, folder, start, caplog):
    loaded(start())
    file = kept_file(folder)
    file.write_bytes(DAMAGE[kind](file.read_bytes()))
    assert not loaded(start())
    (warning,) = warnings_of(caplog)
    assert str(file) in warning and "damaged" in warning
    assert loaded(start())


def test_a_pipe_in_the_place_of_a_file_is_a_miss_and_is_mended(folder, start, caplog):
    loaded(start())
    file = kept_file(folder)
    file.unlink()
    os.mkfifo(file)
    assert not loaded(start())
    (warning,) = warnings_of(caplog)
    assert str(file) in warning and "damaged" in warning
    assert loaded(start())


def test_a_file_that_cannot_be_read_is_a_miss(folder, start, caplog):
    loaded(start())
    file = kept_file(folder)
    file.unlink()
    (file / "a folder in its place").mkdir(parents=True)
    for _ in range(2):
        kernel = start()
        assert not loaded(kernel) and folder_of(kernel) is None
    (warning,) = warnings_of(caplog)
    assert str(file) in warning and "cannot be kept" in warning


@contextmanager
def full_disk():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_kernel_in_memory(folder, start, caplog):
    for _ in range(2):
        kernel = start()
        with full_disk():
            assert not loaded(kernel)
        assert loaded(kernel) is False and folder_of(kernel) is None
    (warning,) = warnings_of(caplog)
    assert str(folder) in warning and "cannot be kept" in warning
    assert [loaded(start()) for _ in range(2)] == [False, True]


def test_a_folder_that_vanishes_leaves_the_kernel_in_memory(folder, start, caplog):
    kernel = start()
    shutil.rmtree(folder)
    folder.touch()
    assert not loaded(kernel)
    (warning,) = warnings_of(caplog)
    assert str(folder) in warning and "cannot be kept" in warning


def test_where_no_folder_can_be_written_kernels_are_in_memory_alone(folder, start, monkeypatch, tmp_path, caplog):
    for place in (folder, tmp_path / "__pycache__", tmp_path / "home"):
        place.touch()  # a file where a folder would be
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for _ in range(2):
        kernel = start()
        assert not loaded(kernel) and folder_of(kernel) is None
    (warning,) = warnings_of(caplog)
    assert str(folder) in warning and "cannot be kept" in warning


def test_a_compiler_that_is_turned_off_is_named(monkeypatch, caplog):
    monkeypatch.delenv("HMBA_SCAN_BACKEND", raising=False)
    monkeypatch.setattr(config, "DISABLE_JIT", 1)
    for path in Path(ops_cache_cpu.__file__).parent.glob("ops_*_cpu.py"):
        if path.stem != "ops_cache_cpu":
            monkeypatch.delitem(sys.modules, f"hmba_hf.models.{path.stem}", raising=False)
    ops_backends._loaded.clear()
    try:
        assert selective_scan(**scan_inputs())[0].isfinite().all()
        assert "NUMBA_DISABLE_JIT=1 turns off the compiler" in warnings_of(caplog)[0]
        monkeypatch.setenv("HMBA_SCAN_BACKEND", "cpu")
        with pytest.raises(RuntimeError, match="NUMBA_DISABLE_JIT=1"):
            selective_scan(**scan_inputs())
    finally:
        ops_backends._loaded.clear()
