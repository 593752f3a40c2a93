"""Complete checkpoints of this package, written tensor by tensor, whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save

from hmba_hf import HMBAConfig, HMBAForConditionalGeneration
from hmba_hf.conversion.rename_keys import TensorSpec, tensor_specs
from hmba_hf.conversion.tensor_files import SAFETENSORS_DTYPES, FileTensors
from hmba_hf.conversion.tensor_sources import MemoryTensors, Tensors
from hmba_hf.files import explained_write_errors, write_json
from hmba_hf.hub import CardDetails
from hmba_hf.hub.checkpoints import write_card
from hmba_hf.models.joining_adapter import draw_weights

UNUSED = "unused_tensors"  # name of the files of `--keep_unused`
STORED_DTYPES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}


class Checkpoint(NamedTuple):
    """The contents of a checkpoint.

    Args:
        model: with shapes but without weights; its config names the parents by their Hub ids.
        tensors: the weights.
        dtype: of the weights.
        processor: of the model's inputs.
        card: details of its card beyond the model's.
        generation_config: of a model that generates text.
    """

    model: PreTrainedModel
    tensors: Tensors
    dtype: torch.dtype
    processor: Any
    card: CardDetails
    generation_config: GenerationConfig | None = None


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to write into, which becomes `path` at the end; if anything fails, it is removed.

    Raises:
        FileExistsError: if `path` holds something.
        OSError: if something cannot be written.
    """
    path = path.resolve()  # gives `.` its name, too
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"the folder of the checkpoint must be new or empty, got {path}, which holds something")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"_{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        if path.exists():
            path.rmdir()
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_shards(folder: Path, tensors: Tensors, max_shard_size: int | str, name: str = "model") -> None:
    """Write tensors to safetensors files named as by `save_pretrained`, one tensor at a time, with progress.

    Raises:
        OSError: if the disk is full; before anything is written, if its free space is known.
    """
    total = sum(spec.nbytes for spec in tensors.specs.values())
    free = shutil.disk_usage(folder).free
    if total > free:
        raise OSError(
            f"{folder} must have {total / 2**30:.2f} GiB free for the weights, got {free / 2**30:.2f} GiB free"
        )
    blank = {}
    for tensor, spec in tensors.specs.items():
        blank[tensor] = torch.empty(spec.shape, dtype=spec.dtype, device="meta")
    pattern = f"{name}{{suffix}}.safetensors"
    shards = split_torch_state_dict_into_shards(blank, filename_pattern=pattern, max_shard_size=max_shard_size)
    with tqdm(total=total, desc="writing", unit="B", unit_scale=True, disable=None) as progress:
        for file, names in shards.filename_to_tensors.items():
            with explained_write_errors(folder / file, "Nothing is left of this checkpoint."):
                write_safetensors(folder / file, tensors, names, progress)
    if shards.is_sharded:
        index = {"metadata": {"total_size": total}, "weight_map": shards.tensor_to_filename}
        write_json(folder / f"{name}.safetensors.index.json", index)


def write_safetensors(path: Path, tensors: Tensors, names: list[str], progress: Any) -> None:
    """Write one safetensors file, reading one tensor at a time; the library's own writer takes all at once.

    Source: the format of huggingface/safetensors: length of the header, header, data without gaps.
    """
    # Wide numbers first, so that they are aligned in memory when the file is mapped.
    names = sorted(names, key=lambda name: -tensors.specs[name].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in names:
        spec = tensors.specs[name]
        end = start + spec.nbytes
        header[name] = {"dtype": STORED_DTYPES[spec.dtype], "shape": list(spec.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = tensors.read(name)
            if (tuple(tensor.shape), tensor.dtype) != tensors.specs[name]:
                raise ValueError(f"{name} must be {tensors.specs[name]}, got {tuple(tensor.shape)}, {tensor.dtype}")
            data: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
            file.write(data)
            progress.update(tensor.nbytes)
            del tensor, data  # and with them the mapping, before the next is read
        file.flush()
        os.fsync(file.fileno())


def kept_tensors(path: Path) -> Tensors:
    """Open the tensors that `--keep_unused` has kept in a checkpoint."""
    files = sorted(path.glob(f"{UNUSED}*.safetensors"))
    if not files:
        return MemoryTensors({})
    index = path / f"{UNUSED}.safetensors.index.json"
    return FileTensors(index if index.is_file() else files[0])


def blank_model(model_class: Any, config: Any) -> Any:
    """Build a model with shapes but without weights."""
    with torch.device("meta"):
        return model_class(config)


def wanted_tensors(model: PreTrainedModel) -> dict[str, TensorSpec]:
    """Return the tensors of a model's checkpoint, without those that are tied to others."""
    state: dict[str, Tensor] = model.state_dict()
    for name in model.all_tied_weights_keys:
        state.pop(name, None)
    return tensor_specs(state)


def fresh_adapter(config: HMBAConfig, seed: int) -> dict[str, Tensor]:
    """Initialise the adapter of a new model; names as in a checkpoint."""
    model = blank_model(HMBAForConditionalGeneration, config)
    adapter = model.model.temporal_adapter
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        draw_weights(model, adapter)
    return {f"model.temporal_adapter.{name}": tensor for name, tensor in adapter.state_dict().items()}


def write_checkpoint(folder: Path, name: str, checkpoint: Checkpoint, max_shard_size: int | str) -> None:
    """Write all of a checkpoint: weights, code, generation settings, processor, card, configuration.

    The configuration comes last: without it, no killed conversion leaves a folder that loads.

    Args:
        name: of the final folder.
    """
    write_shards(folder, checkpoint.tensors, max_shard_size)
    config: Any = checkpoint.model.config
    config.architectures = [type(checkpoint.model).__name__]
    config.dtype = checkpoint.dtype
    custom_object_save(checkpoint.model, folder, config=config)
    if checkpoint.generation_config is not None:
        complete_special_ids(checkpoint)
        checkpoint.generation_config.save_pretrained(folder)
    checkpoint.processor.save_pretrained(folder)
    write_card(folder, checkpoint.model, (), checkpoint.card, name)
    config.save_pretrained(folder)


def complete_special_ids(checkpoint: Checkpoint) -> None:
    """Give the settings of a language model the ids of its tokenizer that they lack."""
    for settings in (checkpoint.model.config.text_config, checkpoint.generation_config):
        for token, token_id in special_ids(checkpoint.processor.tokenizer).items():
            if getattr(settings, token, None) is None:
                setattr(settings, token, token_id)


def special_ids(tokenizer: Any) -> dict[str, int]:
    """Return the ids with which a tokenizer begins, ends and pads a text, as far as it has them."""
    ids: dict[str, int] = {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token_id = getattr(tokenizer, name)
        if token_id is not None:
            ids[name] = token_id
    return ids


def read_generation_config(folder: Path) -> GenerationConfig:
    """Return the generation settings of a folder, or those of transformers if it has none.

    Without sampling, its values are dropped: Vicuna has them, and transformers refuses to save them.
    """
    if not (folder / "generation_config.json").is_file():
        return GenerationConfig()
    settings = GenerationConfig.from_pretrained(folder)
    if not settings.do_sample:
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"):
            setattr(settings, name, None)
    return settings
