"""The model's side of cameras: their frames and questions, those of several cameras together."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from ..messages import is_raised_here
from ..streaming import FrameError, VideoStream, ask_together, push_or_restart_together
from .errors import RequestError
from .limits import ServingLimits
from .metrics import Metrics
from .reading import Reader
from .worker import BatchWorker


class _Work:
    """Something that a camera waits for, with a result for the event loop.

    Attributes:
        subject: a frame and its time, or a question and the longest answer.
        has_begun: never, since nothing is given out before the result, and a stream moves on with it alone.
        is_cancelled: set once nobody waits for it.
    """

    has_begun = False

    def __init__(self, stream: VideoStream, subject: tuple[Any, float]):
        self.stream = stream
        self.subject = subject
        self.is_cancelled = False
        self._loop = asyncio.get_running_loop()
        self._result: asyncio.Future[Any] = self._loop.create_future()

    async def result(self) -> Any:
        """Wait for the result."""
        try:
            return await self._result
        finally:
            self.is_cancelled = True

    def finish(self, result: Any) -> None:
        """Take the result."""
        self._loop.call_soon_threadsafe(self._settle, result)

    def fail(self, error: Exception) -> None:
        """Take an error in the place of a result."""
        self._loop.call_soon_threadsafe(self._settle, error)

    def _settle(self, result: Any) -> None:
        if self._result.done():  # the camera has gone
            return
        if isinstance(result, Exception):
            self._result.set_exception(result)
        else:
            self._result.set_result(result)


class _WhileWanted(StoppingCriteria):
    """Ends a batch for whose answers nobody waits any more."""

    def __init__(self, works: Sequence[_Work]):
        self._works = works

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        is_over = all(work.is_cancelled for work in self._works)
        return torch.full((len(input_ids),), is_over, device=input_ids.device)


class Cameras:
    """The cameras of a server, each a `VideoStream`, read in batches by the thread of the model.

    Args:
        pipeline: a `VideoTextToTextPipeline`.
        worker, reader, limits, metrics: of the server.
    """

    def __init__(
        self, pipeline: Any, worker: BatchWorker, reader: Reader, limits: ServingLimits, metrics: Metrics
    ) -> None:
        self._pipeline = pipeline
        self._worker = worker
        self._reader = reader
        self._limits = limits
        self._open = 0
        metrics.watch("hmba_streams_open", lambda: self._open)

    @asynccontextmanager
    async def stream(self, mode: str) -> AsyncIterator[VideoStream]:
        """Open the stream of a camera.

        Raises:
            RequestError: there is no such mode, or too many cameras are connected.
        """
        if self._open >= self._limits.max_streams:
            raise RequestError(429, "too_many_streams", f"streams must be at most {self._limits.max_streams} at once")
        self._open += 1
        try:
            yield await asyncio.to_thread(self._make_stream, mode)
        finally:
            self._open -= 1

    def _make_stream(self, mode: str) -> VideoStream:
        try:
            return VideoStream(self._pipeline.model, self._pipeline.processor, mode=mode)
        except ValueError as error:
            raise RequestError(400, "invalid_request", str(error)) from error

    async def push(self, stream: VideoStream, data: bytes, seconds: float) -> bool:
        """Push a frame, as a JPEG or PNG file; return whether the stream had to start anew; see `push_or_restart`.

        Raises:
            RequestError: it is no picture, or cannot follow those before.
        """
        frame = await self._reader.read_frame(data)
        return await self._run(self._push_together, None, _Work(stream, (frame, seconds)))

    async def ask(self, stream: VideoStream, question: str, asked: int | None) -> dict[str, Any]:
        """Ask about the current frame; return the answer as `VideoStream.ask` does.

        Args:
            stream: of the camera.
            question: the text.
            asked: the most tokens of the answer, if the client names a number.

        Raises:
            RequestError: if there is no frame yet, the question is not of the expected form, or it is too long.
        """
        max_tokens = self._reader.answer_length(asked)
        if math.isnan(stream.timestamp):
            raise RequestError(400, "no_frame", "a frame must come before the first question, got none")
        return await self._run(self._ask_what_fits, max_tokens, _Work(stream, (question, max_tokens)))

    async def _run(self, run: Any, options: Any, work: _Work) -> Any:
        self._worker.submit(run, options, work)
        return await work.result()

    def _push_together(self, works: Sequence[_Work]) -> None:
        pushed = [work for work in works if not work.is_cancelled]
        if not pushed:
            return
        frames: Any = [work.subject for work in pushed]
        outcomes = push_or_restart_together([work.stream for work in pushed], *zip(*frames, strict=True))
        for work, outcome in zip(pushed, outcomes, strict=True):
            if isinstance(outcome, FrameError):
                work.fail(RequestError(422, "bad_frame", str(outcome)))
            else:
                work.finish(outcome is not None)

    def _ask_what_fits(self, works: Sequence[_Work]) -> None:
        """Ask together what fits the model's context, and tell the others."""
        fitting = []
        for work in works:
            question, max_tokens = work.subject
            try:
                prompt = work.stream.write_prompt(question)
                self._reader.check_length(prompt["input_ids"].shape[1] + max_tokens)
            except RequestError as error:
                work.fail(error)
                continue
            except ValueError:
                pass  # it is raised again, and told, where the question is asked
            fitting.append(work)
        self._ask_together(fitting)

    def _ask_together(self, works: Sequence[_Work]) -> None:
        asked = [work for work in works if not work.is_cancelled]
        if not asked:
            return
        subjects: Any = [work.subject for work in asked]
        questions = [question for question, _ in subjects]
        (max_tokens,) = {tokens for _, tokens in subjects}
        try:
            answers = ask_together(
                [work.stream for work in asked],
                questions,
                max_new_tokens=max_tokens,
                num_beams=1,
                stopping_criteria=StoppingCriteriaList([_WhileWanted(asked)]),
            )
        except ValueError as error:
            if len(asked) > 1 or not is_raised_here(error):
                raise  # the worker then asks one by one
            asked[0].fail(RequestError(400, "invalid_request", str(error)))
            return
        for work, answer in zip(asked, answers, strict=True):
            work.finish(answer)
