"""What may not be pushed as a dataset, before anything is asked of a Hub, and what its card tells."""

import json

import pytest
import yaml

from hmba_hf.data.driving.bddx import BDDXOptions, prepare_bddx
from hmba_hf.data.preparing.converting import RunOptions
from hmba_hf.data.preparing.publishing import CardText, PushOptions, push_folder, write_card
from synthetic_downloads import BDDX_ROWS, write_bddx_annotations


@pytest.fixture
def prepared(tmp_path):
    """A dataset of annotations alone."""
    path = write_bddx_annotations(tmp_path / "raw", BDDX_ROWS)
    prepare_bddx(BDDXOptions(str(path), annotations_only=True), RunOptions(str(tmp_path / "out")))
    return tmp_path / "out"


def test_options_must_name_a_repository(tmp_path):
    with pytest.raises(ValueError, match="push_to_hub must name the repository that is public, got None"):
        PushOptions(public=True)
    with pytest.raises(ValueError, match="push_to_hub must name a repository, got None"):
        push_folder(tmp_path, PushOptions())


def test_a_folder_without_a_finished_dataset_is_refused(prepared):
    (prepared / "report.json").unlink()
    with pytest.raises(
        ValueError, match="must hold a finished dataset, got an unfinished one: run the command that prepares it"
    ):
        push_folder(prepared, PushOptions("name/bddx"))
    with pytest.raises(ValueError, match="must hold a finished dataset, got no parquet file in .*data"):
        push_folder(prepared / "data", PushOptions("name/bddx"))


@pytest.mark.parametrize("name", ["rows", "written", "dropped", "found"])
def test_a_number_that_the_files_do_not_bear_out_is_refused(prepared, name):
    report = json.loads((prepared / "report.json").read_text())
    better = {**report["rows"], "train": 10**6} if name == "rows" else report[name] + 1
    (prepared / "report.json").write_text(json.dumps({**report, name: better}))
    with pytest.raises(
        ValueError, match="report.json must match the folder: rows, written, dropped and found must be"
    ):
        push_folder(prepared, PushOptions("name/bddx"))


def test_the_card_tells_terms_counts_settings_limits_and_how_it_is_read(prepared):
    report = json.loads((prepared / "report.json").read_text())
    text = CardText(**report["card"])
    _, metadata, card = write_card(text, report, "name/bddx", "0" * 40).split("---\n", 2)
    data = yaml.safe_load(metadata)
    assert (data["license"], data["license_name"]) == ("other", "bdd-x") and "BDD-X-dataset" in data["license_link"]
    assert data["task_categories"] == ["video-text-to-text"] and "driving" in data["tags"]
    for split, count in report["rows"].items():
        assert f"| {split} | {count} |" in card
    for reason, count in report["reasons"].items():
        assert f"| {reason} | {count} |" in card
    for part in (
        text.licence,
        "annotations_only=True",
        "Not for driving",
        f"hmba finetune --dataset_name name/bddx@{'0' * 40}",
    ):
        assert part in card, part
    assert f'repository = "name/bddx"\nrevision = "{"0" * 40}"\n' in card
    assert "revision = None" in (prepared / "README.md").read_text()
