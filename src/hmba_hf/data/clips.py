"""Short MP4 files: from frames, and cut out of longer videos in one pass."""

import io
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from PIL import Image

from ..models.decoding_containers import LIMITS, SourceLimits, errors_named
from ..models.decoding_video import VideoDecodeError, iter_frames, video_duration
from ..models.sampling_video import LONGEST_ROUNDING, TIME_TOLERANCE

# With macroblock-tree rate control, x264 (core 165) now and then encodes the same frames to other bytes, even in one
# thread. Without it, thousands of runs gave the same bytes.
_REPEATABLE = {"x264-params": "mbtree=0"}
_NEARLY_LOSSLESS = {"qp": "12"}
_GOOD = {"crf": "23", "preset": "veryfast"}


class ClipWriter:
    """An MP4 file that is written frame by frame: H.264 where PyAV has an encoder for it, else MPEG-4.

    The same frames give the same bytes, however many cores there are.

    Args:
        target: path or binary file object.
        size: width and height of the file's pictures, both even.
        rate: pictures a second.
        options: of the H.264 encoder.
        keyframe_every: most pictures from one keyframe to the next; the encoder's default when absent.
    """

    def __init__(
        self,
        target: str | Path | BinaryIO,
        size: tuple[int, int],
        rate: Fraction,
        options: dict[str, str],
        keyframe_every: int | None = None,
    ):
        self._rate = rate
        self._count = 0
        if isinstance(target, Path):
            target = str(target)
        self._container = av.open(target, "w", format="mp4")
        codec = "mpeg4"
        codec_options = {"qscale": "2"}
        if "libx264" in av.codecs_available:
            codec = "libx264"
            codec_options = {**options, **_REPEATABLE}
        stream: Any = self._container.add_stream(codec, rate=rate, options=codec_options)
        stream.width = size[0]
        stream.height = size[1]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        if keyframe_every is not None:
            stream.gop_size = keyframe_every
        self._stream = stream

    def write(self, picture: av.VideoFrame) -> None:
        """Add a picture, shown for `1 / rate` seconds; one of another size is scaled."""
        picture = picture.reformat(self._stream.width, self._stream.height, "yuv420p", interpolation="AREA")
        picture.pts = self._count
        picture.time_base = 1 / self._rate
        self._count += 1
        self._container.mux(self._stream.encode(picture))

    def close(self) -> None:
        """Write the pictures that the encoder still holds, and end the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def abandon(self) -> None:
        """Let go of a file that nobody will read; one that has been ended stays as it is.

        PyAV 15 can crash where a file is never closed.
        """
        self._container.close()

    def __enter__(self) -> "ClipWriter":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()


def write_video(target: str | Path | BinaryIO, frames: Sequence[Image.Image], fps: float = 2.0) -> None:
    """Write frames as an MP4 file that shows each of them for `1 / fps` seconds.

    A frame is repeated so that the file has at least ten pictures a second. Sampled at `fps` from its last picture
    backwards it gives the frames back, up to lossy compression. H.264 where PyAV has an encoder for it, else MPEG-4.
    """
    if not 0.01 <= fps <= 1000:
        raise ValueError(f"fps must be from 0.01 to 1000, got {fps}")
    hold = math.ceil(10 / fps)
    rate = Fraction(fps).limit_denominator(100) * hold
    if not frames or frames[0].width % 2 or frames[0].height % 2:
        raise ValueError(f"frames must have an even width and height, got {[frame.size for frame in frames]}")
    with ClipWriter(target, frames[0].size, rate, _NEARLY_LOSSLESS) as writer:
        for frame in frames:
            for _ in range(hold):
                writer.write(av.VideoFrame.from_image(frame))


def even_size(width: int, height: int, most: int | None) -> tuple[int, int]:
    """Return the size of a picture scaled down to at most `most` rows, both sides even as encoders require."""
    scale = 1.0 if most is None else min(most / height, 1.0)
    return max(2 * round(width * scale / 2), 2), max(2 * round(height * scale / 2), 2)


def cut_clips(
    path: str | Path,
    spans: Sequence[tuple[float, float]],
    fps: float,
    height: int | None = None,
    limits: SourceLimits = LIMITS,
    source_fps: float | None = None,
    only_whole: bool = False,
) -> list[bytes | VideoDecodeError]:
    """Cut stretches out of a video in one pass, each an MP4 file of its own with a keyframe every two seconds.

    A clip holds the frames of the video at `start`, `start + 1 / fps` and so on, up to `end` or the end of the video.
    They are upright with square pixels. Where the clock of the video goes back, another recording begins. A clip is
    cut from the first recording that has its times.

    Args:
        spans: `(start, end)` in seconds since the first frame; they may come in any order and overlap.
        fps: pictures a second.
        height: most rows of a picture; those of the video when absent.
        limits, source_fps, only_whole: as in `decode_frames`.

    Returns:
        For each span the bytes of its file, or the error that keeps it from being cut.

    Raises:
        FileNotFoundError: if there is no such file.
        VideoDecodeError: if it holds no video.
    """
    cuts = [_Cut(path, start, end, fps, height) for start, end in spans]
    try:
        _fill(cuts, path, limits, source_fps, only_whole)
        return [cut.close() for cut in cuts]
    finally:
        for cut in cuts:
            cut.abandon()


def _fill(
    cuts: Sequence["_Cut"], path: str | Path, limits: SourceLimits, source_fps: float | None, only_whole: bool
) -> None:
    """Show the frames of a video to all clips until each of them is done."""
    shown: np.ndarray | VideoDecodeError | None = None
    last = 0.0
    for seconds, frame in iter_frames(path, None, limits, source_fps, only_whole):
        is_damage = isinstance(frame, VideoDecodeError)  # with the time of the whole frame before it
        until = seconds
        if is_damage or seconds < last:
            until = max(seconds, last) + 2 * LONGEST_ROUNDING
        if shown is not None:
            for cut in cuts:
                cut.show(shown, until)
        if seconds < last:
            for cut in cuts:
                cut.end_recording()
        if all(cut.is_done for cut in cuts):
            break
        shown = frame
        last = seconds
    else:
        end = math.inf
        if not isinstance(shown, VideoDecodeError):
            end = video_duration(path, limits, source_fps)
        for cut in cuts:
            if shown is not None:
                cut.show(shown, max(end, last + 2 * LONGEST_ROUNDING))


class _Cut:
    """A clip in the making, which takes the frame shown at each of its times."""

    def __init__(self, path: str | Path, start: float, end: float, fps: float, height: int | None):
        self.path = path
        self.start = start
        self.end = end
        self.fps = fps
        self.height = height
        self.count = 0
        self.file = io.BytesIO()
        self.writer: ClipWriter | None = None
        self.damage: VideoDecodeError | None = None
        self.is_ended = False

    @property
    def is_done(self) -> bool:
        return self.is_ended or self.damage is not None or self._next > self.end + TIME_TOLERANCE

    def end_recording(self) -> None:
        """Take no frame of another recording into a clip that has begun."""
        self.is_ended = self.is_ended or self.count > 0
        if self.is_ended:
            self._release()

    @property
    def _next(self) -> float:
        return self.start + self.count / self.fps

    def show(self, shown: np.ndarray | VideoDecodeError, until: float) -> None:
        """Take a frame, `(h, w, 3)`, for every time of the clip before `until`; damage ends the clip."""
        while not self.is_done and self._next < until - LONGEST_ROUNDING:
            if isinstance(shown, VideoDecodeError):
                self.damage = shown
                return
            try:
                self._write(shown)
            except VideoDecodeError as error:
                self.damage = error
                return
            self.count += 1
        if self.is_done:
            self._release()

    def _release(self) -> None:
        """End the file, so that of hundreds of clips of one video few hold an encoder at a time."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def _write(self, shown: np.ndarray) -> None:
        height, width, _ = shown.shape
        rate = Fraction(self.fps).limit_denominator(1000)
        size = even_size(width, height, self.height)
        with errors_named(str(self.path), f"has pictures of {width} x {height} pixels, which cannot be encoded"):
            if self.writer is None:
                keyframe_every = max(round(2 * self.fps), 1)
                self.writer = ClipWriter(self.file, size, rate, _GOOD, keyframe_every=keyframe_every)
            self.writer.write(av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24"))

    def abandon(self) -> None:
        """Let go of a file that has not been ended."""
        if self.writer is not None:
            self.writer.abandon()

    def close(self) -> bytes | VideoDecodeError:
        """End the file and return it, or what is wrong with the clip."""
        if self.damage is not None:
            return self.damage
        self._release()
        if self.count == 0:
            return VideoDecodeError(f"{self.path} shows nothing from {self.start} s to {self.end} s")
        return self.file.getvalue()
