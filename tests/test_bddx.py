import csv
import dataclasses
import sys
from pathlib import Path

import datasets
import pytest

from hmba_hf import decode_frames
from hmba_hf.data.driving.bddx import (
    BDDXOptions,
    find_videos,
    prepare_bddx,
    widen_span,
)
from hmba_hf.data.loading import load_samples
from hmba_hf.data.preparing.converting import RunOptions
from hmba_hf.data.samples import BDDX_QUESTION, from_bddx_row
from numbered_videos import read_numbers
from synthetic_downloads import (
    BDDX_LISTS,
    BDDX_ROWS,
    folder_bytes,
    write_bddx_annotations,
    write_bddx_download,
)
from tiny_runs import run_script

EXAMPLE = Path(__file__).parents[1] / "examples" / "prepare_bddx.py"


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    """The synthetic raw download: folder of the annotations and of the videos."""
    folder = tmp_path_factory.mktemp("bddx")
    write_bddx_download(folder)
    return folder


def options(folder, **changes):
    fields = {"annotations": str(folder / "BDD-X-Annotations_v1.csv"), "videos": str(folder / "videos")}
    return BDDXOptions(**(fields | changes))


@pytest.fixture(scope="module")
def prepared(download, tmp_path_factory):
    """The dataset made of the synthetic download, and its report."""
    folder = tmp_path_factory.mktemp("prepared")
    return folder, prepare_bddx(options(download), RunOptions(str(folder), num_workers=2))


def test_the_real_head_is_prepared_with_its_official_lists(shared_data, tmp_path):
    head = shared_data / "bddx_head" / "BDD-X-Annotations_v1.head1100.csv"
    for name, lines in {
        "train": (shared_data / "bddx_head" / "train.head40.txt").read_text(),
        "val": "",
        "test": "",
    }.items():
        (tmp_path / f"{name}.txt").write_text(lines)
    wanted = BDDXOptions(str(head), split_folder=str(tmp_path), annotations_only=True)
    report = prepare_bddx(wanted, RunOptions(str(tmp_path / "out")))
    with open(head, newline="") as file:
        rows = list(csv.reader(file))[1:41]
    full = sum(all(row[place : place + 4]) for row in rows for place in range(1, 61, 4))
    assert report["rows"] == {"train": full} and report["reasons"]["row_in_no_split_file"] == 4405 - full
    assert report["found"] == report["written"] + report["dropped"] == 4468
    assert "Regents" in (tmp_path / "out" / "LICENSE").read_text(), "the notice goes where the annotations go"


def test_every_record_becomes_a_row_or_is_named_with_its_reason(prepared):
    _, report = prepared
    assert report["rows"] == {"train": 6, "validation": 2, "test": 1}
    assert report["found"] == report["written"] + report["dropped"] == 23
    media = {item["id"]: (item["reason"], item["detail"]) for item in report["dropped_records"][-5:]}
    assert media.pop("aaaaaaaa-00000006_10")[1].startswith("aaaaaaaa-00000006.mov cannot be read as a video")
    assert media == {
        "aaaaaaaa-00000007_11": ("row_in_no_split_file", "row 6"),
        "aaaaaaaa-00000004_4": ("segment_ends_before_it_starts", "from 3 to 1 s"),
        "aaaaaaaa-00000004_8": ("segment_after_the_video", "from 30 s, the video ends at 6.100 s"),
        "aaaaaaaa-00000005_9": ("media_missing", "no video aaaaaaaa-00000005"),
    }
    assert report["notes"] == {
        "widened_to_two_seconds": ["aaaaaaaa-00000004_3", "aaaaaaaa-00000004_5"],
        "ends_with_the_video": ["aaaaaaaa-00000004_6"],
    }


def test_no_message_tells_where_the_download_lies(prepared, download):
    folder, _ = prepared
    for name in ("report.json", "README.md"):
        assert str(download) not in (folder / name).read_text()


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("aaaaaaaa-00000001_0", 0, 20),
        ("aaaaaaaa-00000001_1", 20, 40),
        ("aaaaaaaa-00000001_2", 10, 30),  # of the second annotation of the same video
        ("aaaaaaaa-00000004_3", 0, 20),  # 0 to 1 s, widened
        ("aaaaaaaa-00000004_5", 20, 40),  # 3 to 3 s, widened on both sides
        ("aaaaaaaa-00000004_6", 40, 60),  # 4 to 222 s, to the end of the video
    ],
)
def test_a_clip_shows_its_segment(prepared, name, first, last):
    samples = {sample.id: sample for sample in load_samples(str(prepared[0]), "train")}
    assert len(samples) == 6, "ids differ although a video is annotated twice"
    assert read_numbers(decode_frames(samples[name].video, None, None)[0]) == list(range(first, last + 1))


def test_rows_hold_the_annotation_as_it_is(prepared):
    rows = datasets.load_dataset(str(prepared[0]), split="train")
    row = rows[3]
    assert (row["video_id"], row["segment"], row["start"], row["end"]) == ("aaaaaaaa-00000004", 3, 0, 1)
    assert (row["action"], row["justification"]) == ("The car turns", "as it must")
    assert rows[0]["justification"] == "because it waits, for long", (
        "an answer has two lines, action and justification"
    )
    sample = from_bddx_row(row)
    assert (sample.id, sample.question) == ("aaaaaaaa-00000004_3", BDDX_QUESTION)
    assert rows[5]["end"] == 222


def test_no_video_is_in_two_splits(prepared):
    videos = {split: set(rows["video_id"]) for split, rows in datasets.load_dataset(str(prepared[0])).items()}
    assert not videos["train"] & videos["validation"] and not videos["train"] & videos["test"]


def test_annotations_alone_need_no_video_and_keep_every_segment(download, tmp_path):
    wanted = options(download, videos=None, annotations_only=True)
    report = prepare_bddx(wanted, RunOptions(str(tmp_path)))
    assert report["rows"] == {"train": 9, "validation": 2, "test": 2}
    row = datasets.load_dataset(str(tmp_path), split="train")[0]
    assert row["video"] is None and row["action"] == "The car is stopped."
    with pytest.raises(ValueError, match="row aaaaaaaa-00000001_0 must hold a video, got none: .* annotations only"):
        load_samples(str(tmp_path), "train")[0]


def test_a_missing_or_unreadable_video_can_stop_the_run(download, tmp_path):
    run = RunOptions(str(tmp_path), num_workers=1, on_error="stop")
    with pytest.raises(ValueError, match=r"aaaaaaaa-00000005_9: media_missing \(no video aaaaaaaa-00000005\)"):
        prepare_bddx(options(download), run)
    (tmp_path / "videos").mkdir()
    for path in (download / "videos" / "train").iterdir():
        (tmp_path / "videos" / path.name).symlink_to(path)
    (tmp_path / "videos" / "aaaaaaaa-00000005.mov").symlink_to(download / "videos" / "train" / "aaaaaaaa-00000001.mov")
    with pytest.raises(ValueError, match="aaaaaaaa-00000006_10: media_unreadable"):
        prepare_bddx(options(download, videos=str(tmp_path / "videos")), run)


def test_ranges_need_no_lists(tmp_path):
    path = write_bddx_annotations(tmp_path / "raw", BDDX_ROWS, {})
    wanted = BDDXOptions(str(path), split_rule="ranges", annotations_only=True)
    assert prepare_bddx(wanted, RunOptions(str(tmp_path / "out")))["rows"] == {"train": 14}
    with pytest.raises(FileNotFoundError, match="split_files needs .*train.txt; the rule ranges needs no such file"):
        prepare_bddx(BDDXOptions(str(path), annotations_only=True), RunOptions(str(tmp_path / "other")))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["seven"], "line 1 must be number_video, got 'seven'"),
        (["x_aaaaaaaa-00000001"], "line 1 must be number_video"),
        (["7_"], "line 1 must be number_video"),
        (["1_aaaaaaaa-00000001"], "line 1 must name a new row"),
        (
            ["2_aaaaaaaa-00000004"],
            "row 2 of the annotations must be about aaaaaaaa-00000004, .* got aaaaaaaa-00000001",
        ),
        (["9_aaaaaaaa-00000009"], "row 9 of the annotations must be .* got none: .* or the annotations are cut off"),
        (["0_aaaaaaaa-00000009"], "row 0 of the annotations must be about .* got none"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path, lines, message):
    path = write_bddx_annotations(tmp_path, BDDX_ROWS, {"train": BDDX_LISTS["train"][:1], "val": lines, "test": []})
    with pytest.raises(ValueError, match=message):
        prepare_bddx(BDDXOptions(str(path), annotations_only=True), RunOptions(str(tmp_path / "out")))


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [
        (5, 9, (5, 9)),
        (5, 7, (5, 7)),
        (0, 0, (0, 2)),
        (1, 1, (1, 3)),
        (20, 20, (19, 21)),
        (39, 39, (37, 39)),
        (0, 1, (0, 2)),
        (1, 2, (1, 3)),
        (2, 3, (1, 3)),
        (35, 222, (35, 40.1)),
        (39, 41, (38, 40.1)),
    ],
)
def test_short_segments_are_widened_as_adapt_does(start, end, wanted):
    assert widen_span(start, end, 40.1) == pytest.approx(wanted)


def test_videos_are_found_at_any_depth(tmp_path):
    for name in ("train/a.mov", "val/deep/b.MOV", "c.mp4", "d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert {name: path.name for name, path in find_videos(tmp_path).items()} == {
        "a": "a.mov",
        "b": "b.MOV",
        "c": "c.mp4",
    }


def test_videos_are_found_where_links_lead_and_folders_are_none(tmp_path):
    (tmp_path / "disk" / "a.mov").mkdir(parents=True)
    (tmp_path / "disk" / "z").mkdir()
    (tmp_path / "disk" / "z" / "a.mov").touch()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "train").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "videos")
    assert find_videos(tmp_path / "videos") == {"a": tmp_path / "videos" / "train" / "z" / "a.mov"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"annotations": None}, ValueError, "either annotations or files of the released layout"),
        ({"train_files": ["a", "b"]}, ValueError, "either annotations or files of the released layout"),
        ({"videos": None}, FileNotFoundError, "videos must be a folder, got None"),
        ({"videos": "nowhere"}, FileNotFoundError, "videos must be a folder, got 'nowhere'"),
        ({"fps": 0.001}, ValueError, "fps from 0.01 to 1000"),
        ({"height": 1}, ValueError, "height must be at least 2"),
        ({"images": "x"}, ValueError, "images would have no effect: the annotations are about videos"),
        ({"split_rule": "ranges", "split_folder": "x"}, ValueError, "split_folder would have no effect"),
        ({"annotations_only": True, "fps": 5.0}, ValueError, "videos, fps would have no effect: annotations_only"),
        ({"annotations_only": True, "videos": None, "max_pixels": 9}, ValueError, "max_pixels would have no effect"),
        ({"annotations": None, "train_files": ["a", "b"], "only_whole": True}, ValueError, "pictures, not videos"),
    ],
)
def test_options_that_do_not_go_together_are_refused(download, changes, error, message):
    with pytest.raises(error, match=message):
        options(download, **changes)


def test_the_rate_and_the_height_of_clips_can_be_chosen(download, tmp_path):
    prepare_bddx(options(download, fps=5.0, height=24), RunOptions(str(tmp_path)))
    frames, metadata = decode_frames(load_samples(str(tmp_path), "train")[0].video, None, None)
    assert frames.shape == (11, 24, 32, 3) and metadata.fps == 5


def test_the_example_prepares_and_says_what_became_of_all(download, prepared, tmp_path, monkeypatch, capsys):
    words = ["--annotations", download / "BDD-X-Annotations_v1.csv", "--videos", download / "videos"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, words), "--output_dir", str(tmp_path)])
    run_script(EXAMPLE)
    printed = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["media_unreadable", "1"] for line in printed)
    assert any(line.split() == ["rows", "written", "9"] for line in printed)
    assert folder_bytes(tmp_path) == folder_bytes(prepared[0])


def test_every_option_has_a_help_text():
    assert all(field.metadata.get("help") for field in dataclasses.fields(BDDXOptions))
