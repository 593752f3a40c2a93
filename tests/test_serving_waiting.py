"""Who waits, for a place, a client, a server of files or the model, waits no longer than the limits, and alone."""

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing

import openai
import pytest

from hmba_hf.serving import app as serving_app
from hmba_hf.serving.app import EventStream
from test_serving_refusals import VIDEO, ask, body_of, connection_to, wait_until
from tiny_server import asking, client_of, running


def test_more_requests_than_places_are_told_to_come_again():
    with running(max_requests=1) as service:
        connection = connection_to(service)
        connection.putrequest("POST", "/v1/chat/completions")
        connection.putheader("Content-Length", "100")
        connection.endheaders()
        wait_until(lambda: service._open == 1)
        with pytest.raises(openai.RateLimitError) as refused:
            ask(client_of(service))
        assert refused.value.code == "too_many_requests"
        assert refused.value.response.headers["retry-after"] == "1"
        connection.close()
        wait_until(lambda: service._open == 0)
        assert ask(client_of(service)).choices


def test_a_client_that_does_not_read_is_left_when_its_time_is_over(monkeypatch):
    monkeypatch.setattr(serving_app, "_SECONDS_TO_READ", 0.05)
    closed = []

    async def parts():
        try:
            yield "a piece"
        finally:
            closed.append("parts")

    async def block(*_):
        await asyncio.Event().wait()

    async def respond():
        held = AsyncExitStack()
        held.callback(closed.append, "place")
        pieces = await held.enter_async_context(aclosing(parts()))
        await anext(pieces)
        end = asyncio.get_running_loop().time() + 0.05
        await EventStream(None, pieces, end, held)({}, block, block)

    asyncio.run(respond())
    assert closed == ["parts", "place"]


def test_an_answer_that_takes_too_long_is_an_error():
    with running(max_request_seconds=0.05) as service:
        with pytest.raises(openai.InternalServerError) as refused:
            ask(client_of(service), max_tokens=1000)
        assert (refused.value.status_code, refused.value.code) == (504, "timeout")


def test_a_stream_that_takes_too_long_ends_with_an_error(monkeypatch):
    with running(max_request_seconds=2.0) as service:
        is_free = threading.Event()
        forward = service.answerer._pipeline.forward
        monkeypatch.setattr(
            service.answerer._pipeline,
            "forward",
            lambda *given, **options: is_free.wait(60) and forward(*given, **options),
        )
        with pytest.raises(openai.APIError) as told:
            list(ask(client_of(service), asking(text="Hello?"), stream=True))
        is_free.set()
        assert told.value.code == "timeout"


@pytest.fixture
def silent():
    """A server that says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        silent.settimeout(60)
        yield silent


def address_of(server):
    return f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"


def test_slow_servers_of_files_hold_up_no_request_without_an_address(silent):
    with running(allow_private_addresses=True, max_body_seconds=120.0) as service:
        client = client_of(service).with_options(timeout=60)
        slow = body_of(messages=asking(address_of(silent)))
        connections = [connection_to(service) for _ in range(20)]
        for connection in connections:
            connection.request("POST", "/v1/chat/completions", slow)
        wait_until(lambda: service._open == 20)
        assert ask(client, asking(text="Hello?")).choices
        assert ask(client).choices
        uploaded = client.files.create(file=("drive.mp4", VIDEO), purpose="user_data")
        part = {"type": "file", "file": {"file_id": uploaded.id}}
        assert ask(client, [{"role": "user", "content": [part]}]).choices
        for connection in connections:
            connection.close()
        wait_until(lambda: service._open == 0)


def test_clients_that_have_gone_leave_no_fetch_behind(silent):
    with running(allow_private_addresses=True, max_body_seconds=120.0) as service:
        for _ in range(20):
            connection = connection_to(service)
            connection.request("POST", "/v1/chat/completions", body_of(messages=asking(address_of(silent))))
            visit, _ = silent.accept()
            visit.settimeout(60)
            with visit, visit.makefile("rb") as received:
                assert received.readline().startswith(b"GET /a.mp4")
                connection.close()
                assert received.read()  # to its end
        assert ask(client_of(service)).choices


def test_prompts_that_wait_for_the_model_are_read_two_batches_at_a_time(monkeypatch):
    is_free = threading.Event()
    with running(max_batch=2) as service:
        client = client_of(service)
        forward = service.answerer._pipeline.forward

        def wait(*inputs, **options):
            assert is_free.wait(60)
            return forward(*inputs, **options)

        monkeypatch.setattr(service.answerer._pipeline, "forward", wait)
        made = []
        make = service.reader._make_inputs
        monkeypatch.setattr(service.reader, "_make_inputs", lambda *given: made.append(1) or make(*given))
        with ThreadPoolExecutor(10) as threads:
            answers = [threads.submit(ask, client) for _ in range(10)]
            wait_until(lambda: service._open == 10 and len(made) == 4)
            time.sleep(0.2)
            assert len(made) == 4
            is_free.set()
            texts = {answer.result().choices[0].message.content for answer in answers}
        assert len(texts) == 1 and len(made) == 10
        wait_until(lambda: service.reader._places._value == 4)
