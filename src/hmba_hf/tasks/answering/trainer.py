"""A Trainer for models that answer."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ...data.samples import Sample
from ...training.trainer import ResumableTrainer
from .generation import stream_answers

ScoreAnswers = Callable[[Sequence[str], Sequence[Sample]], Mapping[str, float]]


class AdapterTrainer(ResumableTrainer):
    """A `ResumableTrainer` with separate learning rates for the temporal adapter and scored answers in evaluations.

    Args:
        adapter_learning_rate: of adapter and projector; `args.learning_rate` when absent.
        gate_learning_rate: of the adapter's gate alone; that of the adapter when absent. The gate starts at zero and
            moves by about its learning rate a step: at the adapter's own rate the adapter's update stays too faint
            for the language model to notice.
        score_answers: turns the answers about samples into metrics by name, as `score` of `ResumableTrainer`.
        max_new_tokens: most tokens of an answer.
        args, kwargs: of `ResumableTrainer`, but `learning_rates`, `predict` and `score`.
    """

    def __init__(
        self,
        *args: Any,
        adapter_learning_rate: float | None = None,
        gate_learning_rate: float | None = None,
        score_answers: ScoreAnswers | None = None,
        max_new_tokens: int = 128,
        **kwargs: Any,
    ):
        rates: dict[str, float] = {}
        if adapter_learning_rate is not None:
            rates["adapter"] = adapter_learning_rate
        if gate_learning_rate is not None:
            rates["gate"] = gate_learning_rate
        super().__init__(
            *args,
            learning_rates=rates,
            predict=partial(stream_answers, max_new_tokens=max_new_tokens),
            score=score_answers,
            **kwargs,
        )
        if self.label_smoother is not None:  # Trainer shifts the labels of the language models that it knows, alone
            self.label_smoother = partial(self.label_smoother, shift_labels=True)  # type: ignore[assignment]  # is only called
