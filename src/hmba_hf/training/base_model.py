"""The model that a run starts from."""

import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils.hub import resolve_revision

from .arguments import ModelArguments
from .parts import quantization_config


def load_base(arguments: ModelArguments, run: Path, is_resumed: bool) -> tuple[PreTrainedModel, Any, str | None]:
    """Load the base with the adapter that is asked for, its processor, and its commit, if it is of the Hub.

    A checkpoint of low-rank updates names the base that it belongs to and holds no configuration. Where the base is
    given another adapter than it has, the base as it is then is saved once, as `base` in the folder of the run.

    Args:
        arguments: which model, which adapter.
        run: folder of the run.
        is_resumed: whether the run goes on from a checkpoint; its base is then there.

    Raises:
        ValueError: if the base holds an adapter that does not fit what is asked for, or if ZeRO-3 would have to save
            a base.
        ImportError: if weights in 4 bits are asked for without bitsandbytes.
    """
    options: dict[str, Any] = {}
    if arguments.low_rank == "qlora":
        device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        options = {"quantization_config": quantization_config(), "device_map": {"": device}}
    path, own = arguments.model_name_or_path, run / "base"
    if arguments.low_rank and _has_changed(arguments):
        if is_deepspeed_zero3_enabled() and not is_resumed:
            raise ValueError(
                f"ZeRO-3 cannot save the base that low-rank updates beside {arguments.config()} belong to: save it "
                f"first, `from_pretrained({path!r}, ...)` with these values, `save_pretrained`, and its processor"
            )
        if not is_resumed and PartialState().is_main_process:
            _save_base(*_load(path, arguments, {})[:2], own)
        PartialState().wait_for_everyone()
        path = str(own)
    return _load(path, arguments, options)


def _has_changed(arguments: ModelArguments) -> bool:
    """Tell whether the configuration that is asked for is not that of the base."""
    held, wanted = _configs(arguments.model_name_or_path, arguments)
    return held.to_dict() != wanted.to_dict()


def _configs(path: str, arguments: ModelArguments) -> tuple[Any, Any]:
    held = AutoConfig.from_pretrained(path)
    return held, type(held).from_dict({**held.to_dict(), **arguments.config()})  # checks the changed values, too


def _load(path: str, arguments: ModelArguments, options: dict[str, Any]) -> tuple[PreTrainedModel, Any, str | None]:
    config = _configs(path, arguments)[1]
    revision = resolve_revision(path)
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        path, config=config, revision=revision, ignore_mismatched_sizes=True, output_loading_info=True, **options
    )
    model, loading = loaded
    for name, held, wanted in sorted(loading["mismatched_keys"]):
        raise ValueError(
            f"{name} must be {tuple(wanted)} for {arguments.config()}, got {tuple(held)} from {path}: leave out what "
            "differs from its adapter, or start from a base without one"
        )
    processor = AutoProcessor.from_pretrained(path)
    processor.video_processor.num_frames = model.config.num_frames
    return model, processor, getattr(revision, "resolved", None)


def _save_base(model: PreTrainedModel, processor: Any, folder: Path) -> None:
    """Save a base, whole or not at all."""
    unfinished = folder.with_name("_base")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    print(f"low-rank updates belong to a base with the adapter that they were learned with: {folder}")
