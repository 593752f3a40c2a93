"""A vision tower that runs no further than the layer of it that is read."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

# In all versions of transformers these hand what one of their `layers` returns to the next one, and do nothing else.
PLAIN_ENCODERS = ("CLIPEncoder", "SiglipEncoder")


def read_layer(
    tower: Any, frames: Tensor, layer: int, output_hidden_states: bool | None = None, **kwargs: Any
) -> tuple[Any, Tensor]:
    """Run a vision tower; return its output, and the states of one layer, `(frames, tokens, d)`.

    Layers behind that one are not run, and what else is in the output means nothing then. They are run where the
    states or the attentions of all are asked for, at the first run of a tower, while torch compiles or exports, in
    towers of other kinds than CLIP and SigLIP, and where something wraps the tower, as PEFT does, or has replaced a
    part's forward, as accelerate does.

    Args:
        tower: of transformers.
        frames: `(frames, channels, height, width)`.
        layer: from 1, or from -1 counted back.
        output_hidden_states: as of the tower.
        kwargs: of the tower.
    """
    wants_attentions = kwargs.get("output_attentions", getattr(tower.config, "output_attentions", False))
    if not (output_hidden_states or wants_attentions or torch.compiler.is_compiling()):
        last = _LastLayer()
        shorter = _cut(tower, layer, last)
        if shorter is not None:
            output = shorter(frames, output_hidden_states=False, return_dict=True, **kwargs)
            return output, last.states
    wants = output_hidden_states or layer  # some towers return hidden states down to one layer
    output = tower(frames, output_hidden_states=wants, return_dict=True, **kwargs)
    return output, output.hidden_states[layer]


class _LastLayer(nn.Module):
    """A layer that keeps what it is given, and returns it."""

    states: Tensor

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.states = hidden_states
        return hidden_states


def _cut(tower: Any, layer: int, last: nn.Module) -> Any:
    """Return a tower with another layer in the place of those behind the one that is read; `None` where it cannot be.

    It is a second view of the same modules, and nothing of the tower changes: other threads may use it meanwhile.
    """
    # Its own: a wrapper shows the parts of what it wraps, and runs them wherever it likes.
    encoder: Any = tower._modules.get("encoder")
    if type(encoder).__name__ not in PLAIN_ENCODERS:
        return None
    # Transformers puts its recorders of states into all layers when they are first asked for, and no compiler follows.
    if not getattr(tower, "_output_capturing_hooks_installed", False):
        return None
    if not (_runs_own_forward(tower) and _runs_own_forward(encoder)):
        return None
    layers = list(encoder.layers)
    count = layer if layer > 0 else len(layers) + 1 + layer
    if not 0 < count < len(layers):
        return None
    return _with_part(tower, "encoder", _with_part(encoder, "layers", nn.ModuleList([*layers[:count], last])))


def _runs_own_forward(module: nn.Module) -> bool:
    return "forward" not in vars(module) and module._compiled_call_impl is None


def _with_part(module: nn.Module, name: str, part: nn.Module) -> nn.Module:
    """Return a view of a module in which one part is another."""
    view = copy.copy(module)
    view._modules = {**module._modules, name: part}
    return view
