"""The model that a run starts from."""

import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoConfig, AutoProcessor, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils.hub import cached_file, resolve_revision

from ..families import auto_class, family_of
from ..messages import logger
from ..models.loading_checkpoints import refuse_lacking
from ..models.prompting_hmba import check_time_format
from ..repositories import check_revision
from ..weight_files import find_weights
from .arguments import ModelArguments
from .parts import gathered, part_of, quantization_config
from .updates import LowRankUpdates, find_updates


def load_base(arguments: ModelArguments, run: Path, is_resumed: bool) -> tuple[PreTrainedModel, Any, str | None]:
    """Load the base with the adapter that is asked for, its processor, and its commit, if it is of the Hub.

    An adapter that has never learned gives way to a new one of another shape or kind; one that has learned does not.
    A checkpoint of low-rank updates names the base that it belongs to and holds no configuration. Where the base is
    given another adapter than it has, the base as it is then is saved once, as `adapted_base` in the run's folder.

    Low-rank updates as a base are merged into their own base, unless they learn on (`LowRankUpdates.go_on`).

    Args:
        arguments: which model, which adapter.
        run: folder of the run.
        is_resumed: whether the run goes on from a checkpoint; a base that it has saved is then kept.

    Raises:
        ValueError: if the base holds an adapter that has learned and does not fit what is asked for, if it is the
            folder that a base is to be saved in, if ZeRO-3 would have to save one, or as `find_updates`.
        ImportError: if weights in 4 bits are asked for without bitsandbytes, or low-rank updates without peft.
    """
    options: dict[str, Any] = {}
    if arguments.low_rank == "qlora":
        device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        options = {"quantization_config": quantization_config(), "device_map": {"": device}}
    own = (run / "adapted_base").resolve()  # a relative path reads as a Hub id
    path = arguments.model
    check_revision(path, arguments.model_revision)
    revision = resolve_revision(path, arguments.model_revision)  # once: all of it is of one commit
    updates = find_updates(path, arguments.model_revision)
    if updates is not None:
        return _load_updated(updates, arguments, options)
    if arguments.low_rank and _has_changed(path, revision, arguments):
        if Path(path).resolve() == own:
            raise ValueError(f"a base of another folder is wanted, {own} is where this run saves its own")
        is_kept = is_resumed and own.exists()
        if is_deepspeed_zero3_enabled() and not is_kept:
            raise ValueError(
                f"ZeRO-3 cannot save the base that low-rank updates beside {arguments.config()} belong to: save it "
                f"first, `from_pretrained({path!r}, ...)` with these values, `save_pretrained`, and its processor"
            )
        if not is_kept and PartialState().is_main_process:
            _save_base(*_load(path, revision, arguments, {}), own)
        PartialState().wait_for_everyone()
        path, revision = str(own), None
    return *_load(path, revision, arguments, options), getattr(revision, "resolved", None)


def _load_updated(
    updates: LowRankUpdates, arguments: ModelArguments, options: dict[str, Any]
) -> tuple[PreTrainedModel, Any, str | None]:
    """Load the base of low-rank updates, with them unless they learn on, and the processor that they have."""
    path = updates.base
    revision = resolve_revision(path, updates.settings.revision)
    if _has_changed(path, revision, arguments):
        raise ValueError(
            f"{updates.path} holds low-rank updates of a base that is not as {arguments.config()} say: leave these "
            f"out, or merge the updates first, {updates.merging}"
        )
    model, processor = _load(path, revision, arguments, options)
    if _has_processor(updates):
        processor = _load_processor(updates.path, updates.revision, model, arguments)
    if arguments.low_rank is None:
        model = updates.merge(model)
    return model, processor, getattr(revision, "resolved", None)


def _has_processor(updates: LowRankUpdates) -> bool:
    found = cached_file(
        updates.path, "processor_config.json", revision=updates.revision, _raise_exceptions_for_missing_entries=False
    )
    return found is not None


def _has_changed(path: str, revision: str | None, arguments: ModelArguments) -> bool:
    """Tell whether the configuration that is asked for is not that of the base."""
    held, wanted = _configs(path, revision, arguments)
    return held.to_dict() != wanted.to_dict()


def _configs(path: str, revision: str | None, arguments: ModelArguments) -> tuple[Any, Any]:
    held = AutoConfig.from_pretrained(path, revision=revision)
    return held, type(held).from_dict({**held.to_dict(), **arguments.config()})  # checks the changed values, too


def _load(
    path: str, revision: str | None, arguments: ModelArguments, options: dict[str, Any]
) -> tuple[PreTrainedModel, Any]:
    config = _configs(path, revision, arguments)[1]
    if Path(path).is_dir():
        find_weights(Path(path))  # says which file is missing or damaged
    loaded: Any = auto_class(family_of(config)).from_pretrained(
        path, config=config, revision=revision, ignore_mismatched_sizes=True, output_loading_info=True, **options
    )
    model, loading = loaded
    lacking = {*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])}
    refuse_lacking(path, (name for name in lacking if part_of(name) != "adapter"))
    _check_adapter(model, loading, arguments, path)
    return model, _load_processor(path, revision, model, arguments)


def _load_processor(path: str, revision: str | None, model: PreTrainedModel, arguments: ModelArguments) -> Any:
    processor = AutoProcessor.from_pretrained(path, revision=revision)
    processor.video_processor.num_frames = model.config.num_frames
    if arguments.time_format is not None:
        processor.time_format = arguments.time_format or None
        check_time_format(processor.time_format)
    return processor


def _check_adapter(model: Any, loading: dict[str, Any], arguments: ModelArguments, path: str) -> None:
    """Refuse to cut down or to fill up an adapter that has learned; one that has not is drawn anew."""
    wanted = [name for name, _ in model.named_parameters() if part_of(name) == "adapter"]
    odd = {name: f"{tuple(held)} there, {tuple(shape)} is wanted" for name, held, shape in loading["mismatched_keys"]}
    odd |= {name: "not there" for name in loading["missing_keys"] if part_of(name) == "adapter"}
    odd |= {name: "there alone" for name in loading["unexpected_keys"] if part_of(name) == "adapter"}
    if not wanted or odd.keys() >= set(wanted) or not odd:  # none is wanted, there is none, or it fits
        return
    gates = [parameter for name, parameter in model.named_parameters() if name.endswith("temporal_adapter.gate")]
    with gathered(gates):
        has_learned = not gates or "model.temporal_adapter.gate" in odd or bool(gates[0].count_nonzero())
    if has_learned:
        name = min(odd)
        raise ValueError(
            f"{path} holds an adapter that does not fit {arguments.config()}: {name} is {odd[name]}; leave out what "
            "differs from its adapter, or start from a base without one"
        )
    logger.info(f"the adapter of {path} has never learned, and a new one takes its place")


def _save_base(model: PreTrainedModel, processor: Any, folder: Path) -> None:
    """Save a base, whole or not at all."""
    unfinished = folder.with_name("_base")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    logger.info(f"low-rank updates belong to a base with the adapter that they were learned with: {folder}")
