"""The endpoint: routes, and the way of a request from its body to its answer."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from typing import Any

from ..installation import missing_extra
from ..messages import logger
from ..models.pipeline_hmba import VideoTextToTextPipeline
from .answering import Answer, Answerer
from .bodies import ClientGone, read_body, read_upload, unless_gone
from .cameras import Cameras
from .completions import Completion, event
from .errors import RequestError, internal_error, late_answer
from .gate import Gate, refuse
from .limits import ServingLimits
from .logs import bounded
from .metrics import Metrics
from .reading import Reader
from .sessions import serve_camera
from .uploads import Uploads
from .worker import BatchWorker

try:
    from fastapi import FastAPI
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.websockets import WebSocket
except ImportError as missing:
    raise missing_extra("`hmba serve` needs", "serve") from missing

_LOGS = ("asyncio", "hmba_hf", "python_multipart", "transformers", "uvicorn")  # that clients cause lines in
_GONE = 499  # as logs of servers count clients that have gone
_SECONDS_TO_READ = 5.0  # the last events of a stream
_SECONDS_BETWEEN_LOOKS = 60.0  # for uploads whose time is over


class Service:
    """A model that answers requests, and all that it needs for that.

    Args:
        model, processor: as loaded, of H-MBA on a vision tower or on a vision-language model.
        name: of the model, as clients call it.
        limits: on what clients may ask.
    """

    def __init__(self, model: Any, processor: Any, name: str, limits: ServingLimits):
        pipeline = VideoTextToTextPipeline.in_place(model, processor)
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.name = name
        self.limits = limits
        self.processor = processor
        self.metrics = Metrics()
        self.uploads = Uploads(limits)
        self.worker = BatchWorker(limits.max_batch)
        self.reader = Reader(pipeline, name, context, self.uploads, limits)
        self.answerer = Answerer(pipeline, self.worker, self.metrics)
        self.cameras = Cameras(pipeline, self.worker, self.reader, limits, self.metrics)
        self.model = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "hmba-hf"}
        self._open = 0
        self.metrics.watch("hmba_requests_open", lambda: self._open)
        self.metrics.watch("hmba_model_queue", lambda: len(self.worker))

    def close(self) -> None:
        """Finish what runs, and delete the uploads."""
        self.reader.close()
        self.worker.close()
        self.uploads.close()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take one of the places for open requests.

        Raises:
            RequestError: if none is free.
        """
        if self._open >= self.limits.max_requests:
            limit = f"max_requests={self.limits.max_requests}"
            raise RequestError(429, "too_many_requests", f"requests must be at most {limit} at once", retry_after=1)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def complete(self, body: bytes | bytearray) -> AsyncGenerator[Completion | str | Answer, None]:
        """Read a request and answer it: yield the form of its response, pieces if it streams, and the answer.

        Raises:
            RequestError: it cannot be answered.
        """
        prompt = await self.reader.read(body)
        del body
        with ExitStack() as held:
            held.callback(prompt.let_go)
            yield Completion(prompt, self.processor)
            async with aclosing(self.answerer.answer(prompt)) as answer:
                async for part in answer:
                    yield part


class EventStream(Response):
    """Sends the events of an answer as fast as its client reads them, until it has gone or its time is over.

    Args:
        completion: the form of the response.
        parts: of the answer.
        end: time of the event loop by which there must be an answer.
        held: what is closed behind it.
    """

    media_type = "text/event-stream"

    def __init__(self, completion: Completion, parts: AsyncIterator[Any], end: float, held: AsyncExitStack):
        super().__init__(headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._completion = completion
        self._parts = parts
        self._end = end
        self._held = held

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        async with self._held:
            with suppress(ClientGone, TimeoutError):  # the server then ends the connection
                async with asyncio.timeout_at(self._end + _SECONDS_TO_READ):
                    await unless_gone(receive, self._send_all(send))

    async def _send_all(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for data in self._events():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[bytes]:
        yield self._completion.first()
        try:
            while True:
                async with asyncio.timeout_at(self._end):
                    part = await anext(self._parts)
                yield self._completion.last(part) if isinstance(part, Answer) else self._completion.piece(part)
        except StopAsyncIteration:
            return
        except TimeoutError:
            yield event(late_answer().as_json())
        except RequestError as error:  # the status has been sent
            yield event(error.as_json())


def build_app(service: Service, token: str | None = None) -> Gate:
    """Return the endpoint as an ASGI application.

    Args:
        service: that answers; it is closed when the application ends.
        token: that all requests but those for `/health` must bear.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with bounded(*_LOGS):
            deleting = asyncio.ensure_future(_delete_old_uploads(service.uploads))
            yield
            deleting.cancel()
            await asyncio.gather(deleting, return_exceptions=True)
            await asyncio.to_thread(service.close)

    app = FastAPI(lifespan=lifespan, openapi_url=None)  # its pages would load scripts from elsewhere
    _add_errors(app)
    _add_routes(app, service)
    return Gate(app, token=token, metrics=service.metrics)


async def _delete_old_uploads(uploads: Uploads) -> None:
    while True:
        await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        try:
            await asyncio.to_thread(uploads.delete_old)
        except OSError:  # of a disk that may be well at the next look
            logger.exception("an upload whose time is over is not deleted")


def _add_errors(app: FastAPI) -> None:
    """Let every error have the form of OpenAI's."""

    @app.exception_handler(RequestError)
    async def tell(request: Request, error: RequestError) -> Response:
        return refuse(error)

    @app.exception_handler(HTTPException)
    async def have_no_route(request: Request, error: HTTPException) -> Response:
        return refuse(RequestError(error.status_code, "no_such_route", str(error.detail)))

    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(ClientGone)
    async def leave(request: Request, error: Exception) -> Response:
        return Response(status_code=_GONE)

    @app.exception_handler(Exception)
    async def hide(request: Request, error: Exception) -> Response:
        return refuse(internal_error())


def _add_routes(app: FastAPI, service: Service) -> None:
    limits = service.limits

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        end = asyncio.get_running_loop().time() + limits.max_request_seconds
        try:
            async with asyncio.timeout_at(end), AsyncExitStack() as held:
                held.enter_context(service.place())
                answering = service.complete(await read_body(request, limits))
                parts: Any = await held.enter_async_context(aclosing(answering))
                completion = await unless_gone(request.receive, anext(parts))
                if completion.is_stream:
                    return EventStream(completion, parts, end, held.pop_all())
                answer = await unless_gone(request.receive, anext(parts))
        except TimeoutError as error:
            raise late_answer() from error
        return JSONResponse(completion.whole(answer))

    @app.post("/v1/files")
    async def upload(request: Request) -> Response:
        with service.place():
            file, name, size = await read_upload(request, limits)
            with file:
                return JSONResponse(await asyncio.to_thread(service.uploads.add, file, name, size))

    @app.get("/v1/files/{number}")
    async def describe(number: str) -> Response:
        return JSONResponse(await asyncio.to_thread(service.uploads.describe, number))

    @app.delete("/v1/files/{number}")
    async def delete(number: str) -> Response:
        await asyncio.to_thread(service.uploads.delete, number)
        return JSONResponse({"id": number, "object": "file", "deleted": True})

    @app.websocket("/v1/streams")
    async def stream(socket: WebSocket) -> None:
        await serve_camera(socket, service.cameras, limits, service.metrics)

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [service.model]})

    @app.get("/v1/models/{name:path}")  # an id of the Hub has a slash
    async def model(name: str) -> Response:
        service.reader.check_name(name)
        return JSONResponse(service.model)

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")
