"""What a model answers about samples, and how well its boxes meet the true ones."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .data.bad_samples import READ_ERRORS
from .data.collator import to_conversation
from .data.samples import BOX_MARKER, Box, Sample
from .metrics.grounding import GroundingScores, mean_iou, picked_object

ON_ERROR = ("stop", "skip")


@dataclass(frozen=True)
class Outcome:
    """What came of sample number `index`: its `answer`, or else the `error` for which it could not be read.

    `sample` is `None` if not even its row could be read.
    """

    index: int
    sample: Sample | None
    answer: str | None = None
    error: str | None = None


def answer_samples(
    model: Any, processor: Any, samples: Sequence[Sample], batch_size: int = 32, **generate_kwargs: Any
) -> list[str]:
    """Generate an answer for each sample; arguments as in `stream_answers`."""
    return [answer for _, answer in stream_answers(model, processor, samples, batch_size, **generate_kwargs)]


def stream_answers(
    model: Any, processor: Any, samples: Sequence[Sample], batch_size: int = 32, **generate_kwargs: Any
) -> Iterator[tuple[Sample, str]]:
    """Yield each sample with its generated answer, greedy unless `generate_kwargs` say otherwise.

    Args:
        model: an `HMBAForConditionalGeneration`; it is left in the mode, training or not, that it was in.
        processor: its `HMBAProcessor`.
        samples: each is read once, and its answer not used.
        batch_size: samples that are answered at once, padded on the left.
        generate_kwargs: of `generate`, over `max_new_tokens=128`.

    Raises:
        ValueError: if `batch_size` is below 1, or if a sample cannot be read.
    """
    batches = split_batches(len(samples), batch_size)
    for outcomes in answer_batches(model, processor, samples, batches=batches, **generate_kwargs):
        for outcome in outcomes:
            assert outcome.sample is not None and outcome.answer is not None
            yield outcome.sample, outcome.answer


def split_batches(count: int, batch_size: int) -> list[range]:
    """Cut the indices from 0 to `count` into ranges of `batch_size`, the last one maybe shorter."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]


def answer_batches(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    batches: Sequence[Sequence[int]],
    on_error: str = "stop",
    **generate_kwargs: Any,
) -> Iterator[list[Outcome]]:
    """Answer the samples of one batch of indices after the other; other arguments as in `stream_answers`.

    Args:
        batches: indices of samples that are answered together. Padding and the order of sums depend on a batch, so
            the same batches give the same answers.
        on_error: what a sample that cannot be read does: `"stop"` raises `ValueError`, `"skip"` gives an `Outcome`
            with its error, and the others of its batch are answered without it.
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error must be one of {ON_ERROR}, got {on_error!r}")
    was_training = model.training
    model.eval()
    options = {"max_new_tokens": 128, "do_sample": False, **generate_kwargs}
    try:
        for batch in tqdm(batches, desc="answering", disable=None):
            outcomes, inputs = _read_batch(samples, batch, processor, on_error=on_error)
            if inputs is not None:
                outcomes = _with_answers(outcomes, generate_answers(model, processor, inputs, options=options))
            yield outcomes
    finally:
        model.train(was_training)


def _with_answers(outcomes: list[Outcome], answers: list[str]) -> list[Outcome]:
    """Give each outcome without an error its answer, in order."""
    answered = []
    left = iter(answers)
    for outcome in outcomes:
        answered.append(outcome if outcome.error else replace(outcome, answer=next(left)))
    return answered


def generate_answers(model: Any, processor: Any, inputs: Any, options: dict[str, Any]) -> list[str]:
    """Generate with `options` of `generate` what follows encoded questions, and decode it without special tokens.

    A `UserWarning` says so when an answer ends at `max_new_tokens` instead of by itself: it may lack its box.
    """
    inputs = inputs.to(model.device)
    generated = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]  # (b, l)
    limit = options.get("max_new_tokens")
    if generated.shape[1] == limit and not _has_ended(model, generated, options).all():
        warnings.warn(
            f"answers end at their limit of max_new_tokens={limit} and may lack their boxes: a box alone takes 25 "
            "tokens where each digit is one, as with SmolLM2's tokenizer",
            stacklevel=2,
        )
    return [answer.strip() for answer in processor.batch_decode(generated, skip_special_tokens=True)]


def _has_ended(model: Any, generated: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    """Tell which answers, `(b, l)`, end by themselves: with an end token, or with padding behind them; `(b,)`."""
    ends: list[int] = []
    for name in ("eos_token_id", "pad_token_id"):
        tokens = options.get(name, getattr(model.generation_config, name, None))
        if tokens is not None:
            ends += np.atleast_1d(tokens).tolist()
    return torch.isin(generated[:, -1], torch.tensor(ends, device=generated.device, dtype=generated.dtype))


def _read_batch(
    samples: Sequence[Sample], batch: Sequence[int], processor: Any, on_error: str
) -> tuple[list[Outcome], Any]:
    """Read and encode a batch; one by one if that fails, which finds the sample to blame."""
    try:
        read = [samples[index] for index in batch]
        outcomes = [Outcome(index, sample) for index, sample in zip(batch, read, strict=True)]
        return outcomes, encode_questions(read, processor)
    except READ_ERRORS as error:
        outcomes = [_read_one(samples, index, processor) for index in batch]
        unreadable = [outcome for outcome in outcomes if outcome.error]
        if not unreadable:
            raise
        if on_error == "stop":
            first = unreadable[0]
            name = ""
            if first.sample is not None:
                name = f" ({first.sample.id})"
            raise ValueError(
                f"sample {first.index}{name} cannot be read, and on_error is not 'skip': {first.error}"
            ) from error
    good = [outcome.sample for outcome in outcomes if outcome.sample is not None and not outcome.error]
    if not good:
        return outcomes, None
    return outcomes, encode_questions(good, processor)


def _read_one(samples: Sequence[Sample], index: int, processor: Any) -> Outcome:
    sample = None
    try:
        sample = samples[index]
        encode_questions([sample], processor)
    except READ_ERRORS as error:
        return Outcome(index, sample, error=f"{type(error).__name__}: {error}")
    return Outcome(index, sample)


def encode_questions(samples: Sequence[Sample], processor: Any) -> Any:
    """Turn questions and videos into the inputs of `generate`, padded on the left."""
    options: dict[str, Any] = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    if any(sample.timestamp is not None for sample in samples):
        options["timestamp"] = [sample.timestamp for sample in samples]
    return processor.apply_chat_template(
        [to_conversation(sample, processor, with_answer=False) for sample in samples],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs=options,
    )


def answer_box(answer: str, processor: Any, size: tuple[int, int]) -> Box | None:
    """Return the box that an answer gives, as fractions of the original frame, or `None` if it gives none.

    That is the last one that `parse_boxes` reads, and so the last one that is shown: four plain numbers in order, on
    the padded square. What reaches into the padding is not clipped to the frame. None is read from an answer without
    such a box.

    Args:
        answer: generated text.
        processor: reads the box; `HMBAProcessor`, the class itself, does it too.
        size: height and width of the original frame.

    Source: github.com/Sranc3/H-MBA at 9a8645d, `mIoU.py`.
    Differs: the script also takes numbers that are out of order or beyond the square, where no frame is; here they
        are unreadable, as everywhere else.
    """
    readable = [parsed.box for parsed in processor.parse_boxes(answer) if parsed.box is not None]
    if not readable:
        return None
    height, width = size
    x1, y1, x2, y2 = readable[-1]
    side = max(size)  # of the square that the frame is padded to, in its middle
    left = (side - width) // 2
    top = (side - height) // 2
    return (
        (x1 * side - left) / width,
        (y1 * side - top) / height,
        (x2 * side - left) / width,
        (y2 * side - top) / height,
    )


def answer_boxes(sample: Sample) -> Sequence[Box]:
    """The boxes of a sample that its answer mentions, without those of its question."""
    return sample.boxes[sample.question.count(BOX_MARKER) :]


def sample_record(sample: Sample) -> dict[str, Any]:
    """All that scoring an answer about a sample needs of the sample, as plain values."""
    record: dict[str, Any] = {
        "id": sample.id,
        "task": "answering",
        "question": sample.question,
        "reference": sample.answer,
        "parts": list(sample.parts),
        "boxes": [list(box) for box in answer_boxes(sample)],
        "size": None if sample.size is None else list(sample.size),
        "tags": list(sample.tags),
    }
    if sample.others:
        record["others"] = [list(box) for box in sample.others]
    return record


def score_grounding(answers: Sequence[str], samples: Sequence[Sample], processor: Any) -> GroundingScores:
    """Score the box of each answer against the last box of its sample's; samples without a box are left out.

    What counts as the box of a generated answer is told at `answer_box`, how it is scored at `mean_iou`.

    Raises:
        ValueError: if no sample has a box in its answer, or if one that has does not tell the `size` of its frames.
    """
    predictions = []
    targets = []
    for answer, sample in zip(answers, samples, strict=True):
        boxes = answer_boxes(sample)
        if not boxes:
            continue
        if sample.size is None:
            raise ValueError(f"sample {sample.id}: scoring its box needs size=(height, width) of the original frame")
        predictions.append(answer_box(answer, processor, sample.size))
        targets.append(boxes[-1])
    if not targets:
        raise ValueError("grounding is scored on samples with boxes, got none")
    return mean_iou(predictions, targets)


def share_picked(answers: Sequence[str], samples: Sequence[Sample], processor: Any) -> float:
    """Share of answers about the first samples whose box overlaps the right object more than any other.

    Raises:
        ValueError: if there are no answers, or if a sample does not tell what else it shows.
    """
    if not answers:
        raise ValueError("answers must be at least one, got none")
    picked = 0
    for index, answer in enumerate(answers):
        sample = samples[index]
        if sample.size is None or not sample.boxes or not sample.others:
            raise ValueError(f"sample {sample.id} must have a size, a box and others to pick from, got none of one")
        box = answer_box(answer, processor, sample.size)
        picked += picked_object(box, [sample.boxes[-1], *sample.others]) == 0
    return picked / len(answers)
