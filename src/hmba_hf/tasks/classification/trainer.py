"""A Trainer for models that classify."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, PreTrainedModel
from transformers.trainer_utils import TrainOutput

from ...metrics.classification import top_k
from ...training.trainer import ResumableTrainer
from .heads import UNKNOWN, Heads
from .mixing import Mixing

# Of a classifier's output; the logits by head stand for those of all heads together, of which there may be many.
_NOT_SCORED = ("hidden_states", "attentions", "distillation_features", "head_features", "answer_loss")


class ClassificationTrainer(ResumableTrainer):
    """A `ResumableTrainer` that mixes the clips of a batch with each other, and may learn from a smaller model.

    What is mixed depends on seed, step and process alone, so a resumed run repeats it.

    Args:
        mixing: of batches and their labels; `Trainer`'s own label smoothing has no part in it.
        teacher: a VideoMamba without a head, whose features of the same clips the model learns, too. The head for
            them is dropped at the end of training.
        layer_scale: `rate_scale` of `ResumableTrainer`.
        rate_drops: shares of the training after which all learning rates, constant ones, fall to a tenth.
        at_rest: modules of the model, by their names, that stay as in evaluation, without dropout.
        args, kwargs: of `ResumableTrainer`, but `compute_metrics`.
    """

    def __init__(
        self,
        *args: Any,
        mixing: Mixing,
        teacher: PreTrainedModel | None = None,
        layer_scale: Callable[[str], float] | None = None,
        rate_drops: Sequence[float] = (),
        at_rest: Sequence[str] = (),
        **kwargs: Any,
    ):
        super().__init__(*args, rate_scale=layer_scale, compute_metrics=self._top_accuracies, **kwargs)
        self.label_smoother = None
        self.mixing = mixing
        self.teacher: Any = None
        if teacher is not None:
            self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)  # type: ignore[arg-type]  # PreTrainedModel.to hides torch's
        self.rate_drops = tuple(rate_drops)
        model: Any = self.model
        self._resting = [model.get_submodule(name) for name in at_rest]
        self._mixed_at = -1  # the last step, and the number of its batches that have been mixed
        self._num_mixed = 0

    @property
    def heads(self) -> Heads:
        """Those of the model."""
        model: Any = self.model
        return Heads.of(model.config)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the schedule of `Trainer`, with drops of the learning rates if there are any."""
        scheduler: Any = super().create_scheduler(num_training_steps, optimizer)
        if self.rate_drops:

            def factor(step: int) -> float:
                passed = [share for share in self.rate_drops if step >= share * num_training_steps]
                return 0.1 ** len(passed)

            scheduler.lr_lambdas = [factor for _ in scheduler.lr_lambdas]  # of a constant rate
        return scheduler

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loss, in training that of mixed clips, and of the teacher's features if there is one."""
        if model.training:
            for module in self._resting:
                module.eval()
            inputs = self.mix(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def mix(self, inputs: Any) -> dict[str, torch.Tensor]:
        """Mix a batch as the current step does, and add what the teacher makes of it."""
        pixels, labels = self.mixing.mix(
            inputs["pixel_values_videos"], inputs["labels"], self.heads.sizes, self._generator()
        )
        mixed = {**inputs, "pixel_values_videos": pixels, "labels": labels}
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
        """Evaluate a batch as `Trainer` does, of whose outputs the logits alone are kept, those of each head."""
        of_all = "logits" if self.heads.asks else "head_logits"
        ignored = [*(ignore_keys or ()), *_NOT_SCORED, of_all]
        return super().prediction_step(model, inputs, prediction_loss_only, ignored)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as `ResumableTrainer` does, and drop the head for the teacher's features at the end."""
        output = super().train(*args, **kwargs)
        model: Any = self.model
        if not self.has_stopped and self.teacher is not None:
            model.distillation_head = None
            model.config.distillation_size = None
        return output

    def _top_accuracies(self, evaluation: EvalPrediction) -> dict[str, float]:
        """Return top-1 and top-5 of each head where its class is known, and how often all heads are right."""
        logits: Any = evaluation.predictions
        labels: Any = evaluation.label_ids
        heads = self.heads
        if not heads.asks:
            logits = {heads.names[0]: logits}
        labels = labels.reshape(len(labels), -1)
        scores = {}
        for number, head in enumerate(heads.names):
            is_known = labels[:, number] != UNKNOWN
            prefix = f"{head}_" if len(heads.names) > 1 else ""
            if is_known.any():
                for k in (1, 5):
                    scores[f"{prefix}top_{k}"] = top_k(logits[head][is_known], labels[is_known, number], k)
        if heads.combination is not None:
            is_known = (labels != UNKNOWN).all(axis=1)
            is_right = np.ones(len(labels), dtype=bool)
            for number, head in enumerate(heads.names):
                is_right &= logits[head].argmax(axis=1) == labels[:, number]
                is_right &= ~np.isnan(logits[head]).any(axis=1)
            if is_known.any():
                scores[f"{heads.combination}_top_1"] = float(is_right[is_known].mean())
        return scores
