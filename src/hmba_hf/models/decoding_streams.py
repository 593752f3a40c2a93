"""One open video: its frames in the order in which they are shown, with the errors of decoding them."""

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from tempfile import TemporaryFile
from typing import Any

import av
import numpy as np
from transformers.utils import logging

from .decoding_containers import (
    LIMITS,
    REFUSING,
    SourceLimits,
    VideoDecodeError,
    mends_in_silence,
    open_container,
    opened,
)
from .decoding_damage import bytes_of
from .decoding_endings import is_whole_picture
from .decoding_joined import MP4_START
from .decoding_packets import VideoPackets, counts_pictures, guesses_times, holds_decoding_times_alone
from .decoding_pictures import picture_or_error, weight_of
from .decoding_references import states_pictures
from .decoding_timeline import Moment, Timeline, come_in_order, in_order
from .sampling_video import TIME_TOLERANCE

logger = logging.get_logger(__name__)

ASSUMED_RATE = 25
# Stamps of these are numbers of chunks, or sums of the delays of pictures.
SUMS = ("avi", "gif", "apng")
# Seconds, from days before zero to the year 5138. What lies beyond are no stamps, such as negative places in Ogg.
EARLIEST_STAMP = -(10**6)
LATEST_STAMP = 10**11
# Seconds. Later than any video ends: seeking there leads to the last keyframe, whatever the header states.
FAR_FUTURE = 1e6
# `AVPictureType`: I and BI.
INTRA_CODED = (1, 7)
# Codecs whose decoders give nothing after a seek until pictures are whole again, which needs no intra-coded one.
WAITING_DECODERS = ("h264",)
# Codecs that call every picture intra-coded, although it may need what was learned from those before.
ALL_CALLED_INTRA = ("ffv1",)


def is_intra_coded(frame: Any, codec: str) -> bool:
    """Return whether a frame needs no other to be decoded."""
    if frame.key_frame:
        return True
    return int(frame.pict_type) in INTRA_CODED and codec not in ALL_CALLED_INTRA


def declared_rate(stream: Any) -> Fraction:
    """Pictures per second that the headers of a raw stream declare.

    FFmpeg's own guess is 25, or a rate of fields, where either is near that of pictures or above 210.
    """
    declared = Fraction(stream.codec_context.framerate)  # in MPEG-4, ticks of its clock
    base = Fraction(stream.base_rate or declared)
    if base == 2 * declared:  # of fields, as in H.264
        return declared
    guessed = Fraction(stream.guessed_rate or declared)
    return base if guessed == stream.average_rate else guessed


def mending_decoder(stream: Any) -> Any:
    """Return a decoder of the same pictures that refuses none."""
    known = stream.codec_context
    decoder: Any = av.CodecContext.create(known.codec, "r")
    decoder.extradata = known.extradata
    decoder.codec_tag = known.codec_tag
    decoder.width = known.width
    decoder.height = known.height
    decoder.options = {key: value for key, value in known.options.items() if key not in REFUSING}
    return decoder


class TornPictureError(ValueError):
    """Half a picture, at the end of a file that is cut short."""


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
        is_read_in_parts: whether the first pictures may not be needed. Then they are decoded only for what the header
            of the file does not state.

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
        is_read_in_parts: bool = False,
    ) -> None:
        self.source, self.name = source, name
        self._opening = (source, name, source_format, limits)
        self._is_stated = is_read_in_parts and bytes_of(source, 4, len(MP4_START)) == MP4_START
        self._said: set[str] = set()
        self._has_warned_of_damage = False
        self.open()
        # Without times pictures are counted, so the rate must be right. With times it only fills gaps.
        self.is_counted = counts_pictures(self.container)
        self.has_decoding_times_alone = holds_decoding_times_alone(self.container, self.stream)
        self._set_rate(source_fps)

    def open(self) -> None:
        """Open the container, at its start."""
        self.container, self.stream = open_container(*self._opening, decodes=not self._is_stated)
        if self._is_stated and not states_pictures(self.stream):
            self._is_stated = False
            self.close()
            self.container, self.stream = open_container(*self._opening)
        self.start_reading()

    def close(self) -> None:
        """Close the container."""
        self.container.close()

    def seek(self, time: float, origin: Fraction) -> None:
        """Let the container stand at the keyframe before a time, in seconds from the origin of its clock."""
        ticks = int((origin + Fraction(time + TIME_TOLERANCE)) / self.stream.time_base)
        self.container.seek(ticks, stream=self.stream)

    def keyframe_before(self, time: float, origin: Fraction) -> float | None:
        """Time of the picture to which a seek leads, from the first packet there; `None` where it is not known."""
        try:
            self.seek(time, origin)
            packet = next(self.container.demux(self.stream), None)
        except (av.FFmpegError, OSError):  # damage, which is raised where it is read
            return None
        stamp = None if packet is None else self.stamp_of(packet)
        return None if stamp is None else float(stamp - origin)

    def start_reading(self, before: VideoPackets | None = None) -> None:
        """Begin a stretch of packets where the container stands, which knows what those `before` have told."""
        self.packets = VideoPackets(self.container, self.stream, self.source, before)
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
            self.rate = declared_rate(stream)
        else:
            self.rate, self.is_rate_known = Fraction(ASSUMED_RATE), False
            self.warn(f"states no rate: {ASSUMED_RATE} pictures a second are assumed, unless source_fps gives another")

    def warn(self, what: str) -> None:
        """Log a warning about the file, each only once."""
        if what not in self._said:
            self._said.add(what)
            logger.warning(f"{self.name} {what}")

    def warn_of_the_end(self) -> None:
        """Log that another file follows the pictures, or that some are missing, where known."""
        for start, fate in self.packets.next_files().items():
            place = f"from byte {start} of {self.packets.size} on"
            self.warn(f"holds another file behind its last picture, {place}, {fate}")
        if self.packets.is_damaged_behind:
            self.warn("is damaged behind its last picture: others may be missing")
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

    def mended_error(self, seconds: float) -> VideoDecodeError:
        """The error in the place of a frame that is not whole."""
        return VideoDecodeError(f"{self.name} is damaged: the frame at {seconds:.3f} s is not whole")

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
            while frames:  # none is kept longer than it takes
                yield self._judged(frames.pop(0))

    def decode_after_seek(self) -> Iterator[Any]:
        """Decode as `decode` does, from the first picture on that is sound.

        After a seek, decoders of some codecs invent missing data until the first intra-coded picture. Containers
        whose index calls every picture a keyframe lead there.
        """
        codec = self.stream.codec_context.codec
        is_sound = codec.intra_only or codec.name in WAITING_DECODERS
        for found in self.decode():
            is_error = isinstance(found, Exception)
            is_sound = is_sound or (not is_error and is_intra_coded(found, codec.name))
            if is_sound:
                yield found
            del found  # before the next one is decoded

    def _frames_of(self, packet: Any) -> list[Any]:
        if self.packets.is_torn(packet):
            raise TornPictureError("the file ends within a picture")
        if self.packets.is_damaged:
            self._mark(packet)
        try:
            return list(packet.decode())
        except av.InvalidDataError:
            is_whole = is_whole_picture(self.stream.codec_context.name, packet)
            if not mends_in_silence(self.stream) or not is_whole:  # half a picture is none
                raise
        frames = list(mending_decoder(self.stream).decode(packet))
        for frame in frames:
            self._set_apart(frame)
        return frames

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
            self._set_apart(frame)
        return frame

    def _is_past_damage(self, frame: Any) -> bool:
        ticks = self._ticks_of(frame)
        return ticks is None or self._damaged is None or ticks > self._damaged

    def _set_apart(self, frame: Any) -> None:
        """Mark a frame as not whole."""
        frame.opaque = object()  # one for each frame: PyAV forgets what several frames share

    def seen(self, moment: Moment) -> Moment:
        """Return the moment of a frame with the mark whether the frame is whole."""
        return moment._replace(is_whole=moment.frame.opaque is None)

    def _ticks_of(self, item: Any) -> int | None:
        ticks: int | None = item.dts if self.has_decoding_times_alone else item.pts
        return ticks

    def stamp_of(self, frame: Any) -> Fraction | None:
        """Seconds on the clock of the container, `None` where the frame has no timestamp."""
        if self.is_counted:
            return None
        ticks = self._ticks_of(frame)
        if ticks is None:
            return None
        stamp = ticks * self.stream.time_base
        return stamp if EARLIEST_STAMP < stamp < LATEST_STAMP else None

    def timeline(self, origin: Fraction | None = None) -> Timeline:
        """The clock of a stretch.

        Args:
            origin: seconds on the container's clock at which the video starts, the first stamp when absent; for
                warnings.
        """
        return Timeline(
            self.stamp_of,
            1 / self.rate,
            self.warn,
            origin,
            are_guessed=guesses_times(self.container),
            can_stray=self.container.format.name not in SUMS,
        )

    @property
    def is_heavy(self) -> bool:
        """Whether frames take as much memory as their pictures in RGB, or more."""
        known = self.stream.codec_context.format
        return known is not None and weight_of(known) >= 1

    def starts_in_order(self) -> bool:
        """Return whether the first frames come in the order of their times; then the video is at its start again.

        They are decoded once more when they are read, since so many together would fill the memory.
        """
        answer = come_in_order(self.timeline().place(self.decode(), Fraction(0)))
        self.close()
        self.open()
        return answer

    def shown_for(self, frame: Any) -> Fraction:
        """Seconds for which a frame is shown."""
        if self.is_counted or not frame.duration:
            return 1 / self.rate
        return Fraction(frame.duration * self.stream.time_base)


class _Picture:
    """What a frame became, an error or a picture that waits in a file, and its mark of not being whole."""

    def __init__(self, picture: np.ndarray | VideoDecodeError, opaque: Any):
        self.opaque = opaque
        self._error: VideoDecodeError | None = None
        if isinstance(picture, VideoDecodeError):
            self._error = picture
            return
        self._file = TemporaryFile()  # which goes with this object
        np.save(self._file, picture, allow_pickle=False)

    def read(self) -> np.ndarray | VideoDecodeError:
        """Return the error, or the picture."""
        if self._error is not None:
            return self._error
        self._file.seek(0)
        return np.load(self._file, allow_pickle=False)


def _with_pictures(moments: Iterator[Moment], video: OpenVideo, limits: SourceLimits) -> Iterator[Moment]:
    """Make a picture of each frame, so that several of them may wait."""
    for moment in moments:
        if not isinstance(moment.frame, Exception):
            picture = picture_or_error(moment.frame, video.stream, video.name, limits)
            moment = moment._replace(frame=_Picture(picture, moment.frame.opaque))
            del picture  # with the moment, before the next one is decoded
        yield moment
        del moment


def iter_frames(
    source: Any,
    source_format: str | None = None,
    limits: SourceLimits = LIMITS,
    source_fps: float | None = None,
    only_whole: bool = False,
) -> Iterator[tuple[float, np.ndarray | VideoDecodeError]]:
    """Decode a video from its start, or a camera as it comes, one frame in memory at a time.

    Args:
        source: as in `decode_frames`; with a format, whatever FFmpeg opens in it, such as a camera's device.
        source_format: FFmpeg's name of an input format, such as `v4l2`.
        limits, source_fps, only_whole: as in `decode_frames`.

    Yields:
        Seconds since the first frame, and the frame, `(h, w, 3)` as in `decode_frames`. The seconds ascend until the
        clock of a file goes back: then another recording begins, with a warning. An error stands in the place of what
        cannot be decoded, at the time of the frame before it, or of what the file promises and does not hold; later
        frames may follow. What the decoder mends passes, with one warning, unless only whole frames are wanted.

    Raises:
        FileNotFoundError: a path leads to no file.
        VideoDecodeError: `source` holds no video.
    """
    check_source_fps(source_fps)
    with ExitStack() as stack:
        file, name = stack.enter_context(opened(source, limits, source_format))
        video = OpenVideo(file, name, source_format, limits, source_fps)
        stack.callback(video.close)
        comes_late = source_format is None and not (video.is_heavy and video.starts_in_order())
        moments = video.timeline().place(video.decode(), Fraction(0))
        if comes_late:
            moments = in_order(_with_pictures(moments, video, limits) if video.is_heavy else moments)
        origin: Fraction | None = None
        seconds = 0.0
        for moment in moments:
            if isinstance(moment.frame, Exception):
                yield seconds, VideoDecodeError(f"{name} is damaged after {seconds:.3f} s: {moment.frame}")
                continue
            origin = moment.time if origin is None else origin
            seconds = float(moment.time - origin)
            is_whole = video.seen(moment).is_whole
            if not is_whole:
                video.warn_of_damage(seconds)
            if only_whole and not is_whole:
                yield seconds, video.mended_error(seconds)
            elif isinstance(moment.frame, _Picture):
                yield seconds, moment.frame.read()
            else:
                yield seconds, picture_or_error(moment.frame, video.stream, name, limits)
            del moment  # before the next one is decoded
        if origin is None:
            raise VideoDecodeError(f"{name} holds no frame that can be decoded")
        video.warn_of_the_end()
        missing = video.packets.shortfall(origin)
        if missing is not None:
            what = f"is damaged: its frames end at {seconds:.3f} of {missing.promised:.3f} s"
            video.warn(what)
            yield seconds, VideoDecodeError(f"{name} {what}")
