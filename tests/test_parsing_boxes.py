import json
import re
import time

import numpy as np
import pytest

from hmba_hf.models.parsing_boxes import format_boxes, parse_boxes, strip_boxes
from hmba_hf.models.processing_hmba import HMBAProcessor
from tiny_processors import tiny_processor


@pytest.fixture(scope="module")
def text_golden(golden):
    return golden("hmba_text_golden")[1]


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def test_boxes_are_written_as_the_released_code_writes_them(text_golden):
    for case in text_golden["box_cases"]:
        width, height = case["image_wh"]
        assert format_boxes([case["box"]], (height, width)) == case["text"]


def test_written_boxes_are_read_back(text_golden):
    for case in text_golden["box_cases"]:
        [parsed] = parse_boxes(f"a car{case['text']}")
        assert parsed.box == tuple(case["normalised"])


def test_boxes_of_one_phrase_share_a_bracket_and_a_label(text_golden):
    formatter = text_golden["formatter"]
    parsed = parse_boxes(formatter["two_boxes"])
    assert [list(entry.box) for entry in parsed[:2]] == formatter["extract"][0]
    assert [entry.label for entry in parsed] == ["x", "x", "y"]
    written = format_boxes([(10, 20, 30, 40), (50, 50, 100, 100)], (100, 100))
    assert written == "[0.100,0.200,0.300,0.400;0.500,0.500,1.000,1.000]"


def test_the_released_pattern_reads_what_is_written(text_golden):
    pattern = re.compile(text_golden["formatter"]["pattern"])
    for case in text_golden["box_cases"]:
        width, height = case["image_wh"]
        assert pattern.fullmatch(format_boxes([case["box"]] * 3, (height, width)))


@pytest.mark.parametrize("box", [(1, 2, 3), (1, 2, 3, float("nan")), (0, 0, float("inf"), 1)])
def test_a_box_that_is_not_four_finite_numbers_is_refused(box):
    with pytest.raises(ValueError, match="4 finite numbers"):
        format_boxes([box], (10, 10))


@pytest.mark.parametrize(
    "text",
    [
        "[0.1,0.2,0.3]",  # too few numbers
        "[0.1,0.2,0.3,0.4,0.5]",  # too many
        "[0.1,0.2]",  # a point
        "[12.345,0.1,0.2,0.3]",
        "[0.1,0.2,0.3,1.001]",
        "[-0.1,0.2,0.3,0.4]",
        "[0.5,0.1,0.4,0.2]",  # reversed
        "[0.1,0.5,0.2,0.4]",
        "[nan,nan,nan,nan]",
        "[0.1,inf,0.2,0.3]",
        "[1e-1,0.2,0.3,0.4]",
        "[1_0,0.2,0.3,0.4]",
        "[\u0660.\u0661,0.2,0.3,0.4]",  # digits, but not ASCII
        "[0.1 0.2 0.3 0.4]",
        "[x1,y1,x2,y2]",
        "[,,,]",
        "[]",
        "[0.1,0.2,0.3,0.4",  # never closed
        "[0.1.2,0.2,0.3,0.4]",
    ],
)
def test_malformed_box_text_is_reported_and_not_raised(processor, text):
    assert [(entry.box, entry.text) for entry in parse_boxes(f"A car {text}")] == [(None, text)]
    assert parse_boxes(f"A car {text}")[0].label == "A car"
    assert processor.post_process_boxes(f"A car {text}", (10, 10)) == []


def test_a_malformed_part_leaves_its_neighbours_readable():
    boxes = [entry.box for entry in parse_boxes("a car[0.1,0.2,0.3,0.4;0.1,0.2]")]
    assert boxes == [(0.1, 0.2, 0.3, 0.4), None]
    boxes = [entry.box for entry in parse_boxes("a [0.1,0.2 b[0.1,0.2,0.3,0.4]")]
    assert boxes == [None, (0.1, 0.2, 0.3, 0.4)]


def test_nested_brackets_give_their_inner_boxes():
    parsed = parse_boxes("two cars[[0.1,0.2,0.3,0.4],[0.5,0.6,0.7,0.8]]")
    assert [entry.box for entry in parsed] == [(0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8)]
    assert [entry.label for entry in parsed] == ["two cars", "two cars"]


def test_spaces_and_any_number_of_decimals_are_read():
    assert parse_boxes("[ 0.1234567, .5 ,1,1. ]")[0].box == (0.1234567, 0.5, 1.0, 1.0)


def test_words_in_brackets_are_no_boxes():
    assert parse_boxes("A car [see the information desk] stops.") == []
    assert parse_boxes("") == []


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("A car[0.1,0.2,0.3,0.4] stops.", "A car stops."),
        ("Two cars[0,0,1,1;0,0,0.5,0.5][0.1,0.2] stop", "Two cars stop"),
        ("A car[0.1,0.2,0.3", "A car"),
        ("A car[0.1,0.2 is by a van[0.1,0.2,0.3,0.4] now", "A car now"),
        ("A car[9,9,1,1] [see the desk]\nwaits", "A car [see the desk]\nwaits"),
        ("No box.", "No box."),
        ("", ""),
    ],
)
def test_box_text_is_cut_out_well_formed_or_not(text, stripped):
    assert strip_boxes(text) == HMBAProcessor.strip_boxes(text) == stripped
    assert parse_boxes(strip_boxes(text)) == []


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("A white van[] is cutting in", ["A white van"]),
        ("There is a red car[] and a bus [].", ["a red car", "a bus"]),
        ("The car in front of the bus[] is the risk", ["The car in front of the bus"]),
        ("Yes: a dog[]. Next to it, the man with the bike[]!", ["a dog", "the man with the bike"]),
        ("A gray car[] in the left lane is close to a red car[]", ["A gray car", "a red car"]),
        ("A car[] turns in the yard while a person with a bike[] walks", ["A car", "a person with a bike"]),
        ("A car that is turning[]", ["A car that is turning"]),
        ("A man and woman[]", ["A man and woman"]),
        ("There is van[] or []", ["van", "van"]),
        ("A 2.5 ton truck[]", ["A 2.5 ton truck"]),
        ("A van [white] []", ["A van [white]"]),
        ("[]", [""]),
    ],
)
def test_the_label_is_the_phrase_before_the_box(text, labels):
    text = text.replace("[]", "[0.1,0.2,0.3,0.4]")
    assert [entry.label for entry in parse_boxes(text)] == labels


def test_labels_are_the_phrases_that_people_marked(shared_data):
    for line in (shared_data / "mini_drive_eval" / "drama_SC.jsonl").read_text().splitlines():
        sentence = json.loads(line)["sentence"]
        text = sentence.replace("<ph_st>", "").replace("<ph_ed>", "[0.1,0.2,0.3,0.4]")
        assert [entry.label for entry in parse_boxes(text)] == re.findall("<ph_st>(.*?)<ph_ed>", sentence)


@pytest.mark.parametrize(
    "unit", ["[", "]", "[0", "[0,", "0.1,", "[;", ";", "[0,0,1,1]", "the [a] ", ". ", "a ", " ", "1", "[1x", "and "]
)
def test_hostile_text_takes_linear_time(unit):
    def seconds(length):
        text = "[0.1," + unit * (length // len(unit)) + "[0,0,1,1]"
        start = time.process_time()
        parse_boxes(text)
        return time.process_time() - start

    quick = min(seconds(20_000) for _ in range(3))
    assert min(seconds(200_000) for _ in range(2)) < 40 * quick + 0.05  # quadratic: 100 times


def test_boxes_come_back_in_pixels_of_the_original_frame(processor, text_golden):
    for case in text_golden["box_cases"]:
        width, height = case["image_wh"]
        [entry] = processor.post_process_boxes(f"A van{case['text']} stops", (height, width))
        limits = (width, height, width, height)
        wanted = [min(max(value, 0), limit) for value, limit in zip(case["box"], limits, strict=True)]
        found = [entry["box"][name] for name in ("xmin", "ymin", "xmax", "ymax")]
        assert entry["label"] == "A van"
        assert found == pytest.approx(wanted, abs=0.0005 * max(width, height) + 0.01)


def test_boxes_in_the_padding_are_clipped_to_the_frame(processor):
    [entry] = processor.post_process_boxes("a car[0.000,0.000,1.000,1.000]", (50, 100))
    assert entry["box"] == {"xmin": 0, "ymin": 0, "xmax": 100, "ymax": 50}


def test_many_answers_take_one_size_each(processor):
    texts = ["a car[0.500,0.500,1.000,1.000]", "nothing", "broken [0.1,"]
    first, *others = processor.post_process_boxes(texts, [(100, 100), (10, 10), (10, 10)])
    assert first == [{"label": "a car", "box": {"xmin": 50, "ymin": 50, "xmax": 100, "ymax": 100}}]
    assert others == [[], []]
    assert processor.post_process_boxes([], []) == []
    with pytest.raises(ValueError, match="3 texts and 1 sizes"):
        processor.post_process_boxes(texts, [(10, 10)])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_size_goes_with_all_answers(processor, count):
    answer = "a car[0.500,0.500,1.000,1.000]"
    for size in ((50, 100), [50, 100], np.array([50, 100])):
        found = processor.post_process_boxes([answer] * count, size)
        assert found == [processor.post_process_boxes(answer, (50, 100))] * count
    assert processor.post_process_boxes([answer] * count, np.array([[50, 100]] * count)) == found


@pytest.mark.parametrize("size", [(0, 10), (10,), (1, 2, 3), [(10, 10)], 10])
def test_a_size_that_is_no_height_and_width_is_refused(processor, size):
    with pytest.raises(ValueError, match="size must be .*at least one pixel"):
        processor.post_process_boxes("a car[0,0,1,1]", size)
