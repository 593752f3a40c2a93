"""Clients cannot fill the log of a server, whatever they send and however their requests fail."""

import logging
import socket
from contextlib import contextmanager

import openai
import pytest

from hmba_hf.serving import logs
from test_serving_refusals import ask
from tiny_server import asking, client_of, data_url, drawn_video, running


class Lines(logging.Handler):
    """Keeps the lines of a log."""

    def __init__(self):
        super().__init__()
        self.held = []

    def emit(self, record):
        self.held.append(record.getMessage())


@contextmanager
def running_with_log(name, monkeypatch):
    """Start a server; yield it and the lines of its log of this name, in which no other test has left a count."""
    log = logging.getLogger(name)
    monkeypatch.setattr(log, "filters", [])
    lines = Lines()
    with running() as service:
        log.addHandler(lines)  # behind uvicorn, which takes away what it finds
        yield service, lines.held
        log.removeHandler(lines)


def test_clients_that_send_rubbish_fill_no_log(monkeypatch):
    with running_with_log("uvicorn.error", monkeypatch) as (service, lines):
        host, port = service.address.removeprefix("http://").split(":")
        for _ in range(20):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(b"rubbish\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 400")
        assert lines == ["Invalid HTTP request received."]


@pytest.mark.parametrize(
    ("name", "place", "line"),
    [
        ("hmba_hf.serving", lambda service: (service.answerer._pipeline, "forward"), "a request has failed"),
        ("uvicorn.error", lambda service: (service.reader, "_make_inputs"), "Exception in ASGI application\n"),
    ],
)
def test_requests_that_fail_on_the_servers_side_fill_no_log(name, place, line, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("of this test")

    with running_with_log(name, monkeypatch) as (service, lines):
        monkeypatch.setattr(*place(service), fail)
        for _ in range(5):
            with pytest.raises(openai.InternalServerError) as told:
                ask(client_of(service))
            assert told.value.code == "internal_error"
        assert lines == [line]


def test_videos_that_the_decoder_warns_of_fill_no_log(monkeypatch):
    damaged = asking(data_url(drawn_video() * 2))
    with running_with_log("hmba_hf.models.decoding_streams", monkeypatch) as (service, lines):
        for _ in range(5):
            assert ask(client_of(service), damaged).choices
        assert len(lines) == 1


class Telltale(str):
    """The name of a logger at whose sight another one is made."""

    def startswith(self, *names):
        logging.getLogger("made meanwhile")
        return super().startswith(*names)


def test_a_logger_that_a_thread_makes_meanwhile_ends_no_server(monkeypatch):
    known = {**logging.root.manager.loggerDict, Telltale("of this test"): logging.Logger("of this test")}
    monkeypatch.setattr(logging.root.manager, "loggerDict", known)
    with logs.bounded("hmba_hf"):
        assert "made meanwhile" in known


def test_a_log_says_how_many_lines_it_has_passed_over_and_keeps_other_errors_apart(monkeypatch):
    now = 0.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    log = logging.Logger("of this test")
    lines = Lines()
    log.addHandler(lines)
    log.addFilter(logs.Seldom())

    def warn(error):
        log.warning("a line about %s", "a client", exc_info=error)

    for error in (None, None, ValueError(), ValueError(), KeyError(), None):
        warn(error)
    assert lines.held == ["a line about a client"] * 3
    now = 61.0
    warn(None)
    assert lines.held[3:] == ["a line about a client (2 more of this since the last)"]
