"""A stream refuses what cannot be its next frame, its question or its state, and goes on."""

from datetime import timedelta
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from hmba_hf import AdapterState, VideoStream
from test_streaming import QUESTION, answered, frames_of_noise, watch
from tiny_models import lively_model, tiny_model
from tiny_processors import clip, tiny_processor


@pytest.fixture
def model():
    return lively_model()


@pytest.fixture
def processor():
    return tiny_processor()


def cut_picture(orientation=1):
    """A picture opened from a file that lacks its end, which shows once it is decoded."""
    file, exif = BytesIO(), Image.Exif()
    exif[274] = orientation
    size = (20, 40) if orientation > 4 else (40, 20)
    frames_of_noise(1)[0].resize(size).save(file, "JPEG", exif=exif)
    return Image.open(BytesIO(file.getvalue()[:-300]))


class Unharmed:
    """Two streams of the same frames, of which one is also given what it must refuse."""

    def __init__(self, model, processor, mode):
        self.stream, self.other = VideoStream(model, processor, mode), VideoStream(model, processor, mode)
        self.frames = frames_of_noise(8)
        for stream in (self.stream, self.other):
            watch(stream, self.frames[:4])

    def refuses(self, frame, timestamp, match):
        with pytest.raises(ValueError, match=match):
            self.stream.push(frame, timestamp)

    def goes_on(self):
        for stream in (self.stream, self.other):
            watch(stream, self.frames[4:], start=2.0)
        assert answered(self.stream) == answered(self.other)
        assert torch.equal(self.stream.features().pooler_output, self.other.features().pooler_output)


@pytest.mark.parametrize("mode", ["window", "recurrent"])
def test_what_cannot_be_a_next_frame_is_refused_and_the_stream_goes_on(model, processor, mode):
    case, frame = Unharmed(model, processor, mode), frames_of_noise(1)[0]
    case.refuses(frame, 1.4, r"later than the last frame's, 1.5 s, got 1.4 s")
    case.refuses(frame, 1.5, "later than the last frame's")
    case.refuses(frame, 4.5, r"within 2.5 s of the last frame's, 1.5 s, got 4.5 s; `reset`")
    for no_time in (float("nan"), None, "2.0", timedelta(seconds=2), 2j, np.zeros(2), 10**400):
        case.refuses(frame, no_time, "timestamp must be a number of seconds, got ")
    for time in (1.7, 2.0):  # one that would not be taken, and one that would
        case.refuses(frame.resize((41, 20)), time, r"\(\(20, 40, 3\), 'uint8'\) of the first, got \(\(20, 41, 3\), ")
        case.refuses(np.asarray(frame, dtype=np.float32), time, "got .*'float32'")
        case.refuses(
            np.zeros((3, 20, 40, 3), np.uint8), time, r"a frame must be .*got ndarray of shape \(3, 20, 40, 3\)"
        )
        case.refuses("drive.mp4", time, "a frame must be a picture, .*got str")
        case.refuses([frame], time, "got list")
        case.refuses(None, time, "got NoneType")
    for orientation in (1, 6):
        case.refuses(cut_picture(orientation), 2.0, "a frame cannot be read as a picture: ")
    case.goes_on()


def test_a_first_frame_that_is_no_picture_leaves_the_stream_empty(model, processor):
    stream = VideoStream(model, processor)
    for wrong, match in (
        (np.zeros((20, 40, 7), np.uint8), "channels"),
        (np.full((20, 40, 3), np.nan, np.float32), "finite"),
        (np.zeros((0, 40, 3), np.uint8), "at least one"),
    ):
        with pytest.raises(ValueError, match=match):
            stream.push(wrong, 5.0)
    assert stream.push(clip(1)[0], 0.0)


def test_a_tower_that_fails_leaves_the_stream_as_it_was(model, processor, monkeypatch):
    case = Unharmed(model, processor, "recurrent")
    with monkeypatch.context() as patch:
        patch.setattr(model, "get_frame_features", lambda pixels: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            case.stream.push(case.frames[4], 2.0)
    case.goes_on()


def test_a_question_before_any_frame_is_refused_and_the_stream_goes_on(model, processor):
    stream = VideoStream(model, processor)
    with pytest.raises(ValueError, match="a frame must be pushed before the first question, got none"):
        stream.ask(QUESTION)
    stream.push(clip(1)[0], 0.0)
    with pytest.raises(ValueError, match="num_return_sequences must be 1 for a stream, got 2"):
        stream.ask(QUESTION, num_return_sequences=2)
    with pytest.raises(ValueError, match="one <video> token for each video"):
        stream.ask("<video> and <video>?")
    assert answered(stream)["timestamp"] == 0.0


def test_a_state_of_another_model_is_refused_and_the_stream_goes_on(model, processor):
    case = Unharmed(model, processor, "recurrent")
    other = VideoStream(lively_model(temporal_strides=(1, 3)), processor, mode="recurrent")
    other.push(case.frames[0], 0.0)
    with pytest.raises(ValueError, match="state must be one of this very adapter"):
        case.stream.reset(other.features().adapter_state)
    case.goes_on()


def test_a_state_made_by_other_weights_is_refused_and_the_stream_goes_on(model, processor):
    case, same_shapes = Unharmed(model, processor, "recurrent"), lively_model()
    with torch.no_grad():
        same_shapes.model.vision_tower.embeddings.class_embedding.add_(1)
    other = VideoStream(same_shapes, processor, mode="recurrent")
    other.push(case.frames[0], 0.0)
    with pytest.raises(ValueError, match="state must be one of this very model, with weights .*, got one of oth"):
        case.stream.reset(other.features().adapter_state.to("cpu").select([0]).detach())
    case.goes_on()


def test_a_window_goes_on_from_no_state(model, processor):
    with pytest.raises(ValueError, match="mode must be 'recurrent' to resume from a state, got 'window'"):
        VideoStream(model, processor).reset(AdapterState())


def test_choices_that_do_not_exist_are_refused(model, processor):
    with pytest.raises(ValueError, match=r"mode must be one of \['window', 'recurrent'\], got 'endless'"):
        VideoStream(model, processor, mode="endless")
    with pytest.raises(ValueError, match="must be one with a state, got 'transformer'"):
        VideoStream(tiny_model(adapter="transformer"), processor, mode="recurrent")
    wrong_rates = [{"fps": 0}, {"fps": float("inf")}, {"fps": "2"}]
    for wrong in (*wrong_rates, {"num_frames": 0}, {"num_frames": 2.5}, {"num_frames": "5"}):
        with pytest.raises(ValueError, match="fps must be above 0 and num_frames 1 or more"):
            VideoStream(model, processor, **wrong)
