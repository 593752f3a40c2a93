"""A camera's connection: frames and questions come in, answers with their times go out, and nothing piles up.

The client sends a frame as a binary message: eight bytes with its time in seconds, a big-endian double, and a JPEG or
PNG file. It sends a question as JSON, `{"question": "...", "id": 1, "max_tokens": 64}`; `id` comes back. The server
sends JSON whose `type` is `answer`, `error` or `restarted`, which a jump of the clock and a frame of another
size cause.

At most one frame waits. A newer one takes its place, and is told as `dropped`, the count of all such frames, in every
message. A question is about the newest frame that came before it, or a later one. At most four questions wait.
"""

import asyncio
import json
import math
import struct
from collections import deque
from typing import Annotated, Any

from ..installation import missing_extra
from .cameras import Cameras
from .chats import Strict, first_mistake
from .completions import with_parts
from .errors import NOT_ALLOWED, RequestError
from .limits import ServingLimits
from .metrics import Metrics

try:
    from pydantic import Field, ValidationError
    from starlette.websockets import WebSocket, WebSocketDisconnect
except ImportError as missing:
    raise missing_extra("`hmba serve` needs", "serve") from missing

MAX_QUESTIONS = 4
_MOST_TEXT = 2**16  # characters of a question with all around it
_TIME = struct.Struct(">d")


class StreamQuestion(Strict):
    """A question about the current frame."""

    question: Annotated[str, Field(min_length=1, max_length=4096)]
    id: str | int | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None


class Session:
    """One connected camera.

    Args:
        socket: accepted.
        stream: of the camera.
        cameras, limits, metrics: of the server.
    """

    def __init__(self, socket: WebSocket, stream: Any, cameras: Cameras, limits: ServingLimits, metrics: Metrics):
        self._socket = socket
        self._stream = stream
        self._cameras = cameras
        self._limits = limits
        self._metrics = metrics
        self._frame: bytes | None = None  # the newest, which waits
        self._questions: deque[StreamQuestion] = deque()
        self._changed = asyncio.Event()
        self._dropped = 0

    async def run(self) -> None:
        """Serve the camera until it goes away."""
        working = asyncio.ensure_future(self._work())
        receiving = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait({working, receiving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (working, receiving):
                task.cancel()
            ends = await asyncio.gather(working, receiving, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, (WebSocketDisconnect, TimeoutError)):
                raise end

    async def _receive(self) -> None:
        """Take messages as they come, so that none waits in the connection."""
        while True:
            message = await self._next_message()
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("bytes")
            try:
                if data is not None:
                    self._take_frame(data)
                else:
                    self._take_question(message.get("text") or "")
            except RequestError as error:
                await self._send_error(error)
            self._changed.set()

    async def _next_message(self) -> Any:
        seconds = self._limits.max_idle_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._socket.receive()
        except TimeoutError as idle:
            what = f"a camera must send something within max_idle_seconds={seconds:g}, got nothing"
            raise RequestError(408, "idle", what) from idle

    def _take_frame(self, data: bytes) -> None:
        self._metrics.add("hmba_stream_frames_total")
        if not _TIME.size < len(data) <= _TIME.size + self._limits.max_frame_bytes:
            size = len(data) - _TIME.size
            wanted = f"a frame must be eight bytes with its time and up to {self._limits.max_frame_bytes} of a picture"
            raise RequestError(400, "bad_frame", f"{wanted}, got {size}")
        if self._frame is not None:
            self._dropped += 1
            self._metrics.add("hmba_stream_frames_dropped_total")
        self._frame = data

    def _take_question(self, text: str) -> None:
        if len(text) > _MOST_TEXT:
            what = f"a question must have at most {_MOST_TEXT} characters, got {len(text)}"
            raise RequestError(400, "invalid_request", what)
        try:
            question = StreamQuestion.model_validate_json(text)
        except ValidationError as error:
            raise RequestError(400, "invalid_request", first_mistake(error)) from error
        if len(self._questions) >= MAX_QUESTIONS:
            raise RequestError(429, "too_many_questions", f"questions must be at most {MAX_QUESTIONS} that wait")
        self._questions.append(question)

    async def _work(self) -> None:
        """Read the frame that waits, and answer a question about it, if there is one."""
        while True:
            self._changed.clear()
            question = self._questions.popleft() if self._questions else None
            if self._frame is not None:
                await self._push()
            if question is not None:
                await self._answer(question)
            if self._frame is None and not self._questions:
                await self._changed.wait()

    async def _push(self) -> None:
        data = self._frame or b""
        self._frame = None
        (seconds,) = _TIME.unpack_from(data)
        try:
            if await self._cameras.push(self._stream, data[_TIME.size :], seconds):
                await self._send({"type": "restarted", "timestamp": seconds})
        except RequestError as error:
            await self._send_error(error, timestamp=seconds if math.isfinite(seconds) else None)

    async def _answer(self, question: StreamQuestion) -> None:
        try:
            answer = await self._cameras.ask(self._stream, question.question, question.max_tokens)
        except RequestError as error:
            await self._send_error(error, id=question.id)
            return
        self._metrics.add("hmba_stream_answers_total")
        size = self._stream.size
        await self._send(
            {
                "type": "answer",
                "id": question.id,
                "timestamp": answer["timestamp"],
                "content": answer["generated_text"],
                "objects": [with_parts(item, size) for item in answer["objects"]],
                "width": size[1],
                "height": size[0],
            }
        )

    async def _send_error(self, error: RequestError, **about: Any) -> None:
        await self._send({"type": "error", **error.as_json(), **about})

    async def _send(self, message: dict[str, Any]) -> None:
        """Send a message; a client that does not read it in the time of a request is left."""
        async with asyncio.timeout(self._limits.max_request_seconds):
            await self._socket.send_text(json.dumps({**message, "dropped": self._dropped}, ensure_ascii=False))


async def serve_camera(socket: WebSocket, cameras: Cameras, limits: ServingLimits, metrics: Metrics) -> None:
    """Accept a camera and serve it; one that is not accepted is told why, and closed."""
    await socket.accept()
    try:
        async with cameras.stream(socket.query_params.get("mode", "window")) as stream:
            await Session(socket, stream, cameras, limits, metrics).run()
    except RequestError as error:
        await socket.send_text(json.dumps({"type": "error", **error.as_json()}))
        await socket.close(NOT_ALLOWED)
