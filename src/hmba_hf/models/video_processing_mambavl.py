"""Video processor of MambaVL, which reads clips in the colours of its video model."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .reading_clips import ClipVideoKwargs, ClipVideoProcessor  # first: it checks the version

# isort: split
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from .decoding_clips import flatten_videos

# How the video models of the published checkpoints, and others that serve as such, read clips.
BACKBONES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "avion": {
            "image_mean": [value / 255 for value in (108.3272985, 116.7460125, 104.09373615)],
            "image_std": [value / 255 for value in (68.5005327, 66.6321579, 70.32316305)],
        },
        "clip": {"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD},
        "imagenet": {"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD},
        "motionformer": {
            "image_mean": IMAGENET_STANDARD_MEAN,
            "image_std": IMAGENET_STANDARD_STD,
            "sampling": "dense",
            "frame_step": 4,
        },
    }
)
MambaVLVideoProcessorKwargs = ClipVideoKwargs


class MambaVLVideoProcessor(ClipVideoProcessor):
    """Turn videos into `pixel_values_videos`, `(n * views, num_frames, 3, h, w)`, as `ClipVideoProcessor` does.

    A clip has 16 frames in the colours of CLIP, unless it is made with others.

    Source: arXiv:2409.11513; Dongzhikang/MambaVL.
    """

    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    num_frames = 16
    auto_map_entry = "video_processing_mambavl.MambaVLVideoProcessor"
    # Makes this file and its siblings travel with a saved processor.
    _auto_class = "AutoVideoProcessor"

    @classmethod
    def of_backbone(cls, backbone: str, **options: Any) -> "MambaVLVideoProcessor":
        """Build the processor of a video model by its name in `BACKBONES`; `options` replace its own.

        Raises:
            ValueError: for another name.
        """
        if backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {sorted(BACKBONES)}, got {backbone!r}")
        return cls(**{**BACKBONES[backbone], **options})


def count_videos(videos: Any) -> int:
    """Return the number of videos in any nesting of them."""
    return len(flatten_videos(videos))


__all__ = ["BACKBONES", "MambaVLVideoProcessor", "MambaVLVideoProcessorKwargs", "count_videos"]
