"""Samples to a batch, through a given processor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from ...data.feature_cache.reading import CachedSample
from ...data.samples import BOX_MARKER, Sample, fill_boxes

IGNORE_INDEX = -100  # PyTorch's cross entropy skips these labels
_BLANK = Image.new("RGB", (1, 1))


@dataclass
class SampleCollator:
    """Turn samples into the inputs of a model in training: those of the processor, and `labels`, `(b, l)`.

    Labels are the input ids of the assistant's tokens, -100 elsewhere. A generation block of the chat template marks
    these tokens. Without a block, they are what the template adds to the prompt. Sequences are padded on the right.
    A sample of cached features has `frame_features`, `(b, t, p, d)`, in the place of its pixels.

    Args:
        processor: of the model; its video processor samples the videos.
        max_length: most tokens of a sample; a longer one is refused, never truncated.
    """

    processor: Any
    max_length: int | None = None

    def __call__(self, samples: Sequence[Sample | Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Build one batch, of samples or of results of `encode`."""
        encoded = []
        for sample in samples:
            if isinstance(sample, Mapping):
                encoded.append(sample)
            else:
                encoded.append(self.encode(sample))
        return self._join(encoded)

    def encode(self, sample: Sample) -> dict[str, torch.Tensor]:
        """Turn one sample into tensors without a batch axis.

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
        encoded = {name: torch.as_tensor(value)[0] for name, value in inputs.items()}
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
            encoded["frame_features"] = sample.frame_features
            del encoded["pixel_values_videos"]
        return encoded

    def _join(self, encoded: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Pad texts on the right and clips in front; a mask marks the real frames of clips."""
        padding = {"input_ids": self.processor.tokenizer.pad_token_id or 0, "labels": IGNORE_INDEX}
        batch = {}
        for name in encoded[0]:
            values = [sample[name] for sample in encoded]
            if name in ("pixel_values_videos", "frame_features"):
                length = max(map(len, values))
                batch[name] = torch.stack([_pad_front(frames, length) for frames in values])
                if any(len(frames) < length for frames in values):
                    masks = [_pad_front(torch.ones(len(frames), dtype=torch.bool), length) for frames in values]
                    batch["frame_mask"] = torch.stack(masks)
            else:
                batch[name] = pad_sequence(values, batch_first=True, padding_value=padding.get(name, 0))
        return batch


def _pad_front(frames: torch.Tensor, length: int) -> torch.Tensor:
    return torch.cat([frames.new_zeros(length - len(frames), *frames.shape[1:]), frames])


def to_conversation(sample: Sample, processor: Any, with_answer: bool = True) -> list[dict[str, Any]]:
    """Write a sample as chat messages, its boxes printed by `processor.format_boxes`.

    A blank picture stands for cached features, since a prompt does not depend on the pixels of its video.
    """
    question_boxes = sample.question.count(BOX_MARKER)
    texts = [_print_box(sample, box, processor) for box in sample.boxes]
    question = fill_boxes(sample.question, texts[:question_boxes])
    video: Any = sample.video
    if isinstance(sample, CachedSample):
        video = [_BLANK]
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
