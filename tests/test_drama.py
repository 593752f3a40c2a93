import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path

import datasets
import pytest
from PIL import Image

from hmba_hf.data.driving.drama import (
    NO_RISK_ANSWER,
    DramaOptions,
    choose_frames,
    mark_subject,
    plan_clips,
    prepare_drama,
    read_annotations,
)
from hmba_hf.data.driving.drama_rows import QUESTIONS, EntryError, choose_question, fit_box, read_frames
from hmba_hf.data.loading import load_samples
from hmba_hf.data.preparing.converting import RunOptions
from synthetic_downloads import (
    DRAMA_SIZE,
    drama_record,
    folder_bytes,
    mean_red,
    write_drama_clip,
    write_drama_download,
)
from tiny_runs import run_script

EXAMPLE = Path(__file__).parents[1] / "examples" / "prepare_drama.py"
CLIPS = {
    "2020-0228-102841/035738": range(35720, 35739),
    "titan/clip_305_000786": range(770, 787),
    "titan/clip_7_000100": (90, 100, 101, 110),  # frames after the key frame, too
    "titan/clip_8_000003": (2, 3),  # fewer frames than wanted
    "titan/clip_9_000005": (4,),  # no key frame
    "titan/clip_11_000009": range(9, 10),
    "titan/clip_12_000009": range(5, 10),
    "titan/clip_13_000005": range(1, 6),
}
RECORDS = [
    drama_record("2020-0228-102841/035738", 35738),
    drama_record(
        "titan/clip_305_000786",
        786,
        geometry=[["4", "3.0"], ["12", "3"], ["12", "9"], ["4", "9"]],
        **{"Suggestions (to the ego car)": "N/A"},
    ),
    drama_record("titan/clip_1_000001", 1, Risk="No"),
    drama_record("titan/clip_2_000001", 1, Risk="No", Caption="N/A", geometry=[]),
    drama_record("titan/clip_3_000001", 1, Caption="N/A"),
    drama_record("titan/clip_4_000001", 1, geometry=[]),
    drama_record("titan/clip_7_000100", 100, geometry=[[-9, -5], [40, -5], [40, 9], [-9, 9]]),  # outside the picture
    drama_record("titan/clip_8_000003", 3, geometry=[[12, 9], [4, 9], [4, 3], [12, 3]]),  # from another corner
    drama_record("titan/clip_9_000005", 5),
    drama_record("titan/clip_10_000005", 5),  # no folder at all
    drama_record("titan/clip_11_000009", 9),  # unreadable
    drama_record("titan/clip_12_000009", 9),  # a frame of another size
    drama_record("titan/clip_13_000005", 5, geometry=[[4, 3], [4, 3], [4, 9], [4, 9]]),  # no width
    drama_record("titan/clip_13_000005", 5, geometry=[[40, 3], [50, 3], [50, 9], [40, 9]]),  # all of it outside
    drama_record("titan/clip_13_000005", 5, geometry=[["a", "b"], [1, 1], [2, 2]]),
    drama_record("titan/clip_13_000005", 5, geometry=[[1, 1]]),
    drama_record("titan/clip_13_000005", 5, Risk="perhaps"),
    drama_record("titan/clip_13_000005", 5, s3_fileUrl="https://elsewhere/frame_000005.png"),
    drama_record("titan/clip_13_000005", 5, Caption="A <box> is ahead"),
    "no record",
    drama_record("titan/clip_13_000005", 5, Caption="There is a dog."),
    drama_record("titan/clip_13_000005", 5, Caption="A half of two \ud83d is near."),
    drama_record("titan/clip_13_000005", 5, geometry=[[10**400, 1], [1, 1], [2, 2]]),
]


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    """The synthetic raw download, dirt included."""
    folder = tmp_path_factory.mktemp("drama")
    write_drama_download(folder, RECORDS, CLIPS)
    (folder / "combined" / "titan" / "clip_11_000009" / "frame_000009.png").write_bytes(b"This is no picture.")
    Image.new("RGB", (8, 8)).save(folder / "combined" / "titan" / "clip_12_000009" / "frame_000007.png")
    return folder


def options(folder, **changes):
    return DramaOptions(str(folder), **({"annotations": str(folder / "integrated_output_v2.json")} | changes))


@pytest.fixture(scope="module")
def prepared(download, tmp_path_factory):
    """The dataset made of the synthetic download, and its report."""
    folder = tmp_path_factory.mktemp("prepared")
    return folder, prepare_drama(options(download), RunOptions(str(folder), num_workers=2, rows_per_file=3))


def all_rows(folder):
    return {row["id"]: row for rows in datasets.load_dataset(str(folder)).values() for row in rows}


def test_the_suggestion_to_the_ego_car_becomes_a_tag_where_it_is_asked_for(download, prepared, tmp_path):
    prepare_drama(options(download, tags=True), RunOptions(str(tmp_path), rows_per_file=3))
    plain, tagged = all_rows(prepared[0]), all_rows(tmp_path)
    assert "tags" not in next(iter(plain.values()))
    told = {name: row.pop("tags") for name, row in tagged.items()}
    assert told.pop("titan_clip_305_000786_frame_000786") == [], "it is N/A"
    assert told and all(tags == ["suggestion: (must) Stop"] for tags in told.values())
    assert tagged == plain
    assert {tag for sample in load_samples(str(tmp_path), "train") for tag in sample.tags} == {*sum(told.values(), [])}


def test_every_record_becomes_a_row_or_is_named_with_its_reason(prepared):
    _, report = prepared
    assert report["found"] == report["written"] + report["dropped"] == len(RECORDS)
    reasons = {item["id"]: item["reason"] for item in report["dropped_records"]}
    assert reasons == {
        "titan_clip_1_000001_frame_000001": "no_risk",
        "titan_clip_2_000001_frame_000001": "no_risk",
        "titan_clip_3_000001_frame_000001": "no_caption",
        "titan_clip_4_000001_frame_000001": "no_box",
        "titan_clip_9_000005_frame_000005": "media_missing",
        "titan_clip_10_000005_frame_000005": "media_missing",
        "titan_clip_11_000009_frame_000009": "media_unreadable",
        "titan_clip_12_000009_frame_000009": "media_unreadable",
        "titan_clip_13_000005_frame_000005": "box_empty",
        "titan_clip_13_000005_frame_000005-2": "box_empty",
        "titan_clip_13_000005_frame_000005-3": "box_malformed",
        "titan_clip_13_000005_frame_000005-4": "box_malformed",
        "titan_clip_13_000005_frame_000005-5": "risk_unknown",
        "record 17": "key_frame_unknown",
        "titan_clip_13_000005_frame_000005-6": "caption_holds_a_marker",
        "record 19": "record_malformed",
        "titan_clip_13_000005_frame_000005-8": "text_is_no_unicode",
        "titan_clip_13_000005_frame_000005-9": "box_malformed",
    }
    assert report["notes"] == {
        "box_cut_at_the_edge": ["titan_clip_7_000100_frame_000100"],
        "first_frame_repeated": ["titan_clip_7_000100_frame_000100", "titan_clip_8_000003_frame_000003"],
    }


def test_no_message_tells_where_the_download_lies(prepared, download):
    folder, _ = prepared
    for name in ("report.json", "README.md"):
        assert str(download) not in (folder / name).read_text()


def test_rows_hold_frames_text_and_boxes_as_fractions(prepared):
    rows = all_rows(prepared[0])
    row = rows["titan_clip_305_000786_frame_000786"]  # the tail of its id is that of DRAMA-X
    assert (row["width"], row["height"]) == DRAMA_SIZE and row["risk"] == 1
    assert row["answer"] == "A black car<box> is driving ahead of the ego car."
    assert row["caption"] == "A black car is driving ahead of the ego car." and row["question"] in QUESTIONS
    assert row["objects"] == [{"bbox": pytest.approx([4 / 32, 3 / 24, 12 / 32, 9 / 24]), "category": "A black car"}]
    assert rows["titan_clip_7_000100_frame_000100"]["objects"][0]["bbox"] == [0, 0, 1, 9 / 24]
    turned = rows["titan_clip_8_000003_frame_000003"]["objects"][0]["bbox"]
    assert turned == pytest.approx([4 / 32, 3 / 24, 12 / 32, 9 / 24])


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("2020-0228-102841_035738_frame_035738", [35720, 35725, 35729, 35734, 35738]),
        ("titan_clip_305_000786_frame_000786", [770, 774, 778, 782, 786]),
        ("titan_clip_7_000100_frame_000100", [90, 90, 90, 90, 100]),
        ("titan_clip_8_000003_frame_000003", [2, 2, 2, 2, 3]),
    ],
)
def test_five_frames_end_at_the_key_frame_oldest_first(prepared, name, wanted):
    frames = all_rows(prepared[0])[name]["frames"]
    assert [frame.format for frame in frames] == ["JPEG"] * 5
    assert [mean_red(frame) for frame in frames] == pytest.approx([number % 256 for number in wanted], abs=2)


@pytest.mark.parametrize(
    ("numbers", "key", "step", "wanted"),
    [
        (range(1, 22), 21, None, [1, 6, 11, 16, 21]),
        (range(1, 22), 17, None, [1, 5, 9, 13, 17]),
        (range(1, 8), 7, 1, [3, 4, 5, 6, 7]),
        (range(1, 8), 7, 3, [1, 1, 1, 4, 7]),
        ((7,), 7, None, [7, 7, 7, 7, 7]),
        ((30, 7, 5, 6, 40), 7, 1, [5, 5, 5, 6, 7]),
    ],
)
def test_frames_are_spread_over_the_clip_or_a_step_apart(numbers, key, step, wanted):
    assert choose_frames(numbers, key, 5, step) == wanted


def test_one_frame_is_the_key_frame():
    assert choose_frames([1, 2, 3], 3, 1, None) == [3]


def test_number_and_step_of_frames_can_be_chosen(download, tmp_path):
    prepare_drama(options(download, num_frames=3, frame_step=2), RunOptions(str(tmp_path)))
    frames = all_rows(tmp_path)["titan_clip_305_000786_frame_000786"]["frames"]
    assert [round(mean_red(frame)) for frame in frames] == pytest.approx([782 % 256, 784 % 256, 786 % 256], abs=2)


def test_pictures_can_be_scaled_down(download, tmp_path):
    prepare_drama(options(download, height=12), RunOptions(str(tmp_path)))
    row = all_rows(tmp_path)["titan_clip_305_000786_frame_000786"]
    assert (row["width"], row["height"]) == (16, 12) == row["frames"][0].size
    assert row["objects"][0]["bbox"] == pytest.approx([4 / 32, 3 / 24, 12 / 32, 9 / 24])
    assert load_samples(str(tmp_path), "train")[0].size == (12, 16)


def test_every_split_reads_back_as_samples(prepared):
    folder, report = prepared
    for split, count in report["rows"].items():
        samples = load_samples(str(folder), split)
        assert len(samples) == count and all(len(sample.frames) == 5 for sample in samples)


def captions(records, *rule):
    return {record.id: record.split for record in plan_clips(records, *rule).entries}


def test_the_official_rule_splits_by_the_order_of_records_with_risk_caption_and_box():
    good = [drama_record(f"a/{number}", number) for number in range(21)]
    bad = [{**drama_record("b/1", 1), **change} for change in ({"Risk": "No"}, {"Caption": "N/A"}, {"geometry": []})]
    splits = captions([*bad, *good[:10], *bad, *good[10:], *bad], "official", False)
    assert list(splits.values()) == 14 * ["train"] + 3 * ["validation"] + 4 * ["test"]  # int(14.7), int(17.85) of 21
    assert list(splits) == [f"a_{number}_frame_{number:06d}" for number in range(21)]


@pytest.mark.parametrize("place", ["/elsewhere/a", "../elsewhere/a", "a/../../elsewhere"])
def test_the_address_of_a_frame_leads_to_none_out_of_the_download(place):
    record = drama_record("a/1", 1)
    start, _, _ = record["s3_fileUrl"].partition("/combined/")
    other = {**drama_record("b/2", 2), "s3_fileUrl": f"{start}/combined/{place}/frame_000002.png"}
    plan = plan_clips([record, other], "official", False)
    assert [entry.media for entry in plan.entries] == ["a/1/frame_000001.png"]
    assert [bad.reason for bad in plan.dropped] == ["key_frame_unknown"]


def test_the_captioned_rule_splits_by_the_order_of_records_with_caption_and_gif():
    good = [drama_record(f"a/{number}", number, geometry=[]) for number in range(21)]
    bad = [
        drama_record("b/1", 1, Caption="N/A"),
        drama_record("b/2", 1, s3_instructionReference="https://elsewhere/movie.mp4"),
    ]
    plan = plan_clips([*bad, *good], "captioned", False)
    # int(0.7 * 21) = 14 and int(0.15 * 21) = 3, where the official rule ends validation at int(0.85 * 21) = 17.
    assert Counter(record.split for record in plan.entries) == {"train": 14, "validation": 3, "test": 4}
    assert [item.reason for item in plan.dropped] == ["no_caption", "no_gif"]
    assert plan.entries[0].content.boxes == () and plan.entries[0].content.risk
    larger = [drama_record(f"a/{number}", number) for number in range(13)]
    counts = [Counter(captions(larger, rule, False).values()) for rule in ("official", "captioned")]
    assert counts == [
        {"train": 9, "validation": 2, "test": 2},  # int(9.1), int(11.05)
        {"train": 9, "validation": 1, "test": 3},  # int(9.1), int(1.95)
    ]


def test_the_captioned_rule_keeps_all_that_it_counts_whatever_the_risk(tmp_path):
    records = [
        drama_record("a/1", 1, Risk="No"),
        drama_record("a/2", 2),
        drama_record("a/3", 3, Risk="No", Caption=""),
    ]
    plan = plan_clips(records, "captioned", False)
    assert [record.content.risk for record in plan.entries] == [False, True]
    assert [item.reason for item in plan.dropped] == ["no_caption"]
    with pytest.raises(ValueError, match="keep_without_risk would have no effect: split_rule captioned keeps"):
        DramaOptions(str(tmp_path), "a.json", split_rule="captioned", keep_without_risk=True)


def test_records_without_risk_are_kept_where_their_neighbours_go():
    records = [drama_record(f"a/{number}", number) for number in range(20)]
    quiet = [drama_record("q/1", 1, Risk="No", Caption="N/A", geometry=[]), drama_record("q/2", 2, Risk="No")]
    plan = plan_clips([quiet[0], *records, quiet[1]], "official", True)
    assert [record.split for record in plan.entries] == 15 * ["train"] + 3 * ["validation"] + 4 * ["test"]
    first, last = plan.entries[0].content, plan.entries[-1].content
    assert (first.answer, first.risk, first.boxes) == (NO_RISK_ANSWER, False, ())
    assert last.answer == "A black car is driving ahead of the ego car." and not last.boxes


def test_a_row_without_risk_says_so(tmp_path):
    records = [drama_record("a/1", 1, Risk="No")]
    write_drama_download(tmp_path, records, {"a/1": [1]})
    prepare_drama(options(tmp_path, keep_without_risk=True), RunOptions(str(tmp_path / "out")))
    (row,) = all_rows(tmp_path / "out").values()
    assert row["risk"] == 0 and row["objects"] == [] and "<box>" not in row["answer"]
    assert load_samples(str(tmp_path / "out"), "test")[0].boxes == (), "of one record all goes to the test split"


@pytest.mark.parametrize(
    ("caption", "answer", "label"),
    [
        ("A black car is driving ahead.", "A black car<box> is driving ahead.", "A black car"),
        ("Pedestrians are crossing", "Pedestrians<box> are crossing", "Pedestrians"),
        ("The van in the left lane may stop.", "The van in the left lane<box> may stop.", "The van in the left lane"),
        ("There is a dog.", "There is a dog<box>.", "important object"),
        ("Slow down for the dog", "Slow down for the dog<box>", "important object"),
        ("The ego car should stop.", "The ego car should stop<box>.", "important object"),
        ("As it rains, a car is slow.", "As it rains, a car is slow<box>.", "important object"),
        ("A car cuts in and may stop.", "A car cuts in and may stop<box>.", "important object"),
        ("A car that is red stops", "A car that is red stops<box>", "important object"),
    ],
)
def test_the_box_stands_behind_the_subject_or_at_the_end(caption, answer, label):
    assert mark_subject(caption) == (answer, label)


def test_the_box_stands_where_the_released_layout_puts_it(shared_data):
    folder = shared_data / "mini_drive_eval"
    raw = {item["id"]: item["drama_like"]["Caption"] for item in json.loads((folder / "annotations.json").read_text())}
    lines = [json.loads(line) for line in (folder / "drama_SC.jsonl").read_text().splitlines()]
    marked = {line["image_id"]: line["sentence"] for line in lines if len(line["boxes"]) == 1}
    assert len(marked) == 2
    for name, sentence in marked.items():
        assert mark_subject(raw[name])[0] == sentence.replace("<ph_st>", "").replace("<ph_ed>", "<box>")


def test_both_questions_are_asked_and_a_name_keeps_its_own():
    names = [f"clip_{number}" for number in range(50)]
    asked = [choose_question(name) for name in names]
    assert set(asked) == set(QUESTIONS) and asked == [choose_question(name) for name in names]
    assert not any("<image>" in question for question in QUESTIONS)


def test_a_box_of_less_than_a_pixel_is_refused():
    assert fit_box((2, 2, 4, 8), (8, 16)) == ((0.25, 0.125, 0.5, 0.5), False)
    assert fit_box((4, 8, -2, 2), (8, 16)) == ((0, 0.125, 0.5, 0.5), True)
    for corners in ((2, 2, 2.5, 8), (9, 2, 12, 8), (2, -5, 4, 0.5), (2, 2, float("nan"), 8)):
        with pytest.raises(EntryError, match="box_empty"):
            fit_box(corners, (8, 16))


def test_a_jpeg_file_is_taken_as_it_is_and_a_broken_one_refused(tmp_path):
    path = tmp_path / "a.jpg"
    Image.effect_noise((32, 24), 60).convert("RGB").save(path, quality=50)
    assert read_frames([path, path], None) == ([path.read_bytes()] * 2, (32, 24))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(EntryError, match="media_unreadable"):
        read_frames([path], None)


def test_annotations_alone_hold_boxes_but_no_pictures(download, tmp_path):
    report = prepare_drama(options(download, annotations_only=True), RunOptions(str(tmp_path)))
    row = all_rows(tmp_path)["titan_clip_305_000786_frame_000786"]
    assert row["frames"] is None and (row["width"], row["height"]) == DRAMA_SIZE
    assert row["objects"][0]["bbox"] == pytest.approx([4 / 32, 3 / 24, 12 / 32, 9 / 24])
    assert report["written"] == 6, "an earlier frame of another size is not looked at"
    assert report["notes"].keys() == {"box_cut_at_the_edge"}, "no frame is repeated where there is none"
    with pytest.raises(ValueError, match="must hold frames, got none: its dataset was prepared with annotations only"):
        load_samples(str(tmp_path), "train")[0]


def test_missing_pictures_can_stop_the_run(download, tmp_path):
    with pytest.raises(ValueError, match=r"clip_9_000005_frame_000005: media_missing \(titan/clip_9_000005/frame_"):
        prepare_drama(options(download), RunOptions(str(tmp_path), num_workers=1, on_error="stop"))


def test_the_folder_combined_may_be_named_itself(download, prepared, tmp_path):
    wanted = options(download / "combined", annotations=str(download / "integrated_output_v2.json"))
    assert prepare_drama(wanted, RunOptions(str(tmp_path), rows_per_file=3)) == prepared[1]


@pytest.mark.parametrize(
    ("content", "message"), [("{", "cannot be read as JSON"), ("{}", "a list of entries, got dict")]
)
def test_what_is_no_list_of_records_is_refused(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": "nowhere"}, FileNotFoundError, "images must be a folder of pictures, got 'nowhere'"),
        ({"annotations": None}, ValueError, "either annotations or files of the released layout"),
        ({"train_file": "a"}, ValueError, "either annotations or files of the released layout"),
        ({"annotations": None, "train_file": "a", "frame_step": 2}, ValueError, "frame_step would have no effect"),
        ({"annotations_only": True, "height": 9}, ValueError, "height would have no effect"),
        ({"annotations_only": True, "num_frames": 9, "frame_step": 2}, ValueError, "num_frames, frame_step would"),
        ({"num_frames": 0}, ValueError, "num_frames must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(download, changes, error, message):
    with pytest.raises(error, match=message):
        DramaOptions(**({"images": str(download), "annotations": "a"} | changes))


def test_the_example_prepares_and_says_what_became_of_all(download, prepared, tmp_path, monkeypatch, capsys):
    words = ["--annotations", download / "integrated_output_v2.json", "--images", download, "--rows_per_file", 3]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, words), "--output_dir", str(tmp_path)])
    run_script(EXAMPLE)
    printed = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["media_unreadable", "2"] for line in printed)
    assert folder_bytes(tmp_path) == folder_bytes(prepared[0])


def test_every_option_has_a_help_text():
    assert all(field.metadata.get("help") for field in dataclasses.fields(DramaOptions))


def test_frames_with_flow_beside_them_are_not_mixed_up(tmp_path):
    write_drama_clip(tmp_path, "a/1", [5, 6])
    path = write_drama_download(tmp_path, [drama_record("a/1", 6)], {})
    prepare_drama(options(tmp_path, annotations=str(path), num_frames=2), RunOptions(str(tmp_path / "out")))
    (row,) = all_rows(tmp_path / "out").values()
    assert [round(mean_red(frame)) for frame in row["frames"]] == pytest.approx([5, 6], abs=2)
