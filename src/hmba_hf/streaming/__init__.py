"""Video streams: push frames of a drive as they come, and ask at any moment, in constant memory."""

from .frames import FrameError, TimeJump
from .stream import VideoStream
from .watching import Answer, Watch, check_every, texts_differ, words_differ

__all__ = [
    "Answer",
    "FrameError",
    "TimeJump",
    "VideoStream",
    "Watch",
    "check_every",
    "texts_differ",
    "words_differ",
]
