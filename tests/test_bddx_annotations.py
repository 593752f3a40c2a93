import csv
from collections import Counter
from pathlib import Path

import pytest

from hmba_hf.data.driving.bddx_annotations import RANGES, plan_segments, read_annotations, read_split_files
from synthetic_downloads import BDDX_HEADER, BDDX_ROWS, bddx_row, write_bddx_annotations


@pytest.fixture
def head(shared_data):
    """The first 1,099 rows of the real annotations."""
    return shared_data / "bddx_head" / "BDD-X-Annotations_v1.head1100.csv"


def test_the_real_head_gives_its_rows_ranks_and_segments(head):
    read = read_annotations(head)
    segments, dropped = read.segments, read.dropped
    assert len(segments) == 4405 and segments[-1].rank == len(read.videos) == 1049
    assert [segment.index for segment in segments] == list(range(4405))
    assert read.found == len(segments) + len(dropped)
    assert Counter(item.reason for item in dropped) == {
        "row_empty": 49,
        "row_without_first_answer": 1,
        "segment_partly_empty": 13,
    }
    first = segments[0]
    assert (first.video_id, first.start, first.end) == ("06d501fd-a9ffc960", 0, 11)
    assert (first.action, first.justification) == ("The car accelerates", "because the light has turned green.")


def test_the_real_heads_dirt_is_where_it_is(head):
    read = read_annotations(head)
    segments, dropped = read.segments, read.dropped
    assert [item for item in dropped if item.reason == "row_without_first_answer"][0].id == "line 918"
    assert [item.id for item in dropped if item.reason == "row_empty"][:2] == ["line 1003", "line 1005"]
    assert sum(segment.start == segment.end for segment in segments) == 30
    assert sorted(segment.end for segment in segments)[-3:] == _typing_errors(head)
    assert all(
        text == " ".join(text.split()) for segment in segments for text in (segment.action, segment.justification)
    )


def _typing_errors(head):
    """The ends after 60 s in the CSV file, read without the code under test."""
    with open(head, newline="") as file:
        rows = list(csv.DictReader(file))
    ends = [row[f"Answer.{k}end"] for row in rows for k in range(1, 16) if row[f"Answer.{k}justification"]]
    return sorted(float(end) for end in ends if end and float(end) > 60)


def test_the_real_lists_match_ranks_and_not_line_numbers(head, shared_data):
    ranks = {segment.rank: segment.video_id for segment in read_annotations(head).segments}
    lines = (shared_data / "bddx_head" / "train.head40.txt").read_text().split()
    assert [f"{rank}_{ranks[rank]}" for rank in range(1, 41)] == lines
    with open(head, newline="") as file:
        videos = [Path(row[0]).stem for row in csv.reader(file)][1:]  # row 917 has no answers, and no rank
    assert videos[915:918] == [ranks[916], videos[916], ranks[917]]


def test_ranks_and_indices_count_what_the_official_conversion_counts(tmp_path):
    read = read_annotations(write_bddx_annotations(tmp_path))
    segments, dropped = read.segments, read.dropped
    assert [(segment.rank, segment.index) for segment in segments] == [
        *[(1, 0), (1, 1), (2, 2), (3, 3), (3, 4), (3, 5), (3, 6), (3, 8)],  # 7 has a word for a time
        *[(4, 9), (5, 10), (6, 11), (7, 12), (7, 13), (8, 14)],
    ]
    assert {item.id: item.reason for item in dropped} == {
        "line 4": "row_empty",
        "line 5": "row_without_first_answer",
        "line 6, answer 1": "row_without_first_answer",
        **{f"line 8, answer {number}": "segment_partly_empty" for number in (5, 6, 7, 8)},
        "aaaaaaaa-00000004_7": "time_is_no_number",
        "line 12, answer 1": "row_without_video",
    }
    assert read.found == 23


RANKED = [bddx_row(f"aaaaaaaa-{rank:08d}", (0, 1, "It goes", "so")) for rank in range(1, 6998)]


def test_ranges_are_those_of_adapt(tmp_path):
    """One segment a row, where the real file has several: 5,594, 701 and 701 rows."""
    path = write_bddx_annotations(tmp_path, RANKED, {})
    plan = plan_segments(read_annotations(path), None)
    assert Counter(record.split for record in plan.entries) == {"train": 5594, "validation": 701, "test": 701}
    by_rank = {record.content.rank: record.split for record in plan.entries}
    assert [by_rank[rank] for rank in (1, 5594, 5595, 6295, 6296, 6996)] == [
        *("train", "train", "validation", "validation", "test", "test")
    ]
    assert [(item.reason, item.detail) for item in plan.dropped] == [("row_in_no_range", "row 6997")]
    assert {split: len(ranks) for split, ranks in RANGES.items()} == {"train": 5594, "validation": 701, "test": 701}


def test_empty_lines_of_a_list_are_nothing(tmp_path):
    write_bddx_annotations(tmp_path, [], {"train": ["", "1_a", ""], "val": [], "test": ["2_b"]})
    (tmp_path / "test.txt").write_bytes(b"\xef\xbb\xbf2_b\r\n")
    assert read_split_files(tmp_path) == {1: ("train", "a"), 2: ("test", "b")}


def test_what_is_no_bddx_file_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    for content, message in [
        (b"", "must have the 61 columns of BDD-X"),
        (b"video,action\r\na,b\r\n", r"Input.Video to Answer.15justification, got \['video', 'action'\]"),
        (b"caf\xe9", "cannot be read as a CSV file in UTF-8"),
        (
            ",".join(BDDX_HEADER).encode() + b"\r\na.mov,0,1,It go",
            "line 2 must have 61 cells, got 4: is the file whole",
        ),
        (",".join(BDDX_HEADER).encode() + b'\r\na.mov,0,1,"It go', "cannot be read as a CSV file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_annotations(path)


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path):
    path = write_bddx_annotations(tmp_path, BDDX_ROWS[:1], {})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_annotations(path).segments) == 2
