"""From the body of a request to inputs of the model, in threads beside the model's own."""

import asyncio
import base64
import copy
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any, TypeVar

from jinja2 import TemplateError
from PIL import Image

from ..messages import is_raised_here
from ..models.decoding_containers import VideoDecodeError
from ..models.decoding_metadata import VideoTooLongError
from ..models.decoding_stills import read_picture
from ..models.pipeline_hmba import VideoTextToTextPipeline
from .chats import ChatRequest, FilePart, PicturePart, TextPart, read_request
from .errors import RequestError, too_large
from .fetching import Fetcher
from .limits import ServingLimits
from .uploads import Uploads

THREADS = 2
_BATCHES = 2  # of prompts that are held at once: one with the model, one for it
_USUAL_LENGTH = 256  # tokens of an answer where neither request nor model names a number, as in the pipeline
_CHARACTERS = 16  # for each token of a context, more than any text of that length has

Result = TypeVar("Result")


@dataclass
class Prompt:
    """A request that has been read.

    Attributes:
        request: as it came, but without its messages.
        inputs: of the model, for this prompt alone, as the pipeline makes them; empty once it has been let go.
        length: of the prompt in tokens.
        size: height and width of the last video, whose pixels boxes are in; zeros without a video.
        max_tokens: of the answer.
        place: that it takes while it has inputs, released when it is closed.
    """

    request: ChatRequest
    inputs: dict[str, Any]
    length: int
    size: tuple[int, int]
    max_tokens: int
    place: ExitStack

    def let_go(self) -> None:
        """Forget the inputs, since the model needs them no longer, and make room for the next prompt."""
        self.inputs.clear()
        self.place.close()


class Reader:
    """Reads requests by the rules of the pipeline.

    Each thread that samples has a processor of its own, since those of transformers are not made for several threads.
    Files behind addresses are waited for by a `Fetcher`, and pictures of cameras are read in a thread of their own, so
    that slow servers hold up nobody else. Two batches of prompts are held at once, and the next ones wait unread.

    Args:
        pipeline: a `VideoTextToTextPipeline`, that of the model that will answer.
        name: of the model, as clients call it.
        context: longest prompt and answer in tokens, if the model has such a limit.
        uploads, limits: of the server.
    """

    def __init__(
        self,
        pipeline: Any,
        name: str,
        context: int | None,
        uploads: Uploads,
        limits: ServingLimits,
    ):
        self._pipeline = pipeline
        self._name = name
        self._context = context
        self._uploads = uploads
        self._limits = limits
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(THREADS, "hmba-reader", initializer=self._begin)
        self._fetcher = Fetcher(limits)
        self._camera_thread = ThreadPoolExecutor(1, "hmba-camera-reader")
        self._places = asyncio.Semaphore(_BATCHES * limits.max_batch)

    async def read(self, body: bytes | bytearray) -> Prompt:
        """Read the body of a request; the prompt must be let go of.

        Raises:
            RequestError: the request is not of the expected form, or a video cannot be had, read or sampled so.
        """
        request, max_tokens = await _run(self._threads, self._read_request, body)
        del body
        with ExitStack() as files:  # closed also where nobody waits any more, which ends the work of the thread
            sources = await self._open_all(request, files)
            with ExitStack() as place:
                await self._places.acquire()
                place.callback(self._places.release)
                inputs, length, size = await _run(self._threads, self._make_inputs, request, sources, max_tokens)
                request.messages.clear()  # videos may be in them
                return Prompt(request, inputs, length, size, max_tokens, place.pop_all())

    async def read_frame(self, data: bytes) -> Image.Image:
        """Read a picture of a camera.

        Raises:
            RequestError: it is no picture, or a larger one than allowed.
        """
        return await _run(self._camera_thread, self._read_picture, BytesIO(data))

    def close(self) -> None:
        """End the threads."""
        for threads in (self._threads, self._camera_thread):
            threads.shutdown(cancel_futures=True)
        self._fetcher.close()

    def _begin(self) -> None:
        processor = copy.deepcopy(self._pipeline.processor)
        self._own.pipeline = VideoTextToTextPipeline.in_place(self._pipeline.model, processor)

    def _read_request(self, body: bytes | bytearray) -> tuple[ChatRequest, int]:
        """Return a request and the most tokens of its answer."""
        request = read_request(body)
        self.check_name(request.model)
        self._check_counts(request)
        if request.max_tokens is not None and request.max_completion_tokens is not None:
            raise RequestError(400, "invalid_request", "max_tokens must come without max_completion_tokens, got both")
        return request, self.answer_length(request.max_tokens or request.max_completion_tokens)

    async def _open_all(self, request: ChatRequest, files: ExitStack) -> list[IO[bytes]]:
        """Open the videos and pictures of a request in their order; they are closed with `files`."""
        sources = []
        room = self._limits.max_upload_bytes
        for clip in _clips(request):
            source = await self._open(clip, room)
            files.enter_context(closing(source))
            room -= source.seek(0, os.SEEK_END)
            if room < 0:
                raise too_large("all clips of a request together", self._limits.max_upload_bytes)
            source.seek(0)
            sources.append(source)
        return sources

    def _make_inputs(
        self, request: ChatRequest, sources: list[IO[bytes]], max_tokens: int
    ) -> tuple[dict[str, Any], int, tuple[int, int]]:
        """Return the inputs of the model, the length of the prompt and the size of the last video."""
        options: dict[str, Any] = {"limits": self._limits.of_sources}
        if request.timestamp is not None:
            options["timestamp"] = request.timestamp
        if request.num_frames is not None:
            options["num_frames"] = request.num_frames
        waiting = iter(sources)
        chat = [self._message(message, waiting) for message in request.messages]
        inputs = self._preprocess({"text": chat}, options)
        length = inputs["input_ids"].shape[1]
        self.check_length(length + max_tokens)
        height, width = inputs["frame_size"][0].tolist()
        return inputs, length, (height, width)

    def check_name(self, name: str) -> None:
        """Raise a `RequestError` for a model by another name."""
        if name != self._name:
            raise RequestError(404, "model_not_found", f"model must be {self._name!r}, got {name[:80]!r}")

    def answer_length(self, asked: int | None) -> int:
        """Return the most tokens that an answer may have for which so many are asked.

        Raises:
            RequestError: more are asked for than allowed.
        """
        limit = self._limits.max_new_tokens
        if asked is not None and asked > limit:
            raise RequestError(400, "invalid_request", f"max_tokens must be at most {limit}, got {asked}")
        own = self._pipeline.model.generation_config.max_new_tokens or _USUAL_LENGTH
        return asked or min(own, limit)

    def check_length(self, length: float, of: str = "tokens of prompt and answer") -> None:
        """Raise a `RequestError` for more than the model's context."""
        if self._context is not None and length > self._context:
            what = f"a request must have at most {self._context} {of}, got {length:g}"
            raise RequestError(400, "context_length_exceeded", what)

    def _check_counts(self, request: ChatRequest) -> None:
        clips = [*_clips(request)]
        if all(isinstance(clip, PicturePart) for clip in clips):
            for name in ("timestamp", "num_frames"):
                if getattr(request, name) is not None:
                    raise RequestError(400, "invalid_request", f"{name} must come with a video, got none")
        if request.stream_options is not None and not request.stream:
            raise RequestError(400, "invalid_request", "stream_options must come with stream, got none")
        characters = sum(map(len, _texts(request)))
        for number, wanted, limit in (
            (len(clips), "clips", self._limits.max_clips),
            (request.num_frames or 0, "num_frames", self._limits.max_frames),
        ):
            if number > limit:
                raise RequestError(400, "too_many", f"{wanted} must be at most {limit}, got {number}")
        self.check_length(characters / _CHARACTERS, f"{_CHARACTERS} characters of text")

    def _message(self, message: Any, sources: Iterator[IO[bytes]]) -> dict[str, Any]:
        """Return a turn in the form of processors, with the next of the opened files for each of its clips."""
        if isinstance(message.content, str):
            return {"role": message.role, "content": [{"type": "text", "text": message.content}]}
        blocks: list[dict[str, Any]] = []
        for part in message.content:
            if isinstance(part, TextPart):
                blocks.append({"type": "text", "text": part.text})
                continue
            source = next(sources)
            if isinstance(part, PicturePart):
                blocks.append({"type": "image", "image": self._read_picture(source)})
            else:
                blocks.append({"type": "video", "video": source})
        return {"role": message.role, "content": blocks}

    async def _open(self, part: Any, room: int) -> IO[bytes]:
        if isinstance(part, FilePart):
            return await _run(self._threads, self._uploads.open, part.file.file_id)
        address = part.image_url.url if isinstance(part, PicturePart) else part.video_url.url
        scheme = address.partition(":")[0].lower()
        if scheme == "data":
            return await _run(self._threads, _read_data, address)
        if scheme in ("http", "https"):
            return await self._fetcher.fetch(address, room)
        raise RequestError(
            400, "unsupported_url", f"a url must be a data URL or an http(s) address, got {address[:20]!r}"
        )

    def _read_picture(self, source: Any) -> Image.Image:
        try:
            return read_picture(source, self._limits.of_sources)
        except VideoDecodeError as error:
            raise RequestError(422, "undecodable_picture", str(error)) from error

    def _preprocess(self, chat: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._own.pipeline.preprocess(chat, **options)["inputs"]
        except VideoTooLongError as error:
            raise RequestError(400, "too_long", str(error)) from error
        except VideoDecodeError as error:
            raise RequestError(422, "undecodable_video", str(error)) from error
        except TemplateError as error:  # by which chat templates refuse an order of turns
            raise RequestError(400, "invalid_chat", f"the chat must fit the model's template, got: {error}") from error
        except ValueError as error:
            if not is_raised_here(error):
                raise
            raise RequestError(400, "invalid_request", str(error)) from error


async def _run(threads: ThreadPoolExecutor, call: Callable[..., Result], *arguments: Any) -> Result:
    """Call something slow in one of the threads."""
    return await asyncio.get_running_loop().run_in_executor(threads, call, *arguments)


def _clips(request: ChatRequest) -> Iterator[Any]:
    """Yield the parts of a request that are videos and pictures."""
    for message in request.messages:
        if not isinstance(message.content, str):
            yield from (part for part in message.content if not isinstance(part, TextPart))


def _texts(request: ChatRequest) -> Iterator[str]:
    """Yield the texts of a request."""
    for message in request.messages:
        if isinstance(message.content, str):
            yield message.content
        else:
            yield from (part.text for part in message.content if isinstance(part, TextPart))


def _read_data(address: str) -> IO[bytes]:
    """Return what a data URL holds in base64."""
    head, comma, text = address.partition(",")
    if not comma or not head.endswith(";base64"):
        raise RequestError(400, "unsupported_url", f"a data URL must hold base64 text, got {head[:40]!r}")
    try:
        return BytesIO(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise RequestError(400, "unsupported_url", f"a data URL must hold base64 text, got {error}") from error
