"""Faults of vLLM and of what it meets, mended where an H-MBA runs into them."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from ...installation import missing_package

try:
    import numba  # noqa: F401 - llvmlite with it, before `answer_scans`: an engine that comes later meets it
except ImportError:
    pass

try:
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu
    from vllm.platforms import current_platform
except ImportError as missing:
    raise missing_package("the vLLM plug-in needs", "vllm") from missing


_MARK = "_mended_for_hmba"


def replace_once(owner: Any, name: str, mend: Callable[[Any], Any]) -> None:
    """Put what `mend` makes of a function in its place, unless that has been done before.

    Args:
        owner: module or class that holds the function under `name`.
        mend: returns a function that calls the one that it is given.
    """
    function = getattr(owner, name)
    if not hasattr(function, _MARK):
        mended = mend(function)
        setattr(mended, _MARK, True)
        setattr(owner, name, mended)


def answer_scans() -> None:
    """Let vLLM's worker for CPUs read `vars()` of every value of every module, as it does when it starts.

    llvmlite, which Numba brings, takes every unknown name for a function of its library, `__dict__` too; so `vars()`
    returned one, and the worker ended with an error (vLLM 0.32, llvmlite 0.47).
    """
    ffi = sys.modules.get("llvmlite.binding.ffi")
    if ffi is not None:
        ffi.lib._fntab.setdefault("__dict__", {})


def leave_requests_without_updates_alone() -> None:
    """Keep low-rank updates from requests without any, in vLLM's build for CPUs; a second call changes nothing.

    It gives their tokens the place -1 among the updates, which is the last one (vLLM 0.32): where that is taken, they
    were answered with updates.
    """
    if not current_platform.is_cpu():
        return
    for name in ("bgmv_expand", "bgmv_expand_slice"):
        replace_once(lora_ops, name, _with_nothing_for_negative_places)
        setattr(punica_cpu, name, getattr(lora_ops, name))  # which imports it by its name


def _with_nothing_for_negative_places(expand: Callable[..., None]) -> Callable[..., None]:
    """Wrap what adds updates to the values of tokens, such that those without any stay as they are."""

    @wraps(expand)
    def expand_some(inputs: Tensor, weights: Tensor, output: Tensor, places: Tensor, *rest: Any, **how: Any) -> None:
        without = (places < 0).unsqueeze(1)  # (tokens, 1)
        expand(inputs.masked_fill(without, 0), weights, output, places, *rest, **how)

    return expand_some


__all__ = ["answer_scans", "leave_requests_without_updates_alone", "replace_once"]
