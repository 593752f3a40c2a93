"""Video streams: push frames of a drive as they come, and ask at any moment, in constant memory."""

from .frames import FrameError, KindChange, TimeJump
from .stream import VideoStream
from .together import adapt_together, ask_together, push_or_restart, push_or_restart_together, push_together
from .watching import Answer, Watch, check_every, texts_differ, words_differ

__all__ = [
    "Answer",
    "FrameError",
    "KindChange",
    "TimeJump",
    "VideoStream",
    "Watch",
    "adapt_together",
    "ask_together",
    "check_every",
    "push_or_restart",
    "push_or_restart_together",
    "push_together",
    "texts_differ",
    "words_differ",
]
