"""Language models in several stages, each in a process of its own: what vLLM's build for CPUs forgets for them."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from ...installation import missing_package
from .mending import replace_once

try:
    from vllm.distributed import get_pp_group
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner
except ImportError as missing:
    raise missing_package("the vLLM plug-in needs", "vllm") from missing


def take_what_the_stage_before_sends() -> None:
    """Give each stage the place for values of the one before it; a second call changes nothing.

    vLLM's build for CPUs makes that place when it compiles a model (vLLM 0.32). Where nothing is compiled, as with
    `enforce_eager`, there was none, and an engine with any model in two stages ended at its first request.
    """
    replace_once(CPUModelRunner, "initialize_kv_cache", _with_place)


def _with_place(prepare: Callable[..., None]) -> Callable[..., None]:
    @wraps(prepare)
    def prepare_with_place(self: Any, *arguments: Any, **options: Any) -> None:
        if self.intermediate_tensors is None and not get_pp_group().is_first_rank:
            self.intermediate_tensors = self.model.make_empty_intermediate_tensors(
                batch_size=self.max_num_tokens, dtype=self.model_config.dtype, device=self.device
            )
        prepare(self, *arguments, **options)

    return prepare_with_place


__all__ = ["take_what_the_stage_before_sends"]
