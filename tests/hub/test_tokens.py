"""A token goes to the Hub and nowhere else: not to other machines, not into logs, caches, repositories or results."""

import logging
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from transformers import AutoModelForImageTextToText

from hmba_hf.data.preparing.publishing import PushOptions, push_folder
from tiny_models import tiny_model

NAME = "org/tiny"
# A push and a pull that say all they can say.
TALKATIVE = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
from huggingface_hub import HfApi, snapshot_download

name, folder = sys.argv[1:]
HfApi().create_repo(name, private=True, exist_ok=True)
HfApi().upload_folder(repo_id=name, folder_path=folder)
snapshot_download(name)
try:
    snapshot_download("org/none")
except Exception as error:
    print(error)
"""


def all_bytes(folder):
    return b"".join(path.read_bytes() for path in Path(folder).rglob("*") if path.is_file())


@pytest.mark.parametrize("transport", ["lfs", "xet"])
def test_no_log_holds_the_token(hub, run, transport, tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    variables = {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug", "HF_XET_LOG_LEVEL": "debug"}
    done = run(TALKATIVE, NAME, tmp_path / "model", **variables)  # which looks for tokens in what was said
    assert done.returncode == 0, done.stderr
    assert "authenticated: True" in done.stderr and "Repository Not Found" in done.stdout
    assert hub.token.encode() not in all_bytes(tmp_path)


@pytest.mark.parametrize("transport", ["lfs", "xet"])
def test_no_file_and_no_error_holds_the_token(hub, transport, tmp_path, caplog, capfd, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(constants, "HF_DEBUG", True)
    logging.getLogger("huggingface_hub").setLevel(logging.DEBUG)
    try:
        tiny_model().save_pretrained(tmp_path / "model")
        (tmp_path / "data" / "data").mkdir(parents=True)
        (tmp_path / "data" / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
        HfApi().create_repo(NAME, private=True)
        HfApi().upload_folder(repo_id=NAME, folder_path=tmp_path / "model")
        push_folder(tmp_path / "data", PushOptions(NAME))
        AutoModelForImageTextToText.from_pretrained(NAME)
        with pytest.raises(OSError) as error:
            AutoModelForImageTextToText.from_pretrained("org/none")
    finally:
        logging.getLogger("huggingface_hub").setLevel(logging.NOTSET)
    said = caplog.text + "".join(capfd.readouterr()) + repr(error.value) + repr(error.value.__cause__)
    files = b"".join(content for name in hub.repositories.values() for content in name.files().values())
    for token in hub.users:
        assert token not in said
        assert token.encode() not in files + all_bytes(tmp_path) + all_bytes(constants.HF_HOME)


def test_the_token_stays_on_the_way_to_the_storage(hub, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    HfApi().create_repo(NAME)
    HfApi().upload_folder(repo_id=NAME, folder_path=tmp_path)
    HfApi().snapshot_download(NAME)
    stored = [request for request in hub.requests if request.host == "localhost"]
    assert {request.route for request in stored} == {"upload", "download"}
    assert not any(request.authorized for request in stored)
    assert {request.user for request in hub.requests if request.authorized} == {"name"}
