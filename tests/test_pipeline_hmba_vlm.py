import io
import logging
from types import MethodType

import pytest
import torch
from transformers import AutoModelForImageTextToText, pipeline
from transformers.utils.logging import warning_once

from hmba_hf import HMBAVLMForConditionalGeneration, HMBAVLMProcessor, VideoStream, VideoTextToTextPipeline
from hmba_hf.data.clips import write_video
from tiny_hmba_vlm import model_on
from tiny_models import lively_model, open_adapter
from tiny_processors import tiny_processor, user, video
from tiny_vlm_bases import noisy_picture, save_vlm, tiny_vlm
from tiny_vlm_parts import without_optional_packages

SIZE = (40, 24)


def clip(length=3, size=SIZE, shade=0):
    return [noisy_picture(size, shade + number) for number in range(length)]


def save_base(name, folder):
    save_vlm(name, folder)
    return str(folder)


def build(base, **options):
    """Build a pipeline on a base, with an open adapter."""
    model = HMBAVLMForConditionalGeneration.from_base_pretrained(base, num_frames=3).eval()
    torch.manual_seed(0)
    open_adapter(model.model.temporal_adapter)
    with without_optional_packages():
        processor = HMBAVLMProcessor.from_base_pretrained(base, num_frames=3, **options)
    return pipeline("video-text-to-text", model=model, processor=processor, device="cpu", max_new_tokens=6)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base("qwen3_vl", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def pipe(base):
    return build(base)


@pytest.fixture
def told(pipe):
    """Let the model answer a given text to everything."""

    def answer(text):
        tokenizer = pipe.processor.tokenizer
        ids = torch.tensor([[*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]])

        def generate(model, input_ids, **kwargs):
            return torch.cat([input_ids, ids.expand(len(input_ids), -1)], dim=1)

        pipe.model.generate = MethodType(generate, pipe.model)

    yield answer
    vars(pipe.model).pop("generate", None)


def test_an_answer_is_that_of_the_model_about_the_clip(pipe):
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = pipe.processor.apply_chat_template([user(video(clip()), "What?")], **options)
    ids = pipe.model.generate(**inputs, max_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
    [output] = pipe(videos=clip(), text="What?")
    assert output == {
        "generated_text": pipe.processor.decode(ids[0], skip_special_tokens=True).strip(),
        "objects": [],
    }
    changed = pipe.preprocess({"text": "What?", "videos": [[*clip(2, shade=7), clip()[-1]]]})["inputs"]
    del changed["frame_size"]
    with torch.no_grad():
        assert not torch.equal(pipe.model(**changed).logits, pipe.model(**inputs).logits)


def test_a_closed_adapter_answers_as_the_base_about_the_current_frame(base):
    fresh = HMBAVLMForConditionalGeneration.from_base_pretrained(base)
    processor = HMBAVLMProcessor.from_base_pretrained(base)
    asked = pipeline("video-text-to-text", model=fresh, processor=processor, device="cpu", max_new_tokens=6)
    alone = AutoModelForImageTextToText.from_pretrained(base)
    chat = [user({"type": "image", "image": clip()[-1]}, "What?")]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.base_processor.apply_chat_template(chat, **options)
    ids = alone.generate(**inputs, max_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
    wanted = processor.decode(ids[0], skip_special_tokens=True).strip()
    assert asked(videos=clip(), text="What?")[0]["generated_text"] == wanted


def test_boxes_are_in_pixels_of_the_last_clip_of_the_prompt(pipe, told):
    told('[{"bbox_2d": [250, 500, 750, 1000], "label": "a car"}]')
    [output] = pipe(videos=clip(), text="What?")
    assert output["objects"] == [{"label": "a car", "box": {"xmin": 10, "ymin": 12, "xmax": 30, "ymax": 24}}]
    [[output]] = pipe(videos=[[clip(), clip(1, (100, 50))]], text="What?")
    assert output["objects"][0]["box"] == {"xmin": 25, "ymin": 25, "xmax": 75, "ymax": 50}
    assert pipe(text="What?")[0]["objects"] == []


def test_a_question_may_ask_for_boxes_in_the_words_of_the_base(pipe):
    question = "Where is the car?"
    asked = pipe(clip(2), pipe.processor.ask_for_boxes(question))
    assert pipe(clip(2), question, ask_for_boxes=True) == asked
    assert "bbox_2d" in pipe.processor.ask_for_boxes(question)
    chat = [{"role": "user", "content": [{"type": "video", "video": clip(2)}, {"type": "text", "text": question}]}]
    with pytest.raises(ValueError, match="ask_for_boxes must be for plain questions, got a chat"):
        pipe(text=chat, ask_for_boxes=True)


@pytest.mark.parametrize("name", ["qwen3_vl", "internvl", "smolvlm", "llava_onevision"])
def test_inputs_of_a_batch_are_answered_as_they_are_alone(name, tmp_path):
    pipe = build(save_base(name, tmp_path), boxes_dialect="thousand")
    if name == "smolvlm":  # some pictures in crops, others whole
        pipe.processor.image_processor.do_image_splitting = True
        pipe.processor.image_processor.size = {"longest_edge": 64}
    asked = [
        {"text": "What is it?", "videos": clip(3)},
        {"text": "What?", "videos": [clip(1, (20, 30))]},
        {"text": "Which?", "videos": [clip(2, (60, 30)), clip(3)]},
        {"text": "Why?"},
    ]
    alone = [pipe(one) for one in asked]
    assert pipe(asked, batch_size=4) == alone


def test_files_times_and_sampling_reach_the_clip(base):
    pipe = build(base, time_format=" at {seconds} s. ")
    file = io.BytesIO()
    write_video(file, clip(6, (64, 48)), fps=2.0)
    seen = []
    encode = pipe.processor.video_processor.read_clips

    def watched(videos, **options):
        seen.append(options)
        return encode(videos, **options)

    pipe.processor.video_processor.read_clips = watched
    asked = {"text": "What?", "videos": file.getvalue()}
    inputs = pipe.preprocess(asked, timestamp=1.5, num_frames=2, fps=1.0)["inputs"]
    assert seen[0]["timestamp"] == 1.5 and seen[0]["num_frames"] == 2
    assert inputs["past_lengths"].tolist() == [1]
    assert inputs["frame_size"].tolist() == [[48, 64]]
    assert " at 1.5 s. What?" in pipe.processor.decode(inputs["input_ids"][0])


def test_boxes_that_nothing_reads_are_told_once(tmp_path, caplog):
    pipe = build(save_base("smolvlm", tmp_path))
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        outputs = [pipe(videos=clip(), text=text) for text in ("What?", "Why?")]
    finally:
        logger.removeHandler(caplog.handler)
    assert [output["objects"] for [output] in outputs] == [[], []]
    told = [record for record in caplog.records if "boxes_dialect of the processor must be named" in record.message]
    assert len(told) == 1


@pytest.mark.parametrize("family", ["hmba", "hmba_vlm"])
def test_a_clip_of_another_length_than_the_model_is_trained_on_is_told_once(family, caplog):
    model = lively_model()
    processor = tiny_processor()
    if family == "hmba_vlm":
        vlm = tiny_vlm("gemma3")
        model = model_on(vlm)
        processor = HMBAVLMProcessor(vlm.processor)
    pipe = pipeline("video-text-to-text", model=model, processor=processor, device="cpu", max_new_tokens=1)

    def told(video_frames, **options):
        processor.video_processor.num_frames = video_frames
        warning_once.cache_clear()
        caplog.clear()
        for _ in range(2):
            pipe(videos=clip(5), text="What?", **options)
        of_pipeline = caplog.text.count("num_frames of the processor should be 5")
        warning_once.cache_clear()
        caplog.clear()
        for _ in range(2):
            VideoStream(model, processor, **options)
        return of_pipeline, caplog.text.count("num_frames of the processor should be 5")

    assert told(5) == (0, 0)
    assert told(3) == (1, 1)
    assert "as in the model's configuration, got 3: the model is trained on clips of 5 frames" in caplog.text
    assert told(3, num_frames=5) == (0, 0)
    caplog.clear()
    warning_once.cache_clear()
    VideoStream(model, processor, "recurrent")
    assert "num_frames of the processor" not in caplog.text


def test_a_saved_pipeline_comes_back(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = pipeline("video-text-to-text", model=str(tmp_path), device="cpu", max_new_tokens=6)
    assert type(again) is VideoTextToTextPipeline and type(again.processor) is HMBAVLMProcessor
    assert again(videos=clip(), text="What?") == pipe(videos=clip(), text="What?")
