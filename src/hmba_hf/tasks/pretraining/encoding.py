"""Clips as inputs of masked pre-training, in training cropped and mirrored at random."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...data.actions.training_clips import draw_frames, to_pixels, video_of
from ...data.micro_world.actions import LEAST_FRAMES, MICRO_ACTIONS
from ...digests import digest_text
from ...training.teacher_cache import digest_clip
from .augmentation import MultiScaleCrop

_SEEDS = 2**62


@dataclass
class ClipEncoder:
    """Turns a sample into a clip and the seed of its mask.

    Args:
        processor: a `VideoMambaVideoProcessor`, whose frames, rules for files and colours are those of training, too.
        augmentation: of clips in training; without it they are the middle of each segment and of each frame.
        num_views: different crops of each clip, so that a cache of a teacher's features is of use; any number when
            absent.
        seed: that these crops depend on.
        with_digests: add the hashes of the pixels, by which a teacher's features are cached.
    """

    processor: Any
    augmentation: MultiScaleCrop | None = None
    num_views: int | None = None
    seed: int = 0
    with_digests: bool = False

    def encode(self, sample: Any, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """Return `pixel_values_videos`, `(t, 3, h, w)`, and `mask_seed`, maybe `clip_digest`, 32 bytes.

        Args:
            sample: with frames or a video.
            generator: of the epoch, for training. Without one the clip is not augmented, and its mask depends on the
                id of the sample alone, so that evaluations see the same patches.

        Raises:
            OSError, ValueError: if its video cannot be read.
        """
        if generator is None:
            seed = _seed_of(sample.id)
        else:
            seed = int(torch.randint(_SEEDS, (), generator=generator))
        if generator is None or self.augmentation is None:
            options = {"num_frames": self.processor.num_frames, "return_tensors": "pt"}
            pixels = self.processor(videos=[video_of(sample)], **options)["pixel_values_videos"][0]
        else:
            pixels = self._draw(sample, self.augmentation, generator)
        encoded = {"pixel_values_videos": pixels, "mask_seed": torch.tensor(seed)}
        if self.with_digests:
            encoded["clip_digest"] = torch.tensor(list(bytes.fromhex(digest_clip(pixels))), dtype=torch.uint8)
        return encoded

    def _draw(self, sample: Any, augmentation: MultiScaleCrop, generator: torch.Generator) -> torch.Tensor:
        if self.num_views is not None:
            view = int(torch.randint(self.num_views, (), generator=generator))
            generator = torch.Generator().manual_seed(_seed_of(f"{self.seed} {sample.id} {view}"))
        frames = draw_frames(video_of(sample), self.processor, generator)
        size = self.processor.crop_size
        changed = augmentation.change(frames, (size["height"], size["width"]), generator)
        return to_pixels(changed, self.processor.image_mean, self.processor.image_std)


def world_of(name: str, options: Any, processor: Any) -> dict[str, Any]:
    """Return what a drawn dataset depends on, so that a processor takes its frames as they are.

    Args:
        name: of the dataset.
        options: with `world_seed` and `motion`.
        processor: of the model.
    """
    world = {"seed": options.world_seed, "frame_size": processor.crop_size["height"]}
    world["num_frames"] = processor.num_frames
    if name == MICRO_ACTIONS:
        world["num_frames"] = max(processor.num_frames, LEAST_FRAMES)  # of more, a processor takes some
    else:
        world["motion"] = options.motion
    return world


def join(encoded: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Put clips into a batch."""
    return {name: torch.stack([one[name] for one in encoded]) for name in encoded[0]}


def _seed_of(text: str) -> int:
    return int(digest_text(text)[:15], 16)
