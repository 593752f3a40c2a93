"""Of a request that waits for the model, nothing is in memory but what the model needs."""

import struct
import threading
import tracemalloc

from test_serving_refusals import body_of, connection_to
from tiny_server import asking, data_url, drawn_video, running

LARGE = 2**24  # bytes


def test_the_body_of_a_request_and_its_videos_are_let_go_of_once_they_are_read(monkeypatch):
    is_read = threading.Event()
    is_free = threading.Event()
    with running() as service:
        forward = service.answerer._pipeline.forward

        def wait(*inputs, **options):
            is_read.set()
            assert is_free.wait(60)
            return forward(*inputs, **options)

        monkeypatch.setattr(service.answerer._pipeline, "forward", wait)
        connection = connection_to(service)
        tracemalloc.start()
        send_large_video(connection)
        assert is_read.wait(60)
        held, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        is_free.set()
        assert connection.getresponse().status == 200
        connection.close()
    assert held < LARGE / 4 < most / 4


def send_large_video(connection):
    """Ask about a video behind which a box of MP4 lies that says nothing."""
    video = drawn_video() + struct.pack(">I4s", LARGE, b"free") + bytes(LARGE - 8)
    connection.request("POST", "/v1/chat/completions", body_of(messages=asking(data_url(video))))
