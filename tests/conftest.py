"""What every test starts from: no network, a Hub cache of its own, one seed, and the shared fixtures."""

import atexit
import gc
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

# The Hub libraries read these once, when they are imported, so they are set before anything imports them.
assert "huggingface_hub" not in sys.modules, "huggingface_hub was imported before its environment was set"
HUB_HOME = tempfile.mkdtemp(prefix="hmba-hf-tests-")
atexit.register(shutil.rmtree, HUB_HOME, ignore_errors=True)
# The Hub's address is on this machine; nobody listens there, unless the tests in `hub/` start their server on it.
HUB_SOCKET = socket.socket()
HUB_SOCKET.bind(("127.0.0.1", 0))
os.environ.update(
    HF_ENDPOINT=f"http://127.0.0.1:{HUB_SOCKET.getsockname()[1]}",
    HF_HOME=HUB_HOME,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_UPDATE_DOWNLOAD_COUNTS="0",
    DISABLE_SAFETENSORS_CONVERSION="1",
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_TEST_DEVICE="cpu",  # its suites would move models, but not our inputs, to a GPU
)
os.environ["NUMBA_CACHE_DIR"] = str(Path(__file__).parents[1] / ".cache" / "numba")
os.environ["TRITON_INTERPRET"] = "1"  # Triton's kernels run on the CPU
for variable in ("NO_PROXY", "no_proxy"):
    os.environ[variable] = ",".join(filter(None, [os.environ.get(variable), "localhost", "127.0.0.1"]))

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from hmba_hf.messages import show_messages  # noqa: E402

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
# The marks that transformers' own suites put on their tests.
UPSTREAM_MARKS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "is_training_test",
    "slow",
    "torch_compile_test",
)


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for mark in UPSTREAM_MARKS:
        config.addinivalue_line("markers", f"{mark}: used by transformers' own suites")
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


def pytest_collection_finish():
    """Leave what imports and collection have made out of each later search for garbage, which trainings begin with."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same random numbers, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the suites of transformers draw from numpy's global generator


@pytest.fixture(autouse=True)
def usual_scheduling():
    """No test goes on as a real-time thread, which SVT-AV1 makes of a thread of root that encodes."""
    yield
    if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture(scope="session", autouse=True)
def shown_messages():
    """What the package reports is printed, as in its commands."""
    show_messages()


@pytest.fixture(scope="session")
def hub_socket():
    """The socket of the address that `HF_ENDPOINT` names."""
    return HUB_SOCKET


@pytest.fixture
def poisoned_memory(monkeypatch):
    """Memory that is taken without being cleared holds NaN, so that a result that was never written shows."""
    with torch.device("meta"):
        torch.empty(0)  # torch lists at first use which functions heed a device, and must not list ours
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoning(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoning(torch.Tensor.new_empty))


def poisoning(allocate):
    def poisoned(*args, **kwargs):
        x = allocate(*args, **kwargs)
        if x.is_floating_point() and not x.is_meta:
            x.data.fill_(float("nan"))  # its data, since a leaf that wants gradients refuses to be filled
        return x

    return poisoned


@pytest.fixture
def java(monkeypatch, tmp_path):
    """Put a shell script in the place of Java: `java(script)`; before that there is none on the PATH."""
    from hmba_hf.metrics.caption_tokens import java_version

    def install(script):
        fake = tmp_path / "java"
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
        java_version.cache_clear()

    monkeypatch.setenv("PATH", str(tmp_path))
    java_version.cache_clear()
    yield install
    java_version.cache_clear()


@pytest.fixture(scope="session")
def stored_model(tmp_path_factory):
    """A random model in a folder, with its processor."""
    from tiny_bases import save_base

    torch.manual_seed(0)
    return save_base(tmp_path_factory.mktemp("stored_model"), adapter="mamba")


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The same without an adapter."""
    from tiny_bases import save_base

    torch.manual_seed(0)
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def stored_run(stored_model, tmp_path_factory):
    """What `hmba evaluate` leaves about it."""
    from tiny_runs import evaluate

    return evaluate(stored_model, tmp_path_factory.mktemp("stored_run"))


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real clips and damaged files, `data` in `../shared` or in the folder that `HMBA_SHARED` names."""
    folder = Path(os.environ.get("HMBA_SHARED") or ROOT.parent / "shared") / "data"
    if not folder.is_dir():
        reason = f"this test reads real clips from {folder}, which does not exist; HMBA_SHARED may name its parent"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return folder


@pytest.fixture(scope="session")
def golden():
    """Load stored numbers: `golden(name) -> (tensors, facts)`, of which a name may lack one."""

    def load(name):
        tensors, facts = GOLDEN / f"{name}.safetensors", GOLDEN / f"{name}.json"
        if not (tensors.exists() or facts.exists()):
            raise FileNotFoundError(f"no golden numbers named {name!r} in {GOLDEN}")
        return load_file(tensors) if tensors.exists() else {}, json.loads(facts.read_text()) if facts.exists() else {}

    return load
