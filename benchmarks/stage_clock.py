"""A clock of stages: every moment of a program belongs to one of them, and all of them add up to the whole.

Hooks of modules, wrapped functions and, in the backward pass, hooks of the graph's nodes tell the clock which stage
begins and ends. What happens between them belongs to the stage around them, and at last to `rest`.
"""

import inspect
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import nn

from hmba_hf.models import layers_state_space
from hmba_hf.models.layers_mamba import MambaMixer
from hmba_hf.models.layers_state_space import CausalConv1d

REST = "rest"
MEASURING = "measuring"  # the walk over the graph before a backward pass
BACKWARD = ", backward"
DETAIL = " / "  # between a stage and what of it is meant
CLOCKS: dict[str, Callable[[], float]] = {"processor": time.process_time, "wall": time.perf_counter}
Name = str | Callable[..., str]  # of a stage, or how to find it from what a function or module is called with


class Lap(NamedTuple):
    """Seconds by clock: of each stage, and of the whole by readings of their own; how often stages began."""

    stages: dict[str, dict[str, float]]
    whole: dict[str, float]
    counts: dict[str, int]


class StageClock:
    """Credits the time between two calls to the stage that has begun last and not ended.

    Args:
        device: on a GPU, each call waits until its work is done, so that stages do not run into each other.
    """

    def __init__(self, device: str = "cpu"):
        self.device = device
        self._stack = [REST]
        self._changes: list[tuple[int, str]] = []  # number of the next node of the graph, and the stage from there on
        self._start()

    def _start(self) -> None:
        self._spent: dict[str, dict[str, float]] = {name: defaultdict(float) for name in CLOCKS}
        self._counts: Counter[str] = Counter()
        self._outside = self._read()
        self._last = self._read()

    def _read(self) -> dict[str, float]:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return {name: read() for name, read in CLOCKS.items()}

    def _credit(self) -> None:
        now = self._read()
        for name, time_ in now.items():
            self._spent[name][self._stack[-1]] += time_ - self._last[name]
        self._last = now

    def _note(self) -> None:
        if torch.is_grad_enabled():
            self._changes.append((torch._C._autograd._get_sequence_nr(), self._stack[-1]))

    @property
    def stage(self) -> str:
        """The stage that has begun last."""
        return self._stack[-1]

    def enter(self, name: str) -> None:
        """Begin a stage within the present one."""
        self._credit()
        self._stack.append(name)
        self._counts[name] += 1
        self._note()

    def leave(self) -> None:
        """End the stage that has begun last."""
        self._credit()
        self._stack.pop()
        self._note()

    def become(self, name: str) -> None:
        """End the present stage and begin another in its place."""
        if name != self._stack[-1]:
            self._credit()
            self._stack[-1] = name

    @contextmanager
    def stage_of(self, name: str) -> Iterator[None]:
        """Let the body be a stage."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def lap(self) -> Lap:
        """Return all since the last lap, and begin another."""
        end = self._read()
        self._credit()
        stages = {name: dict(spent) for name, spent in self._spent.items()}
        whole = {name: end[name] - self._outside[name] for name in CLOCKS}
        counts = dict(self._counts)
        self._start()
        return Lap(stages, whole, counts)

    def follow_backward(self, loss: torch.Tensor) -> None:
        """Let each node of a graph make its stage the present one when its gradient is computed."""
        starts = [start for start, _ in self._changes]
        todo = [loss.grad_fn]
        seen = set(todo)
        while todo:
            node: Any = todo.pop()
            if node.name() != "torch::autograd::AccumulateGrad":  # which belongs to the node before it
                place = bisect_right(starts, node._sequence_nr()) - 1
                stage = self._changes[place][1] if place >= 0 else REST
                node.register_prehook(lambda _, name=stage + BACKWARD: self.become(name))
            for other, _ in node.next_functions:
                if other is not None and other not in seen:
                    seen.add(other)
                    todo.append(other)
        self._changes = []


def timed(clock: StageClock, function: Callable[..., Any], name: Name) -> Callable[..., Any]:
    """Return a function, or one that makes an iterator, whose own time is that of a stage."""

    def stage(*args: Any, **kwargs: Any) -> str:
        return name if isinstance(name, str) else name(clock, *args, **kwargs)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with clock.stage_of(stage(*args, **kwargs)):
            return function(*args, **kwargs)

    @wraps(function)
    def iterate(*args: Any, **kwargs: Any) -> Iterator[Any]:
        found = function(*args, **kwargs)
        own = stage(*args, **kwargs)
        while True:
            with clock.stage_of(own):
                try:
                    item = next(found)
                except StopIteration:
                    return
            yield item
            del item  # before the next one is made

    return iterate if inspect.isgeneratorfunction(function) else call


def timed_backward(clock: StageClock, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `Accelerator.backward`, whose time is that of the stages that have made the graph."""

    @wraps(function)
    def call(accelerator: Any, loss: torch.Tensor, **kwargs: Any) -> Any:
        with clock.stage_of(MEASURING):
            clock.follow_backward(loss)
        with clock.stage_of(REST + BACKWARD):
            return function(accelerator, loss, **kwargs)

    return call


@contextmanager
def wrapped(clock: StageClock, places: Sequence[tuple[Any, str, Name]]) -> Iterator[None]:
    """Time functions and methods, each given as the module or class that has it, its name there, and its stage."""
    scan = timed(clock, layers_state_space.selective_scan, _scan_within)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(layers_state_space, "selective_scan", scan))
        for owner, attribute, name in places:
            function = timed(clock, getattr(owner, attribute), name)
            stack.enter_context(mock.patch.object(owner, attribute, function))
        yield


def _scan_within(clock: StageClock, *args: Any, **kwargs: Any) -> str:
    return f"adapter: scan{DETAIL}{clock.stage.partition(DETAIL)[2]}"


def attach(clock: StageClock, model: nn.Module) -> list[Any]:
    """Time the parts of an H-MBA, which may be wrapped; return handles that take the hooks away again."""
    handles: list[Any] = []

    def hook(module: nn.Module, name: Name) -> None:
        def begin(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            clock.enter(name if isinstance(name, str) else name(*args, **kwargs))

        def end(*_: Any) -> None:
            clock.leave()

        handles.append(module.register_forward_pre_hook(begin, with_kwargs=True))
        handles.append(module.register_forward_hook(end))

    hook(model, "model, besides its parts")
    parts = {"vision_tower": "tower", "multi_modal_projector": "projector", "lm_head": "language model: head"}
    for path, module in model.named_modules():
        last = path.rpartition(".")[2]
        if last in parts:
            hook(module, parts[last])
        elif last == "language_model":
            hook(module, partial(_layers_at, module))
        elif last == "temporal_adapter":
            hook(module, "adapter: rest")
            for inner, layer in module.named_modules():
                if (name := _adapter_stage(inner, layer)) is not None:
                    hook(layer, name)
    return handles


def _layers_at(module: nn.Module, *args: Any, **kwargs: Any) -> str:
    """Name the stage of a language model, when it generates by the length of what it reads."""
    if module.training:
        return "language model: layers"
    return "language model: prefill" if kwargs["inputs_embeds"].shape[1] > 1 else "language model: token"


def _adapter_stage(path: str, layer: nn.Module) -> str | None:
    """Name the stage of a module of the adapter, and the mixer that it is in; `None` for one without its own."""
    *place, last = path.split(".")
    mixer = ".".join(word for word in place if word not in ("context", "mixers", "query"))
    if isinstance(layer, MambaMixer):
        return f"adapter: rest{DETAIL}{mixer}.{last}".replace(f"{DETAIL}.", DETAIL)
    if isinstance(layer, CausalConv1d):
        return f"adapter: convolution{DETAIL}{mixer}"
    if not isinstance(layer, nn.Linear):
        return None
    if "fusion" in place:
        return f"adapter: fusion's linear layers{DETAIL}{last}"
    return f"adapter: {last}{DETAIL}{mixer}"


def merged(stages: dict[str, float]) -> dict[str, float]:
    """Add up the details of each stage."""
    sums: dict[str, float] = defaultdict(float)
    for name, spent in stages.items():
        whole, _, detail = name.partition(DETAIL)
        is_backward = detail.endswith(BACKWARD)
        sums[whole + BACKWARD if is_backward else whole] += spent
    return dict(sums)
