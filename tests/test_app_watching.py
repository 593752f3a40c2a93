"""A drive that a visitor of the live page watches: its pace, its answers, and what is left of it."""

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from PIL import Image

from hmba_hf import VideoStream, iter_frames
from hmba_hf.app.asking import Asker
from hmba_hf.app.html import screen_html, table_html
from hmba_hf.app.limits import PageLimits
from hmba_hf.app.visits import Visit
from hmba_hf.app.watching import Watcher, play, watch_frame
from numbered_videos import numbered_video
from tiny_models import lively_model
from tiny_processors import tiny_processor

QUESTION = "Which object is the risk?"
LIMITS = PageLimits(max_new_tokens=4)


class Clock:
    """Time that passes where somebody waits, and by `slow` seconds at each look."""

    def __init__(self, slow=0.0):
        self.now = 100.0
        self.slow = slow

    def __call__(self):
        self.now += self.slow
        return self.now

    def wait(self, seconds):
        self.now += seconds


@pytest.fixture(scope="module")
def asker():
    return Asker(lively_model(), tiny_processor(), LIMITS)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    path.write_bytes(numbered_video(30))  # 10 a second
    return str(path)


@pytest.fixture
def visit(tmp_path):
    return Visit(tmp_path)


@pytest.fixture
def watcher(asker, visit):
    return Watcher(asker, QUESTION, 1.0, visit, "a camera")


def test_a_file_is_watched_at_its_own_pace(watcher, clip):
    clock = Clock()
    shown = list(play(watcher, clip, clock, clock.wait))
    assert [round(moment.seconds, 1) for moment in shown] == [i / 10 for i in range(30)]
    assert clock.now == pytest.approx(102.9) and watcher.skipped == 0


def test_a_slow_machine_passes_over_frames_but_never_so_many_that_the_stream_begins_anew(watcher, clip):
    clock = Clock(slow=0.9)
    times = [moment.seconds for moment in play(watcher, clip, clock, clock.wait)]
    leaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert watcher.skipped == 30 - len(times) > 20 and max(leaps) == pytest.approx(2.0, abs=0.11)
    assert watcher.longest_leap == 2.0


def test_answers_are_those_of_a_stream_and_stand_as_subtitles(watcher, asker, clip):
    clock = Clock()
    shown = list(play(watcher, clip, clock, clock.wait))
    stream = VideoStream(asker.model, asker.processor)
    watch = stream.watch(QUESTION, 1.0, changed=lambda before, after: True, max_new_tokens=4)
    expected = []
    for seconds, frame in iter_frames(clip):
        stream.push(Image.fromarray(frame), seconds)
        expected += [(round(answer["timestamp"], 3), answer["generated_text"]) for answer in watch]
    assert [(record["timestamp"], record["answer"]) for record in watcher.records] == expected
    assert len(expected) == 3 and shown[-1].subtitle and "frames per second" in shown[-1].status


def test_a_drive_leaves_a_video_with_every_frame_and_its_answers(watcher, clip):
    clock = Clock()
    list(play(watcher, clip, clock, clock.wait))
    files = watcher.finish()
    assert watcher.finish() == files
    assert len(list(iter_frames(files.video))) == 30
    assert json.loads(files.json.read_text()) == list(watcher.records)
    assert len(files.csv.read_text().splitlines()) == 4


def test_a_drive_that_is_stopped_takes_no_more(watcher, clip):
    clock = Clock()
    moments = play(watcher, clip, clock, clock.wait)
    next(moments)
    watcher.finish()
    assert list(moments) == [] and watcher.feed(1.0, Image.new("RGB", (40, 20))) is None


def test_a_drive_ends_with_the_visit_of_one_who_reloads_the_page(watcher, clip, visit):
    clock = Clock()
    moments = play(watcher, clip, clock, clock.wait)
    next(moments)
    visit.end()
    assert list(moments) == [] and watcher.feed(1.0, Image.new("RGB", (40, 20))) is None
    assert watcher.finish() == (None, None, None)


def test_a_visit_that_ends_amid_an_answer_leaves_no_file_no_frames_and_no_encoder(watcher, visit, asker, clip):
    clock = Clock()
    moments = play(watcher, clip, clock, clock.wait)
    for _ in range(5):
        next(moments)
    with asker.lock:  # as if the model answered another visitor
        watching = threading.Thread(target=lambda: list(moments))
        watching.start()
        ending = threading.Thread(target=visit.end)
        ending.start()
        while visit.folder.exists():
            ending.join(0.01)
    for thread in (watching, ending):
        thread.join(60)
        assert not thread.is_alive()
    assert watcher.is_done and watcher._video.container is None and math.isnan(watcher._stream.timestamp)
    assert not visit.folder.exists()


def test_a_drive_that_begins_as_its_visit_ends_takes_nothing(asker, visit):
    visit.end()
    watcher = Watcher(asker, QUESTION, 1.0, visit, "a camera")
    assert watcher.is_done and watcher.finish() == (None, None, None)


def test_a_drive_has_just_ended_for_some_seconds_alone(watcher):
    assert not watcher.has_just_ended(60)
    watcher.finish()
    assert watcher.has_just_ended(60) and not watcher.has_just_ended(0)


@pytest.mark.parametrize("every", [None, -1.0, float("nan")])
def test_an_interval_that_is_no_number_of_seconds_is_refused(asker, visit, every):
    with pytest.raises(ValueError, match=f"every must be .*, got {every}"):
        Watcher(asker, QUESTION, every, visit, "a camera")


def test_a_clock_that_goes_back_and_a_camera_that_turns_begin_the_drive_anew(watcher):
    wide, tall = Image.new("RGB", (40, 20)), Image.new("RGB", (20, 40))
    for seconds, frame, size in ((5.0, wide, (480, 240)), (0.0, wide, (480, 240)), (0.5, tall, (240, 480))):
        assert watcher.feed(seconds, frame).picture.size == size
    assert [record["timestamp"] for record in watcher.records] == [5.0, 0.0, 0.5]


def test_what_cannot_be_watched_is_a_sentence(asker, watcher, visit, tmp_path):
    with pytest.raises(ValueError, match="a question must have words, got none"):
        Watcher(asker, " ", 1.0, visit, "a camera")
    with pytest.raises(ValueError, match="a clip must be chosen or uploaded first, got none"):
        list(play(watcher, None))
    (tmp_path / "broken.mp4").write_bytes(b"no video at all " * 50)
    with pytest.raises(ValueError, match="cannot be read as a video"):
        list(play(watcher, str(tmp_path / "broken.mp4")))
    files = watcher.finish()
    assert files == (None, None, None)


def test_texts_of_a_model_are_no_html():
    shown = screen_html(Image.new("RGB", (4, 4)), "<b>", '"')
    assert "&lt;b&gt;" in shown and 'alt="&quot;"' in shown and "&lt;i&gt;" in table_html(("a",), [("<i>",)])


def test_frames_of_one_visit_that_come_at_once_are_taken_one_after_the_other_into_one_drive(asker, visit, monkeypatch):
    inside = threading.Lock()
    times = []
    feed = Watcher.feed

    def note(watcher, seconds, frame):
        assert inside.acquire(blocking=False), "two frames at once"
        times.append(seconds)
        shown = feed(watcher, seconds, frame)
        inside.release()
        return shown

    monkeypatch.setattr(Watcher, "feed", note)
    begin = partial(Watcher, asker, QUESTION, 100.0, visit, "a camera")
    together = threading.Barrier(8)

    def take(number):
        together.wait(60)
        return watch_frame(visit, "a camera", Image.new("RGB", (32, 32), (number, 0, 0)), begin, 2.0)

    with ThreadPoolExecutor(8) as threads:
        seen = list(threads.map(take, range(8)))
    assert {watcher for watcher, _ in seen} == {visit.watched}, "one drive"
    assert times == sorted(times) and len(times) == 8
    assert not visit.watched.is_done


def test_a_camera_begins_a_drive_of_its_own_while_a_file_is_watched(asker, visit, clip):
    file = Watcher(asker, QUESTION, 100.0, visit, "a file")
    watched = play(file, clip, wait=lambda seconds: None)
    assert next(watched).seconds == 0
    begin = partial(Watcher, asker, QUESTION, 100.0, visit, "a camera")
    camera, _ = watch_frame(visit, "a camera", Image.new("RGB", (32, 32)), begin, 0.0)
    assert camera is visit.watched and file.is_done
    assert list(watched) == [], "the file has ended"
    camera.finish()
    assert watch_frame(visit, "a camera", Image.new("RGB", (32, 32)), begin, 60.0) is None, (
        "its last frames still come"
    )


def test_a_camera_frame_that_was_on_its_way_ends_no_file_that_has_just_begun(asker, visit):
    begin = partial(Watcher, asker, QUESTION, 100.0, visit, "a camera")
    watch_frame(visit, "a camera", Image.new("RGB", (32, 32)), begin, 60.0)
    file = Watcher(asker, QUESTION, 100.0, visit, "a file")
    assert watch_frame(visit, "a camera", Image.new("RGB", (32, 32)), begin, 60.0) is None
    assert visit.watched is file and not file.is_done
    file.finish()
