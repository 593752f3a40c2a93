"""Streams that are pushed and asked together hold and answer what each would alone."""

import pytest
import torch
from transformers import GenerationConfig

from hmba_hf import FrameError, HMBAVLMProcessor, TimeJump, VideoStream
from hmba_hf.streaming import ask_together, push_or_restart, push_or_restart_together, push_together
from test_streaming import QUESTION, answered, frames_of_noise
from test_streaming_refusals import cut_picture
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


@pytest.mark.parametrize("family", ["hmba", "hmba_vlm"])
def test_a_prompt_is_written_once_for_a_question_that_is_repeated_and_again_for_another(family, monkeypatch):
    (stream, _), (other, _) = streams_on(family)
    written = []
    preprocess = stream._pipeline.preprocess
    monkeypatch.setattr(
        stream._pipeline,
        "preprocess",
        lambda about, **times: written.append(about["text"]) or preprocess(about, **times),
    )
    for number, question in enumerate([QUESTION, QUESTION, "And now?", QUESTION]):
        for each in (stream, other):
            each.push(frames_of_noise(1, seed=number)[0], 1.5 + number / 2)
        assert answered(stream, question) == answered(other, question)
    assert written == [QUESTION, "And now?", QUESTION]
    stream.processor.time_format = " at {seconds} s. "
    for seconds in (4.0, 4.5):
        stream.push(frames_of_noise(1)[0], seconds)
        answered(stream)
    assert len(written) == 5, "its prompt tells the time"


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


def moments():
    """Frames of which that at 0.8 s waits for a nearer one, and is encoded before that at 1.3 s."""
    return list(zip(frames_of_noise(5), (0.0, 0.5, 0.7, 0.8, 1.3), strict=True))


def waiting_streams(model, mode, count):
    streams = [VideoStream(model, tiny_processor(), mode=mode) for _ in range(count)]
    for stream in streams:
        for frame, seconds in moments()[:4]:
            stream.push(frame, seconds)
    return streams


class Failed(Exception):
    """What a part of a model raises here."""


def fails_at(number, part):
    calls = []

    def fail_or_call(*args, **kwargs):
        calls.append(number)
        if len(calls) == number:
            raise Failed
        return part(*args, **kwargs)

    return fail_or_call


def turned(frame):
    return frame.rotate(90, expand=True)


PUSHES = {
    "push": lambda streams, frame: streams[0].push(frame, 1.3),
    "push_or_restart": lambda streams, frame: push_or_restart(streams[0], frame, 1.3),
    "push_together": lambda streams, frame: push_together(streams, [frame] * 2, [0.9, 1.3]),
    "push_or_restart_together": lambda streams, frame: push_or_restart_together(
        streams, [turned(frame), frame], [0.1, 1.3]
    ),
}


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("mode", ["window", "recurrent"])
@pytest.mark.parametrize("door", PUSHES)
def test_a_push_that_fails_at_any_of_its_frames_leaves_all_streams_as_they_were(
    model, mode, door, number, monkeypatch
):
    *streams, undisturbed = waiting_streams(model, mode, 3)
    frame, seconds = moments()[4]
    with monkeypatch.context() as patch:
        patch.setattr(model, "get_frame_features", fails_at(number, model.get_frame_features))
        with pytest.raises(Failed):
            PUSHES[door](streams, frame)
    undisturbed.push(frame, seconds)
    for stream in streams:
        assert stream.push(frame, seconds)
        assert (answered(stream), stream.held) == (answered(undisturbed), undisturbed.held)
        assert torch.equal(stream.features().pooler_output, undisturbed.features().pooler_output)


@pytest.mark.parametrize("push", [VideoStream.push, push_or_restart])
def test_a_frame_that_cannot_be_read_leaves_the_one_before_it_waiting(model, push):
    stream, undisturbed = waiting_streams(model, "window", 2)
    for wrong, seconds in ((cut_picture(), 1.3), (cut_picture(orientation=6), 1.3), (cut_picture(6), 0.1)):
        with pytest.raises(FrameError):
            push(stream, wrong, seconds)
        assert stream.timestamp == 0.5
    for each in (stream, undisturbed):
        each.push(*moments()[4])
    assert torch.equal(stream.features().pooler_output, undisturbed.features().pooler_output)


@pytest.mark.parametrize("part", ["adapt_frame_features", "generate"])
@pytest.mark.parametrize("mode", ["window", "recurrent"])
def test_a_question_that_fails_leaves_all_streams_as_they_were(model, mode, part, monkeypatch):
    *streams, undisturbed = waiting_streams(model, mode, 3)
    for ask in (lambda: answered(streams[0]), lambda: ask_together(streams, [QUESTION] * 2, max_new_tokens=8)):
        with monkeypatch.context() as patch:
            patch.setattr(model, part, fails_at(1, getattr(model, part)))
            with pytest.raises(Failed):
                ask()
    assert [answered(stream) for stream in streams] == [answered(undisturbed)] * 2


def test_a_stream_starts_anew_where_the_clock_jumps_and_with_a_frame_of_another_size_or_dtype(model):
    stream = VideoStream(model, tiny_processor())
    frame = frames_of_noise(1)[0]
    grey = frame.convert("L")
    drive = [(frame, 5.0), (frame, 5.5), (frame, 1.0), (frame, 9.0), (turned(frame), 9.5), (grey, 9.9), (grey, 10.4)]
    found = [push_or_restart(stream, *moment) for moment in drive]
    assert [why and why.split(" must ")[0] for why in found] == [
        None,
        None,
        "timestamp",
        "timestamp",
        "frames",
        "frames",
        None,
    ]
    for wrong, seconds in ((grey, 10.4), ("no picture", 20.0)):
        with pytest.raises(FrameError):
            push_or_restart(stream, wrong, seconds)
    fresh = VideoStream(model, tiny_processor())
    for moment in drive[-2:]:
        fresh.push(*moment)
    assert answered(stream) == answered(fresh)


def test_streams_that_start_anew_are_read_beside_those_that_go_on(model):
    streams = waiting_streams(model, "window", 3)
    frame = moments()[4][0]
    outcomes = push_or_restart_together(streams, [frame, "no picture", turned(frame)], [1.3, 1.3, 1.3])
    assert outcomes[0] is None and type(outcomes[1]) is FrameError and outcomes[2].startswith("frames must have")
    assert [stream.timestamp for stream in streams] == [1.3, 0.5, 1.3]
    assert [stream.held for stream in streams] == [0, 0, 0]
