"""Streams that are pushed and asked together hold and answer what each would alone."""

import pytest

from hmba_hf import FrameError, TimeJump, VideoStream
from hmba_hf.streaming import ask_together, push_together
from test_streaming import QUESTION, cut_picture, frames_of_noise
from tiny_models import lively_model
from tiny_processors import tiny_processor

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
