"""Ask a model about a moment of a clip: the answer, what was read, where the query looked, and one frame alone."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

from ..streaming import VideoStream
from ..visualization import draw_attention, draw_boxes
from .clips import Frames, read_frames
from .limits import PageLimits
from .looking import Attention, read_attention, seen_picture

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
        attention: of the query; without maps where the adapter has none.
    """

    question: str
    frames: Frames
    answer: Answer
    alone: Answer
    attention: Attention

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
            "attention": {name: round(share, 4) for name, share in self.attention.shares.items()},
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
        self.model = model
        self.processor = processor
        self.limits = limits
        self.lock = threading.Lock()
        self._stream = VideoStream(model, processor)
        self._alone = VideoStream(model, processor, num_frames=1)

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
            answer = self._answer(self._stream, frames, text)
            alone = self._answer(self._alone, current, text)
            attention = read_attention(self._stream, frames.pictures[-1])
        return Asked(text, frames, answer, alone, attention)

    def draw_attention(self, asked: Asked) -> Image.Image | None:
        """Draw where the query looked, if it has attention and it is known how the patches lie."""
        if asked.attention.problem or not asked.attention.maps:
            return None
        return draw_attention(seen_picture(self.processor, asked.frames.pictures[-1]), asked.attention.maps)

    def _answer(self, stream: VideoStream, frames: Frames, question: str) -> Answer:
        """Answer about frames, which the stream holds then."""
        stream.reset()
        for steps, picture in enumerate(frames.pictures, 1 - len(frames.pictures)):
            stream.push(picture, frames.times[-1] + steps / stream.fps)  # a frame may stand twice in a clip
        found = stream.ask(question, max_new_tokens=self.limits.max_new_tokens)
        frame = frames.pictures[-1]
        text = found["generated_text"]
        words = self.processor.strip_boxes(text)
        return Answer(text, words, found["objects"], draw_large(frame, found["objects"]))


def draw_large(frame: Image.Image, objects: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Draw boxes on a frame, which is enlarged if its labels would cover it."""
    return draw_boxes(frame, objects, max(1.0, SIDE / max(frame.size)))
