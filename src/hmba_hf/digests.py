"""Digests that identify texts, files and models."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def digest_text(text: str) -> str:
    """Return the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def digest_weights(model: torch.nn.Module, dtype: torch.dtype) -> str:
    """Return the SHA-256 of all weights of a model, as they are in a dtype, in hexadecimal."""
    return digest_tensors(model.state_dict(), dtype)


def digest_tensors(weights: Mapping[str, Any], dtype: torch.dtype) -> str:
    """Return the SHA-256 of weights by name, as they are in a dtype, in hexadecimal."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        for part in _parts(weight):
            values = part.detach().to("cpu").contiguous()
            if values.is_floating_point():
                values = values.to(dtype)
            digest.update(f"{name} {tuple(values.shape)}".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint(model: torch.nn.Module) -> str:
    """Return a hash of the names, shapes, dtypes and first 64 values of all parameters, which takes little time."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype} ".encode())
        weight = _held_weight(model, name, parameter)
        if weight is not None:
            for part in _parts(weight):
                digest.update(part.detach().flatten()[:64].double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _parts(weight: Any) -> list[Any]:
    """Return the tensors of a weight: torchao holds whole numbers and scales in one, of which nothing has a view."""
    if not type(weight.data).__module__.startswith("torchao."):
        return [weight]
    names, _ = weight.__tensor_flatten__()
    return [getattr(weight, name) for name in names]


def _held_weight(model: torch.nn.Module, name: str, parameter: torch.Tensor) -> torch.Tensor | None:
    """Return a weight, also one that accelerate keeps in memory or on disk until its module runs."""
    if not parameter.is_meta:
        return parameter
    place, _, leaf = name.rpartition(".")
    # accelerate has no public way from a module to its offloaded weights
    hook = getattr(model.get_submodule(place), "_hf_hook", None)
    kept = getattr(hook, "weights_map", None)
    if kept is None:
        return None
    return kept[leaf].to(parameter.dtype)
