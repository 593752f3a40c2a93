"""A camera's connection answers as a stream of its own does, whatever the other cameras send, and holds one frame."""

import io
import json
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from hmba_hf import VideoStream
from hmba_hf.serving import cameras, sessions
from test_serving_refusals import wait_until
from tiny_server import QUESTION, jpeg, running

KEY = "a token of the test"
CAMERAS = 8


@pytest.fixture(scope="module")
def service():
    with running(max_streams=CAMERAS, max_frame_bytes=5000, max_new_tokens=100) as service:
        yield service


def camera_of(service, query="", **options):
    return connect(f"{service.address.replace('http', 'ws')}/v1/streams{query}", **options)


@pytest.fixture
def camera(service):
    """A connection; behind the test, the server must still serve another one, and keep none."""
    with camera_of(service) as connection:
        yield connection
    with camera_of(service) as other:
        push(other, jpeg(), 0.0)
        assert ask(other)["type"] == "answer"
    wait_until(lambda: service.cameras._open == 0)


def push(connection, data, seconds):
    connection.send(struct.pack(">d", seconds) + data)


def no_json(name):
    raise AssertionError(f"{name} is no JSON")


def receive(connection):
    return json.loads(connection.recv(timeout=120), parse_constant=no_json)


def ask(connection, question=QUESTION, **fields):
    connection.send(json.dumps({"question": question, "max_tokens": 8, **fields}))
    return receive(connection)


@contextmanager
def busy_model(monkeypatch):
    """Hold the model until the body ends; yield the sizes of its batches of frames, and what lets it go on."""
    sizes = []
    is_free = threading.Event()
    push = cameras.push_or_restart_together

    def wait_and_push(streams, *pushed):
        sizes.append(len(streams))
        assert is_free.wait(60)
        return push(streams, *pushed)

    with monkeypatch.context() as patch:
        patch.setattr(cameras, "push_or_restart_together", wait_and_push)
        yield sizes, is_free
        is_free.set()


def test_each_of_many_cameras_gets_the_answers_of_its_own_stream(service):
    def mode_of(number):
        return "recurrent" if number % 2 else "window"

    def moments(number):
        return [(jpeg(10 * number + step), number + step / 2, f"What of {number}{step}?") for step in range(3)]

    def drive(number):
        answers = []
        with camera_of(service, f"?mode={mode_of(number)}") as connection:
            for data, seconds, question in moments(number):
                push(connection, data, seconds)
                answers.append(ask(connection, question, id=seconds.hex()))
        return answers

    with ThreadPoolExecutor(CAMERAS) as threads:
        drives = list(threads.map(drive, range(CAMERAS)))
    for number, answers in enumerate(drives):
        stream = VideoStream(service.cameras._pipeline.model, service.processor, mode=mode_of(number))
        for (data, seconds, question), answer in zip(moments(number), answers, strict=True):
            stream.push(Image.open(io.BytesIO(data)), seconds)
            wanted = stream.ask(question, max_new_tokens=8)
            assert (answer["content"], answer["timestamp"]) == (wanted["generated_text"], wanted["timestamp"])
            assert (answer["type"], answer["id"], answer["dropped"]) == ("answer", seconds.hex(), 0)
            assert (answer["width"], answer["height"]) == (40, 20)
    assert len({answer["content"] for answers in drives for answer in answers}) > 4


def test_of_frames_that_come_too_fast_the_newest_is_read_and_the_others_are_counted(service, camera, monkeypatch):
    with busy_model(monkeypatch) as (sizes, is_free):
        push(camera, jpeg(0), 0.0)
        wait_until(lambda: sizes == [1])
        before = frames_that_came(service)
        for number in range(1, 9):
            push(camera, jpeg(number), number / 2)
        wait_until(lambda: frames_that_came(service) == before + 8)
        is_free.set()
        answer = ask(camera)
    assert (answer["dropped"], answer["timestamp"]) == (7, 4.0)
    assert "hmba_stream_frames_dropped_total 7" in service.metrics.text()


def frames_that_came(service):
    lines = [line.split() for line in service.metrics.text().splitlines()]
    return next(int(line[1]) for line in lines if line[0] == "hmba_stream_frames_total")


def test_frames_of_cameras_that_wait_are_read_together(service, monkeypatch):
    with busy_model(monkeypatch) as (sizes, is_free):
        connections = [camera_of(service) for _ in range(CAMERAS)]
        push(connections[0], jpeg(), 0.0)
        wait_until(lambda: sizes == [1])
        for connection in connections[1:]:
            push(connection, jpeg(), 0.0)
        wait_until(lambda: len(service.worker) == CAMERAS - 1)
        is_free.set()
        wait_until(lambda: sizes == [1, CAMERAS - 1])
    for connection in connections:
        assert ask(connection)["type"] == "answer"
        connection.close()
    wait_until(lambda: service.cameras._open == 0)


@pytest.mark.parametrize(
    ("data", "seconds", "code", "words"),
    [
        (b"no picture", 0.5, "undecodable_picture", "cannot be read as a picture"),
        (jpeg()[:200], 0.5, "undecodable_picture", "picture"),
        (b"", 0.5, "bad_frame", "eight bytes with its time"),
        (b"a" * 5001, 0.5, "bad_frame", "up to 5000 of a picture, got 5001"),
        (jpeg(1), 0.0, "bad_frame", "must be later than the last frame's"),
        (jpeg(1), float("nan"), "bad_frame", "must be a number of seconds"),
        (jpeg(1), float("inf"), "bad_frame", "must be a number of seconds"),
    ],
)
def test_a_frame_that_cannot_be_read_is_an_error_and_the_stream_goes_on(camera, data, seconds, code, words):
    push(camera, jpeg(0), 0.0)
    assert ask(camera)["timestamp"] == 0.0
    push(camera, data, seconds)
    told = receive(camera)
    assert (told["type"], told["error"]["code"]) == ("error", code)
    assert words in told["error"]["message"]
    push(camera, jpeg(2), 1.0)
    assert ask(camera)["timestamp"] == 1.0


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("no JSON", "invalid_request", "Invalid JSON"),
        ('{"id": 1}', "invalid_request", "question must be right (Field required)"),
        ('{"question": ""}', "invalid_request", "question"),
        ('{"question": "What?", "max_tokens": 101}', "invalid_request", "max_tokens must be at most 100, got 101"),
        ('{"question": "What?", "temperature": 1}', "invalid_request", "must have no field 'temperature'"),
        (json.dumps({"question": "a" * 3000}), "context_length_exceeded", "at most 2048 tokens of prompt and answer"),
        ('{"question": "<video> <video>"}', "invalid_request", "got 2 tokens and 1 videos"),
    ],
)
def test_a_question_that_is_none_is_an_error_and_the_stream_goes_on(camera, text, code, words):
    push(camera, jpeg(0), 0.0)
    camera.send(text)
    told = receive(camera)
    assert (told["type"], told["error"]["code"]) == ("error", code)
    assert words in told["error"]["message"]
    assert ask(camera)["type"] == "answer"


def test_a_question_of_more_text_than_anyone_asks_is_refused_before_it_is_read(camera, monkeypatch):
    monkeypatch.setattr(sessions, "_MOST_TEXT", 100)
    camera.send(" " * 99 + "{}")
    told = receive(camera)
    assert told["error"]["code"] == "invalid_request"
    assert "at most 100 characters, got 101" in told["error"]["message"]


def test_an_answer_is_as_long_as_that_of_a_chat_where_its_question_names_no_length(service, camera, monkeypatch):
    lengths = []

    def ask_and_note(*asked, **options):
        lengths.append(options["max_new_tokens"])
        return ask_together(*asked, **options)

    ask_together = cameras.ask_together
    monkeypatch.setattr(cameras, "ask_together", ask_and_note)
    push(camera, jpeg(0), 0.0)
    for own in (5, None, 1000):
        monkeypatch.setattr(service.cameras._pipeline.model.generation_config, "max_new_tokens", own)
        assert ask(camera, max_tokens=None)["type"] == "answer"
    assert lengths == [5, 100, 100]


def test_a_question_needs_a_frame(camera):
    told = ask(camera, id="first")
    assert (told["error"]["code"], told["id"]) == ("no_frame", "first")


@pytest.mark.parametrize(("data", "seconds"), [(jpeg(1), 5.0), (jpeg(1, (20, 40)), 100.5)])
def test_a_clock_that_jumps_and_a_camera_that_turns_start_the_stream_anew(service, camera, data, seconds):
    push(camera, jpeg(0), 100.0)
    assert ask(camera)["timestamp"] == 100.0
    push(camera, data, seconds)
    assert receive(camera) == {"type": "restarted", "timestamp": seconds, "dropped": 0}
    stream = VideoStream(service.cameras._pipeline.model, service.processor)
    stream.push(Image.open(io.BytesIO(data)), seconds)
    assert ask(camera)["content"] == stream.ask(QUESTION, max_new_tokens=8)["generated_text"]


def failing_at(model, monkeypatch, *calls):
    """Let calls of the vision tower fail, counted from 1."""
    see = model.get_frame_features
    made = []

    def fail_or_see(pixels):
        made.append(len(pixels))
        if len(made) in calls:
            raise RuntimeError("out of memory")
        return see(pixels)

    monkeypatch.setattr(model, "get_frame_features", fail_or_see)
    return made


def test_a_restart_is_told_though_the_tower_failed_at_its_first_frame(service, camera, monkeypatch):
    push(camera, jpeg(0), 100.0)
    assert ask(camera)["timestamp"] == 100.0
    with monkeypatch.context() as patch:
        failing_at(service.cameras._pipeline.model, patch, 1)
        push(camera, jpeg(1), 5.0)
        assert receive(camera)["type"] == "error"
    push(camera, jpeg(2), 5.5)
    assert receive(camera)["type"] == "restarted"
    assert ask(camera)["timestamp"] == 5.5


def test_a_tower_that_fails_amid_a_batch_costs_no_camera_a_frame(service, monkeypatch):
    model = service.cameras._pipeline.model
    # The frame at 0.8 s waits for one nearer to 1 s, and is taken when that at 1.3 s comes: in two batches.
    drives = [[0.0, 0.5, 0.7, 0.8, 1.3], [0.0, 1.0]]
    connections = [camera_of(service) for _ in drives]
    for connection, times in zip(connections, drives, strict=True):
        for number, seconds in enumerate(times[:-1]):
            push(connection, jpeg(number), seconds)
            ask(connection)
    with camera_of(service) as third, busy_model(monkeypatch) as (sizes, is_free):
        push(third, jpeg(), 0.0)
        wait_until(lambda: sizes == [1])
        made = failing_at(model, monkeypatch, 3)
        for connection, times in zip(connections, drives, strict=True):
            push(connection, jpeg(9), times[-1])
        wait_until(lambda: len(service.worker) == 2)
        is_free.set()
        found = [ask(connection) for connection in connections]
    for connection in connections:
        connection.close()
    wait_until(lambda: service.cameras._open == 0)
    assert made == [1, 2, 1, 1, 1, 1], "that of another camera, both, the one that failed, each alone"
    for times, answer in zip(drives, found, strict=True):
        stream = VideoStream(model, service.processor)
        for number, seconds in enumerate(times):
            last = seconds == times[-1]
            stream.push(Image.open(io.BytesIO(jpeg(9 if last else number))), seconds)
        wanted = stream.ask(QUESTION, max_new_tokens=8)
        assert (answer["type"], answer["timestamp"]) == ("answer", wanted["timestamp"])
        assert answer["content"] == wanted["generated_text"]


def test_more_questions_than_may_wait_are_refused(service, camera, monkeypatch):
    with busy_model(monkeypatch) as (sizes, is_free):
        push(camera, jpeg(0), 0.0)
        wait_until(lambda: sizes == [1])
        for number in range(5):
            camera.send(json.dumps({"question": QUESTION, "id": number, "max_tokens": 4}))
        assert receive(camera)["error"]["code"] == "too_many_questions"
        is_free.set()
    assert [receive(camera)["id"] for _ in range(4)] == [0, 1, 2, 3]


def test_a_camera_that_is_killed_while_it_is_answered_is_forgotten(service, camera):
    dying = camera_of(service)
    push(dying, jpeg(0), 0.0)
    dying.send(json.dumps({"question": QUESTION, "max_tokens": 100}))
    wait_until(lambda: service.cameras._open == 2)
    dying.socket.close()
    wait_until(lambda: service.cameras._open == 1)


def test_more_cameras_than_allowed_and_other_modes_are_told_why(service):
    connections = [camera_of(service) for _ in range(CAMERAS)]
    wait_until(lambda: service.cameras._open == CAMERAS)
    for query, code in (("", "too_many_streams"), ("?mode=past", "invalid_request")):
        with camera_of(service, query) as refused:
            assert receive(refused)["error"]["code"] == code
            with pytest.raises(ConnectionClosed):
                refused.recv(timeout=60)
        connections.pop().close()
        wait_until(lambda: service.cameras._open < CAMERAS)
    for connection in connections:
        connection.close()
    wait_until(lambda: service.cameras._open == 0)


def test_a_camera_that_is_silent_leaves_its_place_to_others():
    with running(max_streams=1, max_idle_seconds=0.5) as service:
        for _ in range(2):
            with camera_of(service) as silent:
                told = receive(silent)
                assert told["type"] == "error" and told["error"]["code"] == "idle"
                assert "within max_idle_seconds=0.5" in told["error"]["message"]
                with pytest.raises(ConnectionClosed):
                    silent.recv(timeout=60)
            wait_until(lambda: service.cameras._open == 0)


def test_a_camera_without_the_token_or_of_another_origin_is_refused(service):
    with pytest.raises(InvalidStatus):
        camera_of(service, origin="http://page.example")
    with running(token=KEY) as guarded:
        with pytest.raises(InvalidStatus):
            camera_of(guarded)
        with camera_of(guarded, additional_headers={"Authorization": f"Bearer {KEY}"}) as connection:
            assert ask(connection)["error"]["code"] == "no_frame"
