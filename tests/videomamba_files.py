"""Files of the original VideoMamba, rebuilt from recorded numbers, and their conversion by the command line."""

import pytest
import torch
from safetensors.torch import save_file

from original_checkpoints import run_conversion


def convert(checkpoint, output_dir, *options):
    """Convert by the command line; return the folder of the result."""
    run_conversion("convert_videomamba.py", "--checkpoint", checkpoint, "--output_dir", output_dir, *options)
    return output_dir


def weights_of(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def save_layout(path, weights, layout="bare"):
    """Save weights in one of the layouts of the original's files; return the path of the file."""
    if layout == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(weights, path)
    elif layout in ("model", "module"):
        torch.save({layout: weights, "epoch": 3, "optimizer": {"state": {}}}, path)
    elif layout == "before torch 1.6":
        torch.save(weights, path, _use_new_zipfile_serialization=False)
    else:
        prefix = "" if layout == "bare" else layout
        torch.save({f"{prefix}{name}": tensor for name, tensor in weights.items()}, path)
    return path


def rebuild(golden, folder, name="videomamba_small", prefix="w.", layout="bare", **changes):
    """Rebuild an original file from recorded numbers; return its path, its weights and all that is recorded."""
    tensors, _ = golden(name)
    weights = {**weights_of(tensors, prefix), **changes}
    return save_layout(folder / "original.pth", weights, layout), weights, tensors


def refused(path, *options, match, error=ValueError):
    """See that a conversion is refused and leaves nothing behind."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(error, match=match):
        convert(path, path.parent / "ours", *options)
    assert sorted(path.parent.rglob("*")) == before


def assert_identical(tensors, wanted):
    """See that names, dtypes and bytes are the same."""
    assert tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert tensors[name].dtype == tensor.dtype, name
        assert tensors[name].shape == tensor.shape, name
        assert tensors[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes(), name
