import json

import datasets
import numpy as np
import pytest
from PIL import Image

from hmba_hf import decode_frames
from hmba_hf.data.driving.bddx import BDDXOptions, prepare_bddx
from hmba_hf.data.driving.drama import DramaOptions, prepare_drama
from hmba_hf.data.driving.released_layout import plan_actions, plan_sentences
from hmba_hf.data.loading import load_samples
from hmba_hf.data.preparing.converting import RunOptions
from hmba_hf.tasks.answering.collator import to_conversation
from synthetic_downloads import mean_red, write_pictures
from tiny_processors import tiny_processor


def sentence_line(name, **changes):
    fields = {
        "image_id": name,
        "boxes": [[4, 3, 12, 9], [1, 1, 30, 20]],
        "sentence": "<ph_st>A van<ph_ed> is near <ph_st>a dog<ph_ed>.",
        "boxes_seq": [[0], [1]],
    }
    return {**fields, **changes}


def action_line(name, answer, **changes):
    question = {"from": "human", "value": "What is done in\n<image>?"}
    return {
        "id": name,
        "image": f"{name}.jpg",
        "conversations": [question, {"from": "gpt", "value": answer}],
        **changes,
    }


def write_lines(path, lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


def test_the_mini_set_reads_as_it_is_annotated(shared_data, tmp_path):
    folder = shared_data / "mini_drive_eval"
    wanted = DramaOptions(str(folder / "images"), test_file=str(folder / "drama_SC.jsonl"))
    report = prepare_drama(wanted, RunOptions(str(tmp_path)))
    assert (report["rows"], report["dropped"], report["notes"]) == ({"test": 4}, 0, {})
    truth = {item["id"]: item for item in json.loads((folder / "annotations.json").read_text())}
    for sample in load_samples(str(tmp_path), "test"):
        known = truth[sample.id]
        assert sample.size == (known["height"], known["width"])
        pixels = [
            [x1 * known["width"], y1 * known["height"], x2 * known["width"], y2 * known["height"]]
            for x1, y1, x2, y2 in sample.boxes
        ]
        assert pixels == [pytest.approx(box, abs=0.01) for box in known["boxes_xyxy"]]
        assert sample.answer.replace("<box>", "") == known["drama_like"]["Caption"]
        for frame, path in zip(sample.frames, known["frames"], strict=True):
            assert np.array_equal(np.asarray(frame), np.asarray(Image.open(folder / path)))


def test_boxes_are_printed_as_the_released_code_prints_them(shared_data, tmp_path):
    folder = shared_data / "mini_drive_eval"
    wanted = DramaOptions(str(folder / "images"), test_file=str(folder / "drama_SC.jsonl"))
    prepare_drama(wanted, RunOptions(str(tmp_path)))
    sample = load_samples(str(tmp_path), "test")[0]
    answer = to_conversation(sample, tiny_processor())[1]["content"][0]["text"]
    assert answer.startswith("A black car[0.637,0.540,0.737,0.605] is driving")


def test_marks_become_markers_with_their_words_as_labels(tmp_path):
    lines = [
        sentence_line("two"),
        sentence_line("swapped", boxes_seq=[[1], [0]]),
        sentence_line("many", boxes_seq=[[0, 1], []]),
        sentence_line("unmarked", sentence="A van<ph_ed> stops", boxes_seq=[[0]]),
    ]
    contents = [record.content for record in plan_sentences({"train": write_lines(tmp_path / "a", lines)}).entries]
    assert contents[0].answer == "A van<box> is near a dog<box>." and contents[0].labels == ("A van", "a dog")
    assert contents[1].boxes == ((1, 1, 30, 20), (4, 3, 12, 9))
    assert contents[2].answer == "A van<box><box> is near a dog." and contents[2].labels == ("A van", "A van")
    assert contents[3].labels == ("important object",)


def test_lines_that_are_none_are_named(tmp_path):
    lines = [
        sentence_line("good"),
        "",
        "{no json",
        "3",
        {"image_id": "a"},
        sentence_line("b", boxes_seq=[[0]]),
        sentence_line("c", boxes_seq=[[0], [7]]),
        sentence_line("d", boxes=[[1, 2, 3], [1, 1, 30, 20]]),
        sentence_line("e", sentence="A <box>"),
        sentence_line("f", boxes_seq=[[0], [-1]]),
        sentence_line("g", boxes=[[10**400, 3, 12, 9], [1, 1, 30, 20]]),
        sentence_line("h", sentence=" ", boxes_seq=[]),
        sentence_line("i", sentence="A half of two \ud83d<ph_ed>", boxes_seq=[[0]]),
        sentence_line("good"),
    ]
    plan = plan_sentences({"train": write_lines(tmp_path / "train.jsonl", lines)})
    assert [record.id for record in plan.entries] == ["good", "good-2"]
    assert {item.id: item.reason for item in plan.dropped} == {
        "train.jsonl, line 3": "line_malformed",
        "train.jsonl, line 4": "line_malformed",
        "train.jsonl, line 5": "line_malformed",
        "b": "boxes_do_not_fit_the_text",
        "c": "boxes_do_not_fit_the_text",
        "d": "boxes_do_not_fit_the_text",
        "e": "line_malformed",
        "f": "boxes_do_not_fit_the_text",
        "g": "boxes_do_not_fit_the_text",
        "h": "no_caption",
        "i": "text_is_no_unicode",
    }
    assert plan.found == 13


def test_only_the_end_of_a_line_ends_it(tmp_path):
    sentence = "A van<ph_ed> is\u2028near\x85it."
    line = json.dumps(sentence_line("a", sentence=sentence, boxes_seq=[[0]]), ensure_ascii=False)
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n".encode() + b'{"image_id": "caf\xe9"}')
    plan = plan_sentences({"train": tmp_path / "a"})
    assert [record.content.answer for record in plan.entries] == ["A van<box> is\u2028near\x85it."]
    assert [(item.id, item.reason) for item in plan.dropped] == [("a, line 2", "line_malformed")]


@pytest.mark.parametrize("answer", [["a", "list"], {}, 3, None, "", " \n", "A half of two \ud83d"])
def test_an_answer_that_is_no_text_is_named(tmp_path, answer):
    file = write_lines(tmp_path / "a", [action_line("a", answer)])
    plan = plan_actions({"train": [file, file]})
    assert plan.found == 2 and [item.reason for item in plan.dropped] == ["line_malformed"] * 2


def test_pictures_lie_in_the_folder_of_their_split_or_beside_each_other(tmp_path):
    write_pictures(tmp_path / "images" / "train", "a", 5)
    write_pictures(tmp_path / "images" / "val", "b", 5)
    write_pictures(tmp_path / "images", "c", 5)
    files = {
        split: write_lines(tmp_path / name, [sentence_line(name)])
        for split, name in (("train_file", "a"), ("validation_file", "b"), ("test_file", "c"))
    }
    report = prepare_drama(DramaOptions(str(tmp_path / "images"), **files), RunOptions(str(tmp_path / "out")))
    assert report["rows"] == {"train": 1, "validation": 1, "test": 1}
    frames = load_samples(str(tmp_path / "out"), "validation")[0].frames
    assert [mean_red(frame) for frame in frames] == pytest.approx([25, 50, 75, 100, 125], abs=2), "p1 is the oldest"


@pytest.mark.parametrize("name", ["../private", "{folder}/private"])
def test_the_name_of_a_picture_leads_to_none_out_of_the_folder_of_pictures(name, tmp_path):
    write_pictures(tmp_path / "images", "a", 5)
    write_pictures(tmp_path, "private", 5)
    file = write_lines(tmp_path / "a", [sentence_line("a"), sentence_line(name.format(folder=tmp_path))])
    report = prepare_drama(DramaOptions(str(tmp_path / "images"), train_file=file), RunOptions(str(tmp_path / "out")))
    assert report["rows"] == {"train": 1} and report["reasons"] == {"media_missing": 1}


def test_a_missing_frame_drops_its_record(tmp_path):
    write_pictures(tmp_path / "images", "a", 5)
    (tmp_path / "images" / "a_p3.jpg").unlink()
    write_pictures(tmp_path / "images", "b", 5)
    file = write_lines(tmp_path / "a", [sentence_line("a"), sentence_line("b")])
    report = prepare_drama(DramaOptions(str(tmp_path / "images"), train_file=file), RunOptions(str(tmp_path / "out")))
    assert report["rows"] == {"train": 1}
    assert report["dropped_records"] == [{"id": "a", "reason": "media_missing", "detail": "a_p3.jpg"}]


@pytest.fixture
def drives(tmp_path):
    """Lines of actions and of justifications with what can be wrong about them, and pictures."""
    for name in ("a", "b", "f"):
        write_pictures(tmp_path / "images", name, 8, size=(33, 25) if name == "b" else (32, 24))
    (tmp_path / "images" / "f_p2.jpg").unlink()
    talk = [{"from": "gpt", "value": "No question"}]
    actions = [
        *(action_line(name, f"It {name}s") for name in "abcef"),
        action_line("g", "<image> in the answer"),
        action_line("h", "no question", conversations=talk),
        action_line("a", "once more"),
        "{",
    ]
    justifications = [
        *(action_line(name, "because\nit must") for name in "badf"),
        action_line("e", "so", image="x.jpg"),
    ]
    return write_lines(tmp_path / "act.jsonl", actions), write_lines(tmp_path / "why.jsonl", justifications)


def test_actions_and_justifications_are_joined_by_their_ids(drives, tmp_path):
    wanted = BDDXOptions(train_files=list(drives), images=str(tmp_path / "images"))
    report = prepare_bddx(wanted, RunOptions(str(tmp_path / "out")))
    assert report["rows"] == {"train": 2} and report["found"] == 10
    assert {item["id"]: item["reason"] for item in report["dropped_records"]} == {
        "act.jsonl, line 6": "line_malformed",
        "act.jsonl, line 7": "line_malformed",
        "act.jsonl, line 8": "id_repeated",
        "act.jsonl, line 9": "line_malformed",
        "c": "no_justification",
        "d": "no_action",
        "e": "pictures_differ",
        "f_0": "media_missing",
    }
    samples = load_samples(str(tmp_path / "out"), "train")
    assert [(sample.id, sample.answer) for sample in samples] == [
        ("a_0", "It as\nbecause it must"),
        ("b_0", "It bs\nbecause it must"),
    ]


def test_frames_become_a_video_from_which_they_are_sampled(drives, tmp_path):
    wanted = BDDXOptions(train_files=list(drives), images=str(tmp_path / "images"))
    prepare_bddx(wanted, RunOptions(str(tmp_path / "out")))
    for sample, size in zip(load_samples(str(tmp_path / "out"), "train"), ((24, 32), (24, 32)), strict=True):
        frames, _ = decode_frames(sample.video, None, 8, 2.0)
        assert frames.shape[1:3] == size
        assert [mean_red(frame) for frame in frames] == pytest.approx([25 * place for place in range(1, 9)], abs=8)
    row = datasets.load_dataset(str(tmp_path / "out"), split="train")[0]
    assert (row["start"], row["end"]) == (0, 4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "does not record where in its drive" in card and "annotated seconds" not in card


def test_the_mini_set_of_actions_is_prepared(shared_data, tmp_path):
    folder = shared_data / "mini_drive_eval"
    lines = [str(folder / "bddx_action.jsonl"), str(folder / "bddx_justification.jsonl")]
    report = prepare_bddx(BDDXOptions(test_files=lines, images=str(folder / "images")), RunOptions(str(tmp_path)))
    assert (report["rows"], report["dropped"]) == ({"test": 2}, 0)
    truth = {item["id"]: item for item in json.loads((folder / "actions.json").read_text())}
    for sample in load_samples(str(tmp_path), "test"):
        known = truth[sample.id.removesuffix("_0")]
        assert sample.answer == f"{known['action']}\n{known['justification']}"
        last = np.asarray(Image.open(folder / "images" / f"{sample.id[:-2]}.jpg").resize((64, 36))).astype(int)
        frame = Image.fromarray(decode_frames(sample.video, None, 8, 2.0)[0][-1]).resize((64, 36))
        assert np.abs(np.asarray(frame).astype(int) - last).mean() < 8


def test_an_id_in_two_splits_is_told_apart(tmp_path):
    files = [write_lines(tmp_path / name, [action_line("a", "x")]) for name in ("1", "2")]
    assert [record.id for record in plan_actions({"train": files, "test": files}).entries] == ["a_0", "a_1"]


def test_actions_need_justifications(tmp_path):
    with pytest.raises(
        ValueError, match=r"the train split must have a file of actions and one of justifications, got \['a'\]"
    ):
        plan_actions({"train": ["a"]})


def test_raw_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="videos would have no effect: files of the released layout"):
        BDDXOptions(train_files=["a", "b"], images=str(tmp_path), videos=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="images must be a folder, got None"):
        BDDXOptions(train_files=["a", "b"])
    assert BDDXOptions(train_files=["a", "b"], annotations_only=True).clip_fps == 2
