import runpy
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import RepoUrl, constants

from hmba_hf.data.publishing import PushOptions, push_folder
from synthetic_downloads import BDDX_ROWS, write_bddx_annotations

EXAMPLE = Path(__file__).parents[1] / "examples" / "prepare_bddx.py"


@pytest.fixture
def hub(monkeypatch):
    """A Hub that keeps what it is asked for; the repository name/open is public."""

    class FakeApi:
        calls = []

        def create_repo(self, repo_id, **options):
            self.calls.append(("create_repo", repo_id, options))
            self.private = options["private"] and repo_id != "name/open"
            return RepoUrl(f"{constants.ENDPOINT}/datasets/{repo_id}")

        def repo_info(self, repo_id, repo_type):
            return huggingface_hub.DatasetInfo(id=repo_id, private=self.private)

        def upload_folder(self, **options):
            self.calls.append(("upload_folder", options.pop("repo_id"), options))

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    return FakeApi.calls


def test_a_dataset_is_pushed_to_a_private_repository(hub, tmp_path):
    assert push_folder(tmp_path, PushOptions("name/drama")) == f"{constants.ENDPOINT}/datasets/name/drama"
    (create, name, options), (upload, _, upload_options) = hub
    assert (create, name) == ("create_repo", "name/drama")
    assert options == {"repo_type": "dataset", "private": True, "exist_ok": True}
    assert upload == "upload_folder" and upload_options["folder_path"] == tmp_path
    assert upload_options["allow_patterns"] == ["data/*.parquet", "README.md", "report.json", "LICENSE"]
    assert upload_options["delete_patterns"] == "data/*.parquet", "files of an earlier dataset do not stay among these"


def test_only_who_asks_for_it_makes_a_dataset_public(hub, tmp_path):
    push_folder(tmp_path, PushOptions("name/drama", public=True))
    assert hub[0][2]["private"] is False


def test_a_repository_that_is_public_already_gets_nothing_unasked(hub, tmp_path):
    with pytest.raises(ValueError, match="name/open is public"):
        push_folder(tmp_path, PushOptions("name/open"))
    assert [call[0] for call in hub] == ["create_repo"]


def test_options_must_name_a_repository(tmp_path):
    with pytest.raises(ValueError, match="push_to_hub must name it"):
        PushOptions(public=True)
    with pytest.raises(ValueError, match="push_to_hub must name a repository, got None"):
        push_folder(tmp_path, PushOptions())


def test_the_example_pushes_what_it_has_finished(hub, tmp_path, monkeypatch, capsys):
    path = write_bddx_annotations(tmp_path / "raw", BDDX_ROWS)
    words = ["--annotations", str(path), "--annotations_only", "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *words, "--push_to_hub", "name/bddx"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert [call[:2] for call in hub] == [("create_repo", "name/bddx"), ("upload_folder", "name/bddx")]
    assert hub[1][2]["folder_path"] == str(tmp_path / "out") and (tmp_path / "out" / "README.md").is_file()
    assert f"pushed to {constants.ENDPOINT}/datasets/name/bddx" in capsys.readouterr().out
