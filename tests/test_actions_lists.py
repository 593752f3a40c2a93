import json
import os

import pytest

from hmba_hf.data.actions.lists import (
    ListedVideo,
    names_of,
    number_of,
    read_class_names,
    read_folders,
    read_list,
    without_brackets,
)
from hmba_hf.data.preparing.parquet_shards import Dropped


def written(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


KINETICS = """\
label,youtube_id,time_start,time_end,split
"clapping, loudly",-ab_C,5,15,train
abseiling,xyz,0,10,val
,dQw,2.0,12.0,train
abseiling,pqr,nan,10,train
abseiling,,0,10,train
abseiling,xyz
"""


def test_a_list_of_kinetics_names_the_files_of_its_split(tmp_path):
    path = written(tmp_path, "train.csv", KINETICS)
    videos = read_list(path, "train")
    assert videos[0] == ListedVideo("-ab_C_000005_000015", "-ab_C_000005_000015", "clapping, loudly")
    assert videos[1] == ListedVideo("dQw_000002_000012", "dQw_000002_000012", None)
    wanted = ["line 5: its times must be", "line 6: it names no video", "line 7: 2 cells for 5 columns"]
    for dropped, words in zip(videos[2:], wanted, strict=True):
        assert isinstance(dropped, Dropped) and words in f"{dropped.id}: {dropped.detail}"
    assert [video.id for video in read_list(path, "validation")[:1]] == ["xyz_000000_000010"]
    without_times = written(tmp_path, "test.csv", "youtube_id\nabc\n")
    assert read_list(without_times, "test") == [ListedVideo("abc", "abc", None)]


def test_a_list_of_something_something_has_classes_without_brackets(tmp_path):
    rows = [
        {"id": "78687", "template": "Holding [something] next to [something]", "label": "holding potato", "x": []},
        {"id": 5},
        {"template": "Holding [something]"},
        {"id": "6", "template": 3},
    ]
    videos = read_list(written(tmp_path, "train.json", rows), "train")
    assert videos[:2] == [
        ListedVideo("78687", "78687", "Holding something next to something"),
        ListedVideo("5", "5", None),
    ]
    assert all(isinstance(video, Dropped) for video in videos[2:]) and len(videos) == 4
    assert without_brackets("Putting [part of [x]") == "Putting [part of x"


def test_an_entry_with_half_a_letter_is_named_with_the_reason(tmp_path):
    rows = [{"id": "1", "template": "a \ud800"}, {"id": "\udfff"}, {"id": "3", "template": "a \U0001f600"}]
    videos = read_list(written(tmp_path, "train.json", rows), "train")
    assert videos == [
        Dropped("entry 0", "text_is_no_unicode", r"'a \ud800'"),
        Dropped("entry 1", "text_is_no_unicode", r"'\udfff'"),
        ListedVideo("3", "3", "a \U0001f600"),
    ]
    with pytest.raises(ValueError, match="must name each class in Unicode, got"):
        read_class_names(written(tmp_path, "labels.json", ["a \ud800"]))


@pytest.mark.parametrize(
    ("line", "video", "label"),
    [
        ("abseiling/a b.mp4 17", "abseiling/a b.mp4", "17"),
        ("abseiling/a.mp4\t17", "abseiling/a.mp4", "17"),
        ("a.mp4,riding a bike", "a.mp4", "riding a bike"),
        ("a,b 3", "a,b", "3"),
        ("path,label\na.webm,jump", "a.webm", "jump"),
        ("label_name,video\njump,a.webm", "a.webm", "jump"),
        ('path;label\n"a;b.mp4";jump, high', "a;b.mp4", "jump, high"),
        ("\ufeffpath\tlabel\r\na.mp4\tjump high\r", "a.mp4", "jump high"),
    ],
)
def test_a_plain_list_has_paths_and_labels(tmp_path, line, video, label):
    (found,) = read_list(written(tmp_path, "train.csv", f"{line}\n\n"), "train")
    assert (found.video, found.label) == (video, label)


def test_a_line_without_a_label_is_named(tmp_path):
    (_, dropped) = read_list(written(tmp_path, "train.txt", "a.mp4 1\nb.mp4\n"), "train")
    assert dropped.id == "train.txt, line 2" and "must be a path and a label, got 'b.mp4'" in dropped.detail


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", ""), ("a.json", "{"), ("a.json", "{}"), ("a.json", "[]"), ("a.csv", "path,label,label\na.mp4,1,2")],
)
def test_a_file_that_is_no_list_is_refused_by_name(tmp_path, name, content):
    with pytest.raises(ValueError, match=rf"{name} must"):
        read_list(written(tmp_path, name, content), "train")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="must be a text in UTF-8"):
        read_list(tmp_path / "b.csv", "train")


def test_a_class_over_two_lines_is_no_class_cut_off(tmp_path):
    first, second = read_list(written(tmp_path, "train.csv", 'path,label\na.mp4,"jump\nhigh"\n'), "train")
    assert isinstance(first, Dropped) and isinstance(second, Dropped)


def test_a_json_list_may_begin_with_a_mark_of_its_encoding_and_have_no_label(tmp_path):
    path = written(tmp_path, "train.json", '\ufeff[{"id": "1", "label": "run"}, {"id": "2", "label": ""}]')
    assert [video.label for video in read_list(path, "train")] == ["run", None]


def make_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_are_classes_and_may_lie_in_folders_of_splits(tmp_path):
    make_files(tmp_path / "plain", "run/b.webm", "run/deep/a.mp4", "test/c.avi", "run/notes.txt", "stray.mp4")
    assert read_folders(tmp_path / "plain") == {
        "train": [
            ListedVideo("run/b", "run/b.webm", "run"),
            ListedVideo("run/deep/a", "run/deep/a.mp4", "run"),
            ListedVideo("test/c", "test/c.avi", "test"),
        ]
    }
    make_files(tmp_path / "parted", "val/run/a.mp4", "train/run/a.mp4", "train/.hidden/x.mp4")
    found = read_folders(tmp_path / "parted")
    assert list(found) == ["train", "validation"]
    assert found["validation"] == [ListedVideo("val/run/a", "val/run/a.mp4", "run")]
    with pytest.raises(ValueError, match="must hold folders named by classes"):
        read_folders(tmp_path / "plain" / "run" / "deep")


def test_a_video_in_folders_whose_name_is_no_unicode_is_left_out(tmp_path):
    make_files(tmp_path, "run/a.mp4")
    strange = os.fsdecode(b"caf\xe9.mp4")
    try:
        (tmp_path / "run" / strange).touch()
    except OSError as error:
        pytest.skip(f"this file system keeps names in Unicode alone: {error}")
    place = ascii(f"run/{strange}")
    assert read_folders(tmp_path) == {
        "train": [ListedVideo("run/a", "run/a.mp4", "run"), Dropped(place, "text_is_no_unicode", place)]
    }


def test_names_of_classes_come_from_files_of_many_forms(tmp_path):
    for name, content in {
        "labels.json": {"jump": "1", "run, fast": "0"},
        "by_number.json": {"1": "jump", "0": "run, fast"},
        "list.json": ["run, fast", "jump"],
        "labels.csv": 'id,name\n0,"run, fast"\n1,jump\n',
        "labels.txt": "run, fast\njump\n",
        "parted.csv": "\ufeffid;name\r\n0;run, fast\r\n1; jump\r\n",
        "tabs.tsv": "id\tname\n0\trun, fast\n1\tjump\n",
        "marked.json": '\ufeff["run, fast", "jump"]',
    }.items():
        assert read_class_names(written(tmp_path, name, content)) == ["run, fast", "jump"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", {"jump": "2", "run": "0"}, r"must number its 2 classes from 0 on, got \[0, 2\]"),
        ("a.json", {"jump": "one"}, "must give each class a number"),
        ("a.json", ["jump", "jump"], "must name each class once, got 'jump'"),
        ("a.json", ["jump", 3], "must name each class once, got 3"),
        ("a.json", 3, "must be a list or an object of classes, got int"),
        ("a.csv", "id,name\n0\n", "line 2, must have an id and a name"),
        ("a.txt", "", "must have lines"),
        ("a.csv", "id,name\n0,jump, high\n", "line 2, must have an id and a name"),
        ("a.csv", "id,name\n0,jump\n1,jump\n", "must name each class once, got 'jump'"),
        ("a.csv", "id,name\n0,jump\n-1,run\n", "must give each class a number, got '-1' for 'run'"),
        ("a.csv", "0,jump\n1,run\n", "must hold one name a line, or a header .*, got '0,jump'"),
        ("a.txt", "jump high 1\nrun 2\n", "must hold one name a line, or a header .*, got 'jump high 1'"),
        ("a.txt", "jump,0\nrun,1\n", "must hold one name a line, or a header .*, got 'jump,0'"),
        ("a.json", ["jump", " jump"], "must name each class once, got ' jump'"),
        ("a.json", {"jump": 1.5, "run": 0}, "must give each class a number, got 1.5 for 'jump'"),
        ("a.json", {"jump": True, "run": False}, "must give each class a number, got True for 'jump'"),
        ("a.json", '{"jump": 1e400, "run": NaN}', "must give each class a number, got inf for 'jump'"),
        ("a.json", {"jump": {"run": 0}}, "must give each class a number, got {'run': 0} for 'jump'"),
        ("a.json", [], "must name classes, got none"),
        ("a.json", {}, "must name classes, got none"),
    ],
)
def test_names_of_classes_that_make_no_sense_are_refused(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read_class_names(written(tmp_path, name, content))


@pytest.mark.parametrize("names", [["0", "1", "2"], ["level 0", "level 1"], ["1 hand", "2 hand"], ["jump 1"]])
def test_names_of_classes_may_be_or_hold_numbers(tmp_path, names):
    assert read_class_names(written(tmp_path, "a.txt", "\n".join(names))) == names


def listed(*labels):
    return {"train": [ListedVideo(str(number), str(number), label) for number, label in enumerate(labels)]}


def test_classes_without_a_file_are_in_alphabetical_order_or_numbers():
    assert names_of(listed("run", None, "jump")) == ["jump", "run"]
    assert names_of(listed("3", "0")) == ["0", "1", "2", "3"]
    refused = (
        ((None,), "must have labels"),
        (("3", "run"), r"got \['run'\]"),
        (("9" * 9,), "below"),
        (("-1", "0"), r"got \['-1'\]"),
        (("nan",), "must be names, or"),
        (("9" * 5000,), "below"),
    )
    for labels, message in refused:
        with pytest.raises(ValueError, match=message):
            names_of(listed(*labels))


def test_a_class_is_found_by_name_or_number():
    numbers = {"jump": 0, "run": 1}
    assert [number_of(label, list(numbers), numbers) for label in ("run", "0", None)] == [1, 0, None]
    for label in ("2", "-1", "1.0", "", "9" * 5000):
        with pytest.raises(ValueError, match=f"the class must be one of 2, got '{label[:70]}"):
            number_of(label, list(numbers), numbers)
