"""`hmba serve` as a process: it answers, ends as it is told to, and says nothing of its clients."""

import signal
import socket
import subprocess
import sys
import threading
import time

import openai
import pytest
from torch import nn
from transformers import pipeline

from documented import COMMANDS
from hmba_hf.commands import listening, serve
from hmba_hf.models import layers_linear
from hmba_hf.quantisation import quantising_options
from hmba_hf.serving import server
from tiny_server import QUESTION, asking, data_url, drawn_video

KEY = "a token of the test"


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(client, process):
    while True:
        assert process.poll() is None, process.communicate()
        try:
            return client.models.list()
        except openai.APIConnectionError:
            time.sleep(0.1)


def test_the_command_serves_finishes_what_runs_and_logs_no_token(stored_model, port, monkeypatch):
    monkeypatch.setenv("HMBA_SERVE_TOKEN", KEY)
    words = [sys.executable, "-m", "hmba_hf", "serve", "--model", str(stored_model), "--port", str(port)]
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0)
    messages = asking(data_url(drawn_video()))
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        (model,) = wait_for(client, process).data
        assert model.id == stored_model.name

        def stop():
            process.send_signal(signal.SIGTERM)

        answers = client.chat.completions.create(model=model.id, messages=messages, max_tokens=300, stream=True)
        threading.Timer(0.2, stop).start()
        reasons = [chunk.choices[0].finish_reason for chunk in answers]
        assert reasons[-1] in ("stop", "length")
        printed = "".join(process.communicate(timeout=60))
    assert process.returncode == -signal.SIGTERM
    assert f"{model.id} at http://127.0.0.1:{port}/v1\n" in printed
    assert KEY not in printed and QUESTION not in printed and "Traceback" not in printed


def test_a_server_of_a_quantised_model_answers_as_the_pipeline_of_it(stored_model, port):
    words = [sys.executable, "-m", "hmba_hf", "serve", "--model", str(stored_model), "--port", str(port)]
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    video = drawn_video(2)
    question = "Is it safe to turn left here?"  # the answer is another one in 8 bits
    messages = asking(data_url(video), text=question)
    with subprocess.Popen([*words, "--quantization", "bnb-8bit"], stderr=subprocess.PIPE, text=True) as process:
        (model,) = wait_for(client, process).data
        answer = client.chat.completions.create(model=model.id, messages=messages, max_tokens=40)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    found = []
    for options in (quantising_options(stored_model, "bnb-8bit"), {}):
        pipe = pipeline("video-text-to-text", model=str(stored_model), model_kwargs=options)
        found.append(pipe(videos=video, text=question, max_new_tokens=40)[0]["generated_text"])
    quantised, whole = found
    assert answer.choices[0].message.content == quantised != whole


def test_the_command_serves_a_model_with_the_faster_linear_layers(stored_model, monkeypatch):
    kinds = set()

    def see(service, *_):
        kinds.update(map(type, service.answerer._pipeline.model.modules()))
        service.close()

    monkeypatch.setattr(server, "serve", see)
    serve.main(["--model", str(stored_model)])
    assert layers_linear.Linear in kinds and nn.Linear not in kinds


def test_a_server_that_cannot_listen_says_no_address(stored_model, port, caplog, monkeypatch):
    words = ["--model", str(stored_model), "--port", str(port)]
    with socket.create_server(("127.0.0.1", port)), caplog.at_level("INFO"):
        with pytest.raises(ValueError, match=f"port must be free on 127.0.0.1, got {port}"):
            serve.main(words)
        monkeypatch.setattr(listening, "check_port", lambda host, port: None)  # as if it was taken meanwhile
        with pytest.raises(SystemExit):
            serve.main(words)
    assert "http://" not in caplog.text


def test_the_page_starts_a_server_with_a_model_alone():
    (line,) = {line for _, line in COMMANDS if line.startswith("hmba serve")}
    assert line == "hmba serve --model runs/demo/model"
