"""A picture of an answer, such as that on a card."""

from typing import Any

from PIL import Image

from ...data.samples import Sample
from ...models.decoding_video import decode_frames
from ...models.parsing_boxes import strip_boxes
from ...visualization import draw_answer


def draw_answered(sample: Sample, answer: str, processor: Any, name: str) -> Image.Image:
    """Draw a sample with an answer and its boxes.

    Args:
        processor: an `HMBAProcessor`, which reads boxes and samples frames.
        name: of who answers.

    Raises:
        OSError, ValueError: if the video of the sample cannot be read.
    """
    frames, times = _frames(sample, processor.video_processor)
    objects = processor.post_process_boxes(answer, (frames[-1].height, frames[-1].width))
    return draw_answer(frames, times, sample.question, strip_boxes(answer), objects, name=name)


def _frames(sample: Sample, sampling: Any) -> tuple[list[Any], list[float]]:
    """Return the frames of a sample as pictures, and their times."""
    if sample.video is None:
        frames = list(sample.frames or ())
        times = [number / sampling.fps for number in range(1 - len(frames), 1)]
        return frames, times
    rules = sampling.source_rules
    arrays, metadata = decode_frames(sample.video, sample.timestamp, sampling.num_frames, sampling.fps, **rules)
    return [Image.fromarray(array) for array in arrays], metadata.timestamps
