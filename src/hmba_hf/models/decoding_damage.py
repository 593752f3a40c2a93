"""How the bytes of a file show that some were changed or lost: checksums that fail, and parts that do not join up."""

import re
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

BytesAt = Callable[[int, int], bytes]

# FFV1 and Ogg take the highest bit of a byte first, `zlib` the lowest. Both begin with zero, `zlib` with ones.
_TURNED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ZERO = 0xFFFFFFFF
_FFV1_END = 8  # bytes behind a slice: three of its length, one of its state, four of its checksum
_FLV_TAG = 11  # bytes before the content of a tag, three of them its length; four bytes follow
_FLV_BACK = 4
_FLV_KINDS = (b"\x08", b"\x09", b"\x12")  # of tags: sound, pictures, metadata
# What may begin between two chunks of an AVI file: a part of a stream, of an index, of nothing, or a list.
_AVI_PART = re.compile(rb"\d\d[a-z]{2}|ix\d\d|JUNK|idx1|LIST....[ -~]{4}|RIFF....AVI", re.DOTALL)
_AVI_OUTER = re.compile(rb"LIST....(?:rec |movi)|RIFF", re.DOTALL)
_AVI_HEADER = 8  # bytes, of which the last four hold the length of what follows
_AVI_LIST = 12  # bytes before the parts of a list
_OGG_PAGE = b"OggS"
_OGG_HEADER = 27  # bytes, of which the last one counts the lengths that follow
_OGG_LONGEST = _OGG_HEADER + 255 + 255 * 255
_OGG_CHECKSUM = slice(22, 26)
_OGG_FIRST = 2  # flag of the first page of a stream
# Elements of Matroska that hold others, and those that hold pictures.
_MATROSKA_OUTER = (0x18538067, 0x1F43B675, 0xA0)
_MATROSKA_CLUSTER = 0x1F43B675
_MATROSKA_BLOCKS = (0xA3, 0xA1)
_MATROSKA_CHECKSUM = b"\xbf\x84"
_MATROSKA_HEADER = 12  # most bytes of an element's name and length
_MATROSKA_BLOCK_HEADER = 4
_MATROSKA_LOOK_BACK = 2**16
_MATROSKA_SEGMENT = 0x18538067
_MATROSKA_TIME = 0xE7
_CLUSTER_START = 40  # bytes that hold its name, length, checksum and time
_MOST_CLUSTERS = 2**16
_MATROSKA_UNKNOWN = 2**56  # bytes: as long as it comes
_TS_LENGTHS = ((188, 0), (192, 4), (204, 0))  # of packets of MPEG-TS, and where in them the first byte stands
_TS_SYNC = 0x47
_TS_TABLE = 0
_TS_NOTHING = 0x1FFF  # the number of a stream of stuffing
_TS_BEFORE = 2**18  # bytes before and behind a mark in which its reason is looked for
_TS_LONGEST = 2**21
_PART = 2**20  # bytes that are read at once
_BLOCK = 2**12  # bytes that are read where fewer are looked at
_STEPS = 1000  # parts at the most from one packet to the next


def bytes_of(source: Any, place: int, length: int) -> bytes:
    """Read bytes of a file from a place on: fewer or none where it ends or can only be read once."""
    if not hasattr(source, "read"):
        return b""
    before = source.tell()
    source.seek(place)
    found: bytes = source.read(length)
    source.seek(before)
    return found


def _turned_checksum(data: bytes) -> int:
    return zlib.crc32(data.translate(_TURNED), _ZERO) ^ _ZERO


class SliceChecksums:
    """The checksums of FFV1, each behind a slice of a picture.

    A picture without a valid one counts as whole until another one has shown that the stream has checksums.
    """

    def __init__(self) -> None:
        self._are_kept = False

    def fail(self, picture: bytes) -> bool:
        """Return whether a slice of the picture is not what was written."""
        end = len(picture)
        states = []
        while end >= _FFV1_END:
            length = int.from_bytes(picture[end - _FFV1_END : end - _FFV1_END + 3], "big")
            start = end - _FFV1_END - length
            if start < 0:
                break
            states.append(_turned_checksum(picture[start:end]) == 0)
            end = start
        self._are_kept = self._are_kept or any(states)
        return self._are_kept and (end > 0 or not all(states))


def meets_another_recording(bytes_at: BytesAt, place: int, stream: int) -> bool:
    """Return whether packets of MPEG-TS are numbered anew because a file was joined there, and none is lost.

    There, the table of programs comes between two pictures, and is numbered anew, too.

    Args:
        bytes_at: gives the bytes from a place on, at most so many.
        place: of the picture that FFmpeg marks, or of the one before it.
        stream: the number that packets of the stream have.
    """
    data = bytes_at(place, _TS_LONGEST)
    lengths = _ts_lengths(data)
    if not lengths:
        return False
    step = lengths[0][0]
    back = min(place, _TS_BEFORE) // step * step  # where the table is looked for that comes before
    data = bytes_at(place - back, back + _TS_LONGEST)
    counts: dict[int, int] = {}
    is_anew = False
    for head in range(dict(_TS_LENGTHS)[step], len(data) - 4, step):
        if data[head] != _TS_SYNC or data[head + 1] & 0x80:
            return False
        number = int.from_bytes(data[head + 1 : head + 3], "big") & 0x1FFF
        if number not in (_TS_TABLE, stream) or not data[head + 3] & 0x10:
            continue
        count = data[head + 3] & 0x0F
        follows = count == (counts.get(number, count - 1) + 1) % 16
        counts[number] = count
        if number == _TS_TABLE:
            is_anew = not follows or count == 0
        elif not follows and head >= back:
            begins_picture = bool(data[head + 1] & 0x40)
            return begins_picture and is_anew
        else:
            is_anew = False
    return False


def _ts_lengths(data: bytes) -> list[tuple[int, int]]:
    """The length of packets of MPEG-TS, and where in them the first byte stands, if `data` begins with two of them."""
    marks = bytes([_TS_SYNC, _TS_SYNC])
    return [(size, sync) for size, sync in _TS_LENGTHS if data[sync::size][:2] == marks]


def _ts_numbers_follow(bytes_at: BytesAt, start: int, end: int, size: int, sync: int) -> bool:
    """Return whether packets of MPEG-TS are numbered on behind something between them that is none.

    Args:
        bytes_at: gives the bytes from a place on, at most so many.
        start, end: of two packets of `size` bytes before and behind it, each with the mark at `sync`.
    """
    back = min(start, _TS_BEFORE) // size * size
    before: dict[int, int] = {}
    for stream, number in _ts_numbers(bytes_at(start - back, back + end - start), sync, size):
        before[stream] = number
    data = bytes_at(start, end - start + _TS_BEFORE)
    first = end - start
    while first >= size and data[first - size + sync] == _TS_SYNC:
        first -= size
    behind: dict[int, int] = {}
    for stream, number in _ts_numbers(data[first:], sync, size):
        behind.setdefault(stream, number)
    both = before.keys() & behind.keys() - {_TS_NOTHING}
    return all(behind[stream] == (before[stream] + 1) % 16 for stream in both)


def _ts_numbers(data: bytes, sync: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield stream and number of packets of MPEG-TS with content, up to what is no packet."""
    for head in range(sync, len(data) - 3, size):
        if data[head] != _TS_SYNC:
            return
        if data[head + 3] & 0x10:
            yield int.from_bytes(data[head + 1 : head + 3], "big") & 0x1FFF, data[head + 3] & 0x0F


class Continuity:
    """Follows the parts of a container from packet to packet, of all streams in the order of the file.

    Args:
        format_name: FFmpeg's name of the container.
        bytes_at: gives the bytes from a place on, at most so many.
    """

    def __init__(self, format_name: str, bytes_at: BytesAt):
        walks = {
            "avi": self._avi,
            "flv": self._flv,
            "matroska,webm": self._matroska,
            "mpegts": self._ts,
            "ogg": self._ogg,
        }
        self._walk = walks.get(format_name)
        self._read_at = bytes_at
        self._block = b""
        self._block_place = 0
        self._place = -1  # of the last packet
        self._end: int | None = None  # of the part that holds it
        self._damaged = range(0)  # bytes of which a checksum fails
        self._pages: dict[bytes, int] = {}  # the last number of each stream of an Ogg file
        self._clocks: dict[int, int] = {}  # the last time of each stream of MPEG-TS

    def _bytes_at(self, place: int, length: int) -> bytes:
        start = place - self._block_place
        if not 0 <= start <= len(self._block) - length:
            start = 0
            self._block = self._read_at(place, max(length, _BLOCK))
            self._block_place = place
        return self._block[start : start + length]

    @property
    def is_followed(self) -> bool:
        """Whether the container has anything to check."""
        return self._walk is not None

    def breaks_before(self, packet: Any) -> bool:
        """Return whether something lies between the packet before and this one that is no part of the container."""
        if self._walk is None or packet.pos is None or packet.pos <= self._place:
            return False
        self._place = packet.pos
        is_joined, end = self._walk(self._end, packet)
        is_broken = self._end is not None and not is_joined
        if is_broken:
            _, end = self._walk(None, packet)
        self._end = end if end > packet.pos else None
        return is_broken

    def holds_damage(self, packet: Any) -> bool:
        """Return whether the checksum of what holds the packet fails."""
        return packet.pos is not None and packet.pos in self._damaged

    def _flv(self, start: int | None, packet: Any) -> tuple[bool, int]:
        """Go from the end of what holds a packet to the next one: whether it is met, and where what holds it ends."""
        place = packet.pos if start is None else start
        for _ in range(_STEPS):
            if place >= packet.pos or self._bytes_at(place, 1) not in _FLV_KINDS:
                break
            place = self._end_of_tag(place)
        return place == packet.pos, self._end_of_tag(packet.pos)

    def _end_of_tag(self, place: int) -> int:
        header = self._bytes_at(place, _FLV_TAG)
        return place + _FLV_TAG + int.from_bytes(header[1:4], "big") + _FLV_BACK

    def _avi(self, start: int | None, packet: Any) -> tuple[bool, int]:
        wanted = packet.pos - _AVI_HEADER
        place = wanted if start is None else start
        if packet.pos < place:  # one more packet of a chunk of sound
            return True, place
        is_met = True  # also where too many parts lie between, as in files that are not interleaved
        for _ in range(_STEPS):
            # Some writers leave out the byte that makes a length even.
            places = (place, place - 1) if place <= wanted + 1 else ()
            found = [at for at in places if _AVI_PART.match(self._bytes_at(at, _AVI_LIST))]
            is_met = wanted in found
            if is_met or not found:
                break
            place = self._end_of_chunk(found[0])
        return is_met, self._end_of_chunk(wanted)

    def _end_of_chunk(self, place: int) -> int:
        header = self._bytes_at(place, _AVI_LIST)
        if not _AVI_PART.match(header):
            return -1
        if _AVI_OUTER.match(header):
            return place + _AVI_LIST
        length = int.from_bytes(header[4:_AVI_HEADER], "little")
        return place + _AVI_HEADER + length + length % 2

    def _matroska(self, start: int | None, packet: Any) -> tuple[bool, int]:
        place = self._first_cluster(packet) if start is None else start
        for _ in range(_STEPS):
            kind, length, size = _element(self._bytes_at(place, _MATROSKA_HEADER))
            content = place + size
            if size == 0 or content > packet.pos:
                break
            if kind == _MATROSKA_CLUSTER:
                self._check_cluster(content, length)
            if content == packet.pos and kind in _MATROSKA_BLOCKS:
                return True, content + length
            place = content if kind in _MATROSKA_OUTER else content + length
        return False, self._end_of_block(packet)

    def _first_cluster(self, packet: Any) -> int:
        """Where the cluster begins that holds the first packet of a stretch; the packet itself if it is far away."""
        start = max(packet.pos - _MATROSKA_LOOK_BACK, 0)
        found = self._bytes_at(start, packet.pos - start).rfind(_MATROSKA_CLUSTER.to_bytes(4, "big"))
        return packet.pos if found < 0 else start + found

    def _end_of_block(self, packet: Any) -> int:
        """Where the block of a packet ends, from the bytes before it; -1 where they may be something else."""
        start = max(packet.pos - _MATROSKA_HEADER, 0)
        before = self._bytes_at(start, packet.pos - start)
        for place in range(len(before)):
            kind, length, size = _element(before[place:])
            is_next_to_it = place + size == len(before)
            if is_next_to_it and kind in _MATROSKA_BLOCKS and length == packet.size + _MATROSKA_BLOCK_HEADER:
                return packet.pos + length
        return -1

    def _check_cluster(self, start: int, length: int) -> None:
        """Compare a cluster of known length with its checksum, if it has one."""
        self._damaged = range(0)
        head = self._bytes_at(start, len(_MATROSKA_CHECKSUM) + 4)
        if not head.startswith(_MATROSKA_CHECKSUM) or length >= _MATROSKA_UNKNOWN:
            return
        stated = int.from_bytes(head[len(_MATROSKA_CHECKSUM) :], "little")
        place = start + len(head)
        found = 0
        while place < start + length:
            data = self._bytes_at(place, min(_PART, start + length - place))
            if not data:
                return  # cut short, which another check finds
            found = zlib.crc32(data, found)
            place += len(data)
        if found != stated:
            self._damaged = range(start, start + length)

    def _ts(self, start: int | None, packet: Any) -> tuple[bool, int]:
        lengths = _ts_lengths(self._bytes_at(packet.pos, 2 * _TS_LENGTHS[-1][0]))
        if not lengths:
            return True, -1
        size, sync = lengths[0]
        goes_back = packet.dts is None or packet.dts < self._clocks.get(packet.stream.index, packet.dts)
        if packet.dts is not None:
            self._clocks[packet.stream.index] = packet.dts
        if start is None or goes_back or self._is_row_of_ts(start, packet.pos, size, sync):
            return True, packet.pos + size
        # FFmpeg does not compare the numbers of packets behind what is none.
        return _ts_numbers_follow(self._read_at, start, packet.pos, size, sync), packet.pos + size

    def _is_row_of_ts(self, start: int, end: int, size: int, sync: int) -> bool:
        """Return whether nothing but packets of MPEG-TS lies between two places."""
        part = _PART // size * size
        for place in range(start, end, part):
            marks = self._read_at(place, min(part, end - place))[sync::size]
            if marks.count(_TS_SYNC) < len(marks):
                return False
        return (end - start) % size == 0

    def _ogg(self, start: int | None, packet: Any) -> tuple[bool, int]:
        place = packet.pos if start is None else start
        is_sound = True
        is_met = False
        for _ in range(_STEPS):
            page = self._page_at(place)
            is_met = is_met or place == packet.pos
            is_sound = is_sound and self._is_next_page(page)
            place += len(page)
            if not page or (place > packet.pos and not _goes_on(page)):
                break
        return is_sound and is_met, place

    def fails_behind(self) -> bool:
        """Return whether pages of an Ogg file behind the last packet are not what was written."""
        place = self._end
        if self._walk != self._ogg or place is None:
            return False
        is_sound = True
        while page := self._page_at(place):
            is_sound = is_sound and self._is_next_page(page)
            place += len(page)
        return not is_sound

    def _page_at(self, place: int) -> bytes:
        page = self._bytes_at(place, _OGG_LONGEST)
        return page[: ogg_page_length(page)]

    def _is_next_page(self, page: bytes) -> bool:
        """Return whether a page is what was written, and follows the one before of its stream."""
        if not page:
            return False
        stream = page[14:18]
        number = int.from_bytes(page[18:22], "little")
        begins_anew = bool(page[5] & _OGG_FIRST)
        before = None if begins_anew else self._pages.get(stream)
        self._pages[stream] = number
        blank = page[: _OGG_CHECKSUM.start] + bytes(4) + page[_OGG_CHECKSUM.stop :]
        found = _turned_checksum(blank).to_bytes(4, "little").translate(_TURNED)
        return found == page[_OGG_CHECKSUM][::-1] and before in (None, number - 1)


def ogg_page_length(page: bytes) -> int:
    """Bytes of the page of an Ogg file with which `page` begins; zero where none does."""
    if not page.startswith(_OGG_PAGE) or len(page) < _OGG_HEADER:
        return 0
    content = _OGG_HEADER + page[_OGG_HEADER - 1]
    return content + sum(page[_OGG_HEADER:content])


def _goes_on(page: bytes) -> bool:
    """Return whether the last packet of the page continues in the next one."""
    return page[_OGG_HEADER - 1] > 0 and page[_OGG_HEADER + page[_OGG_HEADER - 1] - 1] == 255


def cluster_step_back(bytes_at: BytesAt, size: int, least: Fraction) -> tuple[int, int] | None:
    """Return the times of two clusters of a Matroska file from one to the next of which its clock goes back.

    A single one with a stray time does not count.

    Args:
        bytes_at: gives the bytes from a place on, at most so many.
        size: bytes of the file.
        least: ticks by which it must go back.
    """
    times = _cluster_times(bytes_at, size)
    for earlier, before, time, following in zip(
        [*times[:1], *times], times, times[1:], [*times[2:], -1], strict=False
    ):
        is_back = before - time > least and following < before
        if is_back or (time == before and before - earlier > least):  # it has gone back within a long cluster
            return before, time
    return None


def _cluster_times(bytes_at: BytesAt, size: int) -> list[int]:
    """Return the times of the clusters of a Matroska file in the order of the file, in ticks of its clock.

    They end where a length is unknown, as in live recordings.
    """
    times: list[int] = []
    place = 0
    while place < size and len(times) < _MOST_CLUSTERS:
        header = bytes_at(place, _CLUSTER_START)
        name, length, start = _element(header)
        if name == _MATROSKA_SEGMENT:
            length = 0  # its elements follow
        elif start == 0 or length == _MATROSKA_UNKNOWN:
            break
        elif name == _MATROSKA_CLUSTER:
            times += _cluster_time(header[start:])
        place += start + length
    return times


def _cluster_time(content: bytes) -> list[int]:
    """The time of a cluster, which stands behind its checksum, if that is there; empty if it is not known."""
    if content.startswith(_MATROSKA_CHECKSUM):
        content = content[len(_MATROSKA_CHECKSUM) + 4 :]
    name, length, start = _element(content)
    return [int.from_bytes(content[start : start + length], "big")] if name == _MATROSKA_TIME else []


def _element(header: bytes) -> tuple[int, int, int]:
    """The identity of a Matroska element, the length of its content, and that of its header; zeros for none."""
    if not header or header[0] == 0:
        return 0, 0, 0
    name = 9 - header[0].bit_length()
    if name >= len(header) or header[name] == 0:
        return 0, 0, 0
    size = 9 - header[name].bit_length()
    highest = (1 << 7 * size) - 1
    stated = int.from_bytes(header[name : name + size], "big") & highest
    return int.from_bytes(header[:name], "big"), _MATROSKA_UNKNOWN if stated == highest else stated, name + size
