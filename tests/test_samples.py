import io
import re
import sys

import datasets
import pytest
from PIL import Image

from hmba_hf.data.samples import (
    BDDX_QUESTION,
    Sample,
    bddx_features,
    drama_features,
    fill_boxes,
    from_bddx_row,
    from_drama_row,
    to_bddx_row,
    to_drama_row,
)
from hmba_hf.installation import install_command

FRAMES = [Image.new("RGB", (6, 4), (shade, 0, 0)) for shade in (10, 20)]
BOX = (0.25, 0.0, 0.5, 1.0)


def sample(**changes):
    fields = {
        "id": "a",
        "question": "Which?",
        "answer": "A van<box> stops.",
        "frames": FRAMES,
        "boxes": [BOX],
        "labels": ["van"],
    }
    return Sample(**(fields | changes))


def test_a_sample_knows_height_and_width_of_its_frames():
    assert sample().size == (4, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, "must have an id"),
        ({"question": ""}, "must have an id and a question"),
        ({"frames": None}, "sample a must have either frames or a video"),
        ({"video": b"x"}, "either frames or a video"),
        ({"frames": []}, "frames of one size"),
        ({"frames": [FRAMES[0], Image.new("RGB", (5, 5))]}, "frames of one size"),
        ({"size": (6, 4)}, "frames of one size"),
        ({"timestamp": 1.0}, "must have a timestamp only with a video"),
        ({"labels": []}, "must have one label for each box, got 0 for 1"),
        ({"answer": "A van stops."}, "must have one <box> for each box, got 0 for 1"),
        ({"question": "At <box>?"}, "got 2 for 1"),
        ({"boxes": [(0.5, 0, 0.5, 1)]}, "x1 < x2"),
        ({"boxes": [(0, 0, 1.5, 1)]}, "x2 <= 1"),
        ({"boxes": [(0, 0, 1)]}, "four finite numbers"),
        ({"boxes": [(0, 0, float("nan"), 1)]}, "four finite numbers"),
    ],
)
def test_a_sample_that_does_not_hold_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        sample(**changes)


def test_markers_are_filled_in_order():
    assert fill_boxes("<box> and <box>.", ["1", "{2}"]) == "1 and {2}."
    with pytest.raises(ValueError, match="boxes must be 1 for"):
        fill_boxes("A <box>", [])


def test_a_drama_row_gives_the_sample_back():
    row = to_drama_row(sample(split="test"))
    assert (row["width"], row["height"], row["risk"], row["caption"]) == (6, 4, "Yes", "A van stops.")
    assert row["objects"] == [{"bbox": list(BOX), "category": "van"}]
    assert from_drama_row(row, "test") == sample(split="test")


def test_a_column_of_tags_is_read_where_there_is_one():
    assert from_drama_row(to_drama_row(sample()) | {"tags": ["risk: van", "night"]}).tags == ("risk: van", "night")
    assert from_bddx_row(to_bddx_row(drive(), 0.0, 1.0) | {"tags": ["rain"]}).tags == ("rain",)
    assert sample().tags == from_drama_row(to_drama_row(sample()) | {"tags": None}).tags == ()


def test_a_sample_without_boxes_is_no_risk():
    assert to_drama_row(sample(answer="Nothing.", boxes=[], labels=[]))["risk"] == "No"


def test_a_drama_row_survives_the_datasets_library():
    row = datasets.Dataset.from_list([to_drama_row(sample())], features=drama_features())[0]
    again = from_drama_row(row)
    assert [frame.tobytes() for frame in again.frames] == [frame.tobytes() for frame in FRAMES]
    assert again.boxes == (BOX,)


def test_frames_may_come_as_encoded_bytes():
    file = io.BytesIO()
    FRAMES[0].save(file, "PNG")
    row = to_drama_row(sample()) | {"frames": [{"bytes": file.getvalue(), "path": None}]}
    assert from_drama_row(row).frames[0].tobytes() == FRAMES[0].tobytes()


def drive(**changes):
    fields = {"id": "vid_7_3", "question": BDDX_QUESTION, "answer": "It stops\nbecause of red", "video": b"film"}
    return Sample(**(fields | changes))


def test_a_bddx_row_gives_action_and_justification_back():
    row = to_bddx_row(drive(), start=2.0, end=6.5)
    assert (row["video_id"], row["segment"], row["start"], row["end"]) == ("vid_7", 3, 2.0, 6.5)
    assert (row["action"], row["justification"]) == ("It stops", "because of red")
    again = from_bddx_row(row, "validation")
    assert (again.id, again.answer, again.video, again.split) == ("vid_7_3", drive().answer, b"film", "validation")


def test_a_bddx_row_stores_the_bytes_of_a_file(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"film")
    assert to_bddx_row(drive(video=path), 0.0, 1.0)["video"]["bytes"] == b"film"


@pytest.mark.parametrize("changes", [{"id": "vid"}, {"id": "vid_x"}, {"answer": "It stops"}])
def test_a_bddx_row_needs_a_segment_and_two_lines(changes):
    with pytest.raises(ValueError, match="answer of two lines"):
        to_bddx_row(drive(**changes), 0.0, 1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"question": "Why?"},
        {"timestamp": 1.5},
        {"answer": "It stops\nbecause of a van<box>", "boxes": [BOX], "labels": ["van"]},
    ],
)
def test_a_bddx_row_refuses_what_it_cannot_hold(changes):
    with pytest.raises(ValueError, match="sample vid_7_3: a BDD-X row must answer 'What does the ego car do, and why"):
        to_bddx_row(drive(**changes), 0.0, 1.0)


def test_each_schema_refuses_the_other_kind_of_clip():
    with pytest.raises(ValueError, match="must have frames for a DRAMA row"):
        to_drama_row(drive())
    with pytest.raises(ValueError, match="must have a video for a BDD-X row"):
        to_bddx_row(drive(video=None, frames=FRAMES), 0.0, 1.0)


def test_rows_of_annotations_alone_are_no_samples():
    with pytest.raises(ValueError, match="row a must hold frames, got none: .* prepared with annotations only"):
        from_drama_row(to_drama_row(sample()) | {"frames": None})
    with pytest.raises(ValueError, match="row vid_7_3 must hold a video, got none: .* prepared with annotations only"):
        from_bddx_row(to_bddx_row(drive(), 0.0, 1.0) | {"video": None})


@pytest.mark.parametrize("name", ["action", "justification", "video_id", "segment"])
def test_a_row_with_a_gap_is_no_sample_and_none_is_never_a_word(name):
    with pytest.raises(ValueError, match=f"must have a value for '{name}', got none"):
        from_bddx_row(to_bddx_row(drive(), 0.0, 1.0) | {name: None})


def test_a_row_with_a_frame_missing_is_no_sample():
    row = to_drama_row(sample())
    with pytest.raises(ValueError, match="row a must hold a picture for each frame, got none"):
        from_drama_row(row | {"frames": [row["frames"][0], None]})


def test_a_missing_datasets_library_is_named_with_its_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=re.escape(install_command("train"))):
        bddx_features()
