"""Questions to a model, and the answers that it generates."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from ...data.samples import Sample
from ...evaluation.batches import Outcome, predict_batches, split_batches
from .collator import to_conversation


def answer_samples(
    model: Any, processor: Any, samples: Sequence[Sample], batch_size: int = 32, **generate_kwargs: Any
) -> list[str]:
    """Generate an answer for each sample; arguments as in `stream_answers`."""
    return [answer for _, answer in stream_answers(model, processor, samples, batch_size, **generate_kwargs)]


def stream_answers(
    model: Any, processor: Any, samples: Sequence[Sample], batch_size: int = 32, **generate_kwargs: Any
) -> Iterator[tuple[Sample, str]]:
    """Yield each sample with its generated answer, greedy by default.

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
            assert outcome.sample is not None and outcome.prediction is not None
            yield outcome.sample, outcome.prediction


def answer_batches(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    batches: Sequence[Sequence[int]],
    on_error: str = "stop",
    **generate_kwargs: Any,
) -> Iterator[list[Outcome]]:
    """Answer the samples of one batch of indices after the other.

    Arguments are those of `stream_answers`, and `batches` and `on_error` of `predict_batches`.
    """
    encode = partial(encode_questions, processor=processor)
    predict = partial(generate_answers, model, processor, options=generate_kwargs)
    return predict_batches(model, samples, batches, encode=encode, predict=predict, on_error=on_error)


def generate_answers(model: Any, processor: Any, inputs: Any, options: Mapping[str, Any]) -> list[str]:
    """Generate what follows encoded questions, and decode it without special tokens.

    By default, generation is greedy and gives at most 128 tokens; `options` are those of `generate`.

    A `UserWarning` names an answer that ends at `max_new_tokens` instead of by itself, since it may lack its box.
    """
    options = {"max_new_tokens": 128, "do_sample": False, **options}
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


def _has_ended(model: Any, generated: torch.Tensor, options: Mapping[str, Any]) -> torch.Tensor:
    """Tell which answers, `(b, l)`, end by themselves: with an end token, or with padding behind them; `(b,)`."""
    ends: list[int] = []
    for name in ("eos_token_id", "pad_token_id"):
        tokens = options.get(name, getattr(model.generation_config, name, None))
        if tokens is not None:
            ends += np.atleast_1d(tokens).tolist()
    return torch.isin(generated[:, -1], torch.tensor(ends, device=generated.device, dtype=generated.dtype))


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
