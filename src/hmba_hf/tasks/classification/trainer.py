"""A Trainer for models that classify."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, PreTrainedModel
from transformers.trainer_utils import TrainOutput

from ...metrics.classification import top_k
from ...training.trainer import ResumableTrainer
from .mixing import Mixing

_NO_LOGITS = ("hidden_states", "attentions", "distillation_features")  # of a classifier's output


class ClassificationTrainer(ResumableTrainer):
    """A `ResumableTrainer` that mixes the clips of a batch with each other, and may learn from a smaller model.

    What is mixed depends on seed, step and process alone, so a resumed run repeats it.

    Args:
        mixing: of batches and their labels; `Trainer`'s own label smoothing has no part in it.
        teacher: a VideoMamba without a head, whose features of the same clips the model learns, too. The head for
            them is dropped at the end of training.
        layer_scale: `rate_scale` of `ResumableTrainer`.
        args, kwargs: of `ResumableTrainer`, but `compute_metrics`.
    """

    def __init__(
        self,
        *args: Any,
        mixing: Mixing,
        teacher: PreTrainedModel | None = None,
        layer_scale: Callable[[str], float] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, rate_scale=layer_scale, compute_metrics=_top_accuracies, **kwargs)
        self.label_smoother = None
        self.mixing = mixing
        self.teacher: Any = None
        if teacher is not None:
            self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)  # type: ignore[arg-type]
        self._mixed_at = -1  # the last step, and the number of its batches that have been mixed
        self._num_mixed = 0

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loss, in training that of mixed clips, and of the teacher's features if there is one."""
        if model.training:
            inputs = self.mix(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def mix(self, inputs: Any) -> dict[str, torch.Tensor]:
        """Mix a batch as the current step does, and add what the teacher makes of it."""
        config: Any = self.model.config  # type: ignore[union-attr]
        pixels, labels = self.mixing.mix(
            inputs["pixel_values_videos"], inputs["labels"], config.num_labels, self._generator()
        )
        mixed = {"pixel_values_videos": pixels, "labels": labels}
        if self.teacher is not None:
            with torch.no_grad():
                mixed["teacher_features"] = self.teacher(pixels).last_hidden_state
        return mixed

    def _generator(self) -> np.random.Generator:
        """Random numbers of the next batch of the current step."""
        step = self.state.global_step
        if step != self._mixed_at:
            self._mixed_at = step
            self._num_mixed = 0
        self._num_mixed += 1
        return np.random.default_rng([self.args.seed, step, self._num_mixed, self.args.process_index])

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Evaluate a batch as `Trainer` does, of whose outputs the logits alone are kept."""
        ignored = [*(ignore_keys or ()), *_NO_LOGITS]
        return super().prediction_step(model, inputs, prediction_loss_only, ignored)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as `ResumableTrainer` does, and drop the head for the teacher's features at the end."""
        output = super().train(*args, **kwargs)
        model: Any = self.model
        if not self.has_stopped and model.config.distillation_size is not None:
            model.distillation_head = None
            model.config.distillation_size = None
        return output


def _top_accuracies(evaluation: EvalPrediction) -> dict[str, float]:
    logits: Any = evaluation.predictions
    labels: Any = evaluation.label_ids
    return {"top_1": top_k(logits, labels, 1), "top_5": top_k(logits, labels, 5)}
