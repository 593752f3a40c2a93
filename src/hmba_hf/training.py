"""What learns and how fast: the trainable parts of an H-MBA model and a Trainer that knows them by name."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer

PARTS: dict[str, str | tuple[str, ...]] = {
    "vision_tower": "model.vision_tower.",
    "adapter": "model.temporal_adapter.",
    "projector": "model.multi_modal_projector.",
    "language_model": ("model.language_model.", "lm_head."),
}


def set_trainable(model: PreTrainedModel, parts: Sequence[str]) -> dict[str, int]:
    """Let only the named parts of an H-MBA model learn.

    Args:
        model: an `HMBAForConditionalGeneration`.
        parts: of `"vision_tower"`, `"adapter"`, `"projector"` and `"language_model"`.

    Returns:
        The number of parameters that learn, for each part.

    Raises:
        ValueError: if a part is unknown or none has anything to learn.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ValueError(f"parts that learn must be of {sorted(PARTS)}, got {unknown}")
    counts = dict.fromkeys(parts, 0)
    for name, parameter in model.named_parameters():
        part = part_of(name)
        parameter.requires_grad_(part in counts)
        if part in counts:
            counts[part] += parameter.numel()
    if not sum(counts.values()):
        raise ValueError(f"the parts that learn must hold parameters, got none in {list(parts)}")
    return counts


class AdapterTrainer(Trainer):
    """A `Trainer` that gives the temporal adapter and the projector a learning rate of their own.

    Weight decay is kept from what it would harm in them: vectors (norms, biases, gates, scales), `A_log` and
    embeddings.

    Args:
        adapter_learning_rate: of adapter and projector; `args.learning_rate` when absent.
        args, kwargs: of `Trainer`.
    """

    def __init__(self, *args: Any, adapter_learning_rate: float | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.adapter_learning_rate = adapter_learning_rate

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Name the parameters that weight decay is applied to."""
        vectors = {name for name, parameter in model.named_parameters() if parameter.ndim < 2}
        names = super().get_decay_parameter_names(model)
        return [n for n in names if n not in vectors and not n.endswith(("A_log", "embedding"))]

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimizer and split its groups by learning rate."""
        optimizer = super().create_optimizer(model)
        if self.adapter_learning_rate is not None:
            learner: Any = self.model if model is None else model
            own_rate = {id(p) for name, p in learner.named_parameters() if part_of(name) in ("adapter", "projector")}
            groups = optimizer.param_groups
            for group in list(groups):
                adapter = [p for p in group["params"] if id(p) in own_rate]
                group["params"] = [p for p in group["params"] if id(p) not in own_rate]
                groups.append({**group, "params": adapter, "lr": self.adapter_learning_rate})
            groups[:] = [group for group in groups if group["params"]]
        return optimizer


def part_of(name: str) -> str | None:
    """Name the part of `PARTS` that a parameter belongs to, also under a wrapper's prefix; `None` for no part."""
    for part, prefixes in PARTS.items():
        if name.removeprefix("module.").startswith(prefixes):
            return part
    return None
