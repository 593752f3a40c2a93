"""Streams that are pushed and asked together hold and answer what each would alone."""

import pytest
from transformers import GenerationConfig

from hmba_hf import FrameError, HMBAVLMProcessor, TimeJump, VideoStream
from hmba_hf.streaming import ask_together, push_together
from test_streaming import QUESTION, cut_picture, frames_of_noise
from tiny_hmba_vlm import model_on
from tiny_models import lively_model
from tiny_processors import tiny_processor
from tiny_vlm_bases import tiny_vlm

CAMERAS = 4
# Seconds of the frames of each camera: regular, fast, with gaps, late.
TIMES = [[0, 0.5, 1.0, 1.5, 2.0], [0, 0.1, 0.4, 0.6, 1.1], [0, 0.5, 2.0, 2.1, 3.4], [7, 7.4, 7.9, 8.6, 9.0]]


@pytest.fixture
def model():
    return lively_model()


def streams_of(model, mode="window"):
    return [VideoStream(model, tiny_processor(), mode=mode) for _ in range(CAMERAS)]


@pytest.mark.parametrize("mode", ["window", "recurrent"])
def test_cameras_that_are_read_together_answer_as_each_does_alone(model, mode):
    together = streams_of(model, mode)
    alone = streams_of(model, mode)
    frames = [frames_of_noise(5, seed=camera) for camera in range(CAMERAS)]
    questions = [QUESTION, "What now?", "What now? <video> Say.", QUESTION]
    answers = set()
    for step in range(5):
        pushed = [frames[camera][step] for camera in range(CAMERAS)]
        times = [TIMES[camera][step] for camera in range(CAMERAS)]
        taken = push_together(together, pushed, times)
        assert taken == [stream.push(*moment) for stream, *moment in zip(alone, pushed, times, strict=True)]
        found = ask_together(together, questions, max_new_tokens=8)
        wanted = [stream.ask(question, max_new_tokens=8) for stream, question in zip(alone, questions, strict=True)]
        assert found == wanted
        answers |= {answer["generated_text"] for answer in found}
    assert len(answers) > CAMERAS


def streams_on(family, mode="window"):
    """Two streams of one model, each with frames of its own; and two more of the same frames."""
    if family == "hmba":
        model, processor = lively_model(), tiny_processor()
    else:
        vlm = tiny_vlm("qwen3_vl")
        model, processor = model_on(vlm), HMBAVLMProcessor(vlm.processor, boxes_dialect="thousand")
    streams = [VideoStream(model, processor, mode) for _ in range(4)]
    for number, stream in enumerate(streams):
        for step, frame in enumerate(frames_of_noise(3, seed=number % 2)):
            stream.push(frame, step / 2)
    return streams[:2], streams[2:]


@pytest.mark.parametrize("family", ["hmba", "hmba_vlm"])
@pytest.mark.parametrize("given", ["as_an_option", "in_a_config", "by_the_model", "by_the_model_and_not_in_a_config"])
def test_cameras_that_are_asked_together_with_beams_answer_as_each_does_alone(family, given):
    together, alone = streams_on(family)
    options = {"max_new_tokens": 8}
    if given == "as_an_option":
        options["num_beams"] = 3
    elif given == "in_a_config":
        options = {"generation_config": GenerationConfig(max_new_tokens=8, num_beams=3)}
    else:
        together[0].model.generation_config.num_beams = 3
        if given == "by_the_model_and_not_in_a_config":
            options = {"generation_config": GenerationConfig(max_new_tokens=8)}
    questions = [QUESTION, "What now? Say."]
    found = ask_together(together, questions, **options)
    assert found == [stream.ask(question, **options) for stream, question in zip(alone, questions, strict=True)]


@pytest.mark.parametrize("family", ["hmba", "hmba_vlm"])
def test_cameras_that_are_asked_together_are_told_that_each_has_one_answer(family):
    together, _ = streams_on(family)
    with pytest.raises(ValueError, match="num_return_sequences must be 1 for a stream, got 2"):
        ask_together(together, [QUESTION] * 2, num_return_sequences=2, do_sample=True)


def test_the_tower_sees_the_frames_of_all_cameras_at_once(model, monkeypatch):
    batches = []
    see = model.get_frame_features
    monkeypatch.setattr(model, "get_frame_features", lambda pixels: batches.append(len(pixels)) or see(pixels))
    push_together(streams_of(model), frames_of_noise(CAMERAS), [0.0] * CAMERAS)
    assert batches == [CAMERAS]


def test_a_frame_that_cannot_follow_is_the_error_of_its_camera_alone(model):
    streams = streams_of(model)
    frames = frames_of_noise(CAMERAS)
    push_together(streams, frames, [0.0, 0.0, 5.0, 0.0])
    outcomes = push_together(streams, [frames[0], "no picture", frames[2], frames[3]], [0.5, 0.5, 1.0, 0.5])
    assert outcomes[0] is True and outcomes[3] is True
    assert type(outcomes[1]) is FrameError and type(outcomes[2]) is TimeJump
    assert [stream.timestamp for stream in streams] == [0.5, 0.0, 5.0, 0.5]
    outcomes = push_together(streams, [frames[0], cut_picture(), frames[2], frames[3]], [1.0, 1.0, 5.5, None])
    assert outcomes[0] is True and outcomes[2] is True
    assert type(outcomes[1]) is FrameError and type(outcomes[3]) is FrameError
    assert [stream.timestamp for stream in streams] == [1.0, 0.0, 5.5, 0.5]


def test_streams_of_several_models_or_one_twice_are_not_read_together(model):
    one, other = VideoStream(model, tiny_processor()), VideoStream(lively_model(), tiny_processor())
    for streams in ([one, other], [one, one], []):
        frames = frames_of_noise(len(streams))
        with pytest.raises(ValueError, match="streams must be one or more of one model, each once"):
            push_together(streams, frames, [0.0] * len(streams))
