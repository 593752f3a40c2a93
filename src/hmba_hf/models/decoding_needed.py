"""The pictures that a clip needs, of a stretch of packets that shows without a decoder when each is shown.

Pictures that no other refers to need not be decoded unless they are wanted, nor need any between the last wanted one
and the next keyframe. What is skipped is known only where all is plain: one picture in a packet, all in the order that
the stream states, each with a timestamp that follows the one before at once. For all else there is no plain stretch.
"""

from bisect import bisect, insort
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import chain, pairwise
from typing import Any, NamedTuple

import av

from .decoding_choice import Progress, Scan
from .decoding_pictures import ClipPictures
from .decoding_references import Kind, References
from .decoding_streams import OpenVideo
from .decoding_timeline import LONG_FIRST_GAP, LONG_GAP, REORDER_FRAMES, Moment
from .sampling_video import TIME_TOLERANCE

_HELD_PICTURES = 2  # of RGB, whose memory the packets of a stretch may take
_MORE = 3  # packets that are read beyond those that a decoder may hold back


class PlainPart(NamedTuple):
    """What has been read of a plain stretch: when its last picture is shown, until when, and if at a steady rate."""

    last: Fraction
    shown_until: Fraction
    is_steady: bool


class PlainClip(NamedTuple):
    """A clip of a plain stretch, and what has been read for it."""

    scan: Scan
    read: PlainPart


class PlainStretch:
    """Packets from a keyframe on, with the times of all pictures.

    Args:
        video: whose packets are read from where it stands.
        references: the rules of its pictures.
        origin: seconds on the container's clock at which the video starts.
    """

    def __init__(self, video: OpenVideo, references: References, origin: Fraction = Fraction(0)):
        self._video = video
        self._packets: list[Any] = []
        self._kinds: list[Kind] = []
        self._references = references
        self._origin = origin
        self._order: dict[int, int] = {}  # places of packets by their ticks, of pictures that are shown
        self.ticks: list[int] = []  # of all pictures, in ascending order

    def read(self, until: int | None, is_last: bool = False) -> bool:
        """Read up to some pictures behind so many ticks; return whether all is plain, and the file does not end.

        Args:
            until: timestamp of the container, the first one when absent.
            is_last: read up to the end of the file instead.
        """
        beyond = 0
        held = 0
        codec = self._video.stream.codec_context
        most = _HELD_PICTURES * 3 * codec.width * codec.height
        for packet in self._video.packets:
            held += packet.size
            if packet.size == 0 and is_last:
                continue
            if packet.size == 0 or held > most or not self._takes(packet):
                return False
            beyond += until is None or packet.pts > until
            if beyond > REORDER_FRAMES + self._references.header.reorder + _MORE and not is_last:
                return self._follow_each_other()
        return is_last and bool(self.ticks) and self._follow_each_other()

    def _takes(self, packet: Any) -> bool:
        """Note a packet; return whether it is plain."""
        stamp = packet.pts
        if self._video.packets.is_damaged or packet.is_discard or stamp is None:
            return False
        kind = self._references.kind_of(bytes(packet))
        if kind is None:
            return False
        begins = kind.is_key or kind.is_open
        if not self._packets and not begins:
            return False
        is_lost = kind.is_leading and self._kinds[0].is_open and not any(k.is_open for k in self._kinds[1:])
        self._kinds.append(kind)
        self._packets.append(packet)
        if is_lost:  # refers to what comes before the stretch
            return True
        behind = len(self.ticks) - bisect(self.ticks, stamp)
        is_new = stamp not in self._order
        insort(self.ticks, stamp)
        self._order[stamp] = len(self._packets) - 1
        return is_new and behind <= self._references.header.reorder and stamp >= self._packets[0].pts

    def _follow_each_other(self) -> bool:
        """Return whether no time between two pictures is so long that a stamp might be wrong."""
        longest = min(LONG_GAP / self._video.rate, Fraction(LONG_FIRST_GAP)) / self._video.stream.time_base
        return all(later - earlier <= longest for earlier, later in pairwise(self.ticks))

    def clip(
        self, wanted: list[float], tolerance: float, clip: ClipPictures, convert: Callable[[Any], Any], is_last: bool
    ) -> PlainClip | None:
        """Read and decode the latest frame not after each wanted time; `None` where something is not plain.

        Args:
            wanted, tolerance, clip, convert: as of `decoding_choice.Choice`.
            is_last: whether the last wanted time is that of the last frame of the file.
        """
        tick = self._video.stream.time_base
        end = wanted[-1] + tolerance
        if not self.read(until=int((self._origin + Fraction(end)) / tick), is_last=is_last):
            return None
        times = self._times()
        if times[0] > wanted[0] + TIME_TOLERANCE or (is_last and times[-1] != wanted[-1]):
            return None
        chosen = [bisect(times, time + tolerance) - 1 for time in wanted]
        lacking = {self.ticks[place] for place in chosen}
        for ticks, frame in self._decoded(frozenset(lacking)):
            lacking.remove(ticks)
            clip.put([row for row, place in enumerate(chosen) if self.ticks[place] == ticks], convert(frame))
            del frame  # before the next one is decoded
        if lacking:
            return None
        place = min(bisect(times, end) + REORDER_FRAMES, len(times) - 1)  # as far as is decoded where all is
        read = self._up_to(place)
        moments = [Moment(self.ticks[at] * tick - self._origin, None, 0) for at in chosen]
        came = Progress(0, times[place], float(read.shown_until))
        scan = Scan(moments, clip, came, times[0], passed_end=not is_last, is_whole_recording=False)
        return PlainClip(scan, read)

    def whole(self) -> PlainPart | None:
        """Read to the end of the file, and decode nothing; `None` where something is not plain."""
        if not self.read(until=None, is_last=True):
            return None
        return self._up_to(len(self.ticks) - 1)

    def _up_to(self, place: int) -> PlainPart:
        """The pictures up to the one in a place."""
        tick = self._video.stream.time_base
        last = self.ticks[place] * tick - self._origin
        shown_until = last + self._video.shown_for(self._packets[self._order[self.ticks[place]]])
        steps = {later - earlier for earlier, later in pairwise(self.ticks[: place + 1])}
        is_steady = all(abs(step * tick - 1 / self._video.rate) <= tick for step in steps)
        return PlainPart(last, shown_until, is_steady)

    def _times(self) -> list[float]:
        """Seconds from the start of the video to each picture, each the number nearest to the exact one."""
        tick = self._video.stream.time_base
        step = tick.numerator * self._origin.denominator
        start = self._origin.numerator * tick.denominator
        return [(ticks * step - start) / (tick.denominator * self._origin.denominator) for ticks in self.ticks]

    def _decoded(self, wanted: frozenset[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode the pictures with these timestamps, and yield each with its own, in the order of their times.

        It ends early where the decoder shows anything that is not plain; then some are missing.
        """
        before = self.ticks[0]
        context = self._video.stream.codec_context
        for packet in chain(self._needed(wanted), (None,)):
            try:
                frames = context.decode(packet)
            except av.FFmpegError:
                return
            while frames:  # none is kept longer than it takes
                frame = frames.pop(0)
                ticks = frame.pts
                if frame.is_corrupt or ticks not in self._order or ticks < before:
                    return
                before = ticks
                if ticks in wanted:
                    yield ticks, frame
                del frame  # before the next one is decoded

    def _needed(self, wanted: frozenset[int]) -> Iterable[Any]:
        """The packets without which the wanted pictures cannot be decoded, in the order of the file."""
        places = {self._order[ticks] for ticks in wanted}
        needed: list[Any] = []
        waiting: list[Any] = []  # needed if another wanted picture comes before the next keyframe
        for place, (packet, kind) in enumerate(zip(self._packets, self._kinds, strict=True)):
            if kind.is_key:
                waiting = []
            if kind.is_reference or place in places:
                waiting.append(packet)
            if place in places:
                needed += waiting
                waiting = []
        return needed
