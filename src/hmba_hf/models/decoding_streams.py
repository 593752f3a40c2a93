"""One open video: its frames in the order in which they are shown, with what stands in the way of decoding them."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from transformers.utils import logging

from .decoding_containers import LIMITS, SourceLimits, open_container
from .decoding_packets import VideoPackets, counts_pictures, holds_decoding_times_alone
from .decoding_timeline import Moment, Timeline

logger = logging.get_logger(__name__)

ASSUMED_RATE = 25
# `AVPictureType`: I and BI.
INTRA_CODED = (1, 7)
# Codecs that call every picture intra-coded, although it may need what was learned from those before.
ALL_CALLED_INTRA = ("ffv1",)


def is_intra_coded(frame: Any, codec: str) -> bool:
    """Tell a frame that needs no other to be decoded."""
    if frame.key_frame:
        return True
    return int(frame.pict_type) in INTRA_CODED and codec not in ALL_CALLED_INTRA


class TornPictureError(ValueError):
    """Half a picture, as a file that is cut short ends with."""


def check_source_fps(source_fps: float | None) -> None:
    """Raise `ValueError` unless `source_fps` is absent or a number from 0.001 to 100,000."""
    is_number = isinstance(source_fps, (int, float)) and not isinstance(source_fps, bool)
    if source_fps is not None and not (is_number and 1e-3 <= source_fps <= 1e5):
        raise ValueError(f"source_fps must be a number of frames per second from 0.001 to 100,000, got {source_fps!r}")


class OpenVideo:
    """The best video stream of a container.

    Args:
        source, name, source_format, limits: as for `open_container`.
        source_fps: pictures per second of a stream without timestamps, instead of the rate that its headers declare.

    Raises:
        VideoDecodeError: `source` holds no video.
    """

    def __init__(
        self,
        source: Any,
        name: str,
        source_format: str | None = None,
        limits: SourceLimits = LIMITS,
        source_fps: float | None = None,
    ) -> None:
        self.source, self.name = source, name
        self._opening = (source, name, source_format, limits)
        self._said: set[str] = set()
        self._has_warned_of_damage = False
        self.open()
        # Without times pictures are counted, so a rate must be right; with times it only fills gaps.
        self.is_counted = counts_pictures(self.container)
        self._decoding_times_alone = holds_decoding_times_alone(self.container, self.stream)
        self._set_rate(source_fps)

    def open(self) -> None:
        """Open the container, at its start."""
        self.container, self.stream = open_container(*self._opening)
        self.start_reading()

    def close(self) -> None:
        """Close the container."""
        self.container.close()

    def start_reading(self, delay: int | None = None) -> None:
        """Begin a stretch of packets where the container stands; the `delay` of the first picture if it is known."""
        self.packets = VideoPackets(self.container, self.stream, self.source, delay)
        self._is_mended = False  # whether frames depend on what is damaged
        self._damaged: int | None = None  # the stamp of the last damaged packet

    def _set_rate(self, source_fps: float | None) -> None:
        stream: Any = self.stream
        self.is_rate_known = True
        if not self.is_counted:
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or ASSUMED_RATE)
        elif source_fps is not None:
            self.rate = Fraction(source_fps).limit_denominator(100_000)
        elif stream.codec_context.framerate:  # what the headers declare; `average_rate` is always 25
            self.rate = Fraction(stream.guessed_rate or stream.codec_context.framerate)
        else:
            self.rate, self.is_rate_known = Fraction(ASSUMED_RATE), False
            self.warn(f"states no rate: {ASSUMED_RATE} pictures a second are assumed, unless source_fps gives another")

    def warn(self, what: str) -> None:
        """Log a warning about the file, each only once."""
        if what not in self._said:
            self._said.add(what)
            logger.warning(f"{self.name} {what}")

    def warn_of_the_end(self) -> None:
        """Log that another file follows the pictures that are read, or that some are missing, where it is known."""
        for start, fate in self.packets.next_files().items():
            place = f"from byte {start} of {self.container.size} on"
            self.warn(f"holds another file behind its last picture, {place}, {fate}")
        sign = self.packets.torn_end()
        if sign is not None:
            self.warn(f"is cut short: {sign}")

    def warn_of_step_back(self, before: Fraction, after: Fraction, origin: Fraction) -> None:
        """Log that the clock goes back between two places, whose times on the clock of the container are given."""
        last = float(before - origin)
        first = max(float(after - origin), 0.0)
        self.warn(
            f"has a clock that goes back somewhere after {last:.3f} s, to {first:.3f} s or earlier: it holds several "
            "recordings, and a timestamp means the first one that shows it"
        )

    def warn_of_damage(self, seconds: float) -> None:
        """Log that the decoder mends pictures, once."""
        if not self._has_warned_of_damage:
            self._has_warned_of_damage = True
            self.warn(f"is damaged at {seconds:.3f} s: frames from there on may look wrong or be missing")

    def decode(self) -> Iterator[Any]:
        """Decode from where the container stands; an error comes in the place of what it keeps from being decoded."""
        packets = iter(self.packets)
        while True:
            packet: Any = None
            try:
                packet = next(packets, None)
                frames = [] if packet is None else self._frames_of(packet)
            except (av.FFmpegError, OSError, ValueError) as error:
                if packet is not None and not self.stream.codec_context.codec.intra_only:
                    self._mark(packet)
                yield error
                frames = []
            if packet is None:  # the end, or a source that cannot be read on
                return
            for frame in frames:
                yield self._judged(frame)

    def _frames_of(self, packet: Any) -> list[Any]:
        if self.packets.is_torn(packet):
            raise TornPictureError("the file ends within a picture")
        if self.packets.is_damaged:
            self._mark(packet)
        return list(packet.decode())

    def _mark(self, damaged: Any) -> None:
        """Note that a packet or a frame is damaged, and with it what depends on it."""
        self._is_mended = True
        self._damaged = self._ticks_of(damaged)

    def _judged(self, frame: Any) -> Any:
        """Mark a frame that the decoder had to mend, or that depends on one."""
        if frame.is_corrupt:
            self._mark(frame)
        elif self._is_mended and self._is_past_damage(frame):
            self._is_mended = not is_intra_coded(frame, self.stream.codec_context.name)
        if self._is_mended:
            frame.opaque = object()  # one for each frame: PyAV forgets what several frames share
        return frame

    def _is_past_damage(self, frame: Any) -> bool:
        ticks = self._ticks_of(frame)
        return ticks is None or self._damaged is None or ticks > self._damaged

    def seen(self, moment: Moment) -> Moment:
        """Tell in the moment of a frame whether the frame is whole."""
        return moment._replace(is_whole=moment.frame.opaque is None)

    def _ticks_of(self, item: Any) -> int | None:
        ticks: int | None = item.dts if self._decoding_times_alone else item.pts
        return ticks

    def stamp_of(self, frame: Any) -> Fraction | None:
        """Seconds on the clock of the container, `None` where the frame has no timestamp."""
        if self.is_counted:
            return None
        ticks = self._ticks_of(frame)
        return None if ticks is None else ticks * self.stream.time_base

    def timeline(self, origin: Fraction | None = None) -> Timeline:
        """The clock of a stretch.

        Args:
            origin: seconds on the container's clock at which the video starts, the first stamp when absent; for
                warnings.
        """
        return Timeline(self.stamp_of, 1 / self.rate, self.warn, origin)

    def shown_for(self, frame: Any) -> Fraction:
        """Seconds for which a frame is shown."""
        if self.is_counted or not frame.duration:
            return 1 / self.rate
        return Fraction(frame.duration * self.stream.time_base)
