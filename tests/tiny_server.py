"""A server of a tiny random model on a real port of this machine, in a thread of the test."""

import base64
import io
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
from openai import OpenAI
from PIL import Image
from transformers import pipeline

from hmba_hf.data.clips import write_video
from hmba_hf.serving.app import Service
from hmba_hf.serving.limits import ServingLimits
from hmba_hf.serving.server import build_server
from tiny_models import lively_model
from tiny_processors import tiny_processor

NAME = "tiny"
QUESTION = "Which object is the risk?"


@contextmanager
def running(model=None, processor=None, token=None, name=NAME, **limits):
    """Start a server and stop it behind the test; yield its service, with the `address` of its root."""
    service = Service(model or lively_model(), processor or tiny_processor(), name, ServingLimits(**limits))
    server = build_server(service, "127.0.0.1", 0, token)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        service.address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            yield service
        finally:
            server.should_exit = True
            thread.join()


def client_of(service, key="none"):
    """Return a client of OpenAI's that tries once."""
    return OpenAI(base_url=f"{service.address}/v1", api_key=key, max_retries=0)


def pipe_of(service):
    """Return the pipeline of the same model."""
    answerer = service.answerer
    return pipeline("video-text-to-text", model=answerer._pipeline.model, processor=service.processor, device="cpu")


def drawn_video(seed=0, length=6, size=(40, 20)):
    """Draw a video of noise, as bytes of MP4 with two frames a second."""
    file = io.BytesIO()
    write_video(file, [Image.open(io.BytesIO(jpeg(seed + i, size))) for i in range(length)])
    return file.getvalue()


def data_url(data, kind="video/mp4"):
    """Write bytes as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def asking(*urls, text=QUESTION):
    """Write a chat with videos before its question."""
    parts = [{"type": "video_url", "video_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def jpeg(seed=0, size=(40, 20)):
    """Draw a frame of noise as a JPEG file."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()
