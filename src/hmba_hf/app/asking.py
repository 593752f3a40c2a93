"""Ask a model about a moment of a clip: the answer, what was read, where the query looked, and one frame alone."""

import threading
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..models.pipeline_hmba import VideoTextToTextPipeline
from ..streaming import VideoStream
from ..visualization import draw_attention, draw_boxes
from .clips import Frames, read_frames
from .limits import PageLimits

SIDE = 480  # least pixels of the longer side of a picture with boxes


class Answer(NamedTuple):
    """What the model has said of some frames.

    Attributes:
        text: as it was written.
        words: the text without boxes, which are drawn instead.
        objects: labels and boxes in pixels of the frame.
        picture: the current frame with the boxes.
    """

    text: str
    words: str
    objects: list[dict[str, Any]]
    picture: Image.Image


class Asked(NamedTuple):
    """A question and all that a page shows about it.

    Attributes:
        question: as it was asked.
        frames: that were read.
        answer: to it.
        alone: the answer of the same model where it is shown the current frame alone.
        attention: of the query, drawn; `None` where the adapter has none.
        shares: of the attention, by context; they sum to 1.
    """

    question: str
    frames: Frames
    answer: Answer
    alone: Answer
    attention: Image.Image | None
    shares: dict[str, float]

    def record(self, clip: str) -> dict[str, Any]:
        """Return it as a row of a file."""
        return {
            "clip": clip,
            "timestamp": round(self.frames.times[-1], 3),
            "question": self.question,
            "answer": self.answer.text,
            "objects": self.answer.objects,
            "current_frame_alone": self.alone.text,
            "frames_read": [round(time, 3) for time in self.frames.times],
            "attention": {name: round(share, 4) for name, share in self.shares.items()},
        }


class Asker:
    """One model, which answers one visitor after the other.

    Args:
        model: that answers questions about videos.
        processor: of the model.
        limits: of the page.

    Attributes:
        lock: held while the model runs.
    """

    def __init__(self, model: Any, processor: Any, limits: PageLimits):
        device = None if getattr(model, "hf_device_map", None) else model.device
        self.model = model
        self.processor = processor
        self.limits = limits
        self.lock = threading.Lock()
        self._pipeline = VideoTextToTextPipeline(model=model, processor=processor, device=device)

    def ask(self, path: str | None, seconds: float | None, question: str | None) -> Asked:
        """Ask about a moment of a clip.

        Raises:
            ValueError: if there is no question, no clip, no such moment, or if the clip cannot be read.
        """
        text = self.limits.check_question(question)
        sampling = self.processor.video_processor
        frames = read_frames(path, seconds, self.limits, sampling.num_frames, sampling.fps)
        current = Frames(frames.pictures[-1:], frames.times[-1:])
        with self.lock:
            answer = self._answer(frames, text)
            alone = self._answer(current, text)
            maps = attention_maps(self.model, self.processor, frames.pictures)
        drawn = None
        if maps:
            drawn = draw_attention(seen_picture(self.processor, frames.pictures[-1]), maps)
        shares = {name: float(weights.sum()) for name, weights in maps.items()}
        return Asked(text, frames, answer, alone, drawn, shares)

    def _answer(self, frames: Frames, question: str) -> Answer:
        (found,) = self._pipeline(
            videos=np.stack([np.asarray(picture) for picture in frames.pictures]),
            text=question,
            video_metadata=[{"timestamps": list(frames.times)}],
            max_new_tokens=self.limits.max_new_tokens,
        )
        frame = frames.pictures[-1]
        text = found["generated_text"]
        words = self.processor.strip_boxes(text)
        return Answer(text, words, found["objects"], draw_large(frame, found["objects"]))


def draw_large(frame: Image.Image, objects: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Draw boxes on a frame, which is enlarged if its labels would cover it."""
    return draw_boxes(frame, objects, max(1.0, SIDE / max(frame.size)))


def attention_maps(model: Any, processor: Any, pictures: Sequence[Image.Image]) -> dict[str, np.ndarray]:
    """Return how much of the query's attention goes to each patch of each context, all of which sum to 1.

    It is a mean over heads and over the patches that ask.

    Args:
        model, processor: H-MBA's, on a tower or on a vision-language model.
        pictures: of a clip, the last one current.

    Returns:
        `{"branch/stride_n": (h, w)}`; `(1, 1)` for a context of one token, and where it is not known how the patches
        lie. Empty where the fusion of the adapter has no attention.
    """
    stream = VideoStream(model, processor, num_frames=len(pictures))
    for place, picture in enumerate(pictures):
        stream.push(picture, place / stream.fps)
    maps = {}
    for name, weights in (stream.features().adapter_attentions or {}).items():  # (1, heads, p, k)
        over_patches = weights[0].float().mean(dim=(0, 1)).cpu().numpy()  # (k,)
        side = isqrt(len(over_patches))
        if model.config.model_type != "hmba" or side * side != len(over_patches):
            over_patches = over_patches.sum(keepdims=True)
            side = 1
        maps[name] = over_patches.reshape(side, side)
    return maps


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
