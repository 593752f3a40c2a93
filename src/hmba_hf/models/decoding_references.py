"""Which pictures of H.264 and H.265 no other one refers to, by the first bytes of their packets.

Only plain streams are read: whole frames, in one layer, with one set of parameters that stands in the header of an MP4
or Matroska file and states how far pictures are out of order. Of all others nothing is known.

Source: ITU-T H.264, 7.3 and annex E; ITU-T H.265, 7.3; ISO/IEC 14496-15, 5.3 and 8.3.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

# Kinds of units, by their numbers: parts of pictures, what describes them, and remarks.
_H264_SLICE, _H264_KEY, _H264_SETS, _H264_REMARKS = 1, 5, (7, 8), (6, 9, 12)
_H265_KEYS, _H265_OPEN, _H265_SETS, _H265_REMARKS = (19, 20), 21, (32, 33, 34), (35, 38, 39, 40)
_H265_LEADING = (8, 9)  # that refer to pictures before an open keyframe
_H265_SLICES = (*range(6), *_H265_LEADING)
# Profiles of H.264 whose parameters state the form of colours.
_H264_HIGH = (100, 110, 122, 244, 44)
_H264_INTRA = (2, 7)  # types of a slice all of whose blocks are intra-coded
_ANY_RATIO = 255
_SQUARE = (0, 1)  # ratios of pixels: unstated, and one
_PROFILE_BITS = 96  # of H.265


class Kind(NamedTuple):
    """What the packet of a picture is: a keyframe, one others refer to, one that refers beyond an open keyframe."""

    is_key: bool
    is_reference: bool
    is_open: bool = False
    is_leading: bool = False


class Header(NamedTuple):
    """What the parameters of a stream state: by how many pictures they are out of order, size, and form of pixels."""

    reorder: int
    size: tuple[int, int]  # width and height
    is_square: bool  # whether pixels are, as far as stated here


class References:
    """The rules of one stream.

    Args:
        header: of the stream.
        units: how it splits packets, and its sets of parameters.
        kind_of: makes a `Kind` of the units of a packet, `None` where one is none of a plain stream.
    """

    def __init__(self, header: Header, length_size: int, sets: set[bytes], kind_of: Callable[..., Kind | None]):
        self.header = header
        self._length_size = length_size
        self._sets = sets
        self._kind_of = kind_of

    def kind_of(self, packet: bytes) -> Kind | None:
        """Return what the picture of a packet is; `None` where it is not plain, or damaged at its seams."""
        kind: Kind | None = None
        for start, end in _units(packet, self._length_size):
            if end > len(packet) or start == end:
                return None
            found = self._kind_of(packet, start, end, self._sets)
            if found is None or (kind is not None and found is not _REMARK and found != kind):
                return None
            if found is not _REMARK:
                kind = found
        return kind


_REMARK = Kind(False, False)


def references_of(codec: str, extradata: bytes | None) -> References | None:
    """Read the rules of a stream from the parameters in the header of its file; `None` where it is not plain.

    Args:
        codec: FFmpeg's name of it.
        extradata: those parameters, in the form of MP4 and Matroska.
    """
    readers = {"h264": _h264, "hevc": _h265}
    if codec not in readers or not extradata or extradata[0] != 1:
        return None
    try:
        return readers[codec](extradata)
    except (IndexError, ValueError):  # shorter than it states, or of another form
        return None


def states_pictures(stream: Any) -> bool:
    """Return whether the header of an MP4 file states all that is known of its pictures before a clip is decoded."""
    codec = stream.codec_context
    references = references_of(codec.name, codec.extradata)
    if references is None or stream.average_rate is None:
        return False
    header = references.header
    return header.is_square and header.size == (codec.width, codec.height)


def _units(packet: bytes, length_size: int) -> Iterator[tuple[int, int]]:
    """Yield where each unit of a packet begins and ends, behind its length."""
    place = 0
    while place < len(packet):
        start = place + length_size
        place = start + int.from_bytes(packet[place:start], "big")
        yield start, place


class _Bits:
    """The bits of a unit, without the bytes that keep it from looking like a mark."""

    def __init__(self, unit: bytes):
        self._data = unit.replace(b"\0\0\3", b"\0\0")
        self._place = 0

    def take(self, count: int) -> int:
        """The next bits as a number."""
        end = self._place + count
        if end > 8 * len(self._data):
            raise ValueError("a set of parameters must hold what it states, got a shorter one")
        whole = int.from_bytes(self._data[self._place // 8 : (end + 7) // 8], "big")
        self._place = end
        return (whole >> -end % 8) & ((1 << count) - 1)

    def number(self) -> int:
        """The next number of Exp-Golomb."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def numbers(self, count: int) -> list[int]:
        """The next ones."""
        return [self.number() for _ in range(count)]


def _must(condition: bool) -> None:
    if not condition:
        raise ValueError("a stream must be plain, got another one")


def _h264(extradata: bytes) -> References:
    length_size = (extradata[4] & 3) + 1
    place = 5
    sets: list[list[bytes]] = []
    for mask in (0x1F, 0xFF):  # sets of the sequence, and of pictures
        count = extradata[place] & mask
        place += 1
        found = []
        for _ in range(count):
            length = int.from_bytes(extradata[place : place + 2], "big")
            found.append(extradata[place + 2 : place + 2 + length])
            place += 2 + length
        sets.append(found)
    _must(len(sets[0]) == 1 and len(sets[1]) > 0 and place <= len(extradata))
    return References(_h264_header(_Bits(sets[0][0])), length_size, {*sets[0], *sets[1]}, _h264_kind)


def _h264_header(bits: _Bits) -> Header:
    _must(bits.take(8) & 0x1F == _H264_SETS[0])
    profile = bits.take(8)
    bits.take(16)
    bits.number()
    chroma = 1
    if profile in _H264_HIGH:
        chroma = bits.number()
        _must(chroma <= 2)
        bits.numbers(2)
        bits.take(1)
        _must(not bits.take(1))  # no matrices of its own
    bits.number()
    order = bits.number()
    _must(order in (0, 2))
    if order == 0:
        bits.number()
    bits.number()
    _must(not bits.take(1))  # numbers have no gaps
    width = 16 * (bits.number() + 1)
    height = 16 * (bits.number() + 1)
    _must(bool(bits.take(1)))  # no fields
    bits.take(1)
    if bits.take(1):
        left, right, top, bottom = bits.numbers(4)
        width -= (2 if chroma in (1, 2) else 1) * (left + right)
        height -= (2 if chroma == 1 else 1) * (top + bottom)
    _must(bool(bits.take(1)))
    is_square, reorder = _h264_usability(bits)
    return Header(reorder, (width, height), is_square)


def _h264_usability(bits: _Bits) -> tuple[bool, int]:
    """Whether pixels are square, and by how many pictures these are out of order."""
    ratio = bits.take(8) if bits.take(1) else 0
    if ratio == _ANY_RATIO:
        bits.take(32)
    if bits.take(1):
        bits.take(1)
    if bits.take(1):
        bits.take(4)
        if bits.take(1):
            bits.take(24)
    if bits.take(1):
        bits.numbers(2)
    if bits.take(1):
        bits.take(65)
    buffers = 0
    for _ in range(2):
        if bits.take(1):
            buffers += 1
            count = bits.number() + 1
            _must(count <= 32)
            bits.take(8)
            for _ in range(count):
                bits.numbers(2)
                bits.take(1)
            bits.take(20)
    if buffers:
        bits.take(1)
    bits.take(1)
    _must(bool(bits.take(1)))  # the order is stated
    bits.take(1)
    bits.numbers(4)
    return ratio in _SQUARE, bits.number()


def _h264_kind(packet: bytes, start: int, end: int, sets: set[bytes]) -> Kind | None:
    unit = packet[start] & 0x1F
    is_reference = bool(packet[start] & 0x60)
    if unit == _H264_SLICE:
        return Kind(False, is_reference)
    if unit == _H264_KEY and is_reference:
        bits = _Bits(packet[start + 1 : start + 9])
        bits.number()
        return Kind(True, True) if bits.number() in _H264_INTRA else None
    is_known = unit in _H264_REMARKS or (unit in _H264_SETS and packet[start:end] in sets)
    return _REMARK if is_known else None


def _h265(extradata: bytes) -> References:
    length_size = (extradata[21] & 3) + 1
    place = 23
    sets: dict[int, list[bytes]] = {}
    for _ in range(extradata[22]):
        kind = extradata[place] & 0x3F
        count = int.from_bytes(extradata[place + 1 : place + 3], "big")
        place += 3
        for _ in range(count):
            length = int.from_bytes(extradata[place : place + 2], "big")
            sets.setdefault(kind, []).append(extradata[place + 2 : place + 2 + length])
            place += 2 + length
    _must(all(kind in sets for kind in _H265_SETS) and len(sets[_H265_SETS[1]]) == 1 and place <= len(extradata))
    header = _h265_header(_Bits(sets[_H265_SETS[1]][0]))
    return References(header, length_size, {unit for units in sets.values() for unit in units}, _h265_kind)


def _h265_header(bits: _Bits) -> Header:
    bits.take(16 + 4)
    _must(bits.take(3) == 0)  # one layer of time
    bits.take(1 + _PROFILE_BITS)
    bits.number()
    chroma = bits.number()
    _must(chroma in (1, 2))
    width, height = bits.numbers(2)
    if bits.take(1):
        left, right, top, bottom = bits.numbers(4)
        width -= 2 * (left + right)
        height -= (2 if chroma == 1 else 1) * (top + bottom)
    bits.numbers(3)
    bits.take(1)
    _, reorder, _ = bits.numbers(3)
    return Header(reorder, (width, height), is_square=False)  # what follows is not read


def _h265_kind(packet: bytes, start: int, end: int, sets: set[bytes]) -> Kind | None:
    unit = packet[start] >> 1 & 0x3F
    is_base = packet[start] & 1 == 0 and packet[start + 1 : start + 2] == b"\1"
    if not is_base:
        return None
    if unit in _H265_SLICES:
        return Kind(False, unit % 2 == 1, is_leading=unit in _H265_LEADING)
    if unit in _H265_KEYS:
        return Kind(True, True)
    if unit == _H265_OPEN:
        return Kind(False, True, is_open=True)
    is_known = unit in _H265_REMARKS or (unit in _H265_SETS and packet[start:end] in sets)
    return _REMARK if is_known else None
