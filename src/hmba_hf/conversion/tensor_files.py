"""The files of a checkpoint, of any usual kind, read one tensor at a time, without running code in them.

Files are mapped, and a mapping is released as it is read: memory holds a few tensors, not a file. Only a pickle of
before torch 1.6 is read as a whole, and never two at a time.
"""

import argparse
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm.auto import tqdm

from hmba_hf.conversion.rename_keys import TensorSpec
from hmba_hf.weight_files import WeightFiles, find_weights, read_index

# Classes that a pickle may hold beside tensors: the arguments of a training script, which are plain values.
ALLOWED_GLOBALS: list[Any] = [argparse.Namespace]
# Keys under which a training script may save the weights, beside others.
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module")
# Endings of the names of pickles.
PICKLES = (".bin", ".pt", ".pth", ".pyth")
# Parts of names that FSDP, DDP, torch.compile and activation checkpointing insert.
WRAPPED_NAMES = re.compile(r"(?:^module|_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module)\.")
NO_WEIGHTS = re.compile(r"training_args\.bin|optimizer.*|scheduler.*|rng_state.*|random_states.*|scaler.*")
# A repository on the Hub, its revision, and one of its files.
HUB_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*?)(?:@([^@]+?))?(?:/([\w./-]+\.(?:safetensors|bin|pt|pth|pyth)))?")
SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.(\w+)")
SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
MAPPED_BYTES = 2**24  # read from a file before its pages are released
CHUNK = 2**20  # bytes, or numbers, checked together


class FileTensors:
    """The tensors of a checkpoint, in one file or several.

    Args:
        path: a file (.safetensors, or a pickle: .bin, .pt, .pth or .pyth), an index, or a folder. A folder's files are
            those that transformers would load, else one file or all shards of one checkpoint. Tensors that an index
            does not name are read with the others of their file.
        sha256: the expected hashes of files, by their names.

    Raises:
        FileNotFoundError: if there are no weights, or a shard is missing.
        ValueError: if a hash differs, if a file is damaged or would run code, or if a name appears twice.
    """

    def __init__(self, path: Path, sha256: Mapping[str, str] | None = None):
        files, indexed = weight_files(path)
        if sha256:
            check_hashes(files, sha256)
        self._files: dict[str, tuple[Path, str]] = {}
        self.specs: dict[str, TensorSpec] = {}
        self._open: tuple[Path, Callable[[str], Tensor]] | None = None
        self._mapped = 0
        for file in files:
            for stored, spec in self._contents(file):
                name = WRAPPED_NAMES.sub("", stored)
                if name in self.specs:
                    raise ValueError(f"{name} must be in one file, got it in {self._files[name][0]} and {file}")
                self._files[name] = (file, stored)
                self.specs[name] = spec
        lost = set(indexed)
        for _, stored in self._files.values():
            lost.discard(stored)
        if lost:
            first = min(lost)
            raise ValueError(f"{first} must be in {indexed[first]}, as in the index, got no such tensor there")

    def read(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            ValueError: if it does not hold finite real numbers.
        """
        file, stored = self._files[name]
        if self._open is None or self._open[0] != file or self._mapped > MAPPED_BYTES:
            self._open = None  # before the next, so that never two files are open
            self._open = (file, self._load(file))
            self._mapped = 0
        tensor = self._open[1](stored)
        if is_mappable(file):  # any other file would be read whole again
            self._mapped += tensor.nbytes
        check_finite(name, tensor)
        return tensor

    def _contents(self, file: Path) -> Iterator[tuple[str, TensorSpec]]:
        if file.suffix == ".safetensors":
            with opened_safetensors(file) as tensors:
                for name in tensors.offset_keys():
                    view = tensors.get_slice(name)
                    yield name, TensorSpec(tuple(view.get_shape()), _dtype(file, name, view.get_dtype()))
        else:
            for name, tensor in load_pickle(file).items():
                yield name, TensorSpec(tuple(tensor.shape), tensor.dtype)

    def _load(self, file: Path) -> Callable[[str], Tensor]:
        if file.suffix == ".safetensors":
            return opened_safetensors(file).get_tensor
        return load_pickle(file).__getitem__


def local_path(name: str) -> Path:
    """Return a folder or file, or what the Hub has under an id.

    Args:
        name: a path; a Hub repository, `org/name` or `org/name@revision`, for its snapshot; or one of its files of
            weights, `org/name/file.pth` or `org/name@revision/file.pth`.

    Raises:
        FileNotFoundError: if there is none of them.
    """
    if Path(name).exists():
        return Path(name)
    found = HUB_NAME.fullmatch(name)
    if found is None:
        raise FileNotFoundError(f"a checkpoint must be a file, a folder or a Hub id, got {name}, which does not exist")
    try:
        return _download(*found.groups())
    except OSError as error:
        raise FileNotFoundError(f"a checkpoint must be a file, a folder or a Hub id, got {name}: {error}") from error


def _download(repo: str, revision: str | None, file: str | None) -> Path:
    if file is not None:
        return Path(hf_hub_download(repo, file, revision=revision))
    wanted = ["*.json", "*.model", "*.txt", "*.jinja", "*.safetensors"]
    folder = Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    if not any((folder / f"model.safetensors{ending}").is_file() for ending in ("", ".index.json")):
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=[*wanted, "*.bin"]))
    return folder


def hub_id(name: str) -> str:
    """Return the Hub id in a name, as `local_path` takes it; the empty string for a folder or file here."""
    found = HUB_NAME.fullmatch(name)
    if found is None or Path(name).exists():
        return ""
    return found[1]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a checkpoint, such as its config.json.

    Raises:
        ValueError: if it is damaged or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be a whole JSON file, got one that cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a JSON object, got {type(content).__name__}")
    return content


def weight_files(path: Path) -> tuple[list[Path], dict[str, str]]:
    """Return the files of a checkpoint, those that transformers would load, and the file of each tensor in its index.

    Raises:
        FileNotFoundError: if there are none, or if one of them is missing.
        ValueError: if a folder holds files of several checkpoints.
    """
    if path.is_file() and path.name.endswith(".index.json"):
        found = read_index(path)
    elif path.is_file():
        found = WeightFiles([path])
    else:
        found = find_weights(path) or _other_weights(path)
    return found.files, found.weight_map


def _other_weights(folder: Path) -> WeightFiles:
    """Find weights under other names than transformers'."""
    for kinds in ((".safetensors",), PICKLES):
        found = []
        for file in sorted(folder.glob("*")):
            if file.name.endswith(kinds) and not NO_WEIGHTS.fullmatch(file.name):
                found.append(file)
        if found:
            return WeightFiles(_one_checkpoint(found))
    raise FileNotFoundError(f"{folder} must hold weights (.safetensors, {', '.join(PICKLES)}), got none")


def _one_checkpoint(files: list[Path]) -> list[Path]:
    """Return the files if they are one, or all shards of one checkpoint."""
    checkpoints: set[tuple[str, str, str] | None] = set()
    present: set[int] = set()
    for file in files:
        shard = SHARD.fullmatch(file.name)
        if shard is None:
            checkpoints.add(None)
        else:
            checkpoints.add((shard[1], shard[3], shard[4]))
            present.add(int(shard[2]))
    checkpoint = checkpoints.pop()
    if checkpoints or (checkpoint is None and len(files) > 1):
        names = [file.name for file in files]
        raise ValueError(f"a folder must hold the files of one checkpoint, got {names}: name one of them")
    if checkpoint is None:
        return files
    missing = sorted(set(range(1, int(checkpoint[1]) + 1)) - present)
    if missing:
        raise FileNotFoundError(f"a folder must hold {checkpoint[1]} shards, got {len(files)}: {missing} are missing")
    return files


def parse_hashes(words: Iterable[str]) -> dict[str, str]:
    """Read `NAME=HASH` words.

    Raises:
        ValueError: if one has another form, or names a file twice.
    """
    hashes: dict[str, str] = {}
    for word in words:
        name, _, digest = word.rpartition("=")
        if not name or name in hashes or not re.fullmatch("[0-9a-fA-F]{64}", digest):
            raise ValueError(f"hashes must be NAME=HASH, 64 hexadecimal digits for each file, got {word!r}")
        hashes[name] = digest.lower()
    return hashes


def check_hashes(files: Iterable[Path], sha256: Mapping[str, str]) -> None:
    """Compare files with their hashes, with progress.

    Raises:
        ValueError: if a hash differs, or belongs to no file.
    """
    by_name = {file.name: file for file in files}
    unknown = sorted(sha256.keys() - by_name.keys())
    if unknown:
        raise ValueError(f"hashes must be of {sorted(by_name)}, got one of {unknown[0]}")
    total = sum(by_name[name].stat().st_size for name in sha256)
    with tqdm(total=total, desc="sha256", unit="B", unit_scale=True, disable=None) as progress:
        for name, wanted in sha256.items():
            digest = hashlib.sha256()
            with open(by_name[name], "rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    progress.update(len(chunk))
            if digest.hexdigest() != wanted:
                raise ValueError(f"{by_name[name]} must have the sha256 {wanted}, got {digest.hexdigest()}")


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise a `ValueError` unless a tensor holds finite real numbers; integers pass, for nothing reads them."""
    if tensor.is_floating_point():
        if tensor.dtype.itemsize < 2:
            raise ValueError(f"{name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}")
        if not all(part.isfinite().all() for part in tensor.reshape(-1).split(CHUNK)):
            raise ValueError(f"{name} must be finite, got NaN or infinity (as {tensor.dtype})")


def is_mappable(file: Path) -> bool:
    """Return whether a file can be mapped into memory, unlike pickles of before torch 1.6."""
    return file.suffix == ".safetensors" or zipfile.is_zipfile(file)


def opened_safetensors(file: Path) -> Any:
    """Map a safetensors file.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} must be a whole safetensors file, got {error}") from error


def load_pickle(file: Path) -> dict[str, Tensor]:
    """Map the tensors of a pickle without running code.

    Raises:
        ValueError: if the file is damaged, would run code, or holds anything but tensors.
    """
    try:
        with torch.serialization.safe_globals(ALLOWED_GLOBALS):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_mappable(file))
    except Exception as error:  # bytes that are no checkpoint may raise any error in `torch.load`
        if found := _code_in(file) or re.findall(r"GLOBAL (\S+)", str(error)):
            raise ValueError(f"{file} must hold only tensors, got one that would run {', '.join(found)}") from error
        reason = str(error).splitlines()[0]
        if "weights_only" in str(error):  # torch's advice would let the file run code
            reason = "other bytes, or objects that are no tensors"
        raise ValueError(f"{file} must be a whole file of tensors, got {reason}") from error
    return _unwrapped(file, content)


def _code_in(file: Path) -> list[str]:
    """Return the names that a pickle would call beside those that build tensors, if it can be read."""
    try:
        with torch.serialization.safe_globals(ALLOWED_GLOBALS):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(os.fspath(file)))
    except Exception:  # the caller reports its own error, the first one
        return []


def _unwrapped(file: Path, content: Any) -> dict[str, Tensor]:
    """Return the dict of tensors in the content of a file."""
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{file} must hold a dict of tensors, got {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(value).__name__} in {file}")
        kind = _odd_kind(value)
        if kind is not None:
            raise ValueError(f"{name} must be a dense tensor of real numbers, got {kind} in {file}")
    return dict(content)


def _odd_kind(tensor: Tensor) -> str | None:
    """Describe a tensor that does not hold its numbers one after the other; `None` for a plain one."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return f"a {type(tensor).__name__}"
    if tensor.is_meta:
        return "one on the device meta, which holds none"
    if tensor.layout != torch.strided:
        return f"one of layout {tensor.layout}"
    if tensor.is_quantized or tensor.is_complex():
        return f"one of {tensor.dtype}"
    return None


def _dtype(file: Path, name: str, stored: str) -> torch.dtype:
    if stored not in SAFETENSORS_DTYPES:
        raise ValueError(f"{name} must be float16, bfloat16, float32 or float64, got {stored} in {file}")
    return SAFETENSORS_DTYPES[stored]
