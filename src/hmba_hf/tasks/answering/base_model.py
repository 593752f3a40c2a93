"""The base of a run that answers: its temporal adapter, and a processor that samples as the model reads."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ...families import family_of
from ...messages import logger
from ...models.prompting_hmba import check_time_format
from ...training import base_model
from ...training.base_model import BaseRules
from ...training.parts import gathered
from .arguments import ModelArguments


def load_base(arguments: ModelArguments, run: Path, is_resumed: bool) -> tuple[PreTrainedModel, Any, str | None]:
    """Load the base with the adapter that is asked for; arguments as in `hmba_hf.training.base_model.load_base`.

    An untrained adapter is replaced by one of another shape or kind. A trained one is not.

    Raises:
        ValueError: if the base holds an adapter that has learned and does not fit what is asked for.
    """
    rules = BaseRules(task="answering", may_lack=("adapter",), check=_check_adapter, prepare=_prepare_processor)
    return base_model.load_base(arguments, run, is_resumed, rules)


def _prepare_processor(processor: Any, model: Any, arguments: ModelArguments) -> None:
    processor.video_processor.num_frames = model.config.num_frames
    if arguments.time_format is not None:
        processor.time_format = arguments.time_format or None
        check_time_format(processor.time_format)


def _check_adapter(model: Any, loading: dict[str, Any], arguments: ModelArguments, path: str) -> None:
    """Raise a `ValueError` for a trained adapter of another shape; an untrained one is initialised again."""
    part_of = family_of(model).part_of
    wanted = [name for name, _ in model.named_parameters() if part_of(name) == "adapter"]
    odd: dict[str, str] = {}
    for name, held, shape in loading["mismatched_keys"]:
        odd[name] = f"must be {tuple(shape)}, got {tuple(held)}"
    odd |= {name: "must be there" for name in loading["missing_keys"] if part_of(name) == "adapter"}
    odd |= {name: "must be absent" for name in loading["unexpected_keys"] if part_of(name) == "adapter"}
    if not wanted or odd.keys() >= set(wanted) or not odd:  # none is wanted, there is none, or it fits
        return
    gates = [parameter for name, parameter in model.named_parameters() if name.endswith("temporal_adapter.gate")]
    with gathered(gates):
        has_learned = not gates or "model.temporal_adapter.gate" in odd or bool(gates[0].count_nonzero())
    if has_learned:
        name = min(odd)
        raise ValueError(
            f"{path} holds an adapter that does not fit {arguments.config()}: {name} {odd[name]}; leave out what "
            "differs from its adapter, or start from a base without one"
        )
    logger.info(f"the adapter of {path} is untrained, and a new one replaces it")
