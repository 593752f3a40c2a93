import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, pipeline

from hmba_hf.models.configuration_mambavl import MambaVLConfig
from hmba_hf.models.processing_mambavl import GENERIC_QUESTIONS, MambaVLProcessor, words_of_others
from numbered_videos import numbered_video
from tiny_mambavl import HEADS, tiny_model
from tiny_questions import tiny_clip_reader, tiny_question_processor, tiny_question_tokenizer, tiny_roberta_tokenizer
from without_package import WITHOUT_PACKAGE

VIDEOS = [np.full((3, 20, 24, 3), 40 * number, dtype=np.uint8) for number in range(2)]
SHORT = {"verb": "What is taken ?", "noun": "What does the person do with the plate now ?"}
OTHER = {"verb": "Where is the knife ?", "noun": "What is put down ?"}
ASKS_NOUN = {"noun": "What is cut?"}
LONG = {"verb": "What " * 50, "noun": "What ?"}


def read(processor, inputs, name="input_ids"):
    """The texts of all rows, by head, as the model gets them."""
    rows = []
    for row, masks in zip(inputs[name], inputs[name.replace("input_ids", "attention_mask")], strict=True):
        texts = [ids[mask.bool()] for ids, mask in zip(row, masks, strict=True)]
        rows.append([" ".join(processor.tokenizer.convert_ids_to_tokens(text)) for text in texts])
    return rows


def test_videos_and_a_question_for_each_head_become_inputs_of_the_model():
    processor = tiny_question_processor(heads=HEADS)
    inputs = processor(videos=VIDEOS, questions=[SHORT, OTHER])
    assert inputs["pixel_values_videos"].shape == (2, 3, 3, 16, 16)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 2, 12)
    assert inputs["attention_mask"].sum(dim=-1).tolist() == [[6, 12], [7, 7]]
    assert set(inputs["input_ids"][0, 0, 6:].tolist()) == {processor.tokenizer.pad_token_id}
    assert read(processor, inputs)[1] == ["<s> Where is the knife ? </s>", "<s> What is put down ? </s>"]
    assert tiny_model()(**inputs).logits.shape == (2, 12)


def test_without_questions_the_generic_ones_or_those_of_the_processor_are_asked():
    processor = tiny_question_processor()
    assert processor.questions == GENERIC_QUESTIONS
    rows = read(processor, processor(videos=VIDEOS))
    assert (
        rows[0]
        == rows[1]
        == [
            "<s> What action is performed using hands in the video ? </s>",
            "<s> What is the object in the video ? </s>",
        ]
    )
    own = tiny_question_processor(heads=["noun", "action"], questions={"action": "What is taken ?", "noun": "When ?"})
    assert read(own, own(videos=VIDEOS[0])) == [["<s> <unk> ? </s>", "<s> What is taken ? </s>"]]


def test_one_dict_is_asked_of_all_videos_and_no_question_has_no_mask():
    processor = tiny_question_processor()
    one = processor(videos=VIDEOS, questions=SHORT)
    assert torch.equal(one["input_ids"][0], one["input_ids"][1])
    none = processor(videos=VIDEOS, questions=False)
    assert none["attention_mask"].shape == (2, 2, 1) and not none["attention_mask"].any()
    some = processor(videos=VIDEOS, questions=[{**SHORT, "noun": False}, False])
    assert some["attention_mask"].any(dim=-1).tolist() == [[True, False], [False, False]]
    model = tiny_model()
    assert torch.equal(model(**none).logits, model(pixel_values_videos=none["pixel_values_videos"]).logits)
    assert not torch.equal(model(**one).logits, model(**none).logits)


def test_each_view_of_a_video_is_asked_its_questions():
    processor = tiny_question_processor()
    files = [numbered_video(9), numbered_video(6)]
    inputs = processor(videos=files, questions=[SHORT, OTHER], num_temporal_views=2, num_spatial_views=3)
    assert len(inputs["pixel_values_videos"]) == len(inputs["input_ids"]) == 12
    rows = read(processor, inputs)
    assert rows[:6] == [rows[0]] * 6 and rows[6:] == [rows[6]] * 6 and rows[0] != rows[6]


def test_questions_alone_and_other_kinds_of_arrays_are_given():
    processor = tiny_question_processor()
    inputs = processor(questions=[SHORT, OTHER, SHORT], return_tensors="np")
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert isinstance(inputs["input_ids"], np.ndarray) and inputs["input_ids"].shape == (3, 2, 12)
    assert isinstance(processor(questions=SHORT, return_tensors=None)["input_ids"], list)
    padded = processor(questions=SHORT, padding="max_length")
    assert padded["input_ids"].shape == (1, 2, 40)


def test_options_of_a_part_are_taken_under_its_name_too():
    processor = tiny_question_processor()
    inputs = processor(
        videos=VIDEOS[0],
        text_kwargs={"padding": "max_length"},
        videos_kwargs={"do_normalize": False, "num_frames": 2},
    )
    assert inputs["input_ids"].shape[-1] == 40 and inputs["pixel_values_videos"].shape[1] == 2
    assert inputs["pixel_values_videos"].min() == 0
    generator = np.random.default_rng(0)
    drawn = [processor(videos=numbered_video(60), generator=generator) for _ in range(2)]
    assert not torch.equal(drawn[0]["pixel_values_videos"], drawn[1]["pixel_values_videos"])


def test_padding_stands_behind_a_question_whatever_the_tokenizer_does():
    processor = tiny_question_processor(tiny_question_tokenizer(padding_side="left"))
    assert processor(questions=SHORT)["attention_mask"][0, 0].tolist() == [1] * 6 + [0] * 6


def test_words_of_the_other_labels_are_hidden_from_a_question():
    assert words_of_others({"verb": "put-down", "noun": "plate", "place": None}) == {
        "verb": ["plate"],
        "noun": ["put-down"],
        "place": ["put-down", "plate"],
    }
    processor = tiny_question_processor()
    questions = {"verb": "What does the person do with the plates ?", "noun": "What is PUT down to wash ?"}
    hidden = words_of_others({"verb": "put-down", "noun": "plate"})
    inputs = processor(questions=[questions, SHORT], hidden_words=[hidden, None])
    rows = read(processor, inputs)
    assert rows[0] == ["<s> What does the person do with the <mask> ? </s>", "<s> What is <mask> to wash ? </s>"]
    assert rows[1][1] == "<s> What does the person do with the plate now ? </s>"
    assert processor.mask_words("Taking the boards", ["take", "board:chopping"]) == "<mask> the <mask>"
    assert processor.mask_words("Taking the boards", "take") == "<mask> the boards"


def test_roberta_reads_a_mask_as_one_token():
    processor = tiny_question_processor(tiny_roberta_tokenizer())
    inputs = processor(questions={**SHORT, "noun": False}, hidden_words={"verb": "take"})
    assert read(processor, inputs)[0] == ["<s> W h a t \u0120 i s \u0120 <mask> \u0120 ? </s>", ""]


def test_right_answers_are_read_as_people_say_them():
    processor = tiny_question_processor()
    answers = processor.answers([{"verb": "put-down", "noun": "board:chopping"}, {"verb": "wash", "noun": None}])
    assert set(answers) == {"answer_input_ids", "answer_attention_mask"}
    assert read(processor, answers, "answer_input_ids") == [
        ["<s> put down </s>", "<s> chopping board </s>"],
        ["<s> wash </s>", ""],
    ]
    assert processor.answers({"noun": "cup"})["answer_attention_mask"].sum(dim=-1).tolist() == [[0, 3]]


def test_a_long_question_is_refused_and_cut_only_where_that_is_asked_for(monkeypatch):
    processor = tiny_question_processor(max_text_length=10)
    with pytest.raises(ValueError, match="questions must have at most max_text_length=10 tokens, .* got 52 in 'What"):
        processor(videos=VIDEOS[0], questions=LONG)
    warned = []
    monkeypatch.setattr("hmba_hf.models.processing_mambavl.logger.warning", warned.append)
    inputs = processor(videos=VIDEOS[0], questions=LONG, truncation=True)
    assert inputs["attention_mask"].sum(dim=-1).tolist() == [[10, 4]]
    assert inputs["input_ids"][0, 0, -1] == processor.tokenizer.eos_token_id
    assert len(warned) == 1 and "of 52 tokens are cut to max_text_length=10" in warned[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"questions": ASKS_NOUN},
            r"questions must be for each of the heads \['verb', 'noun'\], got none for \['verb'\]",
        ),
        ({"questions": {**SHORT, "noun": None}}, r"got none for \['noun'\]"),
        ({"questions": {**SHORT, "place": "Where?"}}, r"for heads among \['verb', 'noun'\], got \['place'\]"),
        ({"questions": {**SHORT, "verb": "  "}}, "the question for 'verb' must have words, got '  '"),
        ({"questions": {**SHORT, "verb": "?!"}}, "the question for 'verb' must have words, got '\\?!'"),
        ({"questions": {**SHORT, "verb": 3}}, "the question for 'verb' must be text, got int"),
        (
            {"questions": {**SHORT, "verb": "<mask> <mask>?"}},
            "must have words that are not hidden, got '<mask> <mask>\\?'",
        ),
        (
            {"questions": {**SHORT, "verb": "Plates?"}, "hidden_words": {"verb": "plate"}},
            "not hidden, got '<mask>\\?'",
        ),
        ({"questions": [SHORT]}, r"videos and questions must be as many, one or more, got \[2, 1\]"),
        ({"questions": [SHORT] * 3}, r"videos and questions must be as many, one or more, got \[2, 3\]"),
        ({"questions": []}, r"videos and questions must be as many, one or more, got \[2, 0\]"),
        ({"hidden_words": [None]}, r"videos and hidden_words must be as many, one or more, got \[2, 1\]"),
        ({"questions": "What?"}, "questions must be by head, a dict, got str"),
        ({"questions": [["What?"], SHORT]}, "questions must be by head, a dict, got list"),
        ({"hidden_words": {"place": "plate"}}, r"hidden_words must be for heads among .*, got \['place'\]"),
        ({"hidden_words": {"verb": "-"}}, "a word to hide must have words, got '-'"),
        ({"hidden_words": {"verb": [3]}}, "a word to hide must be text, got int"),
        ({"hidden_words": SHORT, "questions": False}, "hidden_words must be absent where no questions are asked"),
        ({"padding": False}, "padding must be one of .*, since a batch is one array, got False"),
        ({"text_kwargs": {"stride": 2}}, r"text_kwargs must be among .*, got \['stride'\]"),
        ({"padding": True, "text_kwargs": {"padding": True}}, "padding must be given once"),
        ({"num_farmes": 3}, "num_farmes"),
        ({"text": "What?"}, "text must be given by head, as questions, got text"),
        ({"videos": None}, "videos or questions must be given, got neither"),
        ({"videos": None, "questions": SHORT, "num_frames": 3}, r"of questions, got \['num_frames'\] without videos"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_sentence(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tiny_question_processor()(**{"videos": VIDEOS, **options})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"place": "sink"}, r"names must be for heads among .*, got \['place'\]"),
        ({"verb": " "}, "the name for 'verb' must have words, got ' '"),
        ([], "names must be as many, one or more"),
    ],
)
def test_an_answer_that_is_none_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        tiny_question_processor().answers(names)
    with pytest.raises(ValueError, match=r"options must be among .*, got \['num_frames'\]"):
        tiny_question_processor().answers({"verb": "take"}, num_frames=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": "verb"}, "heads must be a list of names, got 'verb'"),
        ({"heads": []}, r"heads must be names, one or more, each once, got \[\]"),
        ({"heads": ["verb", "verb"]}, "each once"),
        ({"questions": {"place": "Where?"}}, r"questions must be for heads among .*, got \['place'\]"),
        ({"questions": {"verb": ""}}, "the question for 'verb' must have words, got ''"),
        ({"max_text_length": 0}, "max_text_length must be at least 1, got 0"),
    ],
)
def test_a_processor_that_could_ask_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_question_processor(**options)


def test_a_tokenizer_without_a_mask_hides_nothing_and_one_without_padding_is_refused():
    processor = tiny_question_processor(tiny_question_tokenizer(mask_token=None))
    assert read(processor, processor(questions=SHORT))[0][0] == "<s> What is taken ? </s>"
    with pytest.raises(ValueError, match="the tokenizer must have a mask_token to hide words, got .* without one"):
        processor(questions=SHORT, hidden_words={"verb": "take"})
    with pytest.raises(ValueError, match="the tokenizer must have a pad_token, got one without"):
        tiny_question_processor(tiny_question_tokenizer(pad_token=None))
    with pytest.raises(TypeError, match="video_processor must be a video processor, got str"):
        MambaVLProcessor("videos", tiny_question_tokenizer())


def test_a_processor_for_a_model_that_reads_padding_pads_each_question_to_the_same_length(tmp_path):
    tiny_question_processor(max_text_length=15, pads_to_max_length=True).save_pretrained(tmp_path)
    processor = MambaVLProcessor.from_pretrained(tmp_path)
    assert processor(questions=SHORT)["input_ids"].shape == (1, 2, 15)
    assert processor.answers({"noun": "cup"})["answer_input_ids"].shape == (1, 2, 15)
    assert processor(questions=SHORT, padding=True)["input_ids"].shape == (1, 2, 12)


def test_a_saved_processor_comes_back_with_its_heads_and_questions(tmp_path):
    heads = {"reason": ["red light"], "action": ["stops", "turns"]}
    questions = {"action": "What does the person do ?", "reason": "What is the object ?"}
    processor = tiny_question_processor(heads=heads, questions=questions, max_text_length=20)
    MambaVLConfig(heads=heads).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is MambaVLProcessor
    assert (again.heads, again.questions, again.max_text_length) == (["reason", "action"], questions, 20)
    for name, values in again(videos=VIDEOS).items():
        assert torch.equal(values, processor(videos=VIDEOS)[name])
    assert AutoProcessor.from_pretrained(tmp_path, max_text_length=30, num_frames=2).video_processor.num_frames == 2
    with pytest.raises(ValueError, match=r"options must be those of loading or among .*, got \['max_text_lenght'\]"):
        AutoProcessor.from_pretrained(tmp_path, max_text_lenght=30)


def test_the_stock_pipeline_classifies_a_file(tmp_path):
    model = tiny_model(num_frames=3)
    processor = tiny_question_processor()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "checkpoint")
    path = tmp_path / "video.mp4"
    path.write_bytes(numbered_video(12))
    found = pipeline("video-classification", model=str(tmp_path / "checkpoint"))(str(path), top_k=12)
    # It asks nothing, for it reads videos alone.
    expected = model(**processor(videos=path, questions=False)).logits.softmax(-1)[0]
    scores = {answer["label"]: answer["score"] for answer in found}
    wanted = {model.config.id2label[number]: value for number, value in enumerate(expected.tolist())}
    assert scores == pytest.approx(wanted, rel=1e-5)


LOAD = """
import json, sys
import numpy as np
from transformers import AutoProcessor

processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
for part in (processor, processor.video_processor):
    assert type(part).__module__.startswith("transformers_modules."), type(part).__module__
video = np.full((3, 20, 24, 3), 40, dtype=np.uint8)
inputs = processor(videos=video, hidden_words={"noun": "objects"})
print(json.dumps({name: values.tolist() for name, values in inputs.items()}))
"""


def test_a_checkpoint_reads_and_asks_the_same_without_the_package(tmp_path):
    processor = tiny_question_processor()
    folder = tmp_path / "checkpoint"
    processor.save_pretrained(folder)
    code = {path.name for path in folder.glob("*.py")}
    assert {"processing_mambavl.py", "parsing_words.py", "reading_texts.py", "video_processing_mambavl.py"} <= code
    assert not [name for name in code if name.endswith(("videomamba.py", "hmba.py"))], "of another family"
    command = [sys.executable, "-I", "-c", WITHOUT_PACKAGE + LOAD, folder]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    without = json.loads(done.stdout.splitlines()[-1])
    inputs = processor(videos=VIDEOS[1], hidden_words={"noun": "objects"})
    assert "<mask>" in read(processor, inputs)[0][1]
    for name, values in inputs.items():
        torch.testing.assert_close(torch.tensor(without[name]), values, rtol=0, atol=1e-6)


def test_a_processor_is_made_of_a_video_model_and_a_text_model(tmp_path):
    config = tiny_model().config
    config.vision_config.save_pretrained(tmp_path / "vision")
    tiny_clip_reader(image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path / "vision")
    tiny_question_tokenizer(pad_token=None).save_pretrained(tmp_path / "text")
    parts = (str(tmp_path / "vision"), str(tmp_path / "text"))
    made = MambaVLProcessor.from_vision_text_pretrained(*parts, heads=config.heads, num_frames=5, max_text_length=9)
    assert made.heads == ["verb", "noun"] and made.max_text_length == 9 and made.tokenizer.pad_token == "<unk>"
    read_by = made.video_processor
    assert (read_by.num_frames, read_by.crop_size["height"], read_by.image_mean) == (5, 16, (0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match="options must be among .*num_farmes"):
        MambaVLProcessor.from_vision_text_pretrained(*parts, num_farmes=5)
    (tmp_path / "vision" / "video_preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="image_mean must be in the processor of the video model or given"):
        MambaVLProcessor.from_vision_text_pretrained(*parts)
