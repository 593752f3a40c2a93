"""The sizes of an original VideoMamba, read off the shapes of its tensors."""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from hmba_hf.conversion.rename_keys import TensorSpec, shape_of
from hmba_hf.conversion.videomamba_names import TEXT_HALF

PATCHES = "patch_embed.proj.weight"
PLACES = "pos_embed"
TIMES = "temporal_pos_embedding"
LAYER = re.compile(r"layers\.(\d+)\.")
TEXT_LAYER = re.compile(rf"{re.escape(TEXT_HALF)}encoder\.layer\.(\d+)\.")
FUSION = re.compile(rf"{re.escape(TEXT_HALF)}encoder\.layer\.(\d+)\.crossattention\.")
DECODER = re.compile(r"clip_decoder\.(\d+)\.")
# Tensors that no other family has together.
SIGNS = (PATCHES, PLACES, "layers.0.mixer.A_log", "layers.0.mixer.A_b_log")


class OriginalSizes(NamedTuple):
    """Sizes of an original model.

    Args:
        patch_size: height and width in pixels.
        tubelet_size: frames of a token; `None` for a model of pictures.
        num_places: patches of a frame that its table of places has.
        num_times: tokens over time that its table of times has; `None` without one.
        num_labels: classes of its head; `None` without one.
        distillation_size: width of its distillation head; `None` without one.
        num_alignment_layers: layers that its pre-training aligns; 0 in a classifier.
        alignment_size: channels of the teacher of its pre-training; `None` in a classifier.
    """

    hidden_size: int
    num_hidden_layers: int
    state_size: int
    conv_kernel: int
    expand: int
    num_channels: int
    patch_size: tuple[int, int]
    tubelet_size: int | None
    num_places: int
    num_times: int | None
    num_labels: int | None
    distillation_size: int | None
    num_alignment_layers: int
    alignment_size: int | None

    def grid(self, wanted: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return rows and columns of the table of places, which is a square unless it cannot be one.

        Args:
            wanted: height and width of a frame in pixels, for a table that is no square.

        Raises:
            ValueError: if the table is no square and not for such frames.
        """
        side = math.isqrt(self.num_places)
        if side * side == self.num_places:
            return side, side
        if wanted is not None:
            rows = wanted[0] // self.patch_size[0]
            columns = wanted[1] // self.patch_size[1]
            if rows * columns == self.num_places:
                return rows, columns
        raise ValueError(
            f"--image_size must be height and width of frames of {self.num_places} patches, since this is no square, "
            f"got {wanted}"
        )


def read_sizes(specs: Mapping[str, TensorSpec]) -> OriginalSizes:
    """Read the sizes of a model.

    Args:
        specs: of its tensors, by their names without a prefix.

    Raises:
        ValueError: if it is of another family, or if a shape cannot be one of this family.
    """
    check_family(specs)
    has_decoder = any(DECODER.match(name) for name in specs)
    tubelet_size = None
    if len(specs[PATCHES].shape) == 5 or has_decoder:
        hidden_size, num_channels, tubelet_size, *patch = shape_of(specs, PATCHES, 5)
    else:
        hidden_size, num_channels, *patch = shape_of(specs, PATCHES, 4)
    intermediate_size, state_size = shape_of(specs, "layers.0.mixer.A_log", 2)
    if hidden_size < 1 or intermediate_size % hidden_size:
        raise ValueError(
            f"layers.0.mixer.A_log must have a multiple of {hidden_size} rows, the width of {PATCHES}, "
            f"got {intermediate_size}"
        )
    num_alignment_layers = 0
    if has_decoder:
        num_alignment_layers = count_parts(specs, DECODER)
    return OriginalSizes(
        hidden_size=hidden_size,
        num_hidden_layers=count_parts(specs, LAYER),
        state_size=state_size,
        conv_kernel=shape_of(specs, "layers.0.mixer.conv1d.weight", 3)[-1],
        expand=intermediate_size // hidden_size,
        num_channels=num_channels,
        patch_size=(patch[0], patch[1]),
        tubelet_size=tubelet_size,
        num_places=shape_of(specs, PLACES, 3)[1] - 1,
        num_times=_rows(specs, TIMES, 3),
        num_labels=_rows(specs, "head.weight", 2),
        distillation_size=_rows(specs, "distill_head.1.weight", 2),
        num_alignment_layers=num_alignment_layers,
        alignment_size=_rows(specs, "clip_decoder.0.head.weight", 2),
    )


class TextSizes(NamedTuple):
    """Sizes of the text half of the multi-modal stage.

    Args:
        num_fusion_layers: its last layers, which also attend to a video.
        projection_size: channels of the space that videos and texts share.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    num_fusion_layers: int
    projection_size: int


def read_text_sizes(specs: Mapping[str, TensorSpec]) -> TextSizes:
    """Read the sizes of the text half.

    Args:
        specs: as in `read_sizes`.

    Raises:
        ValueError: if a tensor is missing or has another number of axes, or if other layers than the last ones attend
            to a video.
    """
    embeddings = f"{TEXT_HALF}embeddings."
    vocab_size, hidden_size = shape_of(specs, f"{embeddings}word_embeddings.weight", 2)
    num_hidden_layers = count_parts(specs, TEXT_LAYER)
    fusing = sorted({int(found[1]) for name in specs if (found := FUSION.match(name))})
    first = num_hidden_layers - len(fusing)
    if fusing != list(range(first, num_hidden_layers)):
        raise ValueError(f"the last of {num_hidden_layers} layers must have crossattention, got it in {fusing}")
    return TextSizes(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        intermediate_size=shape_of(specs, f"{TEXT_HALF}encoder.layer.0.intermediate.dense.weight", 2)[0],
        max_position_embeddings=shape_of(specs, f"{embeddings}position_embeddings.weight", 2)[0],
        type_vocab_size=shape_of(specs, f"{embeddings}token_type_embeddings.weight", 2)[0],
        num_fusion_layers=len(fusing),
        projection_size=shape_of(specs, "vision_proj.weight", 2)[0],
    )


def check_family(names: Iterable[str]) -> None:
    """Raise a `ValueError` unless names are of a VideoMamba."""
    held = set(names)
    missing = [name for name in SIGNS if name not in held]
    if missing:
        few = ", ".join(sorted(held)[:3])
        raise ValueError(f"the checkpoint must be of a VideoMamba, which has {', '.join(missing)}, got {few} ...")


def count_parts(names: Collection[str], pattern: re.Pattern[str]) -> int:
    """Count the parts that a number in the name tells apart, from 0 without gaps.

    Raises:
        ValueError: if a number is missing.
    """
    numbers = {int(found[1]) for name in names if (found := pattern.match(name))}
    missing = set(range(len(numbers))) - numbers
    if missing:
        part = next(found[0] for name in names if (found := pattern.match(name)))
        raise ValueError(f"parts like {part}* must be numbered from 0 without gaps, got none of {min(missing)}")
    return len(numbers)


def _rows(specs: Mapping[str, TensorSpec], name: str, axes: int) -> int | None:
    """Return the rows of a matrix, also of one behind an axis of size one; `None` if there is none."""
    if name not in specs:
        return None
    return shape_of(specs, name, axes)[-2]
