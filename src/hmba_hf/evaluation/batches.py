"""Predictions for samples batch by batch, also where some of them cannot be read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tqdm.auto import tqdm

from ..data.bad_samples import POLICIES, READ_ERRORS
from ..data.samples import Sample

Encode = Callable[[Sequence[Sample]], Any]
Predict = Callable[[Any], Sequence[Any]]


@dataclass(frozen=True)
class Outcome:
    """The `prediction` about sample number `index`, a value of JSON, or the `error` for which it could not be read.

    `sample` is `None` if not even its row could be read.
    """

    index: int
    sample: Sample | None
    prediction: Any = None
    error: str | None = None


def split_batches(count: int, batch_size: int) -> list[range]:
    """Cut the indices from 0 to `count` into ranges of `batch_size`, the last one maybe shorter."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]


def predict_batches(
    model: Any,
    samples: Sequence[Sample],
    batches: Sequence[Sequence[int]],
    *,
    encode: Encode,
    predict: Predict,
    on_error: str = "stop",
) -> Iterator[list[Outcome]]:
    """Predict for the samples of one batch of indices after the other.

    Args:
        model: it is left in the mode, training or not, that it was in.
        samples: each is read once.
        batches: indices of samples that go through the model together. Padding and the order of sums depend on a
            batch, so the same batches give the same predictions.
        encode: makes the inputs of the model.
        predict: makes the predictions of inputs, one for each sample.
        on_error: what a sample that cannot be read does: `"stop"` raises `ValueError`, `"skip"` gives an `Outcome`
            with its error, and the others of its batch are predicted without it.
    """
    if on_error not in POLICIES:
        raise ValueError(f"on_error must be one of {POLICIES}, got {on_error!r}")
    was_training = model.training
    model.eval()
    try:
        for batch in tqdm(batches, desc="predicting", disable=None):
            outcomes, inputs = _read_batch(samples, batch, encode, on_error)
            if inputs is not None:
                with torch.no_grad():
                    predictions = predict(inputs)
                outcomes = _with_predictions(outcomes, predictions)
            yield outcomes
    finally:
        model.train(was_training)


def _with_predictions(outcomes: list[Outcome], predictions: Sequence[Any]) -> list[Outcome]:
    """Give each outcome without an error its prediction, in order."""
    count = sum(not outcome.error for outcome in outcomes)
    if len(predictions) != count:
        raise ValueError(f"predict must return one prediction for each of {count} samples, got {len(predictions)}")
    predicted = []
    left = iter(predictions)
    for outcome in outcomes:
        predicted.append(outcome if outcome.error else replace(outcome, prediction=next(left)))
    return predicted


def _read_batch(
    samples: Sequence[Sample], batch: Sequence[int], encode: Encode, on_error: str
) -> tuple[list[Outcome], Any]:
    """Read and encode a batch; one by one if that fails, which finds the sample to blame."""
    try:
        read = [samples[index] for index in batch]
        outcomes = [Outcome(index, sample) for index, sample in zip(batch, read, strict=True)]
        return outcomes, encode(read)
    except READ_ERRORS as error:
        outcomes = [_read_one(samples, index, encode) for index in batch]
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
    return outcomes, encode(good)


def _read_one(samples: Sequence[Sample], index: int, encode: Encode) -> Outcome:
    sample = None
    try:
        sample = samples[index]
        encode([sample])
    except READ_ERRORS as error:
        return Outcome(index, sample, error=f"{type(error).__name__}: {error}")
    return Outcome(index, sample)
