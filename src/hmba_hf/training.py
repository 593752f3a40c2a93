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
_ADAPTED = ("adapter", "projector")  # one feeds the other
# Put into the names of parameters by DDP, torch.compile, FSDP and activation checkpointing.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def set_trainable(model: PreTrainedModel, parts: Sequence[str]) -> dict[str, int]:
    """Let only the named parts of an H-MBA model learn, in float32 or wider.

    Half precision would round a small learning rate away; `--bf16` and `--fp16` of `Trainer` still compute in it. What
    is frozen keeps its dtype, except that adapter and projector share one.

    Args:
        model: an `HMBAForConditionalGeneration`.
        parts: of `"vision_tower"`, `"adapter"`, `"projector"` and `"language_model"`.

    Returns:
        The number of parameters that learn, for each part.

    Raises:
        ValueError: if a part is unknown, if none has anything to learn, or if one that is to learn is quantised.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ValueError(f"parts that learn must be of {sorted(PARTS)}, got {unknown}")
    counts = dict.fromkeys(parts, 0)
    wide = set(parts) if set(parts).isdisjoint(_ADAPTED) else {*parts, *_ADAPTED}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        if part in counts and not parameter.is_floating_point():
            raise ValueError(f"what learns must hold floating point numbers, got {parameter.dtype} in {name}")
        parameter.requires_grad_(part in counts)
        if part in wide and parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
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
        gate_learning_rate: of the adapter's gate alone; that of the adapter when absent. The gate starts at zero and
            moves by about its learning rate a step: at the adapter's own rate what the adapter says stays too faint
            for the language model to notice.
        args, kwargs: of `Trainer`.
    """

    def __init__(
        self,
        *args: Any,
        adapter_learning_rate: float | None = None,
        gate_learning_rate: float | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.adapter_learning_rate = adapter_learning_rate
        self.gate_learning_rate = gate_learning_rate

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Name the parameters that weight decay is applied to."""
        vectors = {name for name, parameter in model.named_parameters() if parameter.ndim < 2}
        names = super().get_decay_parameter_names(model)
        return [n for n in names if n not in vectors and not n.endswith(("A_log", "embedding"))]

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimizer and split its groups by learning rate.

        Raises:
            ValueError: if a learning rate is given for what is not there or does not learn.
        """
        optimizer = super().create_optimizer(model)
        rates = self._own_rates(self.model if model is None else model)
        groups = []
        for group in optimizer.param_groups:
            by_rate: dict[float, list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                by_rate.setdefault(rates.get(parameter, group["lr"]), []).append(parameter)
            groups += [{**group, "params": parameters, "lr": rate} for rate, parameters in by_rate.items()]
        optimizer.param_groups[:] = groups
        return optimizer

    def _own_rates(self, model: Any) -> dict[torch.nn.Parameter, float]:
        """The learning rate of every parameter that has one of its own."""
        learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        chosen = {
            "adapter_learning_rate": [p for name, p in learning.items() if part_of(name) in _ADAPTED],
            "gate_learning_rate": [
                p for name, p in learning.items() if part_of(name) == "adapter" and name.endswith(".gate")
            ],
        }
        rates = {}
        for option, parameters in chosen.items():
            if (rate := getattr(self, option)) is None:
                continue
            if not parameters:
                raise ValueError(f"{option} must be the rate of something that learns, got {rate} for no parameter")
            rates.update(dict.fromkeys(parameters, rate))
        return rates


def part_of(name: str) -> str | None:
    """Name the part of `PARTS` that a parameter belongs to, also in a wrapped or a PEFT model; `None` for no part."""
    words = [word for word in name.split(".") if word not in _WRAPPERS]
    own_name = ".".join(words).removeprefix("base_model.model.")
    for part, prefixes in PARTS.items():
        if own_name.startswith(prefixes):
            return part
    return None
