"""A watch asks a stream at its times, and gives the answers that change."""

import math
import random

import pytest

from hmba_hf import TimeJump, VideoStream
from hmba_hf.streaming import words_differ
from test_streaming import QUESTION, answered, frames_of_noise
from tiny_models import lively_model
from tiny_processors import clip, tiny_processor


@pytest.fixture
def model():
    return lively_model()


@pytest.fixture
def processor():
    return tiny_processor()


class Answering(VideoStream):
    """A stream that answers what it is told to, and notes when it is asked."""

    def ask(self, question, **generate_kwargs):
        self.asked = [*getattr(self, "asked", []), self.timestamp]
        return {"generated_text": self.says(self.timestamp), "objects": [], "timestamp": self.timestamp}


def test_a_watched_stream_answers_when_its_answer_changes(model, processor):
    stream, given = Answering(model, processor), []
    stream.says = lambda seconds: "a van" if 2 <= seconds < 4 else "nothing"
    answers = stream.watch(QUESTION, every=1.0)
    assert list(answers) == [] and next(answers, None) is None, "before the first frame"
    for i in range(60):
        stream.push(clip(1)[0], i / 10)
        for answer in answers:
            given.append((answer["timestamp"], answer["generated_text"]))
        assert list(answers) == [], "once for each frame"
    assert stream.asked == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert given == [(0.0, "nothing"), (2.0, "a van"), (4.0, "nothing")]
    assert answers.last["timestamp"] == 4.0


def test_a_watch_asks_of_each_frame_that_is_taken_and_gives_what_its_caller_calls_a_change(model, processor):
    stream = Answering(model, processor)
    stream.says = lambda seconds: f"a van[0.1,0.1,0.5,{seconds / 10:.3f}] {'stops' if seconds > 1 else 'comes'}"
    every, words = stream.watch(QUESTION), stream.watch(QUESTION, changed=words_differ)
    far = stream.watch(QUESTION, changed=lambda before, after: after["timestamp"] - before["timestamp"] >= 1)
    given = {"every": [], "words": [], "far": []}
    for i in range(6):
        stream.push(clip(1)[0], i / 2)
        for name, answers in (("every", every), ("words", words), ("far", far)):
            given[name] += [answer["timestamp"] for answer in answers]
    assert given == {"every": [0.0, 0.5, 1.0, 1.5, 2.0, 2.5], "words": [0.0, 1.5], "far": [0.0, 1.0, 2.0]}


def test_a_watch_goes_on_after_a_reset_and_with_jitter(model, processor):
    stream = Answering(model, processor)
    stream.says = str
    answers = stream.watch(QUESTION, every=1.0)
    for start in (0.0, 100.0, 0.0):
        stream.reset()
        given = []
        for i, jitter in enumerate((0.01, -0.02, -0.02, 0.02, -0.01)):
            stream.push(clip(1)[0], start + i / 2 + jitter)
            given += [answer["timestamp"] - start for answer in answers]
        assert given == pytest.approx([0.01, 0.98, 1.99])


CAMERAS = (30000 / 1001, 24000 / 1001, 60000 / 1001, 50, 25, 15, 12.5, 10, 8, 4, 3, 2.5, 2)


@pytest.mark.parametrize("every", [0.0, 1.0])
@pytest.mark.parametrize("rate", CAMERAS)
def test_a_watch_misses_no_moment_of_a_camera_with_jitter_whose_clock_is_set(model, processor, rate, every):
    noise = random.Random(rate)
    most = min(0.008, 0.3 / rate)
    drive = [number / rate + noise.uniform(-most, most) for number in range(round(3 * rate))]
    for fps in (1.0, 2.5):
        stream = Answering(model, processor, fps=fps)
        stream.says = str
        answers = stream.watch(QUESTION, every)
        for start in (50.0, 50.0, 49.7, 1000.0):  # back to its start, back a little more, and far ahead
            asked = []
            for seconds in drive:
                try:
                    stream.push(clip(1)[0], start + seconds)
                except TimeJump:
                    stream.reset()
                    stream.push(clip(1)[0], start + seconds)
                asked += [answer["timestamp"] - start for answer in answers]
            nearest = {math.floor((seconds - drive[0]) * fps + 0.5 - 1e-6) for seconds in drive}
            wanted = []
            for moment in sorted(nearest):
                if not wanted or moment - wanted[-1] >= every * fps - 0.1:
                    wanted.append(moment)
            found = [math.floor((seconds - drive[0]) * fps + 0.5 - 1e-6) for seconds in asked]
            assert found in (wanted, wanted[:-1]), "the last frame may wait for a nearer one"
            assert {round(seconds, 6) for seconds in asked} <= {round(seconds, 6) for seconds in drive}


def test_a_watch_asks_as_its_stream_does(model, processor):
    stream, frames = VideoStream(model, processor), frames_of_noise(3)
    answers = stream.watch(QUESTION, max_new_tokens=8)
    for i, frame in enumerate(frames):
        stream.push(frame, i / 2)
        found = next(answers, None)
        assert found == (answered(stream) if found else None)
    assert answers.last is not None
    for wrong in (-1.0, float("nan"), float("inf"), None, "2"):
        with pytest.raises(ValueError, match=f"every must be a number of seconds, 0 or more, got {wrong!r}"):
            stream.watch(QUESTION, every=wrong)
    with pytest.raises(ValueError, match="changed must be a function of two answers, .*got None"):
        stream.watch(QUESTION, changed=None)


def test_a_watch_that_waits_longer_than_any_drive_asks_once(model, processor):
    stream = VideoStream(model, processor, fps=3e300)
    answers = stream.watch(QUESTION, every=1e300, max_new_tokens=2)
    stream.push(frames_of_noise(1)[0], 0.0)
    assert next(answers, None) and next(answers, None) is None
