"""vLLM's server answers chat completions about videos, without a line of user code."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from tiny_engines import LENGTH, pipeline_answers, save_model, save_videos, sixteen_requests

SECONDS_TO_START = 2400
OPENER = build_opener(ProxyHandler({}))  # straight to this machine


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model."""
    folder = tmp_path_factory.mktemp("served")
    save_model("llama", folder)
    return folder


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A request about one video."""
    return sixteen_requests(save_videos(tmp_path_factory.mktemp("drives")))[1]


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    """The address of a server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # What `vllm serve` starts; that command itself asks for a package `vllm`, which the build for CPUs is not called.
    words = [
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(model),
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--served-model-name",
        "model",
    ]
    words += ["--enforce-eager", "--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "16"]
    words += ["--trust-request-mm-kwargs"]  # else a request may not say which moment is meant
    log = tmp_path_factory.mktemp("log") / "server.log"
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("w") as output:
        server = subprocess.Popen([sys.executable, *words], stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1/chat/completions"
        finally:
            server.terminate()
            server.wait(timeout=120)


def wait_for(url, server, log):
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()[-4000:]
        try:
            with OPENER.open(url, timeout=10):
                return
        except URLError:
            time.sleep(2)
    raise AssertionError(log.read_text()[-4000:])


def post(address, content, **options):
    body = {"model": "model", "messages": [{"role": "user", "content": content}], "temperature": 0, **options}
    # Tokens, since vLLM leaves out of the text what ends amid the bytes of a character.
    body |= {"max_tokens": LENGTH, "min_tokens": LENGTH, "return_token_ids": True}
    request = Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with OPENER.open(request, timeout=600) as response:
        return json.load(response)["choices"][0]["token_ids"]


def test_a_chat_completion_with_a_video_url_is_the_answer_of_the_pipeline(address, model, asked):
    (wanted,) = pipeline_answers(model, [asked])
    data = base64.b64encode(Path(asked.videos[0]).read_bytes()).decode()
    video = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}}
    question = {"type": "text", "text": asked.text}
    options = {"mm_processor_kwargs": {"timestamp": asked.timestamp}}
    assert post(address, [video, question], **options) == wanted
    for content, given, message in (
        ([video, {"type": "text", "text": "<video> and this?"}], {}, "got 2 tokens and 1 videos"),
        ([{**video, "video_url": {"url": "data:video/mp4;base64,AAAA"}}, question], {}, "video"),
        ([video, question], {"num_frames": "x"}, "num_frames must be a whole number, one or more, got 'x'"),
        ([video, question], {"timestamp": "x"}, "timestamp must be a number of seconds, zero or more, got 'x'"),
        ([video, question], {"videos_kwargs": 3}, "videos_kwargs must be options by name, got 3"),
    ):
        with pytest.raises(HTTPError) as refused:
            post(address, content, mm_processor_kwargs=options["mm_processor_kwargs"] | given)
        assert refused.value.code == 400
        assert message in refused.value.read().decode()
    assert post(address, [video, question], **options) == wanted
