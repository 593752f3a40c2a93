"""An original VideoMamba fitted to clips of other sizes and to other classes, by the rules of the original code."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hmba_hf.conversion.tensor_sources import (
    Change,
    ChangedTensors,
    JoinedTensors,
    MemoryTensors,
    SelectedTensors,
    Tensors,
)
from hmba_hf.conversion.videomamba_sizes import PATCHES, PLACES, TIMES, OriginalSizes
from hmba_hf.models.layers_video_embeddings import interpolate_places, interpolate_times

KINETICS_710 = 710  # the classes of Kinetics-400, -600 and -700 together; the first 400 are those of Kinetics-400
HEAD = ("head.weight", "head.bias")


class Head(NamedTuple):
    """The classifier of the result.

    Args:
        num_labels: its classes.
        rows: those of the original head, in their new order; `None` for a new head.
    """

    num_labels: int
    rows: list[int] | None = None


def plan_head(
    held: int | None, asked: int | None, label_map: Sequence[int] | None = None, is_new: bool = False
) -> Head:
    """Choose the classes of a classifier from those of the original head.

    Args:
        held: classes of the original head; `None` if it has none.
        asked: classes of the result; `None` for those of the head.
        label_map: numbers of the classes that are kept.
        is_new: draw a new head in any case.

    Raises:
        ValueError: if the options contradict each other or the head.

    Source: OpenGVLab/VideoMamba, `run_class_finetuning.py`.
    """
    num_labels = asked
    if num_labels is None:
        num_labels = held
    if label_map is not None:
        if held is None or is_new:
            raise ValueError("--label_map must be for a head that is kept, got none")
        if asked not in (None, len(label_map)):
            raise ValueError(f"--label_map must hold {asked} classes, got {len(label_map)}")
        if max(label_map) >= held:
            raise ValueError(f"--label_map must be of the {held} classes of the head, got class {max(label_map)}")
        return Head(len(label_map), list(label_map))
    if num_labels is None or num_labels < 1:
        raise ValueError(f"--num_labels must be at least 1, got {num_labels}")
    if held is None or is_new:
        return Head(num_labels)
    if num_labels == held:
        return Head(held, list(range(held)))
    if held == KINETICS_710 and num_labels == 400:
        return Head(num_labels, list(range(num_labels)))
    if held == KINETICS_710 and num_labels in (600, 700):
        raise ValueError(f"--label_map must name the {num_labels} classes among the head's {held}, got none")
    return Head(num_labels)


def fit(originals: Tensors, sizes: OriginalSizes, config: Any, head: Head | None = None, seed: int = 0) -> Tensors:
    """Return the tensors of an original model in the shapes of a configuration.

        pictures to clips: the kernel of patches at `tubelet_size // 2`, zeros before and behind it
        places: bicubic, without the class token
        times: linear; zeros where there are none

    Args:
        originals: by their names without a prefix.
        sizes: theirs.
        config: of the result.
        head: of a classifier.
        seed: of a new head.

    Source: OpenGVLab/VideoMamba, `videomamba.py`, `run_class_finetuning.py`.
    """
    added: dict[str, Tensor] = {}
    changes: dict[str, Change] = {}
    held = dict.fromkeys(originals.specs)
    dtype = originals.specs[PATCHES].dtype
    if sizes.tubelet_size is None:
        changes[PATCHES] = _inflation(originals.specs[PATCHES].shape, config.tubelet_size)
    grid = (config.frame_size[0] // config.patch_shape[0], config.frame_size[1] // config.patch_shape[1])
    held_grid = sizes.grid(config.frame_size)
    if grid != held_grid:
        shape = (1, 1 + grid[0] * grid[1], sizes.hidden_size)
        changes[PLACES] = Change(shape, lambda table: interpolate_places(table, held_grid, grid))
    times = config.num_frames // config.tubelet_size
    if sizes.num_times is None and config.num_frames > 1:
        added[TIMES] = torch.zeros(1, times, sizes.hidden_size, dtype=dtype)
    elif sizes.num_times not in (None, times):
        changes[TIMES] = Change((1, times, sizes.hidden_size), lambda table: interpolate_times(table, times))
    rows = None if head is None else head.rows
    if head is not None and rows is None:
        for name in HEAD:
            held.pop(name, None)
        added["head.weight"] = new_head(head.num_labels, config, seed).to(dtype)
        added["head.bias"] = torch.zeros(head.num_labels, dtype=dtype)
    elif rows is not None and rows != list(range(sizes.num_labels or 0)):
        for name in HEAD:
            if name in held:
                changes[name] = Change((len(rows), *originals.specs[name].shape[1:]), lambda tensor: tensor[rows])
    kept = SelectedTensors(originals, held)
    return JoinedTensors(ChangedTensors(kept, changes), MemoryTensors(added))


def _inflation(shape: tuple[int, ...], tubelet_size: int) -> Change:
    centre = tubelet_size // 2

    def inflate(kernel: Tensor) -> Tensor:
        inflated = kernel.new_zeros(*shape[:2], tubelet_size, *shape[2:])
        inflated[:, :, centre] = kernel
        return inflated

    return Change((*shape[:2], tubelet_size, *shape[2:]), inflate)


def new_head(num_labels: int, config: Any, seed: int) -> Tensor:
    """Draw the matrix of a new classifier, `(num_labels, d)`, as a new model does."""
    weight = torch.empty(num_labels, config.hidden_size)
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.init.trunc_normal_(weight, std=config.initializer_range, generator=generator)
