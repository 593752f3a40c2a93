import csv
import json
import sys
from pathlib import Path

import datasets
import pytest

from hmba_hf.data.actions.preparing import ActionOptions, VideoIndex, prepare_actions
from hmba_hf.data.actions.questioned import head_names, questioned
from hmba_hf.data.loading import load_samples
from hmba_hf.data.preparing.converting import RunOptions
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor
from numbered_videos import numbered_video
from tiny_runs import run_script

EXAMPLE = Path(__file__).parents[1] / "examples" / "prepare_actions.py"


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory):
    """Two classes of Kinetics: four videos that can be read, a broken one, a missing one, one of an unknown class."""
    folder = tmp_path_factory.mktemp("kinetics")
    (folder / "videos" / "jump").mkdir(parents=True)
    good = numbered_video(12)
    rows = []
    for number, (label, split) in enumerate([("run", "train"), ("jump", "train"), ("run", "val"), ("", "test")]):
        rows.append((label, f"id-{number}", 0, 10, split))
        (folder / "videos" / "jump" / f"id-{number}_000000_000010.mp4").write_bytes(good)
    rows += [("run", "broken", 0, 10, "train"), ("run", "missing", 0, 10, "train"), ("fly", "id-1", 0, 10, "train")]
    (folder / "videos" / "broken_000000_000010.mp4").write_bytes(good[: len(good) // 2])
    with open(folder / "all.csv", "w", newline="") as file:
        csv.writer(file).writerows([("label", "youtube_id", "time_start", "time_end", "split"), *rows])
    (folder / "classes.txt").write_text("jump\nrun\n")
    return folder


def prepared(kinetics, output, **changes):
    listed = [str(kinetics / "all.csv")]
    options = ActionOptions(
        videos=str(kinetics / "videos"),
        train_files=listed,
        validation_files=listed,
        test_files=listed,
        labels=str(kinetics / "classes.txt"),
        **changes,
    )
    return prepare_actions(options, RunOptions(str(output), num_workers=1))


def test_every_entry_becomes_a_row_or_is_named_with_the_reason(kinetics, tmp_path):
    report = prepared(kinetics, tmp_path)
    assert report["found"] == 7 and report["rows"] == {"train": 2, "validation": 1, "test": 1}
    reasons = {item["id"]: item["reason"] for item in report["dropped_records"]}
    assert reasons == {
        "broken_000000_000010": "media_unreadable",
        "missing_000000_000010": "media_missing",
        "id-1_000000_000010-2": "unknown_class",
    }
    samples = load_samples(str(tmp_path), "train")
    assert [(sample.id, sample.label, sample.label_name) for sample in samples] == [
        ("id-0_000000_000010", 1, "run"),
        ("id-1_000000_000010", 0, "jump"),
    ]
    assert samples.rows.features["label"].names == ["jump", "run"]
    assert load_samples(str(tmp_path), "test")[0].label is None
    card = (tmp_path / "README.md").read_text()
    assert "video-classification" in card and "hmba finetune classification" in card and "driving" not in card


def test_a_dataset_that_is_read_is_classified_and_streamed(kinetics, tmp_path):
    prepared(kinetics, tmp_path)
    processor = VideoMambaVideoProcessor(
        num_frames=4, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    samples = load_samples(str(tmp_path), "train")
    assert processor([sample.video for sample in samples])["pixel_values_videos"].shape == (2, 4, 3, 32, 32)
    assert list(load_samples(str(tmp_path), "train", streaming=True)) == list(samples)


def test_lists_of_kinetics_and_of_something_something_reach_models_of_several_heads(kinetics, tmp_path):
    prepared(kinetics, tmp_path / "k400")
    samples = load_samples(str(tmp_path / "k400"), "train")
    assert head_names(samples.rows.features) == {"action": ["jump", "run"]}
    assert [questioned(sample).labels for sample in samples] == [{"action": 1}, {"action": 0}]
    (tmp_path / "labels.json").write_text('{"Taking something": "0"}')
    (tmp_path / "train.json").write_text('[{"id": "id-0_000000_000010", "template": "Taking [something]"}]')
    options = ActionOptions(
        videos=str(kinetics / "videos"),
        train_files=[str(tmp_path / "train.json")],
        labels=str(tmp_path / "labels.json"),
    )
    prepare_actions(options, RunOptions(str(tmp_path / "ssv2"), num_workers=1))
    sample = questioned(load_samples(str(tmp_path / "ssv2"), "train")[0])
    assert sample.labels == {"action": 0} and sample.label_names == {"action": "Taking something"}


def test_rows_can_hold_paths_instead_of_bytes(kinetics, tmp_path):
    report = prepared(kinetics, tmp_path, by_path=True)
    assert report["written"] == 4
    samples = load_samples(str(tmp_path), "train")
    assert samples[0].video == str(kinetics / "videos" / "jump" / "id-0_000000_000010.mp4")
    assert samples.rows[0]["video"]["bytes"] is None


def test_the_same_run_resumes_and_another_list_is_refused(kinetics, tmp_path):
    prepared(kinetics, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    (tmp_path / "data" / "train-00000-of-00001.parquet").unlink()
    prepared(kinetics, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before
    with pytest.raises(ValueError, match="prepared from other input or with other options"):
        prepared(kinetics, tmp_path, by_path=True)


def test_a_list_of_another_machine_and_equal_names_are_told_apart(tmp_path):
    for name in ("run/1.mp4", "jump/1.mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(numbered_video(4, first=path.parent.name == "run"))
    (tmp_path / "train.csv").write_text("/data/run/1.mp4 1\njump/1.mp4 0\n1 1\n")
    options = ActionOptions(videos=str(tmp_path / "videos"), train_files=[str(tmp_path / "train.csv")])
    report = prepare_actions(options, RunOptions(str(tmp_path / "out"), num_workers=1))
    assert report["rows"] == {"train": 2} and report["reasons"] == {"several_videos": 1}
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train").cast_column("video", datasets.Video(False))
    wanted = [(tmp_path / "videos" / name).read_bytes() for name in ("run/1.mp4", "jump/1.mp4")]
    assert [row["video"]["bytes"] for row in rows] == wanted


def test_one_bad_entry_of_a_list_ends_no_run(kinetics, tmp_path):
    template = {"template": "Running [somewhere]"}
    rows = [
        {"id": "id-0_000000_000010"} | template,
        {"id": "id-1_000000_000010", "template": "a \ud800"},
        {"id": "a" * 300} | template,
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    options = ActionOptions(videos=str(kinetics / "videos"), train_files=[str(tmp_path / "train.json")])
    report = prepare_actions(options, RunOptions(str(tmp_path / "out"), num_workers=1))
    assert report["rows"] == {"train": 1}
    assert report["reasons"] == {"text_is_no_unicode": 1, "media_missing": 1}


@pytest.mark.parametrize("video", ["../private.mp4", "run/../../private.mp4", "{folder}/private.mp4", "/"])
def test_a_path_of_a_list_leads_to_no_video_out_of_the_folder(video, tmp_path):
    place = tmp_path / "videos" / "run" / "1.mp4"
    place.parent.mkdir(parents=True)
    for path in (place, tmp_path / "private.mp4"):
        path.write_bytes(b"a video")
    index = VideoIndex(tmp_path / "videos")
    assert index.find(video.format(folder=tmp_path)) == []
    assert index.find(str(place)) == [place]


@pytest.mark.parametrize("video", ["../run/1.mp4", "../data/run/1.mp4", "data/../run/1.mp4", "/data/../run/1.mp4"])
def test_a_path_that_goes_up_ends_in_one_of_the_folder(video, tmp_path):
    place = tmp_path / "run" / "1.mp4"
    place.parent.mkdir()
    place.write_bytes(b"a video")
    assert VideoIndex(tmp_path).find(video) == [place]


def test_bad_videos_can_stop_the_run(kinetics, tmp_path):
    listed = [str(kinetics / "all.csv")]
    options = ActionOptions(videos=str(kinetics / "videos"), train_files=listed, labels=str(kinetics / "classes.txt"))
    with pytest.raises(ValueError, match="media_unreadable .*000000_000010.mp4"):
        prepare_actions(options, RunOptions(str(tmp_path), on_error="stop"))
    with pytest.raises(FileNotFoundError, match="videos must be a folder, got"):
        ActionOptions(videos=str(tmp_path / "none"))


def test_the_example_prepares_folders_of_webm_files(tmp_path, monkeypatch, capsys):
    for split, name in (("train", "up/1.webm"), ("validation", "down/2.webm")):
        path = tmp_path / "ssv2" / split / name
        path.parent.mkdir(parents=True)
        path.write_bytes(numbered_video(6, container="webm", codec="libvpx"))
    words = ["--videos", str(tmp_path / "ssv2"), "--output_dir", str(tmp_path / "out"), "--title", "Up"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *words])
    run_script(EXAMPLE)
    assert "rows written" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["card"]["title"] == "Up"
    assert load_samples(str(tmp_path / "out"), "validation")[0].label_name == "down"
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *words, "--by_path", "--push_to_hub", "someone/up"])
    with pytest.raises(ValueError, match="by_path must be false to push"):
        run_script(EXAMPLE)
