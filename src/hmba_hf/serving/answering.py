"""Answers to prompts, several at once, token by token."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from .metrics import Metrics
from .reading import Prompt
from .transcript import Transcript
from .worker import BatchWorker

_COLDEST = 1e-5  # temperature; below, scores that are divided by it are no numbers any more


class Sampling(NamedTuple):
    """How tokens are chosen; prompts of one batch share it. `None` leaves a value to the model."""

    temperature: float | None
    top_p: float | None

    def options(self) -> dict[str, Any]:
        """Return options of `generate`."""
        if self.temperature is not None and self.temperature < _COLDEST:
            return {"do_sample": False}
        options = {name: value for name, value in self._asdict().items() if value is not None}
        if options:
            options["do_sample"] = True
        return options


class Answer(NamedTuple):
    """A whole answer.

    Attributes:
        text: as the pipeline's, up to the first stop.
        tokens: how many it has, with the one that ends it.
        finish_reason: of OpenAI's.
    """

    text: str
    tokens: int
    finish_reason: str


class Question:
    """One prompt on its way through the model; its answer goes to the event loop that has asked.

    Args:
        prompt: whose inputs are let go once there is an answer or nobody waits for one.
        new_transcript: makes that of an answer.

    Attributes:
        is_done: set once it has an answer, or nobody waits for one.
    """

    def __init__(self, prompt: Prompt, new_transcript: Callable[[], Transcript]):
        self.prompt = prompt
        self.is_done = False
        self._new_transcript = new_transcript
        self._transcript = new_transcript()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[str | Answer | Exception] = asyncio.Queue()

    @property
    def has_begun(self) -> bool:
        """Whether a piece of its answer has been given out, and not yet all of it."""
        return self.prompt.request.stream and bool(self._transcript.text) and not self.is_done

    def begin(self) -> None:
        """Forget the tokens of a batch that has failed."""
        self._transcript = self._new_transcript()

    @property
    def is_over(self) -> bool:
        """Whether no further token is wanted."""
        return self.is_done or self._transcript.finish_reason is not None

    def take(self, token: int) -> None:
        """Take the next token of the answer."""
        self._tell(self._transcript.add(token))

    def cut(self) -> None:
        """End an answer for which the model has no room."""
        if not self.is_over:
            self._tell(self._transcript.cut())

    def fail(self, error: Exception) -> None:
        """Take an error in the place of the answer."""
        self._send(error)

    def cancel(self) -> None:
        """Tell the model that nobody waits for the answer."""
        self.is_done = True
        self.prompt.let_go()

    async def events(self) -> AsyncIterator[str | Answer]:
        """Yield the pieces of the answer, and then the answer.

        Raises:
            Exception: that has kept the model from answering.
        """
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Answer):
                return

    def _tell(self, piece: str) -> None:
        if piece and self.prompt.request.stream:
            self._send(piece)
        transcript = self._transcript
        if transcript.finish_reason is not None:
            self._send(Answer(transcript.text, len(transcript.tokens), transcript.finish_reason))

    def _send(self, event: str | Answer | Exception) -> None:
        if not isinstance(event, str):
            self.is_done = True
        self._loop.call_soon_threadsafe(self._take, event)

    def _take(self, event: str | Answer | Exception) -> None:
        self._events.put_nowait(event)
        if not isinstance(event, str):
            self.prompt.let_go()


class _EachEnds(StoppingCriteria):
    """Hands each new token to its question, and ends each answer by itself."""

    def __init__(self, questions: Sequence[Question]):
        self._questions = questions

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        for question, token in zip(self._questions, input_ids[:, -1].tolist(), strict=True):
            if not question.is_over:
                question.take(token)
        return torch.tensor([question.is_over for question in self._questions], device=input_ids.device)


class Answerer:
    """Answers prompts by the pipeline's own `generate`, those that wait together in one batch.

    Args:
        pipeline: a `VideoTextToTextPipeline`.
        worker: whose thread runs it.
        metrics: that count tokens and batches.
    """

    def __init__(self, pipeline: Any, worker: BatchWorker, metrics: Metrics):
        self._pipeline = pipeline
        self._worker = worker
        self._metrics = metrics
        ends = pipeline.model.generation_config.eos_token_id
        if not isinstance(ends, list):
            ends = [] if ends is None else [ends]
        self._end_tokens = frozenset(ends)

    async def answer(self, prompt: Prompt) -> AsyncGenerator[str | Answer, None]:
        """Yield the pieces of an answer if the request streams, and then the answer.

        Closing the iterator early leaves the batch to the others.
        """
        request = prompt.request
        new_transcript = partial(
            Transcript, self._decode, self._end_tokens, prompt.max_tokens, request.stops, is_shown=request.stream
        )
        question = Question(prompt, new_transcript)
        self._worker.submit(self._answer_together, Sampling(request.temperature, request.top_p), question)
        try:
            async for event in question.events():
                if isinstance(event, Answer):
                    self._metrics.add("hmba_prompt_tokens_total", prompt.length)
                    self._metrics.add("hmba_answer_tokens_total", event.tokens)
                yield event
        finally:
            question.cancel()

    def _decode(self, tokens: list[int]) -> str:
        return self._pipeline.processor.batch_decode([tokens], skip_special_tokens=True)[0]

    def _answer_together(self, questions: Sequence[Question]) -> None:
        waiting = []
        inputs = []
        for question in questions:
            held = dict(question.prompt.inputs)  # the pipeline takes items out
            if not question.is_done:
                question.begin()
                waiting.append(question)
                inputs.append(held)
        if not waiting:
            return
        self._metrics.add("hmba_batches_total")
        self._metrics.add("hmba_batched_requests_total", len(waiting))
        request = waiting[0].prompt.request
        options = {
            **Sampling(request.temperature, request.top_p).options(),
            "max_new_tokens": max(question.prompt.max_tokens for question in waiting),
            "num_beams": 1,
            "num_return_sequences": 1,
            "stopping_criteria": StoppingCriteriaList([_EachEnds(waiting)]),
        }
        self._pipeline.forward({"inputs": inputs}, generate_kwargs=options)
        for question in waiting:
            question.cut()
