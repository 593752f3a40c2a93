"""A connection on which nobody asks for anything ends in its time, and no request, body or camera ends with it."""

import json
import socket
from http.client import HTTPResponse

import pytest

from hmba_hf.serving.heads import TimelyProtocol
from test_serving_refusals import body_of, wait_until
from test_serving_streams import ask, camera_of, push
from tiny_server import jpeg, running

HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def service():
    with running() as service:
        yield service


@pytest.fixture
def opened(monkeypatch):
    """The connections that the server takes; `let_time_pass` ends those whose time counts."""
    taken = []
    begin = TimelyProtocol.connection_made

    def note(self, transport):
        taken.append(self)
        begin(self, transport)

    monkeypatch.setattr(TimelyProtocol, "connection_made", note)
    return taken


def let_time_pass(opened):
    for one in opened:
        if one._ending is not None:
            one.loop.call_soon_threadsafe(one._end)


def connection_to(service):
    host, port = service.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def answer_on(connection):
    """Read a response; return its status and its body."""
    response = HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())


@pytest.mark.parametrize("sent", [b"", b"G", HEAD, HEAD + b"X-A: " + b"a" * 5000])
def test_a_connection_whose_head_does_not_come_is_refused_in_its_time(sent):
    with running(max_head_seconds=0.2) as service, connection_to(service) as connection:
        connection.sendall(sent)
        status, answer = answer_on(connection)
        assert (status, answer["error"]["code"]) == (408, "slow_head")
        assert "within max_head_seconds=0.2" in answer["error"]["message"]
        assert connection.recv(1) == b""


def test_a_head_that_drips_behind_an_answer_is_refused(service, opened):
    with connection_to(service) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert answer_on(connection)[0] == 200
        for letter in HEAD:
            connection.sendall(bytes([letter]))
        wait_until(lambda: opened[0].conn.trailing_data[0] == HEAD)
        let_time_pass(opened)
        assert answer_on(connection)[0] == 408
        assert connection.recv(1) == b""


def test_a_connection_that_is_idle_behind_an_answer_ends_in_silence(service, opened):
    with connection_to(service) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert answer_on(connection)[0] == 200
        let_time_pass(opened)
        assert connection.recv(1) == b""


def test_a_body_that_drips_behind_its_answer_is_left(service, opened):
    with connection_to(service) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        assert answer_on(connection)[0] == 200
        connection.sendall(b"a")
        wait_until(lambda: opened[0]._ending is not None)
        let_time_pass(opened)
        assert connection.recv(1) == b""


def test_a_slow_body_and_a_request_behind_it_are_not_cut(service, opened):
    body = body_of(max_tokens=2).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connection_to(service) as connection:
        for _ in range(2):
            connection.sendall(head + body[:10])
            wait_until(lambda: service._open == 1)
            let_time_pass(opened)
            connection.sendall(body[10:])
            assert answer_on(connection)[0] == 200


def test_a_camera_is_not_cut(service, opened):
    with camera_of(service) as camera:
        let_time_pass(opened)
        push(camera, jpeg(), 0.0)
        assert ask(camera)["type"] == "answer"
        let_time_pass(opened)
        assert ask(camera)["type"] == "answer"
    assert len(opened) == 1
