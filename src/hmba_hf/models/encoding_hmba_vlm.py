"""Pictures as a vision-language model encodes them: its inputs, and the rows that its language model reads.

Axes: `t` frames of a clip with the current one last, `p` rows of one picture, `d` channels of the language model.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .layers_conditions import require

# The inputs that hold the pixels themselves; transformers' `generate` knows the same names.
_PIXELS = ("pixel_values", "pixel_values_images", "image_patches")
PAST = "past_"  # before the name of an input of pictures: that of all earlier frames
AT_ONCE = 16  # earlier frames that a tower sees at once while nothing learns


def picture_names(base: Any) -> list[str]:
    """Name the inputs that the pictures of a prompt consist of, such as `pixel_values` and `image_grid_thw`."""
    names = inspect.signature(base.base_model.get_image_features).parameters
    return [name for name in names if name != "kwargs"]


def without_pixels(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a prompt without the pixels of its pictures."""
    return {name: value for name, value in inputs.items() if name not in _PIXELS}


def has_pixels(inputs: Mapping[str, Any]) -> bool:
    """Return whether inputs hold pixels."""
    return any(inputs.get(name) is not None for name in _PIXELS)


def check_pixels(inputs: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for pixels that are not finite."""
    for name in _PIXELS:
        for pixels in _pieces(inputs.get(name)):
            require(torch.isfinite(pixels).all(), f"{name} must be finite, got NaN or infinity")


def part_pictures(pictures: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Part pictures, so that the memory of a tower does not grow with the length of a clip.

    Args:
        pictures: the inputs that they consist of. Where one has neither a row for each picture nor a row for each
            patch of its grid, they stay together.
        number: of pictures.
    """
    if torch.is_grad_enabled() or number <= AT_ONCE:
        return [pictures]
    parts: list[dict[str, Any]] = [{} for _ in range(0, number, AT_ONCE)]
    for name, value in pictures.items():
        if value is None:
            continue
        rows = _rows_of(value, pictures.get("image_grid_thw"), number)
        if rows is None:
            return [pictures]
        sizes = [sum(rows[start : start + AT_ONCE]) for start in range(0, number, AT_ONCE)]
        for part, piece in zip(parts, value.split(sizes), strict=True):
            part[name] = piece
    return parts


def _rows_of(value: Any, grids: Tensor | None, number: int) -> list[int] | None:
    """Return how many rows of an input each picture has; `None` where that is not known."""
    if not isinstance(value, Tensor) or value.ndim < 2:
        return None
    if len(value) == number:
        return [1] * number
    if grids is not None and len(grids) == number and len(value) == grids.prod(-1).sum():
        return grids.prod(-1).tolist()
    return None


def split_rows(features: Any, picture_tokens: Sequence[int] | None, pictures: int | None) -> list[Tensor]:
    """Part the rows of a base's output by pictures.

    Args:
        features: of `read_features`, a tensor or a sequence; a picture may come in several pieces, as crops.
        picture_tokens: rows of each picture, needed where pictures come in pieces.
        pictures: their number, where it is known.

    Returns:
        `(p, d)` of each picture.

    Raises:
        ValueError: if rows and pictures do not fit.
    """
    pieces = [piece.reshape(-1, piece.shape[-1]) for piece in features]
    if picture_tokens is None:
        if pictures is not None and len(pieces) != pictures:
            raise ValueError(
                f"picture_tokens must tell the tokens of each picture where the base encodes pictures in pieces, got "
                f"none for {pictures} pictures in {len(pieces)} pieces"
            )
        return pieces
    rows = sum(map(len, pieces))
    if sum(picture_tokens) != rows:
        raise ValueError(
            f"picture_tokens must be as many as the rows that the base has for its pictures, {rows}, got "
            f"{list(picture_tokens)}"
        )
    return list(torch.cat(pieces).split(list(picture_tokens)))


def read_features(output: Any, width: int) -> Any:
    """Return the features in a base's output about pictures that its language model reads at its first layer.

    They are its `pooler_output`; where it has none, those of the first layer that reads any (Granite 4 Vision), or its
    `last_hidden_state` (Fuyu).

    Args:
        output: of the base's `get_image_features`.
        width: of the language model.

    Raises:
        ValueError: if it holds none of that width.
    """
    found = output.pooler_output
    if found is None and output.get("deepstack_features"):
        found = output.deepstack_features[0][1]
    if found is None:
        found = output.last_hidden_state
    if found is None or any(piece.shape[-1] != width for piece in found):
        raise ValueError(
            f"the base must encode a picture as features of its language model's width, {width}, got none in its "
            f"{type(output).__name__}"
        )
    return found


def with_rows(output: Any, rows: Iterable[Tensor], width: int) -> Any:
    """Return a base's output about pictures with other rows in the place of `read_features`, in the same containers.

    All else in it, such as features for deeper layers, stays.

    Args:
        output: of the base's `get_image_features`.
        rows: `(p, d)` of each picture.
        width: of the language model, `d`.

    Raises:
        ValueError: if the rows are not as many as the base's own.
    """
    own = read_features(output, width)
    flat = torch.cat(list(rows))
    sizes = [piece.shape[:-1].numel() for piece in own]
    if len(flat) != sum(sizes):
        raise ValueError(f"adapted rows must be as many as the base's own, {sum(sizes)}, got {len(flat)}")
    pieces = []
    for piece, new in zip(own, flat.split(sizes), strict=True):
        pieces.append(new.to(piece.device, piece.dtype).reshape(piece.shape))
    replaced: Any = pieces
    if isinstance(own, Tensor):
        replaced = torch.stack(pieces)
    elif isinstance(own, tuple):
        replaced = tuple(pieces)
    name = "pooler_output"
    if output.pooler_output is None:
        name = "last_hidden_state"
    if output.pooler_output is None and output.get("deepstack_features"):
        name = "deepstack_features"
        (layer, _), *deeper = output.deepstack_features
        replaced = [(layer, replaced), *deeper]
    return type(output)(**{**output, name: replaced})


def join_clips(current: Sequence[Tensor], past: Any, lengths: Sequence[int]) -> list[Tensor]:
    """Put the rows of earlier frames before those of the current ones.

    Args:
        current: `(p, d)` of each picture.
        past: features of `read_features` of all earlier frames, clip by clip, old frames first.
        lengths: earlier frames of each picture.

    Returns:
        `(t, p, d)` of each clip.

    Raises:
        ValueError: if a clip's frames have unlike numbers of rows, or if the numbers do not fit.
    """
    if len(lengths) != len(current):
        raise ValueError(
            f"past_lengths must have a number for each of {len(current)} pictures, got {len(lengths)} numbers"
        )
    earlier = _split_past(past, current, lengths)
    clips = []
    start = 0
    for rows, length in zip(current, lengths, strict=True):
        frames = [*earlier[start : start + length], rows]
        start += length
        if len({frame.shape for frame in frames}) > 1:
            raise ValueError(
                f"frames of one clip must have the same number of tokens, got {[len(frame) for frame in frames]}"
            )
        clips.append(torch.stack(frames))
    return clips


def _pieces(value: Any) -> list[Tensor]:
    if value is None:
        return []
    if isinstance(value, Tensor):
        return [value]
    return [piece for item in value for piece in _pieces(item)]


def _split_past(past: Any, current: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
    """Part the rows of earlier frames; where frames come in pieces, each has the rows of its clip's current frame."""
    pieces = [piece.reshape(-1, piece.shape[-1]) for piece in past]
    if len(pieces) == sum(lengths):
        return pieces
    tokens = []
    for rows, length in zip(current, lengths, strict=True):
        tokens += [len(rows)] * length
    found = sum(map(len, pieces))
    if found != sum(tokens):
        raise ValueError(
            f"earlier frames must be as many as past_lengths tells, {sum(lengths)} of {sum(tokens)} tokens, got "
            f"{len(pieces)} of {found} tokens"
        )
    return list(torch.cat(pieces).split(tokens))
