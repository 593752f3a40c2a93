"""Watch a drive, from a file at its own pace or from a camera, with answers as they come."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from PIL import Image

from ..models.decoding_streams import iter_frames
from ..streaming import VideoStream, push_or_restart
from ..streaming.annotated import AnnotatedVideo
from ..visualization import draw_moment
from .asking import Asker, draw_large
from .clips import open_clip
from .records import write_records
from .visits import Visit

LATE = 0.1  # seconds behind the clock at which a frame of a file is passed over
LONGEST_LEAP = 0.8  # of a clip's length: a video stream would begin anew after the whole of it


class Shown(NamedTuple):
    """What is seen of a drive at one frame.

    Attributes:
        picture: the frame with the boxes of the last answer.
        seconds: its time.
        subtitle: the words of the last answer.
        status: frames per second, counts and memory, in words.
    """

    picture: Image.Image
    seconds: float
    subtitle: str
    status: str


class Files(NamedTuple):
    """What is left of a drive: the annotated video, and the answers; `None` where there were no frames or answers."""

    video: Path | None
    json: Path | None
    csv: Path | None


class Watcher:
    """One drive that a visitor watches, in constant memory.

    Args:
        asker: whose model answers.
        question: to ask again and again.
        every: seconds from one question to the next.
        visit: that it is part of, and whose folder takes the annotated video and the answers. The drive that it
            watched before ends.
        source: what is watched: a file, or one of the cameras.

    Attributes:
        limits: of the page.
        records: the answers so far, the newest of them.
        skipped, broken: frames that were passed over, and those that could not be read.
        began: on the clock of this machine.
        longest_leap: seconds of the drive that may be passed over at once.
        is_done: whether nothing more is taken.
        ended: when that was so, on the same clock; infinite before.

    Raises:
        ValueError: if there is no question, or `every` is no number of seconds.
    """

    def __init__(self, asker: Asker, question: str | None, every: float, visit: Visit, source: str):
        self._asker = asker
        self.limits = asker.limits
        self._question = asker.limits.check_question(question)
        self._stream = VideoStream(asker.model, asker.processor)
        self._watch = self._stream.watch(
            self._question, every, changed=lambda before, after: True, max_new_tokens=asker.limits.max_new_tokens
        )
        self._visit = visit
        self._path = visit.folder / "annotated.mp4"
        if visit.watched is not None:
            visit.watched.finish()  # before its file is opened anew
        self._video = AnnotatedVideo(self._path)
        self._own = threading.Lock()
        self._last: dict[str, Any] | None = None
        self._shown: deque[float] = deque(maxlen=40)  # on the clock of this machine
        self.records: deque[dict[str, Any]] = deque(maxlen=asker.limits.max_records)
        self.skipped = 0
        self.broken = 0
        self.longest_leap = LONGEST_LEAP * self._stream.num_frames / self._stream.fps
        self.is_done = False
        self.began = time.monotonic()
        self.ended = math.inf
        self.source = source
        visit.watched = self
        visit.add(self)

    def feed(self, seconds: float, frame: Image.Image) -> Shown | None:
        """Take the next frame, and ask about it when it is time; return what is seen, nothing once it is done.

        A frame of another size, and one after a jump in time, begin the drive anew.
        """
        with self._own:
            if self.is_done or self._visit.is_over:
                return None
            with self._asker.lock:
                push_or_restart(self._stream, frame, seconds)
                found = next(self._watch, None)
            if found is not None:
                self._keep(found)
            objects = [] if self._last is None else self._last["objects"]
            subtitle = "" if self._last is None else self.strip_boxes(self._last["answer"])
            with self._visit.files() as folder:
                if folder is not None:
                    self._video.write(draw_moment(frame, seconds, subtitle, objects), seconds)
            self._shown.append(time.monotonic())
            return Shown(draw_large(frame, objects), seconds, subtitle, self._status(seconds))

    def finish(self) -> Files:
        """Take no more frames, and close the files."""
        with self._own, self._visit.files() as folder:
            if folder is None:
                return Files(None, None, None)
            if not self.is_done:
                self._end()
                self._video.close()
            as_json, as_csv = None, None
            if self.records:
                as_json, as_csv = write_records(folder, list(self.records), "stream")
            return Files(None if self._video.is_empty else self._path, as_json, as_csv)

    def leave(self) -> None:
        """End with the visit, whose files are gone, and let go of the frames and the encoder."""
        with self._own:
            self._end()
            self._stream.reset()
            self._video.abandon()

    def has_just_ended(self, seconds: float) -> bool:
        """Return whether this drive has ended, and less than so many seconds ago."""
        return self.is_done and time.monotonic() - self.ended < seconds

    def strip_boxes(self, text: str) -> str:
        """Return an answer without its boxes, which are drawn instead."""
        words: str = self._asker.processor.strip_boxes(text)
        return words

    def _end(self) -> None:
        self.is_done = True
        self.ended = time.monotonic()

    def _keep(self, found: dict[str, Any]) -> None:
        self._last = {
            "timestamp": round(found["timestamp"], 3),
            "question": self._question,
            "answer": found["generated_text"],
            "objects": found["objects"],
        }
        self.records.append(self._last)

    def _status(self, seconds: float) -> str:
        rate = 0.0
        if len(self._shown) > 1 and self._shown[-1] > self._shown[0]:
            rate = (len(self._shown) - 1) / (self._shown[-1] - self._shown[0])
        memory = psutil.Process().memory_info().rss / 2**20
        counts = f"{self.skipped} frames passed over, {self.broken} broken"
        return f"{seconds:.1f} s; {rate:.1f} frames per second; {counts}; {memory:.0f} MiB of memory"


def watch_frame(
    visit: Visit, source: str, frame: Image.Image, begin: Callable[[], Watcher], rest: float
) -> tuple[Watcher, Shown] | None:
    """Take a frame of a camera into the drive of its visit; return that drive and what is seen.

    A drive that has ended begins anew, and so does one of another source. Nothing is seen within `rest` seconds of an
    end or of the beginning of a drive of another source, in which frames still come that were on their way. Nothing is
    seen behind the longest drive.
    """
    with visit.turn:
        watcher = visit.watched
        if watcher is not None and watcher.has_just_ended(rest):
            return None
        if watcher is not None and watcher.source != source and time.monotonic() - watcher.began < rest:
            return None
        if watcher is None or watcher.is_done or watcher.source != source:
            watcher = begin()
        seconds = time.monotonic() - watcher.began
        if seconds > watcher.limits.max_clip_seconds:
            watcher.finish()
        shown = watcher.feed(seconds, frame)
        return None if shown is None else (watcher, shown)


def play(
    watcher: Watcher,
    path: str | None,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[Shown]:
    """Watch a file at its own pace.

    A frame that comes too late is passed over, unless the last one was taken too long before, so that a slow machine
    shows fewer frames of the same drive.

    Args:
        watcher: of the drive, which may be finished meanwhile.
        path: of the clip.
        clock, wait: of this machine.

    Raises:
        ValueError: if there is no clip, or if it cannot be read.
    """
    limits = watcher.limits
    last = None
    start = clock()
    with open_clip(path, limits) as file:
        for seconds, frame in iter_frames(file, limits=limits.of_sources):
            if watcher.is_done or seconds > limits.max_clip_seconds:
                return
            if isinstance(frame, Exception):
                watcher.broken += 1
                continue
            if last is None or seconds < last:  # the first one, or another recording
                start = clock() - seconds
                last = None
            early = start + seconds - clock()
            if early > 0:
                wait(early)
            elif -early > LATE and last is not None and seconds - last < watcher.longest_leap:
                watcher.skipped += 1
                continue
            last = seconds
            shown = watcher.feed(seconds, Image.fromarray(frame))
            if shown is not None:
                yield shown
