"""A picture of an answer, such as that on a card."""

from typing import Any

from PIL import Image

from ...data.samples import Sample
from ...models.decoding_video import decode_frames
from ...visualization import draw_answer
from .boxes import can_read_boxes


def draw_answered(sample: Sample, answer: str, processor: Any, name: str) -> Image.Image:
    """Draw a sample with an answer and its boxes, where it can be read how the answer writes them.

    Args:
        processor: of the model, which reads boxes and samples frames.
        name: of who answers.

    Raises:
        OSError, ValueError: if the video of the sample cannot be read.
    """
    frames, times = _frames(sample, processor.video_processor)
    objects = []
    if can_read_boxes(processor):
        objects = processor.post_process_boxes(answer, (frames[-1].height, frames[-1].width))
        answer = processor.strip_boxes(answer)
    return draw_answer(frames, times, sample.question, answer, objects, name=name)


def _frames(sample: Sample, sampling: Any) -> tuple[list[Any], list[float]]:
    """Return the frames of a sample as pictures, and their times."""
    if sample.video is None:
        frames = list(sample.frames or ())
        times = [number / sampling.fps for number in range(1 - len(frames), 1)]
        return frames, times
    rules = sampling.source_rules
    arrays, metadata = decode_frames(sample.video, sample.timestamp, sampling.num_frames, sampling.fps, **rules)
    return [Image.fromarray(array) for array in arrays], metadata.timestamps
