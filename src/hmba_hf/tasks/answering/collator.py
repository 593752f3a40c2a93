"""Samples to a batch, through a given processor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from ...data.feature_cache.reading import CachedSample
from ...data.samples import BOX_MARKER, Sample, fill_boxes
from ...models.batching_hmba import TEXT_INPUTS

IGNORE_INDEX = -100  # PyTorch's cross entropy skips these labels
_BLANK = Image.new("RGB", (1, 1))


@dataclass
class SampleCollator:
    """Turn samples into the inputs of a model in training: those of the processor, and `labels`, `(b, l)`.

    Labels are the input ids of the assistant's tokens, -100 elsewhere. A generation block of the chat template marks
    these tokens. Without a block, they are what the template adds to the prompt. Sequences are padded on the right.
    A sample of cached features has `frame_features`, `(b, t, p, d)` or one `(t, p, d)` for each clip, in the place of
    the pixels of its frames.

    Args:
        processor: of the model; its video processor samples the videos, and its `join` makes batches.
        max_length: most tokens of a sample; a longer one is refused, never truncated.
    """

    processor: Any
    max_length: int | None = None

    def __call__(self, samples: Sequence[Sample | Mapping[str, Any]]) -> dict[str, Any]:
        """Build one batch, of samples or of results of `encode`."""
        batch = []
        for given in samples:
            sample = given if isinstance(given, Mapping) else self.encode(given)
            texts = {name: value[None] for name, value in sample.items() if name in TEXT_INPUTS}
            batch.append({**sample, **texts})
        return self.processor.join(batch, padding_side="right")

    def encode(self, sample: Sample) -> dict[str, Any]:
        """Turn one sample into inputs of its prompt, those of texts without a batch axis, `(l,)`.

        Raises:
            ValueError: if no token is marked as the answer's, if there are more than `max_length` tokens, or if the
                chat template does not write the answer behind the prompt.
        """
        options: dict[str, Any] = {"return_tensors": "pt"}
        if sample.timestamp is not None:
            options["timestamp"] = [sample.timestamp]
        if isinstance(sample, CachedSample) and sample.frame_time is not None:
            options["video_metadata"] = [{"timestamps": [sample.frame_time]}]
        inputs = self.processor.apply_chat_template(
            [to_conversation(sample, self.processor)],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            processor_kwargs=options,
        )
        encoded = {}
        for name, value in inputs.items():
            encoded[name] = torch.as_tensor(value)[0] if name in TEXT_INPUTS else value
        is_answer = encoded.pop("assistant_masks").bool()  # (l,)
        if not is_answer.any():
            raise ValueError(
                f"sample {sample.id}: at least one token must be marked as the assistant's, got none for the answer "
                f"{sample.answer!r}; does the chat template reach its generation block?"
            )
        if self.max_length is not None and len(is_answer) > self.max_length:
            raise ValueError(
                f"sample {sample.id} must have at most max_length={self.max_length} tokens, got {len(is_answer)}"
            )
        encoded["labels"] = encoded["input_ids"].masked_fill(~is_answer, IGNORE_INDEX)
        if isinstance(sample, CachedSample):
            encoded["frame_features"] = [sample.frame_features]
            encoded.pop("pixel_values_videos", None)  # a base's own inputs of its current frame stay
        return encoded


def to_conversation(sample: Sample, processor: Any, with_answer: bool = True) -> list[dict[str, Any]]:
    """Write a sample as chat messages, its boxes printed by `processor.format_boxes`.

    For cached features stands their current frame, or a blank picture where a prompt does not depend on it.
    """
    question_boxes = sample.question.count(BOX_MARKER)
    texts = [_print_box(sample, box, processor) for box in sample.boxes]
    question = fill_boxes(sample.question, texts[:question_boxes])
    if BOX_MARKER in sample.answer:
        question = processor.ask_for_boxes(question)
    video: Any = sample.video
    if isinstance(sample, CachedSample):
        video = [_BLANK if sample.picture is None else sample.picture]
    elif sample.frames is not None:
        video = list(sample.frames)
    content = [{"type": "video", "video": video}, {"type": "text", "text": question}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if with_answer:
        answer = fill_boxes(sample.answer, texts[question_boxes:])
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages


def _print_box(sample: Sample, box: Sequence[float], processor: Any) -> str:
    if sample.size is None:
        raise ValueError(f"sample {sample.id} must have the size of its original frame to print boxes, got size=None")
    height, width = sample.size
    x1, y1, x2, y2 = box
    return processor.format_boxes([(x1 * width, y1 * height, x2 * width, y2 * height)], size=sample.size)
