"""Clips and their classes as inputs of a classifier, in training changed at random."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from ...data.actions.samples import ActionSample
from ...data.actions.training_clips import draw_frames, to_pixels, video_of
from ...models.decoding_containers import LIMITS
from ...models.decoding_stills import read_picture
from ...models.video_processing_videomamba import VideoMambaVideoProcessor
from .augmentation import Augmentation


@dataclass
class ClipEncoder:
    """Turns a sample into clips and their classes.

    Args:
        processor: a `VideoMambaVideoProcessor`. Its sampling, rules for files and colours are those of training, too.
        num_labels: number of classes.
        augmentation: how clips are changed; without it a sample gives the one clip of a prediction.
        num_draws: clips that are drawn of each sample, which the released recipes call repeated sampling.
    """

    processor: Any
    num_labels: int
    augmentation: Augmentation | None = None
    num_draws: int = 1

    def encode(self, sample: ActionSample, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """Return `pixel_values_videos`, `(draws, t, 3, h, w)`, and `labels`, `(draws,)`.

        Args:
            generator: draws frames and changes; needed with an augmentation.

        Raises:
            ValueError: if the class of the sample is not known or not one of the model's, or if its video cannot be
                read.
            TypeError: if it is a sample of another task.
        """
        video = _video(sample)
        if sample.label is None or sample.label >= self.num_labels:
            raise ValueError(
                f"sample {sample.id} must have a label from 0 to {self.num_labels - 1}, got {sample.label}"
            )
        if self.augmentation is None:
            pixels = read_views([sample], self.processor)[0]
        else:
            assert generator is not None
            clips = [self._draw(video, self.augmentation, generator) for _ in range(self.num_draws)]
            pixels = torch.stack(clips)
        return {"pixel_values_videos": pixels, "labels": torch.full((len(pixels),), sample.label)}

    def _draw(self, video: Any, augmentation: Augmentation, generator: torch.Generator) -> torch.Tensor:
        """Draw a clip, `(t, 3, h, w)`, all of its frames changed alike."""
        frames = draw_frames(video, self.processor, generator)
        size = self.processor.crop_size
        changed = augmentation.change_frames(frames, (size["height"], size["width"]), generator)
        pixels = to_pixels(changed, self.processor.image_mean, self.processor.image_std)
        return augmentation.erase(pixels, generator)


def read_views(samples: Sequence[ActionSample], processor: Any) -> torch.Tensor:
    """Return the views of samples, `(b, views, t, 3, h, w)`; how many there are is an attribute of the processor.

    Args:
        processor: a `VideoMambaVideoProcessor`, or an image processor, which takes the first frame.

    Raises:
        ValueError: if a video cannot be read.
    """
    videos = [_video(sample) for sample in samples]
    if not isinstance(processor, VideoMambaVideoProcessor):
        pictures = [_picture(video) for video in videos]
        return processor(images=pictures, return_tensors="pt")["pixel_values"][:, None, None]
    # Of frames that come as pictures, all would be taken without an option of sampling in the call.
    read = processor(videos=videos, num_frames=processor.num_frames, return_tensors="pt")
    return read["pixel_values_videos"].unflatten(0, (len(samples), -1))


def _video(sample: ActionSample) -> Any:
    """Return the video of a sample as a processor takes it.

    Raises:
        TypeError: if it is a sample of another task, which is a mistake of the whole dataset.
    """
    if not isinstance(sample, ActionSample):
        raise TypeError(f"sample {sample.id} must be an ActionSample, got a {type(sample).__name__} of another task")
    return video_of(sample)


def _picture(video: Any) -> Image.Image:
    """Return the first frame of a video in RGB, or the picture that a file holds."""
    if isinstance(video, list):
        return video[0].convert("RGB")
    return read_picture(video, LIMITS)


def join(encoded: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Put the clips of several samples into one batch, `(b, t, 3, h, w)`, with labels, `(b,)`."""
    return {name: torch.cat([one[name] for one in encoded]) for name in encoded[0]}
