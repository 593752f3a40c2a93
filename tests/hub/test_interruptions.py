"""Whatever breaks on the way to the Hub or back, the last whole revision stays loadable and no half file is kept."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoModelForImageTextToText

from tiny_models import tiny_model

NAME = "org/tiny"
SIZE = 300_000
TRIES = 6  # of huggingface_hub, before it gives up

UPLOAD = """
import sys
from huggingface_hub import upload_folder

upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2])
"""
DOWNLOAD = """
import sys
from huggingface_hub import snapshot_download

snapshot_download(sys.argv[1])
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """The client tries again at once."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))


@pytest.fixture
def api(hub):
    """The Hub has one revision of `NAME`."""
    api = HfApi()
    api.create_repo(NAME)
    api.upload_file(path_or_fileobj=bytes(SIZE), path_in_repo="model.safetensors", repo_id=NAME)
    return api


@pytest.fixture
def folder(tmp_path):
    """Another state of its files."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"\1" * SIZE)
    (folder / "config.json").write_text("{}")
    return folder


def pulled(tmp_path):
    """Download the file as a newcomer."""
    return Path(hf_hub_download(NAME, "model.safetensors", cache_dir=tmp_path / "newcomer")).read_bytes()


def kept_files():
    """List the contents in the cache, whole or not."""
    return {path.name for path in Path(constants.HF_HUB_CACHE).glob("models--*/blobs/*")}


def test_an_upload_goes_on_after_a_cut(hub, api, folder, tmp_path):
    hub.faults.cut_request("upload", after=SIZE // 2)
    api.upload_folder(repo_id=NAME, folder_path=folder)
    assert pulled(tmp_path) == b"\1" * SIZE
    assert [request.received for request in hub.asked("upload")] == [SIZE, SIZE // 2, SIZE]


@pytest.mark.parametrize("route", ["preupload", "lfs_batch", "upload", "lfs_verify", "commit"])
def test_an_upload_that_breaks_off_leaves_the_revision_before_it(hub, api, folder, tmp_path, route):
    before = hub.repository(NAME).head
    hub.faults.cut_request(route, after=20, times=1 if route == "commit" else TRIES)
    with pytest.raises(Exception, match="disconnected|reset|Broken pipe|Error while uploading"):
        api.upload_folder(repo_id=NAME, folder_path=folder)
    assert hub.repository(NAME).head == before
    assert pulled(tmp_path) == bytes(SIZE)

    after = api.upload_folder(repo_id=NAME, folder_path=folder).oid
    assert hub.repository(NAME).head == after
    assert pulled(tmp_path) == b"\1" * SIZE


@pytest.mark.parametrize("transport", ["lfs", "xet"])
def test_a_commit_that_fails_changes_nothing_and_can_be_made_again(hub, api, folder, transport, tmp_path):
    before = hub.repository(NAME).head
    hub.faults.fail("commit", status=403)
    with pytest.raises(HfHubHTTPError) as error:
        api.upload_folder(repo_id=NAME, folder_path=folder)
    assert error.value.response.status_code == 403
    assert hub.repository(NAME).head == before and pulled(tmp_path) == bytes(SIZE)
    uploads = len(hub.asked("upload"))
    api.upload_folder(repo_id=NAME, folder_path=folder)
    assert pulled(tmp_path) == b"\1" * SIZE
    assert len(hub.asked("upload")) == uploads, "large files that have arrived are not sent again"


def test_a_lost_answer_to_a_commit_makes_no_second_commit(hub, api, folder):
    before = len(list(hub.repository(NAME).log()))
    hub.faults.cut_response("commit", after=0)
    with pytest.raises(Exception, match="disconnected|reset"):
        api.upload_folder(repo_id=NAME, folder_path=folder)
    api.upload_folder(repo_id=NAME, folder_path=folder)
    assert len(list(hub.repository(NAME).log())) == before + 1


def start(script, *arguments):
    """Run a script that a test will kill."""
    return subprocess.Popen([sys.executable, "-I", "-c", script, *map(str, arguments)], stderr=subprocess.DEVNULL)


def test_an_uploader_that_is_killed_leaves_the_revision_before_it(hub, api, folder, tmp_path):
    before = hub.repository(NAME).head
    held = hub.faults.hold("upload")
    process = start(UPLOAD, NAME, folder)
    held.wait_until_reached()
    process.send_signal(signal.SIGKILL)
    process.wait()
    held.release()
    assert hub.repository(NAME).head == before and pulled(tmp_path) == bytes(SIZE)
    api.upload_folder(repo_id=NAME, folder_path=folder)
    assert pulled(tmp_path) == b"\1" * SIZE


def test_a_download_goes_on_where_it_was_cut(hub, api, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", SIZE // 30)  # what has come is kept in whole chunks
    hub.faults.cut_response("download", after=SIZE // 3)
    path = hf_hub_download(NAME, "model.safetensors")
    assert Path(path).read_bytes() == bytes(SIZE)
    assert [request.range for request in hub.asked("download")] == [None, f"bytes={SIZE // 3}-"]


def test_a_download_that_fails_leaves_no_half_file(hub, api):
    hub.faults.cut_response("download", after=SIZE // 3)
    hub.faults.fail("download", status=503)
    with pytest.raises(HfHubHTTPError, match="503"):
        hf_hub_download(NAME, "model.safetensors")
    assert kept_files() == set()
    assert Path(hf_hub_download(NAME, "model.safetensors")).read_bytes() == bytes(SIZE)


def test_a_downloader_that_is_killed_leaves_nothing_that_is_taken_for_a_file(hub, api, tmp_path):
    hub.faults.cut_response("download", after=SIZE // 3)
    held = hub.faults.hold("download")
    environment = {**os.environ, "HF_HUB_CACHE": constants.HF_HUB_CACHE}
    command = [sys.executable, "-I", "-c", DOWNLOAD, NAME]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    held.wait_until_reached()
    process.send_signal(signal.SIGKILL)
    process.wait()
    held.release()
    assert hashlib.sha256(bytes(SIZE)).hexdigest() not in kept_files()
    assert (Path(snapshot_download(NAME)) / "model.safetensors").read_bytes() == bytes(SIZE)


def test_a_model_whose_download_breaks_off_is_an_error_and_then_a_model(hub, tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    HfApi().create_repo(NAME)
    HfApi().upload_folder(repo_id=NAME, folder_path=tmp_path / "model")
    hub.faults.fail("download", status=503)
    with pytest.raises(OSError, match=f"connection error when trying to load {NAME}"):
        AutoModelForImageTextToText.from_pretrained(NAME)
    AutoModelForImageTextToText.from_pretrained(NAME)


def test_two_pushes_at_once_both_arrive_whole(hub, api, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes([number + 1]) * SIZE)
        (folder / "number.txt").write_text(str(number))
        (folder / f"{number}.txt").write_text("")
    held = hub.faults.hold("commit")
    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(api.upload_folder, repo_id=NAME, folder_path=folders[0])
        held.wait_until_reached()
        fast = threads.submit(api.upload_folder, repo_id=NAME, folder_path=folders[1]).result()
        held.release()
        last = slow.result()
    log = [commit.id for commit in hub.repository(NAME).log()]
    assert log[:2] == [last.oid, fast.oid]
    for commit, number in ((fast, 1), (last, 0)):
        files = hub.repository(NAME).files(commit.oid)
        assert files["model.safetensors"] == bytes([number + 1]) * SIZE
        assert files["number.txt"] == str(number).encode()
    assert {"0.txt", "1.txt"} <= hub.repository(NAME).files().keys()


def test_of_two_pushes_on_one_parent_the_second_is_refused(hub, api, tmp_path):
    """What the first changes may be what the second left out because it was there already: the files of two models."""
    (tmp_path / "model.safetensors").write_bytes(bytes(SIZE))  # as it is on the Hub, and therefore not sent
    (tmp_path / "config.json").write_text("{}")
    parent = hub.repository(NAME).head
    held = hub.faults.hold("commit")
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(api.upload_folder, repo_id=NAME, folder_path=tmp_path, parent_commit=parent)
        held.wait_until_reached()
        add = {"path_or_fileobj": b"\1" * SIZE, "path_in_repo": "model.safetensors", "repo_id": NAME}
        fast = api.upload_file(**add, parent_commit=parent)
        held.release()
        with pytest.raises(HfHubHTTPError) as error:
            slow.result()
    assert error.value.response.status_code == 412
    assert hub.repository(NAME).head == fast.oid
