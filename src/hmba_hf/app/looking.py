"""Where the query looked: its attention to each patch of each context, and the frame as the patches part it."""

from math import isqrt
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..streaming import VideoStream
from .problems import in_words


class Attention(NamedTuple):
    """How much of the query's attention goes where, a mean over heads and over the patches that ask.

    Attributes:
        maps: `{"branch/stride_n": (h, w)}`, which all sum to 1; `(1, 1)` for a context of one token, and where it is
            not known how the patches lie. Empty where the fusion of the adapter has no attention.
        problem: why it is not known how the patches lie; empty where it is.
    """

    maps: dict[str, np.ndarray]
    problem: str

    @property
    def shares(self) -> dict[str, float]:
        """Part of the attention that goes to each context; together 1."""
        return {name: float(weights.sum()) for name, weights in self.maps.items()}


def read_attention(stream: VideoStream, frame: Image.Image) -> Attention:
    """Return the attention of the query of a stream's current frame, which is `frame`."""
    features: Any = stream.features()
    patches = features.pooler_output.shape[1]
    problem = ""
    try:
        grid = patch_grid(stream.model, stream.processor, frame, patches)
    except ValueError as error:
        grid = (1, 1)
        problem = in_words(error)
    maps = {}
    for name, weights in (features.adapter_attentions or {}).items():  # (1, heads, p, k)
        of_tokens = weights[0].float().mean(dim=(0, 1)).cpu().numpy()  # (k,)
        if problem or len(of_tokens) != patches:
            maps[name] = of_tokens.sum(keepdims=True)[None]
        else:
            maps[name] = of_tokens.reshape(grid)
    return Attention(maps, problem if maps else "")


def patch_grid(model: Any, processor: Any, frame: Image.Image, patches: int) -> tuple[int, int]:
    """Return rows and columns of the patches, whose features stand row by row.

    Patches are squares of the picture that the model sees. A tower's picture is a square itself. A vision-language
    model has the frame as one whole picture, of a size that its processor tells; else its patches lie anyhow.

    Raises:
        ValueError: if it is not known how they lie.
    """
    height, width = 1, 1
    if model.config.model_type != "hmba":
        height, width = processor.frame_size_in_base((frame.height, frame.width))
    rows = isqrt(patches * height // width)
    columns = patches // max(rows, 1)
    if rows * columns != patches or rows * width != columns * height:
        raise ValueError(f"patches must fill a picture of {height} x {width} pixels as squares, got {patches}")
    return rows, columns


def seen_picture(processor: Any, picture: Image.Image) -> Image.Image:
    """Return a frame as the patches of the vision tower part it: squared or cropped where the processor does so.

    A processor of a vision-language model leaves the frame as it is.
    """
    video_processor = processor.video_processor
    shaped = video_processor(
        np.asarray(picture)[None],
        do_resize=bool(video_processor.do_center_crop),  # else at its full resolution
        do_rescale=False,
        do_normalize=False,
        return_tensors="np",
    )
    (frame,) = shaped["pixel_values_videos"][0]  # (c, h, w)
    return Image.fromarray(np.moveaxis(frame, 0, -1).astype(np.uint8))
