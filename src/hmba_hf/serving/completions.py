"""Answers in the form of OpenAI's chat completions, whole and in pieces."""

import json
import secrets
import time
from typing import Any

from .answering import Answer
from .reading import Prompt


class Completion:
    """The response to one request.

    Args:
        prompt: of the request.
        processor: that reads boxes.
    """

    def __init__(self, prompt: Prompt, processor: Any):
        self._prompt = prompt
        self._processor = processor
        self._facts = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": prompt.request.model,
        }

    @property
    def is_stream(self) -> bool:
        """Whether the client wants the pieces as they come."""
        return self._prompt.request.stream

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return the body of a response that does not stream."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason, "logprobs": None}
        choice["metadata"] = self._metadata(answer)
        return {**self._facts, "object": "chat.completion", "choices": [choice], "usage": self._usage(answer)}

    def first(self) -> bytes:
        """Return the event with which a stream begins."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> bytes:
        """Return the event of a piece of the answer."""
        return self._chunk({"content": text})

    def last(self, answer: Answer) -> bytes:
        """Return the events with which a stream ends: why, the boxes, the usage if it is wanted."""
        events = self._chunk({}, finish_reason=answer.finish_reason, metadata=self._metadata(answer))
        options = self._prompt.request.stream_options
        if options is not None and options.include_usage:
            events += event({**self._facts, "object": _CHUNK, "choices": [], "usage": self._usage(answer)})
        return events + b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": None, "logprobs": None, **more}
        return event({**self._facts, "object": _CHUNK, "choices": [choice]})

    def _usage(self, answer: Answer) -> dict[str, int]:
        length = self._prompt.length
        return {"prompt_tokens": length, "completion_tokens": answer.tokens, "total_tokens": length + answer.tokens}

    def _metadata(self, answer: Answer) -> dict[str, Any]:
        return describe_boxes(answer.text, self._prompt.size, self._processor)


_CHUNK = "chat.completion.chunk"


def describe_boxes(text: str, size: tuple[int, int], processor: Any) -> dict[str, Any]:
    """Return the boxes of an answer, in pixels of its last video and as parts of its sides, and the size of this.

    Args:
        text: the answer.
        size: height and width of the video's frames; zeros without a video.
        processor: that reads boxes.
    """
    height, width = size
    found = []
    if height and getattr(processor, "boxes_dialect", "unit_square") is not None:
        found = processor.post_process_boxes(text, size)
    return {"objects": [with_parts(item, size) for item in found], "width": width, "height": height}


def with_parts(item: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Return a box of an answer, `"pixels"`, with the same as parts of the frame's sides from 0 to 1, `"box"`."""
    height, width = size
    parts = {}
    for name, pixels in item["box"].items():
        parts[name] = round(pixels / (width if name.startswith("x") else height), 4)
    return {"label": item["label"], "box": parts, "pixels": item["box"]}


def event(data: dict[str, Any]) -> bytes:
    """Return an event of a stream."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
