"""Tests that reach a Hub: the one on this machine, and no other."""

import os
import subprocess
import sys

import pytest

from loopback_hub import LoopbackHub


@pytest.fixture(scope="session")
def loopback_hub(hub_socket, tmp_path_factory):
    """The server, which lives as long as the process that tests."""
    server = LoopbackHub(hub_socket, tmp_path_factory.mktemp("xet"))
    yield server
    server.close()


@pytest.fixture
def transport():
    """How large files travel: `"lfs"`, or `"xet"` where a test is parametrized with `transport`."""
    return "lfs"


@pytest.fixture
def hub(loopback_hub, transport, monkeypatch, tmp_path):
    """An empty Hub that this process and those that `run` starts are logged in to, and a cache of its own."""
    import datasets.config
    from huggingface_hub import HfFileSystem, close_session, constants

    assert constants.ENDPOINT == loopback_hub.url, "huggingface_hub was imported before its environment was set"
    loopback_hub.reset()
    environment = {
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": str(int(transport == "lfs")),
        "HF_TOKEN": loopback_hub.token,
        # Whatever is meant for another machine comes here too, where no route answers it.
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), loopback_hub.url),
        **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), loopback_hub.url),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", transport == "lfs")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache" / "datasets")
    close_session()  # so that the next one heeds this environment
    HfFileSystem.clear_instance_cache()
    yield loopback_hub
    pending = loopback_hub.faults.clear()
    close_session()
    HfFileSystem.clear_instance_cache()
    assert not pending, f"nothing has come to these faults: {pending}"


@pytest.fixture(autouse=True)
def every_request_is_answered(loopback_hub):
    """No test passes because of an address that is missing here, and none that lets a token out."""
    yield
    assert loopback_hub.unhandled == []
    assert loopback_hub.leaks == []


@pytest.fixture
def run(hub, tmp_path):
    """Run a script in a fresh process that knows this Hub: `run(script, *arguments, home=..., **variables)`."""

    def run(script, *arguments, home=tmp_path / "home", **variables):
        home.mkdir(exist_ok=True)
        kept = ("PATH", "NO_PROXY", "HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY")
        environment = {name: os.environ[name] for name in kept}
        environment |= {
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            "OMP_NUM_THREADS": "1",
            "HMBA_SCAN_BACKEND": "portable",  # code at a new place would compile its kernels anew
            **variables,
        }
        environment = {name: value for name, value in environment.items() if value is not None}
        command = [sys.executable, "-I", "-c", script, *map(str, arguments)]
        options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 240}
        done = subprocess.run(command, cwd=home, env=environment, **options)
        for token in hub.users:
            assert token not in done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def parts(stored_model):
    """The stored model and its processor."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    return AutoModelForImageTextToText.from_pretrained(stored_model), AutoProcessor.from_pretrained(stored_model)
