import json
import math
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from asked_clips import save_halves
from hmba_hf import decode_frames
from hmba_hf.data.actions.epic_kitchens import EpicKitchensOptions, prepare_epic_kitchens
from hmba_hf.data.actions.questioned import head_names
from hmba_hf.data.loading import load_samples
from hmba_hf.data.preparing.converting import RunOptions
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor
from numbered_videos import read_numbers
from synthetic_downloads import EPIC_RATES, epic_row, write_epic_download, write_epic_list
from tiny_runs import run_example, run_script

EXAMPLE = Path(__file__).parents[1] / "examples" / "prepare_epic_kitchens.py"
ROUNDING = Fraction(1, 1000)


@pytest.fixture(scope="module")
def kitchens(tmp_path_factory):
    """Two videos with numbered frames, at 25 and at 59.94 a second, and the lists about them."""
    return write_epic_download(tmp_path_factory.mktemp("epic"))


def options_of(kitchens, **changes):
    values = {
        "videos": str(kitchens / "epic"),
        "verb_classes": str(kitchens / "EPIC_100_verb_classes.csv"),
        "noun_classes": str(kitchens / "EPIC_100_noun_classes.csv"),
        "train_files": [str(kitchens / "EPIC_100_train.csv")],
        "fps": 10.0,
        **changes,
    }
    return EpicKitchensOptions(**values)


def prepared(kitchens, output, **changes):
    return prepare_epic_kitchens(options_of(kitchens, **changes), RunOptions(str(output), num_workers=1))


def rows_of(folder, split="train"):
    return {row["id"]: row for row in load_samples(str(folder), split).rows}


def shown(row):
    """The numbers of all frames of the clip of a row."""
    return read_numbers(decode_frames(row["video"]["bytes"], None, None)[0])


def frames_at(video, first, last, fps=10):
    """The numbers of the frames that a video shows at `first`, `first + 1 / fps` and so on up to `last`.

    The times of frames may be rounded by a millisecond.
    """
    count = math.floor((last - first) * fps + 1e-6) + 1
    times = [Fraction(str(round(first + k / fps, 6))) for k in range(count)]
    return [math.floor((time + ROUNDING) * EPIC_RATES[video]) for time in times]


def test_a_clip_of_recognition_shows_the_annotated_times_at_any_frame_rate(kitchens, tmp_path):
    report = prepared(kitchens, tmp_path)
    assert report["found"] == report["written"] == 4
    rows = rows_of(tmp_path)
    assert shown(rows["P01_11_0"]) == frames_at("P01_11", 1.56, 2.45)
    assert shown(rows["P01_11_1"]) == [75]
    assert shown(rows["P02_101_0"]) == frames_at("P02_101", 2.35, 4.1)
    assert shown(rows["P02_101_1"]) == frames_at("P02_101", 5.5, 6.0)
    assert report["notes"] == {"ends_with_the_video": ["P02_101_1"]}
    row = rows["P02_101_0"]
    assert (row["video_id"], row["participant_id"], row["narration"]) == ("P02_101", "P02", "take plate")
    assert (row["start"], row["stop"], row["clip_start"], row["clip_end"]) == (2.35, 4.1, 2.35, 4.1)


def test_a_clip_of_anticipation_ends_before_the_action_and_shows_none_of_it(kitchens, tmp_path):
    report = prepared(kitchens, tmp_path, task="anticipation", window=1.0)
    rows = rows_of(tmp_path)
    assert shown(rows["P01_11_0"]) == frames_at("P01_11", 0.06, 0.56)
    assert shown(rows["P01_11_1"]) == frames_at("P01_11", 1.0, 2.0)
    assert shown(rows["P02_101_0"]) == frames_at("P02_101", 0.35, 1.35)
    assert shown(rows["P02_101_1"]) == frames_at("P02_101", 3.5, 4.5)
    for row in rows.values():
        assert max(shown(row)) / EPIC_RATES[row["video_id"]] <= row["start"] - 1 + ROUNDING
    assert (rows["P02_101_0"]["clip_start"], rows["P02_101_0"]["clip_end"]) == pytest.approx((0.35, 1.35))
    assert report["notes"] == {"observes_less_than_the_window": ["P01_11_0"]}
    card = (tmp_path / "README.md").read_text()
    assert "ends 1 s before the action starts, shows up to 1 s" in card and "`anticipation_time=1.0`" in card


def test_an_action_with_nothing_to_observe_before_it_is_counted(kitchens, tmp_path):
    rows = [epic_row("P01_11_0", 0.4, 2), epic_row("P01_11_1", 0.5, 2), epic_row("P01_11_2", 0.54, 2)]
    files = [write_epic_list(tmp_path / "train.csv", rows)]
    report = prepared(kitchens, tmp_path / "out", train_files=files, task="anticipation", anticipation_time=0.5)
    assert report["reasons"] == {"nothing_to_observe": 1} and report["dropped_records"][0]["id"] == "P01_11_0"
    assert {name: shown(row) for name, row in rows_of(tmp_path / "out").items()} == {"P01_11_1": [0], "P01_11_2": [1]}


def test_rows_have_a_class_for_each_head_and_a_test_needs_no_labels(kitchens, tmp_path):
    prepared(kitchens, tmp_path, test_files=[str(kitchens / "EPIC_100_test_timestamps.csv")])
    samples = load_samples(str(tmp_path), "train")
    assert head_names(samples.rows.features) == {"verb": ["take", "put"], "noun": ["tap", "board:chopping", "plate"]}
    assert samples[1].labels == {"verb": 1, "noun": 1}
    assert samples[1].label_names == {"verb": "put", "noun": "board:chopping"}
    assert [sample.questions for sample in samples] == [()] * 4 and samples[0].tags == ()
    (sample,) = load_samples(str(tmp_path), "test")
    assert sample.labels == {"verb": None, "noun": None} and sample.label_names == {"verb": None, "noun": None}
    size = {"height": 32, "width": 32}
    processor = VideoMambaVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size=size)
    assert processor([sample.video])["pixel_values_videos"].shape == (1, 4, 3, 32, 32)
    card = (tmp_path / "README.md").read_text()
    assert "cc-by-nc-4.0" in card and "upper bound" in card and "The clip shows the action." in card


def test_questions_stand_in_rows_by_their_source(kitchens, tmp_path):
    (tmp_path / "from_labels.csv").write_text(
        "narration_id,verb question,noun question\nP01_11_0,What happens?,What is taken?\nP01_11_1,What now?,\n"
    )
    (tmp_path / "predicted.json").write_text(json.dumps({"P01_11_0": {"noun_question": "What is washed?"}}))
    report = prepared(
        kitchens,
        tmp_path / "out",
        annotation_questions=[str(tmp_path / "from_labels.csv")],
        predicted_questions=[str(tmp_path / "predicted.json")],
    )
    first, second, *others = load_samples(str(tmp_path / "out"), "train")
    assert first.questions_from("annotation") == {"verb": "What happens?", "noun": "What is taken?"}
    assert first.questions_from("predicted") == {"noun": "What is washed?"}
    assert second.questions_from("annotation") == {"verb": "What now?"}
    assert all(not sample.questions for sample in others)
    assert report["notes"]["without_annotation_question_of_noun"] == ["P01_11_1", "P02_101_0", "P02_101_1"]
    assert len(report["notes"]["without_predicted_question_of_verb"]) == 4
    assert "`questions=['annotation', 'predicted']`" in (tmp_path / "out" / "README.md").read_text()


def test_questions_made_of_labels_are_labelled_as_made_of_the_answers(kitchens, tmp_path):
    report = prepared(
        kitchens, tmp_path, label_questions=True, test_files=[str(kitchens / "EPIC_100_test_timestamps.csv")]
    )
    sample = load_samples(str(tmp_path), "train")[1]
    assert sample.questions_from("annotation") == {
        "verb": "What does the person do with the chopping board?",
        "noun": "What is the object of the action to put?",
    }
    assert load_samples(str(tmp_path), "test")[0].questions == ()
    assert report["notes"] == {"ends_with_the_video": ["P02_101_1"]}


def test_groups_become_tags(kitchens, tmp_path):
    prepared(
        kitchens,
        tmp_path,
        validation_files=[str(kitchens / "EPIC_100_validation.csv")],
        validation_unseen=str(kitchens / "EPIC_100_unseen_participant_ids_validation.csv"),
        tail_verbs=str(kitchens / "EPIC_100_tail_verbs.csv"),
        tail_nouns=str(kitchens / "EPIC_100_tail_nouns.csv"),
    )
    tags = {sample.id: sample.tags for sample in load_samples(str(tmp_path), "train")}
    assert tags["P01_11_0"] == ("tail_noun", "tail_action"), "participants are seen in the training split"
    assert tags["P01_11_1"] == ("tail_verb", "tail_action")
    (sample,) = load_samples(str(tmp_path), "validation")
    assert sample.tags == ("unseen", "tail_verb", "tail_noun", "tail_action")


def test_every_entry_becomes_a_row_or_is_named_with_the_reason(kitchens, tmp_path):
    rows = [
        epic_row("P01_11_0", 1, 2),
        epic_row("P01_11_0", 3, 4),
        epic_row("P01_11_1", 3, 2.5),
        epic_row("P01_11_2", 1, 2, verb_class=2),
        epic_row("P01_11_3", 1, 2, noun_class=-1),
        epic_row("P01_11_4", 1, 2, noun_class=""),
        epic_row("P01_11_5", 1, 2, start_timestamp="1.0"),
        epic_row("P01_11_6", 1, 2, stop_timestamp="00:61:00.00"),
        epic_row("P01_11_7", 8, 9),
        epic_row("P01_11_8", 1, 2, participant_id=""),
        epic_row("", 1, 2, video_id="P01_11"),
        epic_row("P03_01_0", 1, 2),
        epic_row("P04_01_0", 1, 2),
    ]
    path = tmp_path / "train.csv"
    write_epic_list(path, rows)
    with open(path, "a") as file:
        file.write("P01_11_9,P01\n")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "P01_11.mp4").write_bytes((kitchens / "epic" / "P01" / "P01_11.MP4").read_bytes())
    (tmp_path / "videos" / "P04_01.mp4").write_bytes(b"no video")
    (tmp_path / "q.csv").write_text(
        "narration_id,verb_question\nP01_11_0,How?\nP01_11_1,How?\nP09_01_0,How?\nP01_11_2,\n"
    )
    report = prepared(
        kitchens,
        tmp_path / "out",
        train_files=[str(path)],
        videos=str(tmp_path / "videos"),
        predicted_questions=[str(tmp_path / "q.csv")],
    )
    assert [(item["id"], item["reason"]) for item in report["dropped_records"]] == [
        ("train.csv, line 15", "malformed_entry"),
        ("P01_11_0", "doubled_id"),
        ("P01_11_1", "segment_ends_before_it_starts"),
        ("P01_11_2", "unknown_class"),
        ("P01_11_3", "unknown_class"),
        ("P01_11_4", "unknown_class"),
        ("P01_11_5", "time_is_no_number"),
        ("P01_11_6", "time_is_no_number"),
        ("P01_11_8", "malformed_entry"),
        ("train.csv, line 12", "malformed_entry"),
        ("q.csv, line 5", "malformed_entry"),
        ("P09_01_0", "question_of_no_action"),
        ("P01_11_7", "segment_after_the_video"),
        ("P03_01_0", "media_missing"),
        ("P04_01_0", "media_unreadable"),
    ]
    assert report["rows"] == {"train": 1} and report["found"] == 16
    assert [sample.id for sample in load_samples(str(tmp_path / "out"), "train")] == ["P01_11_0"]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"train_files": []}, "train_files, validation_files or test_files must be given, got none"),
        ({"videos": "nowhere"}, "videos must be a folder, got 'nowhere'"),
        ({"fps": 0.0}, "height must be at least 2 and fps from 0.01 to 1000, got 320 and 0.0"),
        ({"task": "retrieval"}, "task must be one of .*got 'retrieval'"),
        ({"task": "anticipation", "window": 0.0}, "window above 0 s, got 1.0 and 0.0"),
        ({"task": "anticipation", "anticipation_time": -1.0}, "anticipation_time must be above 0.001 s, .*got -1.0"),
        ({"task": "anticipation", "anticipation_time": 0.0}, "anticipation_time must be above 0.001 s, .*got 0.0 and"),
        ({"task": "anticipation", "anticipation_time": 0.001}, "anticipation_time must be above 0.001 s, .*got 0.001"),
        ({"anticipation_time": 2.0}, "anticipation_time would have no effect: they belong to the task anticipation"),
        ({"annotation_questions": ["q.csv"], "label_questions": True}, "label_questions would have no effect"),
        ({"test_unseen": "unseen.csv"}, "test_unseen would have no effect: there are no test_files"),
    ],
)
def test_options_that_cannot_be_met_are_refused(kitchens, changes, wanted):
    with pytest.raises((ValueError, FileNotFoundError), match=wanted):
        options_of(kitchens, **changes)


@pytest.mark.parametrize(
    ("option", "text", "wanted"),
    [
        ("verb_classes", "id,key\n0,take\n2,put\n", "must number its 2 classes from 0 on, got"),
        ("verb_classes", "id,key\n0,take\n1,take\n", "file.csv, line 3, must name a new class, got 'take'"),
        ("verb_classes", "id,name\n0,take\n", "must have the columns id, key, got"),
        ("noun_classes", "id,key\n", "must name classes, got none"),
        ("noun_classes", "id,key\n0,tap\n", "must have actions of known classes .* must be a number below 1, got '2'"),
        (
            "train_files",
            "narration_id,video_id\na,b\n",
            "must have the columns .*without participant_id, start_timest",
        ),
        ("validation_unseen", "participant\nP01\n", "must have the columns participant_id, got"),
        ("tail_verbs", "verb\n2\n", "file.csv, line 2, must be the number of one of 2 classes, got '2'"),
        ("tail_nouns", "noun\nplate\n", "must be the number of one of 3 classes, got 'plate'"),
        (
            "predicted_questions",
            "narration_id,verb_question\nP09_0,How?\n",
            "predicted questions must be about the act",
        ),
    ],
)
def test_a_malformed_file_is_refused(kitchens, tmp_path, option, text, wanted):
    (tmp_path / "file.csv").write_text(text)
    path = str(tmp_path / "file.csv")
    changes = {option: [path] if option.endswith(("files", "questions")) else path}
    if option == "validation_unseen":
        changes["validation_files"] = [str(kitchens / "EPIC_100_validation.csv")]
    with pytest.raises(ValueError, match=wanted):
        prepared(kitchens, tmp_path / "out", **changes)


def test_labels_may_be_absent_from_the_test_alone(kitchens, tmp_path):
    with pytest.raises(ValueError, match="must have the columns .*without narration, verb_class, noun_class"):
        prepared(kitchens, tmp_path, validation_files=[str(kitchens / "EPIC_100_test_timestamps.csv")])


def test_the_same_run_resumes_and_another_task_is_refused(kitchens, tmp_path):
    prepared(kitchens, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    (tmp_path / "data" / "train-00000-of-00001.parquet").unlink()
    prepared(kitchens, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before
    with pytest.raises(ValueError, match="prepared from other input or with other options"):
        prepared(kitchens, tmp_path, task="anticipation")


def test_rows_of_the_official_list_are_all_planned(kitchens, tmp_path, shared_data):
    head = shared_data / "epic100_head"
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "P01_11.MP4").write_bytes((kitchens / "epic" / "P01" / "P01_11.MP4").read_bytes())
    report = prepared(
        kitchens,
        tmp_path / "out",
        verb_classes=str(head / "EPIC_100_verb_classes.csv"),
        noun_classes=str(head / "EPIC_100_noun_classes.csv"),
        train_files=[],
        validation_files=[str(head / "EPIC_100_validation.head200.csv")],
        videos=str(tmp_path / "videos"),
        label_questions=True,
    )
    assert report["found"] == 200 and report["reasons"] == {"segment_after_the_video": 145, "media_missing": 52}
    samples = load_samples(str(tmp_path / "out"), "validation")
    names = head_names(samples.rows.features)
    assert (len(names["verb"]), len(names["noun"])) == (97, 300)
    assert samples[0].label_names == {"verb": "take", "noun": "plate"}
    assert samples[0].questions_from("annotation")["verb"] == "What does the person do with the plate?"
    assert shown(rows_of(tmp_path / "out", "validation")["P01_11_1"]) == frames_at("P01_11", 1.56, 2.45)
    assert "Attribution" in (tmp_path / "out" / "LICENSE").read_text()


def test_the_example_prepares_a_dataset(kitchens, tmp_path, monkeypatch, capsys):
    words = ["--videos", str(kitchens / "epic"), "--output_dir", str(tmp_path), "--task", "anticipation"]
    for kind in ("verb", "noun"):
        words += [f"--{kind}_classes", str(kitchens / f"EPIC_100_{kind}_classes.csv")]
    words += ["--train_files", str(kitchens / "EPIC_100_train.csv"), "--fps", "5", "--label_questions"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *words])
    run_script(EXAMPLE)
    printed = capsys.readouterr().out
    assert "rows written" in printed and "observes_less_than_the_window" in printed
    assert len(load_samples(str(tmp_path), "train")) == 4


def test_a_prepared_dataset_is_learned_and_scored_by_its_groups(kitchens, tmp_path):
    lists = {
        "validation_files": [str(kitchens / "EPIC_100_validation.csv")],
        "validation_unseen": str(kitchens / "EPIC_100_unseen_participant_ids_validation.csv"),
        "tail_verbs": str(kitchens / "EPIC_100_tail_verbs.csv"),
    }
    prepared(kitchens, tmp_path / "epic", label_questions=True, **lists)
    vision, text = save_halves(tmp_path)
    words = ["--vision", vision, "--text", text, "--dataset_name", tmp_path / "epic", "--num_frames", 2]
    words += ["--max_steps", 1, "--per_device_train_batch_size", 2, "--use_cpu", "True", "--disable_tqdm", "True"]
    words += ["--dataloader_num_workers", 0]
    run_example("finetune_mambavl.py", *words, "--output_dir", tmp_path / "run")
    words = ["--model", tmp_path / "run", "--dataset_name", tmp_path / "epic", "--split", "validation"]
    words += ["--device_map", "cpu", "--questions", "annotation", "--draws", 5]
    run_example("evaluate.py", *words, "--output_dir", tmp_path / "scores")
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert set(metrics["tags"]) == {"unseen", "tail_verb", "tail_action"}
    assert {"verb_top_1", "noun_class_mean_top_5_recall", "action_top_5"} <= set(metrics["scores"])
