"""Every door of answering writes and reads boxes in the dialect of the processor."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from hmba_hf.data.samples import Sample
from hmba_hf.evaluation.batches import Outcome
from hmba_hf.evaluation.predicting import to_record
from hmba_hf.evaluation.records import read_records
from hmba_hf.evaluation.scoring import ScoredRecords
from hmba_hf.lmms_eval_plugin import documents
from hmba_hf.models import parsing_boxes
from hmba_hf.models.parsing_dialects import DIALECTS
from hmba_hf.models.processing_hmba import HMBAProcessor
from hmba_hf.models.processing_hmba_vlm import HMBAVLMProcessor
from hmba_hf.streaming import words_differ
from hmba_hf.tasks.answering import TASK, pictures
from hmba_hf.tasks.answering.boxes import RecordedBoxes, answer_box, box_reading, score_grounding
from hmba_hf.tasks.answering.collator import to_conversation
from hmba_hf.tasks.answering.records import caption_parts
from hmba_hf.tasks.answering.run import answer_metrics
from tiny_vlm_bases import BASES

SIZE = (32, 64)
BOX = (0.25, 0.5, 0.5, 1.0)
OTHER = (0.0, 0.125, 0.125, 0.25)
SAMPLE = Sample(
    "wide",
    "What is at <box>?",
    "A grey car<box> stops.",
    [Image.new("RGB", SIZE[::-1])],
    boxes=(OTHER, BOX),
    labels=["thing", "car"],
)


class SpeakingProcessor:
    """The methods about boxes of a processor with a dialect, whose base sees frames three times as large."""

    def __init__(self, name):
        self.boxes_dialect = name
        self.dialect = DIALECTS[name]

    def frame_size_in_base(self, size):
        return 3 * size[0], 3 * size[1]

    def ask_for_boxes(self, question):
        return question

    def format_boxes(self, boxes, size):
        return self.dialect.format_boxes(boxes, size, self.frame_size_in_base)

    def locate_boxes(self, text, size):
        return self.dialect.locate_boxes(text, size, self.frame_size_in_base)

    def post_process_boxes(self, text, size):
        return self.dialect.post_process_boxes(text, size, self.frame_size_in_base)

    def strip_boxes(self, text):
        return self.dialect.strip_boxes(text)


class OneSplit:
    names = ("test",)

    def locate(self, index):
        return 0, index


@pytest.fixture(params=list(DIALECTS))
def processor(request):
    return SpeakingProcessor(request.param)


def true_answer(processor):
    [_, message] = to_conversation(SAMPLE, processor)
    return message["content"][0]["text"]


def record_of(processor, answer):
    outcome = Outcome(0, SAMPLE, prediction=answer)
    return json.loads(json.dumps(to_record(outcome, OneSplit(), TASK, processor)))


def test_questions_and_answers_of_samples_are_written_in_it(processor):
    question, answer = to_conversation(SAMPLE, processor)
    asked = question["content"][1]["text"]
    assert asked == f"What is at {processor.format_boxes([(0, 4, 8, 8)], SIZE)}?"
    assert answer["content"][0]["text"] == f"A grey car{processor.format_boxes([(16, 16, 32, 32)], SIZE)} stops."


def test_the_box_of_an_answer_is_read_in_it(processor):
    answer = true_answer(processor)
    assert answer_box(answer, processor, SIZE) == pytest.approx(BOX, abs=0.01)
    scores = score_grounding([answer, "none"], [SAMPLE, SAMPLE], processor)
    assert scores.unparsed == 0.5
    assert scores.mean_iou == pytest.approx(0.5, abs=0.02)
    assert answer_metrics([answer], [SAMPLE], processor)["mean_iou"] > 0.95


def test_a_stored_answer_is_read_in_it(processor, tmp_path):
    record = record_of(processor, true_answer(processor))
    assert record["boxes_dialect"] == processor.boxes_dialect
    assert record.get("resized_size") == ([96, 192] if processor.dialect.needs_resized else None)
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(record) + "\n")
    scores = ScoredRecords(read_records(path), tokenizer="words").scores()["scores"]
    assert scores["mean_iou"] > 0.95
    assert scores["unparsed"] == 0
    assert caption_parts(record) == {"": ("A grey car stops.", "A grey car stops.")}


def test_a_real_processor_tells_how_large_its_base_sees_the_frame():
    processor = HMBAVLMProcessor(BASES["qwen2_5_vl"]()[1], boxes_dialect="pixels")
    record = record_of(processor, true_answer(processor))
    assert record["boxes_dialect"] == "pixels"
    assert record["resized_size"] == list(processor.frame_size_in_base(SIZE))
    assert answer_box(record["answer"], RecordedBoxes(record), SIZE) == pytest.approx(BOX, abs=0.02)


def test_a_question_whose_answer_has_a_box_asks_for_it():
    processor = HMBAVLMProcessor(BASES["paligemma"]()[1], boxes_dialect="loc")
    sample = replace(SAMPLE, question="the grey car", boxes=(BOX,), labels=["car"])
    question, _ = to_conversation(sample, processor)
    assert question["content"][-1]["text"] == "detect the grey car"
    question, _ = to_conversation(replace(sample, answer="It stops.", boxes=(), labels=[]), processor)
    assert question["content"][-1]["text"] == "the grey car"


def test_without_a_dialect_boxes_are_refused_and_answers_are_drawn_as_they_are(monkeypatch):
    processor = HMBAVLMProcessor(BASES["smolvlm"]()[1])
    with pytest.raises(ValueError, match="boxes_dialect must be named"):
        to_conversation(SAMPLE, processor)
    monkeypatch.setattr(
        pictures, "draw_answer", lambda frames, times, question, answer, objects, name: (answer, objects)
    )
    assert pictures.draw_answered(SAMPLE, "A car[0,0,1,1]", processor, "it") == ("A car[0,0,1,1]", [])
    assert box_reading(processor, SIZE) == {}


def test_a_record_of_h_mba_is_what_it_was():
    answer = "A grey car[0.250,0.500,0.500,0.750] stops."
    outcome = Outcome(0, SAMPLE, prediction=answer)
    record = to_record(outcome, OneSplit(), TASK, HMBAProcessor)
    assert record == to_record(outcome, OneSplit(), TASK)
    assert not {"boxes_dialect", "resized_size"} & set(record)
    assert box_reading(HMBAProcessor, SIZE) == {}
    [parsed] = RecordedBoxes(record).locate_boxes(answer, SIZE)
    assert parsed.box == BOX
    scores = ScoredRecords([record], tokenizer="words").scores()["scores"]
    assert scores["mean_iou"] == 1
    assert caption_parts(record) == {"": ("A grey car stops.", "A grey car stops.")}


def test_a_processor_that_only_parses_boxes_is_read_as_h_mba():
    class Older:
        parse_boxes = staticmethod(parsing_boxes.parse_boxes)

    assert answer_box("A car[0.250,0.500,0.500,0.750]", Older(), SIZE) == BOX


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes_dialect": "cubes"}, "record wide: boxes_dialect must be one of .*got 'cubes'"),
        ({"boxes_dialect": 3}, "boxes_dialect must be"),
        ({"resized_size": None}, r"record wide: resized_size must be \[height, width\] .*'pixels', got None"),
        ({"resized_size": [0, 5]}, "resized_size must be .*at least one pixel"),
        ({"resized_size": [5]}, "resized_size must be .*at least one pixel"),
    ],
)
def test_a_record_whose_boxes_cannot_be_read_is_refused(tmp_path, changes, message):
    record = record_of(SpeakingProcessor("pixels"), "An answer.")
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(record | changes) + "\n")
    with pytest.raises(ValueError, match=message):
        read_records(path)


def test_an_answer_in_another_dialect_is_told_when_it_is_scored():
    record = record_of(SpeakingProcessor("thousand"), "A grey car[0.250,0.500,0.500,0.750] stops.")
    with pytest.warns(UserWarning, match="in another dialect: numbers in brackets.*boxes_dialect is 'thousand'"):
        scores = ScoredRecords([record], tokenizer="words").scores()["scores"]
    assert scores["unparsed"] == 1


def test_an_answer_is_drawn_with_the_boxes_in_it(processor, monkeypatch):
    drawn = {}

    def draw(frames, times, question, answer, objects, name):
        drawn.update(answer=answer, objects=objects)

    class Sampling:
        fps = 2

    processor.video_processor = Sampling()
    monkeypatch.setattr(pictures, "draw_answer", draw)
    pictures.draw_answered(SAMPLE, true_answer(processor), processor, "it")
    assert drawn["answer"] == "A grey car stops."
    [found] = drawn["objects"]
    assert found["label"] == "A grey car"
    assert list(found["box"].values()) == pytest.approx([16, 16, 32, 32], abs=0.5)


def test_answers_of_a_stream_differ_in_words_whatever_their_boxes(processor):
    def answer(words, box):
        return {"generated_text": f"{words}{processor.format_boxes([box], SIZE)} stops."}

    near, far = (1, 2, 10, 20), (12, 2, 30, 20)
    assert answer("A van", near) != answer("A van", far)
    assert not words_differ(answer("A van", near), answer("A van", far))
    assert words_differ(answer("A van", near), answer("A car", near))


def test_answers_to_lmms_eval_are_scored_in_it(processor, monkeypatch):
    monkeypatch.setattr(documents, "_processor", None)
    document = to_record(Outcome(0, SAMPLE), OneSplit(), TASK)
    documents.set_processor(processor)
    found = documents.process_results(document, [true_answer(processor)])["mean_iou"]
    assert answer_box(found["answer"], RecordedBoxes(found), SIZE) == pytest.approx(BOX, abs=0.01)
