"""The Hub on this machine does for its clients what the real one does: checked with plain huggingface_hub."""

import hashlib
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    get_session,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from xet import XetFiles, hash_text

both_transports = pytest.mark.parametrize("transport", ["lfs", "xet"])
CARD = "---\nlicense: mit\ntags: [driving]\npipeline_tag: video-text-to-text\n---\n# A model\n"


@pytest.fixture
def api(hub):
    return HfApi()


@pytest.fixture
def folder(tmp_path):
    """A folder with small and large files, one of them in a folder of its own."""
    folder = tmp_path / "folder"
    (folder / "data").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 1000)
    (folder / "data" / "a.bin").write_bytes(b"four" * 500)
    return folder


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def status_of(error):
    return error.value.response.status_code


@both_transports
def test_a_folder_comes_back_as_it_was_sent(hub, api, folder):
    url = api.create_repo("org/tiny", private=True)
    assert (url, url.repo_id) == (f"{hub.url}/org/tiny", "org/tiny")
    sent = api.upload_folder(repo_id="org/tiny", folder_path=folder)
    assert hub.repository("org/tiny").head == sent.oid

    wanted = files_below(folder)
    stored = hub.repository("org/tiny").files()
    assert {path: stored[path] for path in wanted} == wanted
    assert stored.keys() - wanted.keys() == {".gitattributes"}
    snapshot = snapshot_download("org/tiny")
    assert snapshot.endswith(sent.oid)
    for path, content in wanted.items():
        with open(f"{snapshot}/{path}", "rb") as file:
            assert file.read() == content


@both_transports
def test_large_files_take_the_way_of_their_transport(hub, api, folder, transport):
    api.create_repo("org/tiny")
    api.upload_folder(repo_id="org/tiny", folder_path=folder)
    hf_hub_download("org/tiny", "model.safetensors")
    over_http = {route: len(hub.asked(route)) for route in ("upload", "download")}
    assert over_http == ({"upload": 2, "download": 1} if transport == "lfs" else {"upload": 0, "download": 0})
    assert (len(hub.asked("xet_token")) > 0) == (transport == "xet")


@both_transports
def test_what_has_not_changed_is_not_sent_again(hub, api, folder):
    api.create_repo("org/tiny")
    first = api.upload_folder(repo_id="org/tiny", folder_path=folder)
    again = api.upload_folder(repo_id="org/tiny", folder_path=folder)
    assert again.oid == first.oid and len(list(hub.repository("org/tiny").log())) == 2
    uploads = len(hub.asked("upload"))
    (folder / "config.json").write_text("{}")
    api.upload_folder(repo_id="org/tiny", folder_path=folder)
    assert len(hub.asked("upload")) == uploads


@both_transports
def test_files_are_deleted_and_copied(hub, api, folder):
    api.create_repo("org/tiny")
    api.upload_folder(repo_id="org/tiny", folder_path=folder)
    operations = [
        CommitOperationCopy("model.safetensors", "copy.safetensors"),
        CommitOperationCopy("config.json", "copy.json"),
        CommitOperationDelete("data/"),
        CommitOperationAdd("note.txt", b"a note"),
    ]
    api.create_commit("org/tiny", operations, commit_message="Move")
    stored = hub.repository("org/tiny").files()
    assert stored["copy.safetensors"] == stored["model.safetensors"] and stored["copy.json"] == stored["config.json"]
    assert stored["note.txt"] == b"a note" and "data/a.bin" not in stored
    with pytest.raises(EntryNotFoundError):
        api.delete_file("none.txt", "org/tiny")


def test_branches_and_tags_keep_their_files(hub, api):
    api.create_repo("org/tiny")
    first = api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="org/tiny").oid
    api.create_tag("org/tiny", tag="v1")
    api.create_branch("org/tiny", branch="next/one")
    second = api.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id="org/tiny", revision="next/one").oid

    for revision, content in (("main", "1"), ("v1", "1"), ("next/one", "2"), (first, "1"), (second[:8], "2")):
        with open(hf_hub_download("org/tiny", "a.txt", revision=revision)) as file:
            assert file.read() == content
    refs = api.list_repo_refs("org/tiny")
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": first, "next/one": second}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": first}
    assert [commit.commit_id for commit in api.list_repo_commits("org/tiny", revision="next/one")][:2] == [
        second,
        first,
    ]

    for act, options in ((api.create_branch, {"branch": "next/one"}), (api.create_tag, {"tag": "v1"})):
        with pytest.raises(HfHubHTTPError) as error:
            act("org/tiny", **options)
        assert status_of(error) == 409
    api.delete_branch("org/tiny", branch="next/one")
    api.delete_tag("org/tiny", tag="v1")
    for revision in ("next/one", "v1"):
        with pytest.raises(RevisionNotFoundError):
            api.model_info("org/tiny", revision=revision)
    with pytest.raises(RevisionNotFoundError):
        api.upload_file(path_or_fileobj=b"3", path_in_repo="a.txt", repo_id="org/tiny", revision=first)


def test_lists_come_in_pages(hub, api, folder):
    hub.page_size = 2
    api.create_repo("org/tiny")
    api.upload_folder(repo_id="org/tiny", folder_path=folder)
    entries = {entry.path: entry for entry in api.list_repo_tree("org/tiny", recursive=True)}
    assert entries.keys() == {".gitattributes", "config.json", "data", "data/a.bin", "model.safetensors"}
    assert entries["model.safetensors"].lfs.size == 256_000 and entries["config.json"].lfs is None
    assert len(hub.asked("list_tree")) == 3
    assert [entry.path for entry in api.list_repo_tree("org/tiny", "data")] == ["data/a.bin"]
    assert [entry.path for entry in api.get_paths_info("org/tiny", ["data", "none"])] == ["data"]
    [info] = api.get_paths_info("org/tiny", "config.json", expand=True)
    assert info.last_commit.oid == hub.repository("org/tiny").head


def test_a_repository_is_created_once_and_deleted_once(hub, api):
    api.create_repo("org/tiny")
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo("org/tiny")
    assert status_of(error) == 409
    assert api.create_repo("org/tiny", exist_ok=True).repo_id == "org/tiny"
    assert api.create_repo("tiny").repo_id == "name/tiny"
    assert api.create_repo("org/tiny", repo_type="dataset") == f"{hub.url}/datasets/org/tiny"
    api.delete_repo("org/tiny")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("org/tiny")
    assert ("dataset", "org/tiny") in hub.repositories


def test_a_card_with_wrong_metadata_is_refused(hub, api):
    api.create_repo("org/tiny")
    wrong = {
        "license: free-as-air": "license",
        "pipeline_tag: driving": "pipeline_tag",
        "base_model: /home/me/base": "base_model",
        "model-index: [{name: x, results: [{task: {type: other}}]}]": "dataset.type",
        "license: [": "YAML",
    }
    for line, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            api.upload_file(
                path_or_fileobj=f"---\n{line}\n---\n".encode(), path_in_repo="README.md", repo_id="org/tiny"
            )
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.upload_file(path_or_fileobj=b"# Nothing", path_in_repo="README.md", repo_id="org/tiny")
    with warnings.catch_warnings(action="error"):
        api.upload_file(path_or_fileobj=CARD.encode(), path_in_repo="README.md", repo_id="org/tiny")
    info = api.model_info("org/tiny")
    assert (info.pipeline_tag, info.card_data.license) == ("video-text-to-text", "mit")
    assert {"driving", "license:mit"} <= {*info.tags}


def test_a_token_opens_what_is_its_own(hub, api):
    assert api.whoami()["name"] == "name" and [org["name"] for org in api.whoami()["orgs"]] == ["org"]
    assert api.whoami(token=hub.read_token)["auth"]["accessToken"]["role"] == "read"
    hub.create("org/tiny")
    add = {"path_or_fileobj": b"", "path_in_repo": "a", "repo_id": "org/tiny"}
    for token in (hub.other_token, hub.read_token):
        for act, options in (
            (api.create_repo, {"repo_id": "org/new"}),
            (api.upload_file, add),
            (api.create_tag, {"repo_id": "org/tiny", "tag": "v1"}),
            (api.delete_repo, {"repo_id": "org/tiny"}),
        ):
            with pytest.raises(HfHubHTTPError) as error:
                act(**options, token=token)
            assert status_of(error) == 403
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as error:
        api.model_info("org/tiny", token="hf_of_nobody")
    assert status_of(error) == 401
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo("org/new", token=False)
    assert status_of(error) == 401
    with pytest.raises(RepositoryNotFoundError) as error:
        api.upload_file(**add, token=False)
    assert status_of(error) == 401


def test_a_private_repository_does_not_exist_for_others(hub, api, tmp_path):
    hub.create("org/tiny")
    api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="org/tiny")
    api.update_repo_settings("org/tiny", private=True)
    hf_hub_download("org/tiny", "a.txt", token=hub.read_token)
    for token, status in ((hub.other_token, 404), (False, 401)):
        for act in (api.model_info, api.list_repo_commits, api.auth_check):
            with pytest.raises(RepositoryNotFoundError) as error:
                act("org/tiny", token=token)
            assert status_of(error) == status
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download("org/tiny", "a.txt", token=token, cache_dir=tmp_path)


def test_a_gated_repository_shows_itself_and_not_its_files(hub, api, tmp_path):
    hub.create("org/tiny")
    api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="org/tiny")
    hub.gate("org/tiny")
    for token, status in ((hub.other_token, 403), (False, 401)):
        assert api.model_info("org/tiny", token=token).gated == "auto"
        with pytest.raises(GatedRepoError) as error:
            hf_hub_download("org/tiny", "a.txt", token=token, cache_dir=tmp_path)
        assert status_of(error) == status
    hub.gate("org/tiny", granted=("other",))
    hf_hub_download("org/tiny", "a.txt", token=hub.other_token, cache_dir=tmp_path)


def test_a_commit_on_an_older_state_is_refused(hub, api):
    api.create_repo("org/tiny")
    old = hub.repository("org/tiny").head
    add = {"path_in_repo": "a.txt", "repo_id": "org/tiny", "parent_commit": old}
    api.upload_file(path_or_fileobj=b"1", **add)
    with pytest.raises(HfHubHTTPError) as error:
        api.upload_file(path_or_fileobj=b"2", **add)
    assert status_of(error) == 412
    assert hub.repository("org/tiny").files()["a.txt"] == b"1"


def test_what_is_missing_says_so(hub, api):
    api.create_repo("org/tiny")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/none")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("org/tiny", "a.txt", revision="none")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("org/tiny", "a.txt")
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("org/tiny", "none"))
    with pytest.raises(HfHubHTTPError, match="Invalid path"):
        api.create_commit("org/tiny", [CommitOperationDelete("a\\b")], commit_message="-")


@both_transports
def test_files_are_read_in_parts(hub, api, folder):
    api.create_repo("org/data", repo_type="dataset")
    api.upload_folder(repo_id="org/data", folder_path=folder, repo_type="dataset")
    system = HfFileSystem()
    assert {path.split("/")[-1] for path in system.ls("datasets/org/data", detail=False)} > {"data", "config.json"}
    with system.open("datasets/org/data/model.safetensors", block_size=1000, cache_type="readahead") as file:
        file.seek(70_000)
        assert file.read(100) == (bytes(range(256)) * 1000)[70_000:70_100]
    with system.open("datasets/org/data/config.json", "rb", block_size=0) as file:
        assert file.read() == (folder / "config.json").read_bytes()
    assert [request for request in hub.asked("download") if request.range and request.status == 206]


def test_storage_takes_no_token_and_needs_a_signature(hub, api, folder):
    api.create_repo("org/tiny")
    api.upload_folder(repo_id="org/tiny", folder_path=folder)
    hf_hub_download("org/tiny", "model.safetensors")
    moved = [request for request in hub.requests if request.host == "localhost"]
    assert {request.route for request in moved} == {"upload", "download"}
    assert not any(request.authorized for request in moved)

    [request] = hub.asked("download")
    link = hub.storage_url + request.path
    assert get_session().get(link).status_code == 200
    assert get_session().get(link.split("?")[0]).status_code == 403
    assert get_session().get(link, headers={"Authorization": f"Bearer {hub.token}"}).status_code == 400
    assert hub.leaks.pop().startswith("GET localhost /large/")


@both_transports
def test_a_pull_request_shows_its_files_at_its_own_ref(hub, api, folder):
    api.create_repo("org/tiny")
    first = api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="org/tiny").oid
    second = api.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id="org/tiny").oid
    proposed = files_below(folder)
    additions = [CommitOperationAdd(name, str(folder / name)) for name in proposed]
    made = api.create_commit("org/tiny", additions, commit_message="Propose", create_pr=True)
    assert (made.pr_revision, made.pr_num) == ("refs/pr/1", 1)
    assert made.pr_url == f"{hub.url}/org/tiny/discussions/1"
    repository = hub.repository("org/tiny")
    assert repository.head == second and "config.json" not in repository.files()
    stored = files_below(Path(snapshot_download("org/tiny", revision="refs/pr/1")))
    assert {name: stored[name] for name in proposed} == proposed

    more = api.upload_file(path_or_fileobj=b"3", path_in_repo="a.txt", repo_id="org/tiny", revision="refs/pr/1").oid
    other = api.create_commit(
        "org/tiny", [CommitOperationAdd("b.txt", b"b")], commit_message="-", parent_commit=first, create_pr=True
    )
    assert other.pr_num == 2 and repository.files("refs/pr/2")["a.txt"] == b"1"
    assert repository.files("refs/pr/1")["a.txt"] == b"3" and repository.head == second
    refs = api.list_repo_refs("org/tiny", include_pull_requests=True)
    assert {ref.ref: ref.target_commit for ref in refs.pull_requests} == {"refs/pr/1": more, "refs/pr/2": other.oid}
    assert [ref.name for ref in refs.branches] == ["main"]


def test_an_unknown_address_is_remembered(hub):
    from huggingface_hub import get_session

    assert get_session().get(f"{hub.url}/api/papers/1").status_code == 501
    assert get_session().get("http://huggingface.co/api/models/org/tiny").status_code == 501
    with pytest.raises(Exception, match="501"):
        get_session().get("https://huggingface.co/api/models/org/tiny")
    addresses = [hub.unhandled.pop(0) for _ in range(3)]
    assert [address.split()[0] for address in addresses] == ["GET", "GET", "CONNECT"]
    assert "huggingface.co:443" in addresses[2]


def test_faults_happen_where_they_are_asked_for(hub, api):
    api.create_repo("org/tiny")
    add = {"path_or_fileobj": b"1", "path_in_repo": "a.txt", "repo_id": "org/tiny"}
    for fault in (
        hub.faults.fail("commit", 500),
        hub.faults.cut_request("commit", 10),
        hub.faults.cut_response("commit", 0),
    ):
        before = hub.repository("org/tiny").head
        with pytest.raises(Exception):  # noqa: B017 - whatever the client makes of it
            api.upload_file(**add)
        assert fault.reached.is_set()
        assert (hub.repository("org/tiny").head != before) == (fault.cut_response == 0)

    held = hub.faults.hold("commit")
    thread = threading.Thread(
        target=api.create_commit, args=("org/tiny", [CommitOperationDelete("a.txt")]), kwargs={"commit_message": "-"}
    )
    thread.start()
    held.wait_until_reached()
    assert "a.txt" in hub.repository("org/tiny").files()
    held.release()
    thread.join()
    assert "a.txt" not in hub.repository("org/tiny").files()


def test_a_shard_that_goes_while_the_store_is_read_is_passed_over(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "gone.mdb").symlink_to(tmp_path / "nowhere")
    header, content_hash, sha256 = bytes(48), bytes(range(32)), bytes(32)
    file = content_hash + (1 << 30).to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes(8)
    segment = bytes(36) + (7).to_bytes(4, "little") + bytes(8)
    (tmp_path / "shards" / "whole.mdb").write_bytes(header + file + segment + sha256 + bytes(16) + b"\xff" * 48)
    files = XetFiles(tmp_path)
    assert files.size_of("0" * 64) == 7 and files.hash_of("0" * 64) == hash_text(content_hash)


def test_nobody_answers_what_an_earlier_test_has_sent(hub, api):
    """A process that a test has killed, or a thread that it has left, takes no fault of the next test."""
    api.create_repo("org/tiny")
    api.upload_file(path_or_fileobj=bytes(9), path_in_repo="a.bin", repo_id="org/tiny")
    link = hub.storage_link("GET", hashlib.sha256(bytes(9)).hexdigest())
    token = hub.token
    held = hub.faults.hold("download")
    with ThreadPoolExecutor(1) as threads:
        late = threads.submit(get_session().get, link)
        held.wait_until_reached()
        hub.reset()
        held.release()
        with pytest.raises(Exception, match="disconnected"):
            late.result()
    fault = hub.faults.fail("download")
    with pytest.raises(Exception, match="disconnected"):
        get_session().get(link)
    with pytest.raises(Exception, match="disconnected"):
        api.whoami(token=token)
    assert api.whoami(token=hub.token)["name"] == "name"
    assert [request.route for request in hub.requests] == ["whoami"]
    assert hub.unhandled == []
    assert hub.faults.clear() == [fault]
