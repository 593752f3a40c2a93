"""Random inputs about pictures in the forms that vision-language models of transformers take them, tried in turn."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

Pictures = dict[str, Tensor]
SIDES = (32, 64, 128, 256, 384)  # pixels
CROPS = ((), (1,), (2,), (3,), (4,), (5,))


def picture_forms(model: Any) -> Iterator[Any]:
    """Yield functions that draw some number of pictures, each in another form; not all forms fit the model."""
    names = inspect.signature(model.base_model.get_image_features).parameters
    patch = _patch_size(model.config)
    if "image_grid_thw" in names:
        yield from _patches_with_grid(model.config, patch)
    elif "image_token_pooling" in names:
        yield lambda number: _pooled_patches(number, patch)
    elif "image_position_ids" in names:
        for width in (3 * patch**2, 3 * (3 * patch) ** 2, 3 * (2 * patch) ** 2):
            yield lambda number, width=width: _patches_with_places(number, width)
    elif "target_sizes" in names:
        for columns in (16, 64):
            yield lambda number, columns=columns: _strips(number, columns, patch)
    else:
        frames = getattr(_vision(model.config), "temporal_patch_size", 1)
        yield lambda number: {"pixel_values": torch.randn(number, 4, 3 * patch**2)}  # as Fuyu's
        yield lambda number: {"pixel_values": torch.randn(4 * number, frames, patch, patch, 3)}  # as Inkling's
        for side in _sides(model.config):
            for crops in CROPS:
                yield lambda number, side=side, crops=crops: _whole(number, side, crops, names)


def _patch_size(config: Any) -> int:
    size = getattr(_vision(config), "patch_size", 8)
    return size[0] if isinstance(size, list | tuple) else size


def _vision(config: Any) -> Any:
    return getattr(config, "vision_config", None) or config


def _sides(config: Any) -> list[int]:
    """List sides to try: that of the config first."""
    side = getattr(_vision(config), "image_size", None)
    if isinstance(side, list | tuple):
        side = side[0]
    return [*dict.fromkeys(([side] if side else []) + list(SIDES))]


def _patches_with_grid(config: Any, patch: int) -> Iterator[Any]:
    """Patches of all pictures in one row, with the grid of each, as Qwen's; flat, square, or merged."""
    frames = getattr(_vision(config), "temporal_patch_size", 1)
    forms: list[tuple[tuple[int, ...], int]] = []
    for depth in dict.fromkeys((frames, 1, 2)):
        forms.append(((16, 3 * depth * patch**2), 4))
    forms.append(((16, 3, patch, patch), 4))
    forms.append(((4, 2 * patch, 2 * patch, 3), 2))
    for shape, side in forms:
        yield lambda number, shape=shape, side=side: {
            "pixel_values": torch.randn(number * shape[0], *shape[1:]),
            "image_grid_thw": torch.tensor([[1, side, side]] * number),
        }


def _pooled_patches(number: int, patch: int) -> Pictures:
    """Patches of each picture, with the four that each token pools, as Molmo's."""
    pooled = torch.arange(number * 16).reshape(number * 4, 4)
    grids = torch.tensor([[2, 2, 0, 0]] * number)
    return {"pixel_values": torch.randn(number, 16, 3 * patch**2), "image_token_pooling": pooled, "image_grids": grids}


def _patches_with_places(number: int, width: int) -> Pictures:
    """Patches with their columns and rows, as Gemma 4's."""
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    places = torch.stack([columns.flatten(), rows.flatten()], dim=-1)
    return {"pixel_values": torch.rand(number, 36, width), "image_position_ids": places.repeat(number, 1, 1)}


def _strips(number: int, columns: int, patch: int) -> Pictures:
    """All patches side by side in one strip, with the grid of each picture, as MiniCPM-V's."""
    sizes = torch.tensor([[4, columns // 4]] * number)
    return {"pixel_values": torch.randn(1, 3, patch, number * columns * patch), "target_sizes": sizes}


def _whole(number: int, side: int, crops: tuple[int, ...], names: Any) -> Pictures:
    """Whole pictures, or some crops of each, with all that the model takes besides."""
    pixels = torch.randn(number, *crops, 3, side, side)
    pictures = {"pixel_values": pixels}
    if "pixel_values_images" in names:
        pictures = {"pixel_values_images": pixels}
    if "high_res_pixel_values" in names:
        pictures["high_res_pixel_values"] = torch.randn(number, 3, side, side)
    if "image_sizes" in names:
        pictures["image_sizes"] = torch.tensor([[side, side]] * number)
    if "tile_fine_mask" in names:
        pictures["pixel_attention_mask"] = torch.ones(number, *crops, dtype=torch.bool)
    if "qformer_input_ids" in names:
        pictures["qformer_input_ids"] = torch.full((number, 3), 31)
        pictures["qformer_attention_mask"] = torch.ones(number, 3, dtype=torch.long)
    return pictures
