"""The annotated video of a drive, written picture by picture."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from PIL import Image

TICKS = 60_000  # of a second, in the annotated file


class AnnotatedVideo:
    """A video file that can be played even if it is never closed.

    Where the clock of the source goes back, the times of the file still increase.
    """

    def __init__(self, path: Path):
        self.container: Any = av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"})
        self.stream: Any = None
        self.ticks: int | None = None  # of the last picture
        self.seconds = 0.0  # of the last picture on the clock of the source
        self.ahead = 0.0  # seconds by which its own clock is ahead of that of the source

    def write(self, picture: Image.Image, seconds: float) -> None:
        """Add a picture at its time; all have the size of the first, made even."""
        if self.stream is None:
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            self.stream = self.container.add_stream(codec, 30)
            self.stream.width = max(2, picture.width // 2 * 2)
            self.stream.height = max(2, picture.height // 2 * 2)
            self.stream.pix_fmt = "yuv420p"
            self.stream.codec_context.time_base = Fraction(1, TICKS)
        frame = av.VideoFrame.from_image(picture.resize((self.stream.width, self.stream.height)))
        frame.time_base = Fraction(1, TICKS)
        self.ticks = self._ticks_of(seconds)
        frame.pts = self.ticks
        self.container.mux(self.stream.encode(frame))

    def _ticks_of(self, seconds: float) -> int:
        if seconds < self.seconds:
            self.ahead += self.seconds - seconds + 1 / 30
        self.seconds = seconds
        ticks = round(TICKS * (seconds + self.ahead))
        if self.ticks is not None:
            ticks = max(ticks, self.ticks + 1)
        return ticks

    @property
    def is_empty(self) -> bool:
        """Whether no picture has been written."""
        return self.ticks is None

    def abandon(self) -> None:
        """End a file that nobody will see, without what the encoder still holds, and let go of both."""
        if self.container is not None:
            self.container.close()
        self.container = None
        self.stream = None

    def close(self) -> None:
        """Write what the encoder still holds."""
        if self.stream is not None:
            self.container.mux(self.stream.encode())
        self.container.close()
