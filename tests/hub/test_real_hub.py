"""The same on the real Hub, for who asks for it:

HMBA_TEST_HUB_NAMESPACE=my-name HF_TOKEN=hf_... python -m pytest tests/hub/test_real_hub.py

It creates a private repository in that namespace, pushes to it, pulls from it and deletes it.
"""

import os
import subprocess
import sys

import pytest

from tiny_models import lively_model
from tiny_processors import tiny_processor

NAMESPACE, TOKEN = (os.environ.get(name) for name in ("HMBA_TEST_HUB_NAMESPACE", "HF_TOKEN"))
ROUND_TRIP = """
import pathlib, sys, tempfile, uuid
from huggingface_hub import HfApi, snapshot_download
from transformers import AutoConfig

namespace, folder = sys.argv[1], pathlib.Path(sys.argv[2])
api, name = HfApi(), f"{namespace}/hmba-hf-test-{uuid.uuid4().hex[:8]}"
api.create_repo(name, private=True)
try:
    commit = api.upload_folder(repo_id=name, folder_path=folder).oid
    assert api.upload_folder(repo_id=name, folder_path=folder).oid == commit
    api.create_tag(name, tag="v1")
    (folder / "note.txt").write_text("later")
    later = api.upload_folder(repo_id=name, folder_path=folder, delete_patterns="*.safetensors*").oid
    (folder / "note.txt").unlink()
    for revision in ("v1", commit, later):
        with tempfile.TemporaryDirectory() as cache:
            snapshot = pathlib.Path(snapshot_download(name, revision=revision, cache_dir=cache))
            for path in folder.iterdir():
                assert (snapshot / path.name).read_bytes() == path.read_bytes(), path.name
            assert (snapshot / "note.txt").exists() == (revision == later)
    assert api.model_info(name).private and api.model_info(name).pipeline_tag == "video-text-to-text"
    config = AutoConfig.from_pretrained(name, revision=commit, trust_remote_code=True)
    assert type(config).__module__.startswith("transformers_modules."), type(config).__module__
finally:
    api.delete_repo(name)
"""


@pytest.fixture
def checkpoint(tmp_path):
    """A model of random weights, as `save_pretrained` leaves it, and a card."""
    lively_model().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    card = "---\npipeline_tag: video-text-to-text\nlicense: mit\n---\n# A test of hmba-hf: random weights\n"
    (tmp_path / "model" / "README.md").write_text(card)
    return tmp_path / "model"


@pytest.mark.parametrize("transport", ["xet"])  # which the real one asks for
def test_the_hub_on_this_machine_passes_the_test_of_the_real_one(hub, run, transport, checkpoint):
    done = run(ROUND_TRIP, "org", checkpoint)
    assert done.returncode == 0, done.stderr
    assert hub.repositories == {} and hub.asked("delete_repository")


@pytest.mark.skipif(
    not (NAMESPACE and TOKEN) or os.environ.get("CI") == "true",
    reason="this test writes to the real Hub: set HMBA_TEST_HUB_NAMESPACE and HF_TOKEN for it, and not CI",
)
def test_a_checkpoint_goes_to_the_real_hub_and_back(checkpoint, tmp_path):
    environment = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    command = [sys.executable, "-I", "-c", ROUND_TRIP, NAMESPACE, str(checkpoint)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert TOKEN not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
