"""`hmba serve` as a process: it answers, ends as it is told to, and says nothing of its clients."""

import signal
import socket
import subprocess
import sys
import threading
import time

import openai
import pytest

from documented import COMMANDS
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


def test_the_page_starts_a_server_with_a_model_alone():
    (line,) = {line for _, line in COMMANDS if line.startswith("hmba serve")}
    assert line == "hmba serve --model runs/demo/model"
