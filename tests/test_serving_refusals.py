"""What a client may not send ends its own request, with an error of a type, and nothing else."""

import http.client
import io
import json
import socket
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import openai
import pytest
from huggingface_hub.utils import httpx
from uvicorn.protocols.http.h11_impl import H11Protocol

from hmba_hf.serving import app as serving_app
from hmba_hf.serving import uploads
from hmba_hf.serving.answering import _EachEnds
from hmba_hf.serving.chats import read_request
from hmba_hf.serving.errors import RequestError
from hmba_hf.serving.limits import ServingLimits
from hmba_hf.serving.server import build_server
from numbered_videos import numbered_video
from tiny_server import NAME, QUESTION, asking, client_of, data_url, drawn_video, jpeg, running

VIDEO = drawn_video()
CHAT = asking(data_url(VIDEO))
KEY = "a token of the test"


@pytest.fixture(scope="module")
def service():
    with running(
        max_upload_bytes=50_000,
        max_stored_bytes=60_000,
        max_body_seconds=2.0,
        max_clips=3,
        max_frames=6,
        max_clip_seconds=10.0,
        max_pixels=2000,
        max_new_tokens=1200,
    ) as service:
        yield service


@pytest.fixture
def client(service):
    """A client; behind the test, the server must still answer, and hold nothing of the requests."""
    yield client_of(service)
    assert ask(client_of(service)).choices[0].message.content
    wait_until(lambda: service._open == 0)


def ask(client, messages=CHAT, **options):
    return client.chat.completions.create(**{"model": NAME, "messages": messages, "max_tokens": 4, **options})


def wait_until(is_so, seconds=60):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def connection_to(service):
    return http.client.HTTPConnection(service.address.removeprefix("http://"), timeout=60)


def send(service, method="POST", path="/v1/chat/completions", body=None, headers=None):
    """Send a request of any form; return the status and the error."""
    connection = connection_to(service)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    answer = json.loads(response.read() or "{}")
    connection.close()
    return response.status, answer.get("error", {}).get("code")


def body_of(**fields):
    return json.dumps({"model": NAME, "messages": CHAT, "max_tokens": 4, **fields})


SMALL = data_url(numbered_video(5, size=(32, 32)))
LONG = data_url(numbered_video(110, size=(32, 32)))  # 11 seconds
LARGE = data_url(drawn_video(size=(64, 48)))


@pytest.mark.parametrize(
    ("fields", "status", "code", "words"),
    [
        ({"messages": []}, 400, "invalid_request", "messages must be right .*at least 1 item"),
        ({"messages": [{"role": "tool", "content": ""}]}, 400, "invalid_request", "role must be 'system', 'user'"),
        ({"messages": asking("file:///etc/hostname")}, 400, "unsupported_url", "must be a data URL or an http"),
        ({"messages": asking("/etc/hostname")}, 400, "unsupported_url", "must be a data URL or an http"),
        ({"messages": asking("data:video/mp4,abc")}, 400, "unsupported_url", "must hold base64 text"),
        ({"messages": asking("data:video/mp4;base64,a?")}, 400, "unsupported_url", "must hold base64 text"),
        ({"messages": asking(data_url(b"no video"))}, 422, "undecodable_video", "cannot be read as a video"),
        ({"messages": asking(data_url(VIDEO[:3000]))}, 422, "undecodable_video", "video"),
        ({"messages": asking(LARGE)}, 422, "undecodable_video", "max_pixels=2000"),
        ({"messages": asking(data_url(b"#EXTM3U\n"))}, 422, "undecodable_video", "a list of addresses"),
        ({"messages": asking(LONG)}, 400, "too_long", "at most 10 seconds, got 11"),
        ({"messages": asking(*[SMALL] * 4)}, 400, "too_many", "clips must be at most 3, got 4"),
        ({"messages": asking(data_url(VIDEO), text="<video>?")}, 400, "invalid_request", "got 2 tokens and 1 videos"),
        ({"messages": asking(text="a" * 40_000)}, 400, "context_length_exceeded", "at most 2048"),
        ({"messages": asking(text="a" * 3000)}, 400, "context_length_exceeded", "at most 2048 tokens"),
        ({"timestamp": 60.0}, 400, "invalid_request", "timestamp"),
        ({"timestamp": -1.0}, 400, "invalid_request", "timestamp must be greater than or equal to 0, got -1.0"),
        ({"num_frames": 7}, 400, "too_many", "num_frames must be at most 6, got 7"),
        ({"max_tokens": 5000}, 400, "invalid_request", "max_tokens must be at most 1200, got 5000"),
        ({"max_completion_tokens": 3}, 400, "invalid_request", "max_tokens must come without"),
        ({"temperature": 3}, 400, "invalid_request", "temperature must be less than or equal to 2, got 3"),
        ({"n": 2}, 400, "invalid_request", "n must be 1, got 2"),
        ({"stop": ["a"] * 5}, 400, "invalid_request", "stop"),
        ({"stream_options": {"include_usage": True}}, 400, "invalid_request", "must come with stream, got none"),
        ({"messages": asking(), "timestamp": 1.0}, 400, "invalid_request", "timestamp must come with a video"),
        ({"messages": asking(), "num_frames": 2}, 400, "invalid_request", "num_frames must come with a video"),
        ({"messages": asking("https://.a/")}, 400, "unreachable_url", "an address must lead to a file"),
        ({"tools": []}, 400, "invalid_request", "the body must have no field 'tools', got dict"),
    ],
)
def test_what_cannot_be_answered_is_told_to_its_client(client, fields, status, code, words):
    fields = {"messages": CHAT, **fields}
    with pytest.raises(openai.APIStatusError, match=words) as refused:
        ask(client, fields.pop("messages"), extra_body=fields)
    assert (refused.value.status_code, refused.value.code) == (status, code)
    assert refused.value.body["type"] == "invalid_request_error"


def test_a_length_that_no_answer_may_have_is_refused_before_a_video_is_fetched(client):
    for lengths in ({"max_tokens": 1201}, {"max_tokens": 4, "max_completion_tokens": 4}):
        with pytest.raises(openai.BadRequestError, match="max_tokens must") as refused:
            ask(client, asking("http://127.0.0.1/a.mp4"), **lengths)  # which no client may name, either
        assert refused.value.code == "invalid_request"


def test_a_picture_that_is_none_is_refused(client):
    part = {"type": "image_url", "image_url": {"url": data_url(jpeg()[:100], "image/jpeg")}}
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        ask(client, [{"role": "user", "content": [part]}])
    assert refused.value.code == "undecodable_picture"


def test_a_body_that_is_too_large_is_refused_before_it_has_come(service, client):
    assert send(service, body=b"a" * 50_001) == (413, "too_large")
    endless = (b"a" * 1000 for _ in range(10_000))  # without a length
    response = httpx.post(f"{service.address}/v1/chat/completions", content=endless)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
    for path, kind in (("/v1/chat/completions", "application/json"), ("/v1/files", "multipart/form-data; boundary=b")):
        connection = connection_to(service)
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", kind)
        connection.putheader("Content-Length", str(2**31))  # of which nothing is sent
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()
    with pytest.raises(openai.APIStatusError) as refused:
        client.files.create(file=("drive.mp4", b"a" * 60_000), purpose="user_data")
    assert (refused.value.status_code, refused.value.code) == (413, "too_large")


def test_headers_without_end_are_refused(service):
    connection = connection_to(service)
    connection.putrequest("GET", "/health")
    for number in range(64):
        connection.putheader(f"X-{number}", "a" * 16_000)
    try:
        connection.endheaders()
        assert connection.getresponse().status == 400
    except ConnectionError:  # refused before all of them were sent
        pass
    connection.close()
    assert issubclass(build_server(service, "127.0.0.1", 1, None).config.http.func, H11Protocol), (
        "httptools refuses none"
    )


def test_a_body_that_does_not_come_is_refused_and_one_half_sent_is_forgotten(service, client):
    for path in ("/v1/chat/completions", "/v1/files"):
        connection = connection_to(service)
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", "1000")
        connection.putheader("Content-Type", "multipart/form-data; boundary=b")
        connection.endheaders(b"--b\r\n")
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["error"]["code"]) == (408, "slow_body")
        connection.close()
        connection = connection_to(service)
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", "1000")
        connection.putheader("Content-Type", "multipart/form-data; boundary=b")
        connection.endheaders(b"--b\r\n")
        wait_until(lambda: service._open == 1)
        connection.close()
        noted = f'route="{path}",status="499"'
        wait_until(lambda noted=noted: noted in service.metrics.text())


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{", {}),
        (b"--b--", {"Content-Type": "multipart/form-data; boundary=b"}),
        (b"rubbish", {"Content-Type": "multipart/form-data; boundary=b"}),
        (b"rubbish", {"Content-Type": "multipart/form-data"}),
    ],
)
def test_an_upload_that_is_no_form_with_a_file_is_refused(service, client, body, headers):
    assert send(service, path="/v1/files", body=body, headers=headers) == (400, "invalid_form")


def test_uploads_have_room_for_so_much_together(client):
    first = client.files.create(file=("a", b"a" * 30_000), purpose="user_data")
    with pytest.raises(openai.RateLimitError) as refused:
        client.files.create(file=("b", b"b" * 40_000), purpose="user_data")
    assert refused.value.code == "uploads_full"
    client.files.delete(first.id)
    client.files.delete(client.files.create(file=("b", b"b" * 40_000), purpose="user_data").id)


def test_a_body_that_is_no_json_and_a_path_that_is_no_route_are_refused(service, client):
    assert send(service, body=b"{") == (400, "invalid_request")
    assert send(service, "GET", "/v1/nothing") == (404, "no_such_route")
    assert send(service, "DELETE", "/v1/models") == (405, "no_such_route")
    assert send(service, "DELETE", "/v1/files/..%2F..%2Fetc") == (404, "no_such_route")


def test_a_client_that_goes_away_leaves_the_model_to_the_others(service, client, monkeypatch):
    drawn = []
    take = _EachEnds.__call__

    def count(self, input_ids, scores, **options):
        drawn.append(1)
        return take(self, input_ids, scores, **options)

    monkeypatch.setattr(_EachEnds, "__call__", count)
    text = body_of(max_tokens=1200, temperature=2.0, messages=asking(text="Hello?"))
    for stream in (False, True):
        connection = connection_to(service)
        connection.request("POST", "/v1/chat/completions", json.dumps({**json.loads(text), "stream": stream}))
        wait_until(lambda: service._open == 1)
        if stream:
            assert connection.getresponse().readline().startswith(b"data: ")
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # as a kill would
        connection.close()
        wait_until(lambda: service._open == 0)
    assert ask(client).choices  # behind the two
    assert len(drawn) < 1200, "the model goes on for nobody"


KILLED = """
import socket, sys, time
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.sendall(sys.stdin.buffer.read())
print("sent", flush=True)
time.sleep(600)
"""


def test_a_client_whose_process_is_killed_is_forgotten(service, client):
    body = body_of(max_tokens=1200, temperature=2.0, messages=asking(text="Hello?")).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    words = [sys.executable, "-c", KILLED, service.address.rpartition(":")[2]]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(head + body)
        process.stdin.close()
        assert process.stdout.readline() == b"sent\n"
        wait_until(lambda: service._open == 1)
        process.kill()
    wait_until(lambda: service._open == 0)


def test_a_client_that_does_not_read_holds_nobody_up(service, client):
    host, port = service.address.removeprefix("http://").split(":")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        slow.connect((host, int(port)))
        body = body_of(stream=True, max_tokens=40, messages=asking(text="Hello?")).encode()
        slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n")
        slow.sendall(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: service._open == 1)
        assert ask(client).choices
        received = b""
        while piece := slow.recv(65536):
            received += piece
        assert b"data: [DONE]" in received


def test_only_who_bears_the_token_passes():
    with running(token=KEY) as service:
        assert ask(client_of(service, KEY)).choices
        for key in ("another token", KEY[:-1], ""):
            with pytest.raises(openai.AuthenticationError) as refused:
                ask(client_of(service, key or "none"))
            assert refused.value.code == "invalid_api_key"
        for wrong in ("Bearer \xe4", KEY, f"Basic {KEY}", f"Bearer{KEY}"):
            assert send(service, headers={"Authorization": wrong}) == (401, "invalid_api_key")
        assert send(service, "GET", "/v1/models", headers={"Authorization": f"bearer {KEY}"})[0] == 200
        for path in ("/metrics", "/v1/models", "/v1/files", "/nothing"):
            assert send(service, "GET", path) == (401, "invalid_api_key")
        assert send(service, "GET", "/health")[0] == 200
        counted = service.metrics.text()
        assert 'status="401"' in counted
        assert KEY not in counted and QUESTION not in counted and "another" not in counted


def test_without_a_token_pages_and_other_names_do_not_pass(service):
    assert send(service, body=body_of(), headers={"Host": "localhost:80"})[0] == 200
    assert send(service, body=body_of(), headers={"Host": "page.example"}) == (403, "other_host")
    elsewhere = {"Host": "localhost", "Origin": "http://page.example"}
    assert send(service, body=body_of(), headers=elsewhere) == (403, "other_origin")
    assert send(service, body=body_of(), headers={"Host": "localhost", "Origin": "null"}) == (403, "other_origin")


def test_a_host_or_an_origin_that_is_no_address_is_refused_in_the_usual_form(service):
    assert send(service, body=body_of(), headers={"Host": "["}) == (400, "invalid_request")
    odd = {"Host": "localhost", "Origin": "http://["}
    assert send(service, body=body_of(), headers=odd) == (400, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "tiny", "messages": [' + b"1," * 100_000 + b"1]}",
        b'{"model": "tiny", "messages": [{"role": "user", "content": [' + b"1," * 100_000 + b"1]}]}",
        b"{" + b",".join(b'"%d": 1' % i for i in range(100_000)) + b"}",
        b'{"model": "tiny", "messages": [' + b"[" * 100_000,
        b'{"model": "tiny", "messages": [' + b",".join([b'{"role": "user", "content": ""}'] * 1025) + b"]}",
    ],
)
def test_a_body_of_many_mistakes_is_refused_for_the_first_in_little_memory(body):
    tracemalloc.start()
    with pytest.raises(RequestError) as refused:
        read_request(body)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.code == "invalid_request" and len(str(refused.value)) < 500
    assert most < 20 * len(body) + 2**20, "each mistake must not make an error of its own"


def test_a_body_of_more_values_than_anyone_needs_is_refused_before_it_is_read():
    with pytest.raises(RequestError, match="at most 262144 commas and brackets, got 300002"):
        read_request(b"[[" + b"," * 300_000)


def test_requests_are_counted_by_their_routes_and_ids_are_no_names(service, client):
    uploaded = client.files.create(file=("a", b"a"), purpose="user_data")
    client.files.delete(uploaded.id)
    send(service, "GET", "/v1/nothing")
    counted = service.metrics.text()
    assert 'route="/v1/files/{number}",status="200"' in counted
    assert 'route="other",status="404"' in counted and uploaded.id not in counted


def test_an_upload_is_deleted_when_its_hour_is_over_though_nobody_asks(monkeypatch):
    monkeypatch.setattr(serving_app, "_SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(uploads, "LIFETIME", 0.2)
    with running() as service:
        client_of(service).files.create(file=("a", b"a"), purpose="user_data")
        wait_until(lambda: not service.uploads._files)
        assert not [*Path(service.uploads._folder.name).iterdir()]


def test_a_disk_that_fails_once_ends_no_deletion_of_later_uploads(monkeypatch):
    monkeypatch.setattr(serving_app, "_SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(uploads, "LIFETIME", 0.2)
    with running() as service:
        delete_old = service.uploads.delete_old
        looks = []

        def fail_once():
            looks.append(1)
            if len(looks) == 1:
                raise OSError("of the test")
            delete_old()

        monkeypatch.setattr(service.uploads, "delete_old", fail_once)
        client_of(service).files.create(file=("a", b"a"), purpose="user_data")
        wait_until(lambda: not service.uploads._files)


def test_an_upload_that_cannot_be_deleted_troubles_nobody_and_is_deleted_at_a_later_look(monkeypatch):
    kept = uploads.Uploads(ServingLimits())
    stuck, other = (kept.add(io.BytesIO(b"a"), "a", 1)["id"] for _ in range(2))
    for number in (stuck, other):
        kept._files[number] = kept._files[number]._replace(created=0.0)
    unlink = Path.unlink

    def fail(path, **options):
        if path.name == stuck:
            raise OSError("of the test")
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        new = kept.add(io.BytesIO(b"b"), "b", 1)["id"]
        assert {path.name for path in Path(kept._folder.name).iterdir()} == {stuck, new}
        with pytest.raises(RequestError, match="file_id must be one of an uploaded file"):
            kept.describe(stuck)
    kept.delete_old()
    assert {path.name for path in Path(kept._folder.name).iterdir()} == {new}
    kept.close()


def test_all_clips_of_a_request_together_are_as_large_as_one_upload_at_most(service, client):
    uploaded = client.files.create(file=("drive.mp4", b"a" * 20_000), purpose="user_data")
    parts = [{"type": "file", "file": {"file_id": uploaded.id}}] * 3
    with pytest.raises(openai.APIStatusError, match="together must have at most max_upload_bytes=50000") as refused:
        ask(client, [{"role": "user", "content": parts}])
    assert (refused.value.status_code, refused.value.code) == (413, "too_large")
    client.files.delete(uploaded.id)


def test_a_limit_is_above_zero():
    with pytest.raises(ValueError, match="max_batch must be above zero, got 0"):
        ServingLimits(max_batch=0)
