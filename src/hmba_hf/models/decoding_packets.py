"""From an open container to the packets of its video, and whether they are as many as the file promises."""

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import av
from av.format import Flags

from .decoding_avi import moved_pictures
from .decoding_damage import Continuity, SliceChecksums, bytes_of, cluster_step_back, meets_another_recording
from .decoding_endings import (
    LONGEST_HEAD,
    asf_properties,
    ends_parts,
    is_whole_picture,
    torn_bytes,
    torn_picture,
    torn_ts_packet,
)
from .decoding_joined import LONGEST_TRAILER, NOT_READ, NextFile, is_header, start_in
from .decoding_timeline import NEVER_A_GAP

# Seconds without a packet after which a source with "try again" counts as ended, and between two tries.
PATIENCE = 10.0
PAUSE = 0.002
# FFmpeg's name of MP4 and its kin.
MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
# FFmpeg guesses the presentation times of these, wrongly where pictures are reordered. In MXF it does so where the
# index is silent, as with its own H.264; all pictures of MXF last equally long. A Matroska file made from AVI has a
# codec tag, as AVI has.
DECODING_TIMES_ALONE = {"avi", "asf", "asf_o", "mxf"}
# Headers of these give a duration. FFmpeg estimates that of others from their packets, which is no promise.
DECLARED_DURATION = {"matroska,webm", "flv", "ivf", "mxf"}
# FFmpeg makes up these from the last packets or the size of the file, and the header of the last one is longer.
ESTIMATED_DURATION = {"mpeg", "mpegts", "asf", "nut"}
# Seconds. A header that promises more states nothing, as one of 2**32 - 1 pictures does.
LONGEST_PROMISE = 10**6
# The index of these is in the file. FFmpeg builds that of others while it reads.
INDEXED = {"avi", "flv", "matroska,webm", MP4}
# Steps by which a header may promise more than came: the last pictures' durations are often unknown.
LAST_STEPS = 8
# Of so many pictures the times are examined; so many steps at either end may be longer for want of others.
# Steps of a steady rate differ by so many ticks at the most.
RECENT = 32
UNSETTLED = 4
ROUNDING = 2
# The bytes between the start of a chunk, which the index of an AVI file names, and its data.
AVI_CHUNK_HEADER = 8
# Formats without an index, whose packets have the time wherever reading begins; the number of places to look at.
UNINDEXED = {"mpeg", "mpegts"}
PLACES = 16
# Seconds by which the clock must go back from one place to the next: packets near each other come out of order.
STEP_BACK = 1


class Shortfall(NamedTuple):
    """Seconds since the start of the file: promised by the index or by the header alone, and received."""

    promised: float
    came: float
    is_indexed: bool


def counts_pictures(container: Any) -> bool:
    """Return whether a container is a raw stream, whose pictures have no times but are counted."""
    return bool(container.format.flags & Flags.no_timestamps.value)


def holds_decoding_times_alone(container: Any, stream: Any) -> bool:
    """Return whether presentation times follow from the decoder's order of output, since the container has none."""
    is_from_avi = container.format.name == "matroska,webm" and bool(stream.codec_context.codec_tag.strip("\0"))
    return container.format.name in DECODING_TIMES_ALONE or is_from_avi


def guesses_times(container: Any) -> bool:
    """Return whether few packets of the container have times, from which FFmpeg guesses those of the others."""
    return bool(container.format.name == "mpeg")


def find_step_back(container: Any, stream: Any, source: Any) -> tuple[Fraction, Fraction] | None:
    """Look at some places all over a file, and return two between which its clock goes back, or leaps.

    The places are the clusters of Matroska, and some of a file without an index. Nothing between them is read.
    Afterwards the container must seek before it is read.

    Returns:
        Times at the two places, in seconds on the container's clock; `None` where no such places are known.
    """
    length = container.size or 0
    if container.format.name == "matroska,webm":
        ticks = cluster_step_back(partial(bytes_of, source), length, STEP_BACK / stream.time_base)
        return None if ticks is None else (ticks[0] * stream.time_base, ticks[1] * stream.time_base)
    if container.format.name not in UNINDEXED or length <= 0:
        return None
    before: Fraction | None = None
    for place in range(PLACES):
        try:
            container.seek(length * place // PLACES, unsupported_byte_offset=True)
            stamps = (packet.dts for packet in container.demux(stream))
            stamp = next((stamp for stamp in stamps if stamp is not None), None)
        except av.FFmpegError:  # damage, which is raised where it is read
            return None
        if stamp is None:
            return None
        time = stamp * stream.time_base
        if before is not None and (time < before - STEP_BACK or time > before + NEVER_A_GAP):
            return before, time
        before = time
    return None


class VideoPackets:
    """The packets of a video stream from where its container stands, of which a passing shortage is no end.

    Args:
        source: of the container; the bytes of a file object are examined.
        before: the packets of another stretch of the file, if one has been read before.
    """

    def __init__(self, container: Any, stream: Any, source: Any, before: "VideoPackets | None" = None):
        self.container, self.stream, self.source = container, stream, source
        # Ticks by which the first picture of the file is shown after it is decoded, and those between two pictures.
        self.delay: int | None = None if before is None else before.delay
        self._step_before: int | None = None if before is None else before.steady_step() or 0
        self._last_dts: int | None = None
        self._last_pts: int | None = None
        self._recent: deque[int] = deque(maxlen=RECENT)  # times of the last pictures
        self._start_in_bytes: int | None = None
        self._ends: dict[int, int] = {}  # ticks to which packets of each stream have come
        self._is_ended_by_mark: bool | None = None if before is None else before._is_ended_by_mark
        self._end_in_bytes = 0
        self.has_ended = False
        self.is_damaged = False  # whether the last packet is, or what lies between it and the next one
        can_look = hasattr(source, "read")
        # Nothing of it leads back to the packets: in a circle they would keep a closed decoder and its frames.
        self._bytes_at = partial(bytes_of, source)
        self._continuity = Continuity(container.format.name if can_look else "", self._bytes_at)
        self._checksums = SliceChecksums() if stream.codec_context.name == "ffv1" else None
        # The number of each picture by its place, in an AVI file that has lost bytes.
        self._moved: dict[int, int] = {} if before is None else before._moved
        if before is None and can_look and container.format.name == "avi":
            self._moved = moved_pictures(self._bytes_at, container.size or 0, stream.index, self._hides_index)
        self._fails = False  # whether a checksum around the packet does
        self._is_broken = False  # whether the packets before and behind it do not join up
        self._is_doubtful = False  # whether the packet is, since the one before was damaged

    def __iter__(self) -> Iterator[Any]:
        """Yield packets, the last of them empty, which flushes the decoder.

        Raises:
            av.FFmpegError: if the source cannot be read any further.
        """
        held: Any = None  # until the next one shows whether it is whole
        try:
            for packet in self._read():
                self._is_broken = self._continuity.breaks_before(packet) or self._is_broken
                if packet.stream.index != self.stream.index:
                    continue
                if held is not None:
                    yield self._judged(held)
                held = packet
                is_lost = bool(self._moved) and held.size > 0 and held.pos not in self._moved
                self._fails = self._continuity.holds_damage(held) or is_lost
                if not self._continuity.is_followed:
                    yield self._judged(held)
                    held = None
        except (av.FFmpegError, OSError, ValueError):
            if held is not None:
                yield self._judged(held)
            raise
        if held is not None:
            yield self._judged(held)

    def _judged(self, packet: Any) -> Any:
        """See whether a packet has come whole, and whether others have after it."""
        is_marked = self._is_marked(packet)
        self.is_damaged = self._fails or self._is_broken or self._is_doubtful or is_marked
        if self._checksums is not None and packet.size > 0:
            self.is_damaged = self._checksums.fail(bytes(packet)) or self.is_damaged
        # FFmpeg makes up the time of the next picture of an Ogg file, and marks one too early in a transport stream.
        format_name = self.container.format.name
        self._is_doubtful = (format_name == "ogg" and self._is_broken) or (format_name == "mpegts" and is_marked)
        self._is_broken = False
        return packet

    def _is_marked(self, packet: Any) -> bool:
        """Return whether FFmpeg marks a packet as corrupt. In a transport stream, it does so where recordings meet."""
        if not packet.is_corrupt or self.container.format.name != "mpegts" or packet.pos is None:
            return bool(packet.is_corrupt)
        return not meets_another_recording(self._bytes_at, packet.pos, self.stream.id)

    def _read(self) -> Iterator[Any]:
        """Yield packets of all streams."""
        waiting_since: float | None = None
        while True:
            try:
                for packet in self.container.demux():
                    waiting_since = None
                    if packet.stream.index == self.stream.index:
                        if self._is_joined_ogg and is_header(self.stream.codec_context.name, bytes(packet)):
                            continue
                        self._correct(packet)
                    self._note(packet)
                    yield packet
                self.has_ended = True
                return
            except av.InvalidDataError:
                if not self._is_behind_last_part():
                    raise
                self.has_ended = True
                return
            except BlockingIOError:
                waiting_since = waiting_since or time.monotonic()
                if time.monotonic() - waiting_since > PATIENCE:
                    raise
                time.sleep(PAUSE)

    def _is_behind_last_part(self) -> bool:
        """Return whether FFmpeg expects one more of the pictures that a camera has sent as parts of a file."""
        if self.container.format.name != "mpjpeg" or not self._end_in_bytes:
            return False
        return hasattr(self.source, "read") and ends_parts(self._bytes_at(self._end_in_bytes, LONGEST_HEAD))

    def _note(self, packet: Any) -> None:
        if packet.pos is not None:
            self._end_in_bytes = max(self._end_in_bytes, packet.pos + packet.size)
        stamps = [stamp for stamp in (packet.pts, packet.dts) if stamp is not None]
        if not stamps:
            return
        stream = packet.stream.index
        end = max(stamps) + (packet.duration or 0)
        self._ends[stream] = max(self._ends.get(stream, end), end)
        if stream != self.stream.index:
            return
        if packet.dts is not None:
            self._last_dts = packet.dts
        if packet.pts is not None:
            self._last_pts = packet.pts if self._last_pts is None else max(packet.pts, self._last_pts)
            self._recent.append(packet.pts)
        if self.delay is None and len(stamps) == 2:
            self.delay = packet.pts - packet.dts
        if self._start_in_bytes is None:
            self._start_in_bytes = packet.pos

    def _correct(self, packet: Any) -> None:
        """Take the time of an AVI file's packet from the index: after a lost one, FFmpeg counts wrongly."""
        if packet.pos in self._moved:
            packet.dts = self._moved[packet.pos]
            return
        if self.container.format.name != "avi" or packet.pos is None or len(self._index) == 0:
            return
        place = bisect_right(self._index, packet.pos, key=lambda entry: entry.pos) - 1
        entry = self._index[max(place, 0)]
        if packet.pos - entry.pos in (0, AVI_CHUNK_HEADER):
            packet.dts = entry.timestamp

    @property
    def _index(self) -> Any:
        return getattr(self.stream, "index_entries", ())

    @property
    def _hides_index(self) -> bool:
        """Whether PyAV shows no index: PyAV 15, which lmms-eval asks for, has none."""
        return not hasattr(self.stream, "index_entries")

    def is_torn(self, packet: Any) -> bool:
        """Return whether a packet is half a picture, which the decoder would complete with old memory."""
        if packet.size == 0:
            return False
        codec = self.stream.codec_context.codec
        length = self.container.size or 0  # for a source without end `None` in PyAV 19, a negative number before
        is_beyond = self.container.format.name == "dv" and 0 < length < (packet.pos or 0) + packet.size
        if is_beyond or (packet.is_corrupt and codec.intra_only):
            return True
        has_mark = is_whole_picture(codec.name, packet)
        if has_mark is None:
            return False
        if self._is_ended_by_mark is None:
            self._is_ended_by_mark = has_mark or codec.name != "mjpeg"  # some cameras leave out its mark
        is_last = packet.pos is not None and 0 < length <= packet.pos + packet.size
        return self._is_ended_by_mark and not has_mark and (is_last or codec.intra_only)

    def next_files(self) -> dict[int, str]:
        """Find the bytes at which other files begin, as in files joined byte by byte, and what becomes of each.

        One may follow the first file, another one the last packet. The latter is not known as long as packets are to
        come.
        """
        files = {}
        if self._next_file is not None:
            files[self._next_file.start] = self._next_file.fate
        end = self._end_of_packets()
        if end is not None:
            found = start_in(self.container.format.name, self._bytes_at(end, LONGEST_TRAILER))
            if found is not None:
                files.setdefault(end + found, NOT_READ)
        return files

    @property
    def _next_file(self) -> NextFile | None:
        return getattr(self.source, "next_file", None)

    @property
    def _is_joined_ogg(self) -> bool:
        return self.container.format.name == "ogg" and self._next_file is not None

    @property
    def _whole_size(self) -> int | None:
        """Bytes of the file, if not all of them are shown to FFmpeg."""
        return getattr(self.source, "whole_size", None)

    @property
    def size(self) -> int | None:
        """Bytes of the file and of others behind it; `None` or a negative number of a source without end."""
        return self._whole_size or self.container.size

    @property
    def goes_on(self) -> bool:
        """Whether another file follows that is read, too."""
        return any(fate != NOT_READ for fate in self.next_files().values())

    @property
    def may_hide_a_file(self) -> bool:
        """Whether another file follows that may not be read after a seek, as that of AVI is."""
        is_hidden = self._whole_size is not None
        return not is_hidden and self.container.format.name != "avi" and bool(self.next_files())

    def torn_end(self) -> str | None:
        """Return the evidence that a file was longer, even without a promised duration; `None` where there is none."""
        if not self.has_ended:
            return None
        format_name = self.container.format.name
        if format_name not in UNINDEXED:
            return self.torn_file() or torn_picture(format_name, self._bytes_at(self._end_in_bytes, LONGEST_HEAD))
        signs = []
        start = self._start_in_bytes if format_name == "mpegts" else None
        if start is not None and torn_ts_packet(self._bytes_at, start, self.container.size or 0):
            signs.append("it ends within a packet")
        if count := self._missing_pictures():
            signs.append(f"it lacks {count} of the pictures before its last one")
        return " and ".join(signs) or None

    @property
    def is_damaged_behind(self) -> bool:
        """Whether pictures may have been lost behind the last one."""
        return self.has_ended and self._continuity.fails_behind()

    def torn_file(self) -> str | None:
        """Return the evidence, without reading packets, that a format which states its end was cut short."""
        return torn_bytes(self.container.format.name, self._bytes_at, self.container.size or 0)

    @property
    def can_seek(self) -> bool:
        """Whether a seek leads to the right pictures.

        Few packets of a program stream have timestamps, and FFmpeg guesses wrong ones for the others after a seek. An
        MXF file without its end has no index. In joined Ogg files FFmpeg looks for times in the first one alone.
        """
        if self._is_joined_ogg:
            return False
        format_name = self.container.format.name
        return not guesses_times(self.container) and (format_name != "mxf" or self.torn_file() is None)

    def _missing_pictures(self) -> int:
        """Count pictures that are shown before the last one, but would have come after it: others refer to it.

        Where the rate varies, no one knows.
        """
        step = self.steady_step()
        if not step or self.delay is None or self._last_pts is None or self._last_dts is None:
            return 0
        steps = self._steps()
        is_steady = all(abs(other - step) <= ROUNDING for other in steps[:-UNSETTLED])
        if not is_steady or not steps or steps[-1] <= step + ROUNDING:  # the last one came before those that lack
            return 0
        lacking = sum(round(other / step) - 1 for other in steps)
        count = round((self._last_pts - self._last_dts - self.delay) / step)
        return count if count == lacking and count <= LAST_STEPS else 0

    def steady_step(self) -> int | None:
        """Ticks from one picture to the next, `None` where the rate varies or too few pictures have come."""
        if self._step_before is not None:
            return self._step_before
        settled = self._steps()[:-UNSETTLED]
        is_steady = len(settled) > 0 and max(settled) - min(settled) <= ROUNDING
        return settled[0] if is_steady else None

    def _steps(self) -> list[int]:
        """Ticks from one of the last pictures to the next, but for those between which others may have come before."""
        steps = [later - earlier for earlier, later in pairwise(sorted(self._recent))]
        begins_inside = self._step_before is not None or len(self._recent) == RECENT
        unsettled = min(UNSETTLED, len(steps) - UNSETTLED)
        return steps[unsettled:] if begins_inside and unsettled > 0 else steps

    def _end_of_packets(self) -> int | None:
        """The byte behind the last packet, from packets or from an index of each one in the order of the file."""
        if self.has_ended:
            return self._end_in_bytes
        if self.container.format.name != MP4 or len(self._index) == 0:
            return None
        last = self._index[len(self._index) - 1]
        return last.pos + last.size

    def shortfall(self, origin: Fraction) -> Shortfall | None:
        """Compare the promise of the index or the header with the received packets, at their end.

        Args:
            origin: seconds on the container's clock at which the video starts.
        """
        if not self.has_ended:
            return None
        format_name = self.container.format.name
        last = self._last_pts if format_name in DECLARED_DURATION else self._last_dts
        streams = self.container.streams
        ends = [float(end * streams[stream].time_base) for stream, end in self._ends.items()]
        came = max([-1.0, *ends]) - float(origin)
        is_indexed = format_name in INDEXED and len(self._index) > 0
        if is_indexed and last is not None and last < self._index[len(self._index) - 1].timestamp:
            indexed = (self._index[len(self._index) - 1].timestamp + 1) * self.stream.time_base - origin
            return Shortfall(max(self.header_duration(origin) or 0.0, float(indexed)), came, is_indexed=True)
        promised = self.promised_duration(origin) if self._is_bound_by_header else None
        step = 1 / Fraction(self.stream.average_rate or self.stream.guessed_rate or 25)
        if promised is None or not came + float(LAST_STEPS * step) < promised <= LONGEST_PROMISE:
            return None
        return Shortfall(promised, came, is_indexed=False)

    @property
    def _is_bound_by_header(self) -> bool:
        """Whether the duration in the header is a promise by itself; that of MP4 is one where its index is hidden."""
        if self.container.format.name == MP4:
            return self._hides_index and self.stream.frames > 0
        return self.container.format.name in {*DECLARED_DURATION, "asf", "avi"}

    def header_duration(self, origin: Fraction) -> float | None:
        """Seconds that the header gives for the video stream, or for the whole file; `None` where it gives none."""
        if self.stream.duration is not None:
            return float(self.stream.duration * self.stream.time_base)
        if self.container.duration is None:
            return None
        # These headers give the time at which the file ends, on the clock of the container.
        start = float(origin) if self.container.format.name in DECLARED_DURATION else 0.0
        return self.container.duration / av.time_base - start

    def promised_duration(self, origin: Fraction) -> float | None:
        """Seconds that the header gives, `None` where it gives none or the index contradicts it."""
        if self.container.format.name == "avi":
            return None if self._has_empty_chunks() else float(self.stream.frames * self.stream.time_base)
        if self.container.format.name == "asf":
            return self._asf_duration()
        if self.container.format.name in ESTIMATED_DURATION:
            return None
        duration = self.header_duration(origin)
        is_indexed = self.container.format.name in INDEXED and len(self._index) > 0
        if duration is None or not is_indexed:
            return duration
        last = self._index[len(self._index) - 1].timestamp * self.stream.time_base - origin
        return duration if duration > last else None

    def _has_empty_chunks(self) -> bool:
        """Return whether an AVI file holds fewer pictures than chunks, so that their number gives no duration."""
        count = len(self._index)
        return 0 < count < self.stream.frames <= self._index[count - 1].timestamp + 1

    def describes_pictures(self, origin: Fraction) -> bool:
        """Return whether the duration in the header is that of the pictures, not of longer sound beside them.

        That of a fragment of an MP4 file counts from the start of the recording, and that of an AVI file counts chunks
        without a picture, which the index alone tells from others.
        """
        if self.container.format.name == "avi" and self._hides_index:
            return False
        if self.stream.duration is None:
            return len(self.container.streams) == 1
        is_fragment = self.states_average_rate and self.stream.frames == 0
        return not is_fragment or origin < LAST_STEPS / Fraction(self.stream.average_rate or 25)

    def _asf_duration(self) -> float | None:
        """Seconds that the header gives for an ASF file of which bytes are missing, where FFmpeg gives none."""
        known = asf_properties(self._bytes_at(0, LONGEST_HEAD))
        if known is None or known.time == 0 or known.length <= (self.container.size or 0):
            return None
        return known.time / 1e7 - known.before / 1e3

    @property
    def states_average_rate(self) -> bool:
        """Whether `average_rate` comes from the durations of all frames, and not from those of the first ones."""
        return self.container.format.name == MP4
