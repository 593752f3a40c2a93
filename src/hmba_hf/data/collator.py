"""Samples to a batch, through a given processor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .samples import BOX_MARKER, Sample, fill_boxes

IGNORE_INDEX = -100  # PyTorch's cross entropy skips these labels


@dataclass
class SampleCollator:
    """Turn samples into the inputs of a model in training: those of the processor, and `labels`, `(b, l)`.

    Labels are the input ids where the processor's chat template marks the assistant's words, -100 elsewhere.
    Sequences are padded on the right; videos are sampled as the processor's video processor says.
    """

    processor: Any

    def __call__(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Build one batch; a sample without any token to learn from raises `ValueError`."""
        options: dict[str, Any] = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
        if any(sample.timestamp is not None for sample in samples):
            options["timestamp"] = [sample.timestamp for sample in samples]
        inputs = self.processor.apply_chat_template(
            [to_conversation(sample, self.processor) for sample in samples],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            processor_kwargs=options,
        )
        is_answer = torch.as_tensor(inputs.pop("assistant_masks")).bool()  # (b, l)
        for sample, mask in zip(samples, is_answer, strict=True):
            if not mask.any():
                raise ValueError(
                    f"sample {sample.id}: no token of the answer {sample.answer!r} is marked as the assistant's; "
                    "does the chat template have a generation block?"
                )
        labels = inputs["input_ids"].masked_fill(~is_answer, IGNORE_INDEX)
        return {**inputs, "labels": labels}


def to_conversation(sample: Sample, processor: Any, with_answer: bool = True) -> list[dict[str, Any]]:
    """Write a sample as chat messages, its boxes printed by `processor.format_boxes`."""
    question_boxes = sample.question.count(BOX_MARKER)
    texts = [_print_box(sample, box, processor) for box in sample.boxes]
    question = fill_boxes(sample.question, texts[:question_boxes])
    video = list(sample.frames) if sample.frames is not None else sample.video
    content = [{"type": "video", "video": video}, {"type": "text", "text": question}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if with_answer:
        answer = fill_boxes(sample.answer, texts[question_boxes:])
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages


def _print_box(sample: Sample, box: Sequence[float], processor: Any) -> str:
    if sample.size is None:
        raise ValueError(f"sample {sample.id}: printing its boxes needs size=(height, width) of the original frame")
    height, width = sample.size
    x1, y1, x2, y2 = box
    return processor.format_boxes([(x1 * width, y1 * height, x2 * width, y2 * height)], size=sample.size)
