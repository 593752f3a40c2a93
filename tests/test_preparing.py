import errno
import json
import multiprocessing
import os
import random
import threading
import time
from collections import Counter
from dataclasses import replace

import datasets
import pytest
from filelock import FileLock

from hmba_hf.data.driving.bddx import BDDXOptions, prepare_bddx
from hmba_hf.data.driving.bddx_annotations import Segment
from hmba_hf.data.driving.drama import DramaOptions, prepare_drama
from hmba_hf.data.driving.drama_rows import ClipAnnotation
from hmba_hf.data.driving.released_layout import Drive
from hmba_hf.data.loading import load_samples
from hmba_hf.data.preparing.converting import (
    MEDIA_MISSING,
    Converted,
    Dropped,
    Entry,
    Plan,
    Preparation,
    RunOptions,
    format_report,
    name_differently,
    prepare,
)
from hmba_hf.data.preparing.parquet_shards import check_finished
from hmba_hf.data.preparing.publishing import CardText
from hmba_hf.digests import digest_text
from synthetic_downloads import drama_record, folder_bytes, write_bddx_download, write_drama_download

FEATURES = datasets.Features({"name": datasets.Value("string"), "number": datasets.Value("int32")})
CARD = CardText("Letters", "One row for each letter.", "For everybody.")


def records(count=7, split="train", media=None):
    return [Entry(f"{split}{n}", split, media or f"file{n}", n) for n in range(count)]


def preparation(plan=None, convert=None, settings=None, rows_per_file=2):
    plan = plan or Plan(9, records() + records(1, "test"), [Dropped("x", "no_letter", "it is a number")])
    settings = {"dataset": "letters", **(settings or {})}
    return Preparation(plan, convert or to_rows, FEATURES, settings, CARD, rows_per_file)


def to_rows(group):
    return [Converted({"name": record.id, "number": record.content}) for record in group]


class Counting:
    """Converts, and keeps the ids that it was asked for; those in `missing` are dropped."""

    def __init__(self, missing=(), fail_at=None):
        self.missing, self.fail_at, self.seen = set(missing), fail_at, []

    def __call__(self, group):
        self.seen += [record.id for record in group]
        for record in group:
            if record.id == self.fail_at:
                raise KeyboardInterrupt
        lost = [Dropped(record.id, MEDIA_MISSING, f"no {record.media}") for record in group]
        return [bad if bad.id in self.missing else good for bad, good in zip(lost, to_rows(group), strict=True)]


def run_options(folder, **changes):
    return RunOptions(str(folder), **{"num_workers": 2, **changes})


def parquet_names(folder):
    return sorted(path.name for path in (folder / "data").glob("*"))


def test_an_unfinished_folder_of_version_0_1_is_resumed_whatever_the_classes_are_called_now(tmp_path):
    contents = [
        ClipAnnotation("A van<box>.", ((1.0, 2.0, 30.0, 20.0),), ("van",), tags=("night",)),
        Segment(0, 1, "a", 0.0, 2.5, "It goes", "for it's free"),
        Drive("a.jpg", 3, "It stops", "for a dog"),
    ]
    plan = [Entry(f"a{number}", "train", "a", content) for number, content in enumerate(contents)]

    def convert(group):
        return [Converted({"name": record.id, "number": 0}) for record in group]

    prepare(preparation(Plan(3, plan, []), convert), RunOptions(str(tmp_path)))
    written = (
        "[Record(id='a0', split='train', media='a', content=Scene(answer='A van<box>.', "
        "boxes=((1.0, 2.0, 30.0, 20.0),), labels=('van',), risk=True, tags=('night',))), "
        "Record(id='a1', split='train', media='a', content=Segment(index=0, rank=1, video_id='a', start=0.0, end=2.5, "
        "action='It goes', justification=\"for it's free\")), "
        "Record(id='a2', split='train', media='a', content=Drive(picture='a.jpg', segment=3, action='It stops', "
        "justification='for a dog'))]"
    )
    manifest = json.loads((tmp_path / ".preparing" / "manifest.json").read_text())
    assert manifest["plan"] == digest_text(written)


def test_annotations_that_make_no_row_are_an_error_with_the_most_frequent_reason(tmp_path):
    nothing = preparation(Plan(0, [], []))
    with pytest.raises(ValueError, match="of letters must make one row or more, got files without an entry"):
        prepare(nothing, run_options(tmp_path))
    planned = [Dropped("a", "no_letter", "it is 1"), Dropped("b", "no_word", "it is 2"), Dropped("c", "no_word")]
    words = r"got none of 3; the most frequent reason is no_word, 2 times, as of b \(it is 2\)"
    with pytest.raises(ValueError, match=words):
        prepare(preparation(Plan(3, [], planned)), run_options(tmp_path))
    assert list(tmp_path.iterdir()) == [], "a refusal begins no dataset"

    def convert(group):
        return [Dropped(entry.id, "no_word", "it is 3") for entry in group]

    with pytest.raises(ValueError, match="got none of 4; the most frequent reason is no_word, 3 times, as of train0"):
        prepare(preparation(Plan(4, records(3), planned[:1]), convert), run_options(tmp_path))
    assert not (tmp_path / "report.json").exists()


def test_files_without_an_entry_make_no_dataset(tmp_path):
    bddx = write_bddx_download(tmp_path / "bddx")
    bddx.write_text(bddx.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="annotations of .* must make one row or more, got files without an entry"):
        wanted = BDDXOptions(str(bddx), split_rule="ranges", annotations_only=True)
        prepare_bddx(wanted, RunOptions(str(tmp_path / "out")))
    (tmp_path / "drama").mkdir()
    drama = write_drama_download(tmp_path / "drama", [], {})
    with pytest.raises(ValueError, match="annotations of .* must make one row or more, got files without an entry"):
        prepare_drama(DramaOptions(str(tmp_path / "drama"), str(drama)), RunOptions(str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_folder_in_which_no_media_are_found_is_an_error_and_the_right_one_mends_it(tmp_path):
    plan = Plan(3, records(3), [])
    lost = Counting(missing=[record.id for record in records(3)])
    with pytest.raises(
        ValueError, match=r"none of 3 entries has media .* train0: media_missing \(no file0\).*--retry_dropped"
    ):
        prepare(preparation(plan, lost), run_options(tmp_path))
    assert not (tmp_path / "report.json").exists()
    report = prepare(preparation(plan), run_options(tmp_path, retry_dropped=True))
    assert report["written"] == 3 and "--retry_dropped" not in format_report(report)


def test_files_are_numbered_and_load_as_the_splits_in_order(tmp_path):
    report = prepare(preparation(), run_options(tmp_path))
    names = [f"train-{number:05d}-of-00004.parquet" for number in range(4)]
    assert parquet_names(tmp_path) == ["test-00000-of-00001.parquet", *names]
    loaded = datasets.load_dataset(str(tmp_path))
    assert loaded["train"]["number"][:] == list(range(7)) and loaded["test"]["name"][:] == ["test0"]
    assert report["rows"] == {"train": 7, "test": 1}


def test_the_report_accounts_for_every_annotation(tmp_path):
    report = prepare(preparation(convert=Counting({"train2", "train3"})), run_options(tmp_path))
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert (report["found"], report["written"], report["dropped"]) == (9, 6, 3)
    assert report["reasons"] == {"media_missing": 2, "no_letter": 1}
    assert report["dropped_records"] == [
        {"id": "x", "reason": "no_letter", "detail": "it is a number"},
        {"id": "train2", "reason": "media_missing", "detail": "no file2"},
        {"id": "train3", "reason": "media_missing", "detail": "no file3"},
    ]
    assert datasets.load_dataset(str(tmp_path))["train"]["number"][:] == [0, 1, 4, 5, 6], "one file is without rows"


def test_notes_name_the_rows_that_they_are_about(tmp_path):
    def convert(group):
        return [Converted(row.row, ("odd",) if row.row["number"] % 2 else ()) for row in to_rows(group)]

    report = prepare(preparation(convert=convert), run_options(tmp_path))
    assert report["notes"] == {"odd": ["train1", "train3", "train5"]}


def test_the_table_shows_all_counts(tmp_path):
    report = prepare(preparation(convert=Counting({"train2"})), run_options(tmp_path))
    *lines, hint = format_report(report).splitlines()
    assert "--retry_dropped" in hint
    table = {name.strip(): value for name, value in (line.rsplit(maxsplit=1) for line in lines)}
    assert table == {
        "annotations found": "9",
        "rows written": "7",
        "train": "6",
        "test": "1",
        "dropped": "2",
        "no_letter": "1",
        "media_missing": "1",
    }


def test_the_card_tells_counts_settings_and_licence(tmp_path):
    prepare(preparation(settings={"fps": 3.0}), run_options(tmp_path))
    card = (tmp_path / "README.md").read_text()
    assert "| train | 7 |" in card and "`fps=3.0`" in card and "For everybody." in card and "license: other" in card


def test_a_plan_that_loses_an_annotation_does_not_exist():
    with pytest.raises(AssertionError, match="lost while planning"):
        Plan(3, records(2), [])


def test_a_converter_that_loses_a_record_is_found_out(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        prepare(preparation(convert=lambda group: []), run_options(tmp_path))


def test_ids_must_differ():
    with pytest.raises(ValueError, match="must have an id of its own, got more than one of 'train0'"):
        Plan(2, records(1) * 2, [])


def test_a_name_that_is_taken_gets_a_number():
    taken = Counter()
    assert [name_differently(name, taken) for name in ("a", "a", "b", "a", "a-2")] == ["a", "a-2", "b", "a-3", "a-2-2"]


def test_neighbours_that_share_their_media_are_converted_together(tmp_path):
    groups = []

    def convert(group):
        groups.append([record.id for record in group])
        return to_rows(group)

    shared = [Entry("a", "train", "x", 0), Entry("b", "train", "x", 1), Entry("c", "train", "y", 2)]
    prepare(preparation(Plan(3, shared, []), convert, rows_per_file=10), run_options(tmp_path, num_workers=1))
    assert groups == [["a", "b"], ["c"]]


def test_records_are_converted_at_the_same_time(tmp_path):
    both = threading.Barrier(2, timeout=20)

    def convert(group):
        both.wait()
        return to_rows(group)

    prepare(preparation(Plan(2, records(2), []), convert), run_options(tmp_path))


def test_the_number_of_workers_changes_no_byte(tmp_path):
    for workers in (1, 3):
        prepare(preparation(), run_options(tmp_path / str(workers), num_workers=workers))
    assert folder_bytes(tmp_path / "1") == folder_bytes(tmp_path / "3")


def test_what_is_complete_is_not_done_again(tmp_path):
    prepare(preparation(), run_options(tmp_path))
    before, convert = folder_bytes(tmp_path), Counting()
    (tmp_path / "data" / "train-00001-of-00004.parquet").unlink()
    prepare(preparation(convert=convert), run_options(tmp_path))
    assert sorted(convert.seen) == ["train2", "train3"]
    assert folder_bytes(tmp_path) == before


def test_ctrl_c_keeps_what_is_complete(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        prepare(preparation(convert=Counting(fail_at="train5")), run_options(tmp_path, num_workers=1))
    assert (
        "stopped with 2 of 5 files written; the same command without --overwrite writes the others"
        in capsys.readouterr().out
    )
    convert = Counting()
    prepare(preparation(convert=convert), run_options(tmp_path))
    assert "train3" not in convert.seen and "train4" in convert.seen
    prepare(preparation(), run_options(tmp_path / "undisturbed"))
    assert folder_bytes(tmp_path / "undisturbed").items() <= folder_bytes(tmp_path).items()


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"settings": {"fps": 3}}, "fps: None, now 3"),
        ({"rows_per_file": 3}, "rows_per_file: 2, now 3"),
        ({"plan": Plan(1, records(1), [])}, "plan: "),
    ],
)
def test_other_options_or_input_are_refused_until_one_overwrites(tmp_path, other, difference):
    prepare(preparation(), run_options(tmp_path))
    before = folder_bytes(tmp_path)
    with pytest.raises(ValueError, match=rf"from other input or with other options \(.*{difference}"):
        prepare(preparation(**other), run_options(tmp_path))
    assert folder_bytes(tmp_path) == before
    prepare(preparation(**other), run_options(tmp_path, overwrite=True))
    prepare(preparation(**other), run_options(tmp_path / "fresh"))
    fresh = folder_bytes(tmp_path / "fresh")
    assert {name: content for name, content in folder_bytes(tmp_path).items() if "fresh" not in name} == fresh


@pytest.mark.parametrize("name", ["data/train-00000-of-00001.parquet", "README.md", "LICENSE", "report.json"])
def test_files_of_another_origin_are_not_overwritten_unasked_and_nothing_is_put_beside_them(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match=f"holds files of another origin, such as {name}: choose another"):
        prepare(preparation(), run_options(tmp_path))
    assert folder_bytes(tmp_path) == {name: b"precious"}
    check_finished(tmp_path)
    prepare(preparation(), run_options(tmp_path, overwrite=True))


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    (tmp_path / ".preparing").mkdir()
    with FileLock(tmp_path / ".preparing" / "lock"), pytest.raises(ValueError, match="another one is writing there"):
        prepare(preparation(), run_options(tmp_path))


def test_a_dataset_made_anew_is_not_taken_from_the_cache(tmp_path):
    prepare(preparation(Plan(2, records(2), [])), run_options(tmp_path / "a" / "letters"))
    prepare(preparation(Plan(3, records(3), []), rows_per_file=3), run_options(tmp_path / "b" / "letters"))
    assert [len(datasets.load_dataset(str(tmp_path / name / "letters"))["train"]) for name in "ab"] == [2, 3]


def test_bad_media_stop_a_run_that_is_to_stop_and_nothing_is_lost(tmp_path):
    stopping = {"on_error": "stop", "num_workers": 1}
    with pytest.raises(ValueError, match=r"train5: media_missing \(no file5\)"):
        prepare(preparation(convert=Counting({"train5"})), run_options(tmp_path, **stopping))
    assert len(parquet_names(tmp_path)) == 2
    convert = Counting()
    assert prepare(preparation(convert=convert), run_options(tmp_path, **stopping))["dropped"] == 1
    assert "train3" not in convert.seen


def test_records_that_were_skipped_stop_a_later_run_that_is_to_stop(tmp_path):
    prepare(preparation(convert=Counting({"train5"})), run_options(tmp_path))
    with pytest.raises(ValueError, match="train5: media_missing"):
        prepare(preparation(), run_options(tmp_path, on_error="stop"))


def test_records_that_were_skipped_can_be_tried_again_and_only_their_files(tmp_path):
    prepare(preparation(convert=Counting({"train5"})), run_options(tmp_path))
    unchanged = Counting({"train5"})
    assert prepare(preparation(convert=unchanged), run_options(tmp_path))["written"] == 7 and unchanged.seen == []
    convert = Counting()
    assert prepare(preparation(convert=convert), run_options(tmp_path, retry_dropped=True))["written"] == 8
    assert sorted(convert.seen) == ["train4", "train5"]
    prepare(preparation(), run_options(tmp_path / "undisturbed"))
    assert folder_bytes(tmp_path / "undisturbed").items() <= folder_bytes(tmp_path).items()


@pytest.mark.parametrize("name", ["rows_per_file", "num_workers"])
def test_a_number_below_one_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        RunOptions("folder", **{name: 0})


def fill_disk_at(monkeypatch, number):
    """From the `number`-th parquet file on, half of it is written and the disk is full."""
    write, calls = datasets.Dataset.to_parquet, []

    def to_parquet(table, file):
        calls.append(file)
        if len(calls) >= number:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(table, file)

    monkeypatch.setattr(datasets.Dataset, "to_parquet", to_parquet)


def test_a_full_disk_is_said_and_what_is_complete_stays(tmp_path, monkeypatch):
    with monkeypatch.context() as disk:
        fill_disk_at(disk, 3)
        with pytest.raises(
            OSError, match="no space left for train-00002-of-00004.parquet; the files that are"
        ) as full:
            prepare(preparation(), run_options(tmp_path))
    assert full.value.errno == errno.ENOSPC
    assert parquet_names(tmp_path) == [f"train-{number:05d}-of-00004.parquet" for number in range(2)]
    assert not list(tmp_path.rglob("*.partial"))
    convert = Counting()
    prepare(preparation(convert=convert), run_options(tmp_path))
    assert "train3" not in convert.seen and "train4" in convert.seen
    prepare(preparation(), run_options(tmp_path / "undisturbed"))
    assert folder_bytes(tmp_path / "undisturbed").items() <= folder_bytes(tmp_path).items()


@pytest.mark.parametrize("full", ["train-00002-of-00004.parquet", "train-00002-of-00004.json"])
def test_a_full_disk_takes_no_file_that_is_tried_again(tmp_path, monkeypatch, full):
    report = prepare(preparation(convert=Counting({"train5"})), run_options(tmp_path))
    before, fsync = folder_bytes(tmp_path), os.fsync

    def write(file):
        if (tmp_path / ".preparing" / f"{full}.partial").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", write)
        with pytest.raises(OSError, match=f"no space left for {full}; the files that are complete stay"):
            prepare(preparation(), run_options(tmp_path, retry_dropped=True))
    assert folder_bytes(tmp_path) == before and not list(tmp_path.rglob("*.partial"))
    unchanged = Counting()
    assert prepare(preparation(convert=unchanged), run_options(tmp_path)) == report and unchanged.seen == []


def test_a_dataset_that_is_not_finished_is_no_dataset_yet(tmp_path):
    prepare(preparation(convert=Counting({"train2", "train5"})), run_options(tmp_path))
    failing = Counting(fail_at="train4")
    with pytest.raises(KeyboardInterrupt):
        prepare(preparation(convert=failing), run_options(tmp_path, retry_dropped=True, num_workers=1))
    assert not (tmp_path / "report.json").exists(), "it would tell of other files"
    for streaming in (False, True):
        with pytest.raises(
            ValueError, match="must hold a finished dataset, got an unfinished one: run the command that prepares it"
        ):
            load_samples(str(tmp_path), "train", streaming=streaming)
    prepare(preparation(), run_options(tmp_path, retry_dropped=True))
    prepare(preparation(), run_options(tmp_path / "undisturbed"))
    assert folder_bytes(tmp_path / "undisturbed").items() <= folder_bytes(tmp_path).items()


@pytest.mark.parametrize("limit", [1, 25, 10**9])
def test_media_of_any_size_go_into_one_file(tmp_path, monkeypatch, limit):
    """Arrow refuses arrays of 2 GiB."""
    made, from_dict = [], datasets.Dataset.from_dict
    monkeypatch.setattr("hmba_hf.data.preparing.parquet_shards._BYTES_PER_PART", limit)
    monkeypatch.setattr(
        datasets.Dataset,
        "from_dict",
        lambda part, features: made.append(len(part["media"])) or from_dict(part, features=features),
    )
    features = datasets.Features({"media": datasets.List({"bytes": datasets.Value("binary")})})

    def convert(group):
        return [Converted({"media": [{"bytes": b"ten" + b"bytes%02d" % record.content}]}) for record in group]

    large = replace(preparation(Plan(7, records(), []), convert, rows_per_file=7), features=features)
    prepare(large, run_options(tmp_path))
    assert made == {1: [1] * 7, 25: [2, 2, 2, 1], 10**9: [7]}[limit]
    rows = datasets.load_dataset(str(tmp_path), split="train")
    assert [row[0]["bytes"] for row in rows["media"]] == [b"tenbytes%02d" % number for number in range(7)]


def test_the_licence_of_another_dataset_does_not_stay(tmp_path):
    (tmp_path / "terms").write_text("For research.")
    licensed = replace(preparation(settings={"fps": 3}), licence_file=tmp_path / "terms")
    prepare(licensed, run_options(tmp_path / "out"))
    assert (tmp_path / "out" / "LICENSE").read_text() == "For research."
    prepare(preparation(), run_options(tmp_path / "out", overwrite=True))
    assert not (tmp_path / "out" / "LICENSE").exists()


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    prepare(preparation(), run_options(tmp_path))
    (tmp_path / ".preparing" / "train-00001-of-00004.parquet.partial").write_bytes(b"half")
    prepare(preparation(), run_options(tmp_path))
    assert not list(tmp_path.rglob("*.partial"))


CLIPS = {f"2020-0228-{number:06d}/{number:06d}": range(1, 8) for number in range(14)}


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """Both raw downloads, and how each is prepared into a folder."""
    folder = tmp_path_factory.mktemp("downloads")
    bddx = write_bddx_download(folder / "bddx")
    drama = write_drama_download(folder / "drama", [drama_record(clip, 7) for clip in CLIPS], CLIPS)
    return {
        "bddx": (prepare_bddx, BDDXOptions(str(bddx), str(folder / "bddx" / "videos"))),
        "drama": (prepare_drama, DramaOptions(str(folder / "drama"), str(drama))),
    }


@pytest.fixture(scope="module")
def starting():
    """Starts processes that need no time to import anything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["hmba_hf.data.driving.bddx", "hmba_hf.data.driving.drama", "datasets", "pyarrow.parquet"]
    )
    return context


@pytest.mark.parametrize("name", ["bddx", "drama"])
def test_a_run_killed_at_any_moment_is_resumed_to_the_same_files(downloads, starting, tmp_path, name):
    run, options = downloads[name]
    report = run(options, run_options(tmp_path / "undisturbed", rows_per_file=1))
    wanted = folder_bytes(tmp_path / "undisturbed")
    files = [path for path in wanted if path.endswith(".parquet")]
    moments, killed = random.Random(name), 0
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        process = starting.Process(target=run, args=(options, run_options(folder, rows_per_file=1)))
        process.start()
        enough = moments.randrange(len(files))
        while process.is_alive() and len(list((folder / "data").glob("*.parquet"))) < enough:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.03))
        process.kill()
        process.join()
        killed += process.exitcode == -9
        left = {path: (folder / path).stat().st_ino for path in files if (folder / path).exists()}
        assert run(options, run_options(folder, rows_per_file=1)) == report
        assert folder_bytes(folder) == wanted
        assert all((folder / path).stat().st_ino == inode for path, inode in left.items()), "done once, not again"
    assert killed >= 5
    assert [len(load_samples(str(folder), split)) for split in report["rows"]] == list(report["rows"].values())
