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
from ...models.reading_clips import ClipVideoProcessor
from .augmentation import Augmentation
from .heads import Heads
from .questions import AskedSample, labels_by_head

Classified = ActionSample | AskedSample


@dataclass
class ClipEncoder:
    """Turns a sample into clips and their classes, and into questions where the model is asked any.

    Args:
        processor: of clips, or of clips and questions. Its sampling, rules for files and colours are those of
            training, too.
        heads: of the model.
        augmentation: how clips are changed; without it a sample gives the one clip of a prediction.
        num_draws: clips that are drawn of each sample, which the released recipes call repeated sampling.
        with_answers: whether the right answers are encoded as texts, too.
    """

    processor: Any
    heads: Heads
    augmentation: Augmentation | None = None
    num_draws: int = 1
    with_answers: bool = False

    def encode(self, sample: Any, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        """Return `pixel_values_videos`, `(draws, t, 3, h, w)`, and `labels`, `(draws,)` or `(draws, heads)`.

        Of an `AskedSample` there are `input_ids` and `attention_mask`, `(draws, heads, l)`, too, and likewise those
        of its answers. A label that is not known is -100.

        Args:
            sample: an `ActionSample`, or an `AskedSample` for a model that is asked.
            generator: draws frames and changes; needed with an augmentation.

        Raises:
            ValueError: if no class of the sample is known or one is not of the model, if it has no question of the
                source that is asked, or if its video cannot be read.
            TypeError: if it is a sample of another task.
        """
        video = _video(sample, self.heads.asks)
        labels = self.heads.labels_of(sample.id, labels_by_head(sample))
        texts: dict[str, torch.Tensor] = {}
        if self.heads.asks:
            texts = encode_questions([sample], self.processor)
        if self.with_answers:
            texts |= self.processor.answers([sample.answers()], padding=sample.asking.padding)
        if self.augmentation is None:
            pixels = read_views([sample], self.processor)[0]
        else:
            assert generator is not None
            clips = [self._draw(video, self.augmentation, generator) for _ in range(self.num_draws)]
            pixels = torch.stack(clips)
        encoded = {"pixel_values_videos": pixels, "labels": labels.expand(len(pixels), *labels.shape)}
        for name, values in texts.items():
            encoded[name] = values.expand(len(pixels), *values.shape[1:])
        return encoded

    def _draw(self, video: Any, augmentation: Augmentation, generator: torch.Generator) -> torch.Tensor:
        """Draw a clip, `(t, 3, h, w)`, all of its frames changed alike."""
        processor = clip_processor(self.processor)
        frames = draw_frames(video, processor, generator)
        size = processor.crop_size
        changed = augmentation.change_frames(frames, (size["height"], size["width"]), generator)
        pixels = to_pixels(changed, processor.image_mean, processor.image_std)
        return augmentation.erase(pixels, generator)


def encode_questions(samples: Sequence[Any], processor: Any) -> dict[str, torch.Tensor]:
    """Return the questions about samples, `input_ids` and `attention_mask`, `(b, heads, l)`.

    Args:
        samples: `AskedSample`s.
        processor: of clips and questions.

    Raises:
        ValueError: if a sample lacks a question, or as the processor.
    """
    asked = [sample.questions() for sample in samples]
    return dict(processor(questions=asked, padding=samples[0].asking.padding, return_tensors="pt"))


def read_views(samples: Sequence[Classified], processor: Any) -> torch.Tensor:
    """Return the views of samples, `(b, views, t, 3, h, w)`; how many there are is an attribute of the processor.

    Args:
        processor: of clips, alone or beside a tokenizer, or an image processor, which takes the first frame.

    Raises:
        ValueError: if a video cannot be read.
    """
    videos = [_video(sample, reads_questions(processor)) for sample in samples]
    if not takes_clips(processor):
        pictures = [_picture(video) for video in videos]
        return processor(images=pictures, return_tensors="pt")["pixel_values"][:, None, None]
    clips = clip_processor(processor)
    # Of frames that come as pictures, all would be taken without an option of sampling in the call.
    read = clips(videos=videos, num_frames=clips.num_frames, return_tensors="pt")
    return read["pixel_values_videos"].unflatten(0, (len(samples), -1))


def clip_processor(processor: Any) -> Any:
    """Return what reads clips for a processor: itself, or its part beside a tokenizer."""
    return getattr(processor, "video_processor", processor)


def reads_questions(processor: Any) -> bool:
    """Whether a processor reads questions beside clips."""
    return hasattr(processor, "tokenizer")


def takes_clips(processor: Any) -> bool:
    """Whether a processor reads clips, in views; one of pictures does not."""
    return isinstance(clip_processor(processor), ClipVideoProcessor)


def _video(sample: Classified, asks: bool) -> Any:
    """Return the video of a sample as a processor takes it.

    Raises:
        TypeError: if it is a sample of another task, which is a mistake of the whole dataset.
    """
    wanted = AskedSample if asks else ActionSample
    if not isinstance(sample, wanted):
        raise TypeError(
            f"sample {sample.id} must be an {wanted.__name__}, got a {type(sample).__name__} of another task"
        )
    return video_of(sample)


def _picture(video: Any) -> Image.Image:
    """Return the first frame of a video in RGB, or the picture that a file holds."""
    if isinstance(video, list):
        return video[0].convert("RGB")
    return read_picture(video, LIMITS)


def join(encoded: Sequence[Mapping[str, torch.Tensor]], pad_token_id: int = 0) -> dict[str, torch.Tensor]:
    """Put the clips of several samples into one batch, `(b, t, 3, h, w)`, with labels, and texts, padded on the right.

    Args:
        encoded: samples.
        pad_token_id: of texts; what no text stands at is masked.
    """
    batch = {}
    for name in encoded[0]:
        values = [one[name] for one in encoded]
        if name.endswith(("input_ids", "attention_mask")):
            length = max(value.shape[-1] for value in values)
            fill = pad_token_id if name.endswith("input_ids") else 0
            values = [torch.nn.functional.pad(value, (0, length - value.shape[-1]), value=fill) for value in values]
        batch[name] = torch.cat(values)
    return batch
