"""Does a server lose a request or mix up two, does its memory grow, and what do cameras gain from being read together?

    python benchmarks/serving.py --output_dir runs/serving                         # three minutes and more
    python benchmarks/serving.py --clients 8 --cameras 3 --seconds 10 --turns 2    # to see that all is well

A server of its own runs `hmba serve` with the tuned model of the demo, which knows the micro-world alone. Each client
asks about one of a few clips again and again, every other one as a stream, and compares the answer with the one that
came when nobody else asked. Each camera sends ten frames a second on a clock of its own and asks every two seconds;
an answer must have a time of that clock. Some clients break off, send rubbish or do not read.

Memory is resident, of the server: the growth is that of the median of the last third over the median of the second
third. `frames a second` is of `VideoStream`s in this process, by processor time in turns: each frame is taken, and its
features are computed, for all cameras together or one after another.
"""

import argparse
import base64
import io
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from huggingface_hub.utils import httpx
from measuring import MIB, hardware, in_turns, markdown, save
from transformers import AutoProcessor
from websockets.sync.client import connect

from hmba_hf import VideoStream
from hmba_hf.commands.demo import TUNED
from hmba_hf.data.clips import write_video
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.samples import RISK_QUESTION
from hmba_hf.families import load_model
from hmba_hf.streaming import adapt_together, ask_together, push_together

CLIPS = 6
LENGTHS = (8, 32)  # tokens
TOGETHER = 8  # cameras whose frames a second are measured
FPS = 10


class Soak:
    """Clients and cameras of one server, and what came of them.

    Args:
        address: of the server, without a scheme.
    """

    def __init__(self, address: str):
        self.address = address
        self.outcomes: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = {"request": [], "first token": [], "camera's answer": []}
        self.dropped = 0
        self.is_over = threading.Event()
        self.lock = threading.Lock()
        world = MicroWorld(MicroWorldConfig(), "test", CLIPS)
        self.frames: list[Any] = [world[number].frames for number in range(CLIPS)]
        self.bodies = list(self._bodies())
        self.wanted = [self._ask(body, is_stream=False) for body in self.bodies]

    def _bodies(self) -> Iterator[dict[str, Any]]:
        for frames in self.frames:
            file = io.BytesIO()
            write_video(file, frames)
            url = f"data:video/mp4;base64,{base64.b64encode(file.getvalue()).decode()}"
            content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": RISK_QUESTION}]
            for length in LENGTHS:
                messages = [{"role": "user", "content": content}]
                yield {"model": TUNED.name, "messages": messages, "max_tokens": length, "temperature": 0}

    def _ask(self, body: dict[str, Any], is_stream: bool) -> str:
        """Return an answer, from pieces if it streams."""
        url = f"http://{self.address}/v1/chat/completions"
        start = time.perf_counter()
        if not is_stream:
            response = httpx.post(url, json=body, timeout=600).raise_for_status().json()
            self._took("request", start)
            return response["choices"][0]["message"]["content"]
        text = ""
        with httpx.stream("POST", url, json={**body, "stream": True}, timeout=600) as events:
            for line in events.raise_for_status().iter_lines():
                if line.startswith("data: {"):
                    piece = json.loads(line[6:])["choices"][0]["delta"].get("content")
                    if piece and not text:
                        self._took("first token", start)
                    text += piece or ""
        self._took("request", start)
        return text

    def _took(self, what: str, start: float) -> None:
        with self.lock:
            self.seconds[what].append(time.perf_counter() - start)

    def _count(self, outcome: str) -> None:
        with self.lock:
            self.outcomes[outcome] += 1

    def client(self, number: int) -> None:
        """Ask until the time is over."""
        drawn = random.Random(number)
        while not self.is_over.is_set():
            place = drawn.randrange(len(self.bodies))
            try:
                answer = self._ask(self.bodies[place], is_stream=bool(number % 2))
                self._count("right" if answer == self.wanted[place] else "wrong")
            except httpx.HTTPError as error:
                self._count(f"lost: {type(error).__name__}")

    def camera(self, number: int) -> None:
        """Send frames on a clock of its own, and ask every two seconds."""
        pictures = []
        for frame in self.frames[number % CLIPS]:
            file = io.BytesIO()
            frame.save(file, "JPEG")
            pictures.append(file.getvalue())
        first = 1000.0 * number
        with connect(f"ws://{self.address}/v1/streams", open_timeout=60) as camera:
            step = 0
            while not self.is_over.wait(1 / FPS):
                camera.send(struct.pack(">d", first + step / FPS) + pictures[step % len(pictures)])
                step += 1
                if step % (2 * FPS) == 0:
                    start = time.perf_counter()
                    camera.send(json.dumps({"question": RISK_QUESTION, "id": step, "max_tokens": 16}))
                    answer = json.loads(camera.recv(timeout=600))
                    self._took("camera's answer", start)
                    is_own = answer.get("id") == step and first <= answer["timestamp"] < first + step / FPS
                    self._count("camera right" if is_own else "camera wrong")
        with self.lock:
            self.dropped += answer["dropped"] if step >= 2 * FPS else 0

    def stranger(self, number: int) -> None:
        """Break off, send rubbish, or do not read, again and again."""
        host, port = self.address.split(":")
        body = json.dumps({**self.bodies[0], "stream": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        while not self.is_over.wait(0.5):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall((head + body, head + body[:100], b"rubbish\r\n\r\n")[number % 3])
                if number % 2:
                    self.is_over.wait(2)
            self._count("strangers")


@contextmanager
def served() -> Iterator[tuple[str, psutil.Process]]:
    """Start a server of the demo's tuned model; yield its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "hmba_hf", "serve", "--model", str(TUNED), "--dtype", "float32"]
    process = subprocess.Popen([*words, "--port", str(port), "--max_requests", "1000"])
    try:
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None
                time.sleep(0.2)
        yield f"127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=60)


def soak(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Let clients and cameras loose on a server; return rows of what came of it."""
    with served() as (address, server):
        run = Soak(address)
        jobs: list[tuple[Callable[[int], None], int]] = []
        jobs += [(run.client, number) for number in range(args.clients)]
        jobs += [(run.camera, number) for number in range(args.cameras)]
        jobs += [(run.stranger, number) for number in range(3)]
        threads = [threading.Thread(target=job, args=(number,)) for job, number in jobs]
        for thread in threads:
            thread.start()
        memory = []
        end = time.monotonic() + args.seconds
        while time.monotonic() < end:
            time.sleep(0.5)
            memory.append(server.memory_info().rss / MIB)
        run.is_over.set()
        for thread in threads:
            thread.join()
    rows = [{"what": what, "value": str(count)} for what, count in sorted(run.outcomes.items())]
    for what, times in run.seconds.items():
        if times:
            p99 = sorted(times)[min(len(times) - 1, round(0.99 * len(times)))]
            rows.append({"what": f"{what}, p50 and p99", "value": f"{statistics.median(times):.2f} s, {p99:.2f} s"})
    third = len(memory) // 3
    before, after = statistics.median(memory[third : 2 * third]), statistics.median(memory[2 * third :])
    rows.append({"what": "frames dropped", "value": str(run.dropped)})
    rows.append({"what": "memory", "value": f"{before:.0f} MiB, then {after / before - 1:+.1%}"})
    return rows


def frames_per_second(turns: int) -> list[dict[str, Any]]:
    """Return rows of frames a second of cameras together and one after another."""
    model = load_model(TUNED, dtype="float32").eval()
    processor = AutoProcessor.from_pretrained(TUNED)
    frames = MicroWorld(MicroWorldConfig(), "test", 1)[0].frames or []
    cameras = {}
    for way in ("together", "one after another"):
        cameras[way] = [VideoStream(model, processor) for _ in range(TOGETHER)]
    clocks = dict.fromkeys(cameras, 0)

    def read(way: str) -> None:
        streams = cameras[way]
        for frame in frames:
            moment = clocks[way] / streams[0].fps
            clocks[way] += 1
            if way == "together":
                push_together(streams, [frame] * TOGETHER, [moment] * TOGETHER)
                adapt_together(streams)
            else:
                for stream in streams:
                    stream.push(frame, moment)
                    stream.features()

    def ask(way: str) -> None:
        streams = cameras[way]
        if way == "together":
            ask_together(streams, [RISK_QUESTION] * TOGETHER, max_new_tokens=16)
        else:
            for stream in streams:
                stream.ask(RISK_QUESTION, max_new_tokens=16)

    rows = []
    for what, run, count in (("frames", read, TOGETHER * len(frames)), ("answers", ask, TOGETHER)):
        times = in_turns({way: lambda way=way: run(way) for way in cameras}, turns, clock=time.process_time)  # noqa: B023
        rates = {way: count / statistics.median(taken) for way, taken in times.items()}
        for way, rate in rates.items():
            rows.append({"what": f"{what} a second, {TOGETHER} cameras {way}", "value": f"{rate:.1f}"})
        rows.append({"what": f"{what}, ratio", "value": f"{rates['together'] / rates['one after another']:.2f}"})
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200, help="who ask at once")
    parser.add_argument("--cameras", type=int, default=20, help="that are connected")
    parser.add_argument("--seconds", type=float, default=180, help="of the soak")
    parser.add_argument("--turns", type=int, default=9, help="of the measurement of frames a second")
    parser.add_argument("--output_dir", help="for results.json")
    args = parser.parse_args()
    os.environ.pop("HMBA_SERVE_TOKEN", None)
    rows = [*soak(args), *frames_per_second(args.turns)]
    print(hardware())
    print(markdown(rows))
    save(args.output_dir, rows, {})


if __name__ == "__main__":
    main()
