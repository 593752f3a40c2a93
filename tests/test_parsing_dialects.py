import random
import warnings

import numpy as np
import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from hmba_hf.models import parsing_boxes
from hmba_hf.models.parsing_dialects import BASES, DIALECTS, dialect_of, find_dialect

SIZE = (480, 640)
RESIZED = (476, 644)
NAMES = list(DIALECTS)
JSON_NAMES = ["thousand", "pixels", "thousand_yx"]
ANSWER_OF = {
    "unit_square": "A van[0.1,0.2,0.3,0.4] stops.",
    "thousand": 'A van {"bbox_2d": [100, 200, 300, 400], "label": "van"} stops.',
    "thousand_yx": 'A van {"box_2d": [200, 100, 400, 300], "label": "van"} stops.',
    "loc": "<loc0200><loc0100><loc0400><loc0300> van",
    "ref_box": "<ref>A van</ref><box>[[100, 200, 300, 400]]</box> stops.",
    "box_start": "<|object_ref_start|>A van<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|> stops.",
}


def parse(name, text):
    return DIALECTS[name].parse_boxes(text, RESIZED)


def boxes(name, text):
    return [parsed.box for parsed in parse(name, text)]


def problems(name, text):
    return [parsed.problem for parsed in parse(name, text)]


@pytest.mark.parametrize("name", NAMES)
def test_boxes_come_back_within_the_rounding_of_the_dialect(name):
    chance = random.Random(0)
    steps = {"unit_square": 1000, "loc": 1023}
    for _ in range(200):
        height, width = chance.randrange(1, 2000), chance.randrange(1, 2000)
        resized = (chance.randrange(1, 900), chance.randrange(1, 900))
        x1, x2 = sorted(chance.uniform(0, width) for _ in range(2))
        y1, y2 = sorted(chance.uniform(0, height) for _ in range(2))
        text = DIALECTS[name].format_boxes([(x1, y1, x2, y2)], (height, width), resized)
        [item] = DIALECTS[name].post_process_boxes(text, (height, width), resized)
        units = {"xmin": x1, "ymin": y1, "xmax": x2, "ymax": y2}
        for key, value in units.items():
            side = max(height, width) if name == "unit_square" else (width if key[0] == "x" else height)
            count = resized[key[0] == "x"] if name == "pixels" else steps.get(name, 1000)
            assert item["box"][key] == pytest.approx(value, abs=1.01 * side / count + 0.01)
            assert name == "loc" or item["box"][key] == pytest.approx(value, abs=0.51 * side / count + 0.01)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("unit_square", "[0.100,0.300,0.500,0.700]"),
        ("thousand", '[{"bbox_2d": [100, 200, 500, 1000]}]'),
        ("pixels", '[{"bbox_2d": [64, 95, 322, 476]}]'),
        ("thousand_yx", '[{"box_2d": [200, 100, 1000, 500]}]'),
        ("loc", "<loc0205><loc0102><loc1023><loc0512>"),
        ("ref_box", "<box>[[100, 200, 500, 1000]]</box>"),
        ("begin_of_box", "<|begin_of_box|>[[100,200,500,1000]]<|end_of_box|>"),
        ("box_start", "<|box_start|>(100,200),(500,1000)<|box_end|>"),
    ],
)
def test_each_dialect_is_written_as_its_bases_write_it(name, text):
    box = (64, 96, 320, 480)
    if name == "unit_square":
        box = (64, 112, 320, 368)
    assert DIALECTS[name].format_boxes([box], SIZE, RESIZED) == text


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_written_and_read(name):
    labels = ["a car", "the red bus"]
    text = DIALECTS[name].format_boxes([(1, 2, 300, 400), (5, 6, 70, 80)], SIZE, RESIZED, labels)
    assert [parsed.label for parsed in parse(name, text)] == labels
    assert None not in boxes(name, text)


@pytest.mark.parametrize("name", NAMES)
def test_boxes_in_a_sentence_have_the_phrase_before_them_for_a_label_and_leave_it_when_cut_out(name):
    text = DIALECTS[name].format_boxes([(64, 120, 320, 360)], SIZE, RESIZED)
    [parsed] = parse(name, f"A white van{text} is cutting in")
    assert parsed.label == "A white van"
    assert DIALECTS[name].strip_boxes(f"A white van{text} is cutting in") == "A white van is cutting in"


@pytest.mark.parametrize("name", NAMES)
def test_boxes_beyond_the_frame_are_clipped_when_written(name):
    dialect = DIALECTS[name]
    size, resized = (300, 300), (280, 280)
    beyond = dialect.format_boxes([(-50, -1, 999, 301)], size, resized)
    assert beyond == dialect.format_boxes([(0, 0, 300, 300)], size, resized)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('```json\n[\n\t{"bbox_2d": [1, 2, 3, 4], "label": "a"}\n]\n```', [("a", 4)]),
        ('{"bbox_2d": [1, 2, 3, 4], "label": "a"}', [("a", 4)]),
        ('{"label": "a", "bbox_2d": [1, 2, 3, 4]}', [("a", 4)]),
        ("[{'label': 'a', 'bbox_2d': [1, 2, 3, 4]}]", [("a", 4)]),
        ('[{"bbox_2d": [1, 2, 3, 4]}], then\n[{"label": "b", "bbox_2d": [1, 2, 3, 5]}]', [("", 4), ("b", 5)]),
        ('{"bbox_2d": [1, 2, 3, 4], "label": "a"}\n{"bbox_2d": [1, 2, 3, 5]}', [("a", 4), ("", 5)]),
        ('{"bbox_2d": [[1, 2, 3, 4], [1, 2, 3, 5]], "label": "a"}', [("a", 4), ("a", 5)]),
        ('{"objects": [{"bbox_2d": [1, 2, 3, 4], "label": "a"}]}', [("a", 4)]),
        ('{"x":[{"bbox_2d": [1, 2, 3, 4]},{"name":"b", "bbox_2d": [1, 2, 3, 5]}],"label": "a"}', [("a", 4), ("b", 5)]),
        ('{"bbox_2d": ["1", "2.0", "3", " 4"], "label": "a"}', [("a", 4)]),
        ('{"bbox_2d": "[1, 2, 3, 4]", "label": "a"}', [("a", 4)]),
        ('{"bbox_2d": "1, 2, 3, 4", "label": "a"}', [("a", 4)]),
        ('{"bbox_2d": [1.0, 2, 3.0, 4.0], "label": "{a} [b], \\"c\\" }"}', [('{a} [b], "c" }', 4)]),
        ('{"bbox_2d": [1, 2, 3, 4], "label": "caf\\u00e9", "score": 0.9, "seen": true}', [("café", 4)]),
        ('A car {"bbox_2d": [1, 2, 3, 4]} in {the} lane', [("A car", 4)]),
        ('Look: {"bbox_2d": [1, 2, 3, 4] is cutting in', [("", 4)]),
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [1, 2', [("a", 4), ("", None)]),
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "a wh', [("a wh", 4)]),
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"lab', [("a", 4), ("", None)]),
        ('A car [{"bb', [("A car", None)]),
        ('{"bbox_2d": {"x1": 1, "y1": 2, "x2": 3, "y2": 4}}', [("", None)]),
        ('{"bbox_2d": null, "label": "a"}', [("a", None)]),
        ('{"bbox_2d": [], "label": "a"}', [("a", None)]),
        ('{"speed": 30, "gear": "third"}', []),
        ('A "car" in {brackets}, [1] and [see (2)].', []),
        ("", []),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["thousand", "thousand_yx"])
def test_json_is_read_in_every_shape_that_models_give_it(name, text, found):
    key = DIALECTS[name].form
    expected = [(label, None if last is None else (0.001, 0.002, 0.003, last / 1000)) for label, last in found]
    if name == "thousand_yx":
        expected = [(label, box and (box[1], box[0], box[3], box[2])) for label, box in expected]
    assert [(parsed.label, parsed.box) for parsed in parse(name, text.replace("bbox_2d", key))] == expected


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ("1, 2, 3", "not four numbers"),
        ("1, 2, 3, 4, 5", "not four numbers"),
        ("", "not four numbers"),
        ("a, 1, c, d", "not four numbers"),
        ("1, 2, nan, 4", "not four numbers"),
        ("1, 2, 1_0, 40", "not four numbers"),
        ("1, 2, 1e1, 40", "not four numbers"),
        ("1, 2, " + "9" * 400 + ", 4", "not four numbers"),
        ("30, 2, 10, 4", "reversed corners"),
        ("1, 20, 3, 4", "reversed corners"),
        ("-1, 2, 3, 4", "numbers below 0"),
        ("1, 2, 1001, 4", "numbers beyond"),
        ("0.1, 0.2, 0.3, 0.4", "fractions from 0 to 1"),
    ],
)
@pytest.mark.parametrize("name", ["thousand", "pixels", "thousand_yx", "ref_box", "begin_of_box"])
def test_malformed_boxes_are_reported_with_their_problem(name, numbers, problem):
    text = f"A car [[{numbers}]] stops"
    if name in JSON_NAMES:
        text = f'A car {{"{DIALECTS[name].form}": [{numbers}]}} stops'
    [parsed] = parse(name, text)
    assert (parsed.label, parsed.box) == ("A car", None)
    assert problem in parsed.problem
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert DIALECTS[name].post_process_boxes(text, SIZE, RESIZED) == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("loc", "<loc0001><loc0002><loc0003>", "cut off"),
        ("loc", "<loc0001><loc0002><loc0003><loc00", "cut off"),
        ("loc", "<loc0005><loc0002><loc0003><loc0004>", "reversed corners"),
        ("loc", "<loc0001><loc0002><loc1024><loc0004>", "beyond 1023"),
        ("loc", "<loc1><loc2><loc3><loc4>", "not four numbers"),
        ("box_start", "<|box_start|>(1,2),(3,4,5)", "not four numbers"),
        ("box_start", "<|box_start|>(1,2),(3,", "cut off"),
        ("box_start", "<|box_start|>(1,", "cut off"),
        ("box_start", "(5,2),(3,4)", "reversed corners"),
        ("ref_box", "<box>[[1, 2, 3", "cut off"),
        ("unit_square", "[0.1,0.2,0.3", "cut off"),
        ("unit_square", "[0.1,0.2,0.3]", "not four plain numbers"),
        ("unit_square", "[0.5,0.2,0.3,0.4]", "reversed corners"),
        ("unit_square", "[-0.5,0.2,0.3,0.4]", "numbers below 0"),
        ("unit_square", "[100,200,300,400]", "beyond 1"),
    ],
)
def test_what_is_malformed_in_the_other_forms_is_reported(name, text, problem):
    [parsed] = parse(name, text)
    assert parsed.box is None
    assert problem in parsed.problem


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_in_another_dialect_is_told(name):
    dialect = DIALECTS[name]
    for other, answer in ANSWER_OF.items():
        if DIALECTS[other].form == dialect.form and other != "unit_square":
            continue
        if other == name or (other == "unit_square" and name == "unit_square"):
            continue
        assert boxes(name, answer) == [None]
        assert problems(name, answer)[0].startswith("in another dialect")
        with pytest.warns(UserWarning, match=f"in another dialect.*boxes_dialect is '{name}'.*name the one"):
            assert dialect.post_process_boxes(answer, SIZE, RESIZED) == []
        with pytest.warns(UserWarning, match="in another dialect"):
            assert [parsed.box for parsed in dialect.locate_boxes(answer, SIZE, RESIZED)] == [None]


def test_nothing_is_told_of_an_answer_that_is_malformed_in_its_own_dialect():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in ("no box", '{"bbox_2d": [1, 2, 3]}', '{"bbox_2d": [5, 2, 3, 4]}', '{"bbox_2d": [1, 2'):
            assert DIALECTS["thousand"].post_process_boxes(text, SIZE) == []


@pytest.mark.parametrize("name", ["ref_box", "begin_of_box", "box_start"])
def test_marks_that_a_tokenizer_leaves_out_as_special_are_not_needed(name):
    dialect = DIALECTS[name]
    text = dialect.format_boxes([(64, 120, 320, 360)], SIZE, labels=["a van"])
    bare = text
    for mark in (*dialect.marks, *dialect.label_marks):
        bare = bare.replace(mark, "")
    assert "<" not in bare
    assert parse(name, bare)[0][:2] == parse(name, text)[0][:2]
    assert dialect.strip_boxes(bare) == dialect.strip_boxes(text) == "a van"


def test_the_square_is_that_of_the_released_model():
    square = DIALECTS["unit_square"]
    texts = [
        "A van[0.1,0.2,0.3,0.4] and two cars[[0,0,1,1];[0.5]] [see the desk]",
        "A [0.1,0.2 b[0.1,0.2,0.3,0.4;0,0,1,1]. It [1.2,0.3,0.4,0.5] stops[",
        "No box.",
        "",
    ]
    for text in texts:
        found = [parsed._replace(problem=None) for parsed in square.parse_boxes(text)]
        assert found == parsing_boxes.parse_boxes(text)
        assert square.strip_boxes(text) == parsing_boxes.strip_boxes(text)
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            assert square.post_process_boxes(text, SIZE) == parsing_boxes.post_process_boxes(text, SIZE)
            located = [parsed.box for parsed in square.locate_boxes(text, SIZE)]
        assert located == [parsed.box for parsed in parsing_boxes.locate_boxes(text, SIZE)]
    assert square.format_boxes([(1, 2, 3, 4)], SIZE) == parsing_boxes.format_boxes([(1, 2, 3, 4)], SIZE)


def test_pixels_need_the_size_of_the_resized_picture():
    pixels = DIALECTS["pixels"]
    assert [dialect.name for dialect in DIALECTS.values() if dialect.needs_resized] == ["pixels"]
    for call in (
        lambda: pixels.format_boxes([(1, 2, 3, 4)], SIZE),
        lambda: pixels.parse_boxes("no box"),
        lambda: pixels.post_process_boxes("no box", SIZE),
        lambda: pixels.locate_boxes("no box", SIZE),
    ):
        with pytest.raises(ValueError, match=r"resized must be \(height, width\) of the picture .*'pixels', got None"):
            call()
    with pytest.raises(ValueError, match="resized must be .*at least one pixel, got 7"):
        pixels.parse_boxes("no box", 7)


def test_the_resized_size_may_be_a_function_of_the_original_one():
    pixels = DIALECTS["pixels"]
    asked = []

    def halved(size):
        asked.append(size)
        return size[0] // 2, size[1] // 2

    assert pixels.format_boxes([(100, 40, 200, 80)], SIZE, halved) == '[{"bbox_2d": [50, 20, 100, 40]}]'
    answer = '{"bbox_2d": [50, 20, 100, 40]}'
    [first], [second] = pixels.post_process_boxes([answer] * 2, [SIZE, (960, 640)], halved)
    assert list(first["box"].values()) == list(second["box"].values()) == [100, 40, 200, 80]
    assert asked == [SIZE, SIZE, (960, 640)]


def test_many_answers_take_one_size_or_one_each():
    answer = '{"bbox_2d": [238, 119, 322, 238]}'
    pixels = DIALECTS["pixels"]
    one = pixels.post_process_boxes(answer, SIZE, RESIZED)
    for size, resized in ((SIZE, RESIZED), ([SIZE] * 2, RESIZED), (np.array([SIZE] * 2), np.array([RESIZED] * 2))):
        assert pixels.post_process_boxes([answer] * 2, size, resized) == [one] * 2
    with pytest.raises(ValueError, match="2 texts and 1 sizes"):
        pixels.post_process_boxes([answer] * 2, SIZE, [RESIZED])


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_written_is_refused(name):
    for box in ((1, 2, 3), (1, 2, 3, float("nan")), (0, 0, float("inf"), 1)):
        with pytest.raises(ValueError, match="4 finite numbers"):
            DIALECTS[name].format_boxes([box], SIZE, RESIZED)
    for box in ((3, 2, 1, 4), (1, 4, 3, 2)):  # no reader would take it
        with pytest.raises(ValueError, match="a box must have x1 <= x2 and y1 <= y2, got"):
            DIALECTS[name].format_boxes([box], SIZE, RESIZED)
    with pytest.raises(ValueError, match="labels must be one for each box, got 2 for 1 boxes"):
        DIALECTS[name].format_boxes([(1, 2, 3, 4)], SIZE, RESIZED, ["a", "b"])
    with pytest.raises(ValueError, match="size must be .*at least one pixel"):
        DIALECTS[name].format_boxes([(1, 2, 3, 4)], (0, 5), RESIZED)


@pytest.mark.parametrize("name", NAMES)
def test_no_text_makes_a_reader_fail(name):
    pieces = (
        "{ } [ ] \" ' , : ; ( ) \\ - . bbox_2d label 1 0.5 2000 car <loc0001> <box> </box> <|box_start|> ``` null é "
        '"bbox_2d":[ {"bbox_2d":[1,2,3,4],"label":"x"} {"box_2d":{ [0.1,0.2,0.3,0.4] (1,2),(3,4)'
    ).split() + [" ", "\n"]
    chance = random.Random(0)
    for _ in range(3000):
        text = "".join(chance.choices(pieces, k=chance.randrange(20)))
        assert all(parsed.box is None or parsed.problem is None for parsed in parse(name, text))
        assert set(DIALECTS[name].strip_boxes(text)) <= set(text)


@pytest.mark.parametrize(
    "unit",
    ['{"a":{', "[[", '{"bbox_2d":[1,2,3,4],"x":', "<loc0001>", '"', '{"\\', "(1,2),(", "[0.1,", "a car[1,2,3,4] "],
)
def test_long_hostile_texts_are_read_to_their_end(unit):
    # A reader that recurses or goes back fails or takes minutes.
    text = '{"bbox_2d": [1, 2, 3, 4]} ' + unit * (60_000 // len(unit))
    for name in ("thousand", "ref_box"):
        parse(name, text)
        DIALECTS[name].strip_boxes(text)


@pytest.mark.parametrize("name", NAMES)
def test_a_question_keeps_its_words(name):
    assert "Which {object} is it?" in DIALECTS[name].question("Which {object} is it?")
    if name in JSON_NAMES:
        assert f'{{"{DIALECTS[name].form}": [' in DIALECTS[name].question("Which?")


def test_a_known_base_has_its_dialect_and_another_must_be_named():
    class Config:
        model_type = "qwen2_5_vl"

    assert dialect_of(Config()) == "pixels"
    assert dialect_of("qwen3_5") == "thousand"
    assert dialect_of("paligemma") == "loc"
    for name in ("llava", "smolvlm", "hmba"):
        with pytest.raises(ValueError, match=f"boxes_dialect must be named for a base of type '{name}'.*'thousand'"):
            dialect_of(name)
    with pytest.raises(ValueError, match="boxes_dialect must be one of .*'thousand'.*, got 'cubes'"):
        find_dialect("cubes")


def test_every_row_of_the_table_names_a_type_a_dialect_and_a_source():
    for model_type, row in BASES.items():
        assert model_type in CONFIG_MAPPING_NAMES
        assert find_dialect(row.dialect).name == row.dialect
        assert row.source
