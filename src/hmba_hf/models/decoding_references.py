"""Which pictures of H.264, H.265 and AV1 no other one refers to, by the first bytes of their packets.

Only plain streams are read: whole frames, in one layer, with one set of parameters that stands in the header of an MP4
or Matroska file and states how far pictures are out of order. Of all others nothing is known.

Source: ITU-T H.264, 7.3 and annex E; ITU-T H.265, 7.3; ISO/IEC 14496-15, 5.3 and 8.3; AV1 Bitstream & Decoding Process
Specification, 5.3 to 5.9; AV1 Codec ISO Media File Format Binding, 2.3.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
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
_AV1_SEQUENCE, _AV1_FRAMES, _AV1_OTHERS = 1, (3, 6), (2, 4, 5, 7, 15)
_AV1_HEAD = 16  # bytes of a frame that are read
_AV1_KEY, _AV1_INTRA, _AV1_SWITCH = 0, 2, 3  # types of frames
_AV1_CHOSEN = 2  # by each frame for itself
# The first byte of a header, by FFmpeg's name of the decoder.
_FORMS = {"h264": 1, "hevc": 1, "libdav1d": 0x81}


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
        units: yields where each unit of a packet begins and ends.
        sets: of parameters.
        kind_of: makes a `Kind` of the units of a packet, `None` where one is none of a plain stream.
    """

    def __init__(
        self,
        header: Header,
        units: Callable[[bytes], Iterable[tuple[int, int]]],
        sets: set[bytes],
        kind_of: Callable[..., Kind | None],
    ):
        self.header = header
        self._units = units
        self._sets = sets
        self._kind_of = kind_of

    def kind_of(self, packet: bytes) -> Kind | None:
        """Return what the picture of a packet is; `None` where it is not plain, or damaged at its seams."""
        try:
            return self._kind(packet)
        except (IndexError, ValueError):  # shorter than it states
            return None

    def _kind(self, packet: bytes) -> Kind | None:
        kind: Kind | None = None
        for start, end in self._units(packet):
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
    readers = {"h264": _h264, "hevc": _h265, "libdav1d": _av1}
    if codec not in readers or not extradata or extradata[0] != _FORMS[codec]:
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
    """The bits of a unit; of H.264 and H.265, without the bytes that keep it from looking like a mark."""

    def __init__(self, unit: bytes, has_marks: bool = True):
        self._data = unit.replace(b"\0\0\3", b"\0\0") if has_marks else unit
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
    header = _h264_header(_Bits(sets[0][0]))
    return References(header, partial(_units, length_size=length_size), {*sets[0], *sets[1]}, _h264_kind)


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
    all_sets = {unit for units in sets.values() for unit in units}
    return References(header, partial(_units, length_size=length_size), all_sets, _h265_kind)


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


class _Sequence(NamedTuple):
    """What AV1 states of all frames: their size, the bits of their order, and who chooses two of their tools."""

    size: tuple[int, int]
    order_bits: int
    screen_tools: int
    whole_motion: int


def _av1(extradata: bytes) -> References:
    units = list(_av1_units(extradata[4:]))
    _must(len(units) == 1 and units[0][0] == _AV1_SEQUENCE)
    sequence = _av1_sequence(units[0][1])
    header = Header(0, sequence.size, is_square=False)  # each frame may state its own form
    return References(header, lambda packet: [(0, len(packet))], set(), partial(_av1_kind, sequence))


def _av1_units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the content of each unit, which must have no layer and state its size."""
    place = 0
    while place < len(data):
        head = data[place]
        _must(head & 0b10000111 == 0b10)
        size = shift = 0
        while True:
            place += 1
            size |= (data[place] & 0x7F) << shift
            shift += 7
            if not data[place] & 0x80:
                break
        place += 1
        _must(place + size <= len(data))
        yield head >> 3, data[place : place + size]
        place += size


def _av1_sequence(unit: bytes) -> _Sequence:
    bits = _Bits(unit, has_marks=False)
    bits.take(3)
    _must(bits.take(2) == 0)  # no still picture
    if bits.take(1):
        bits.take(64)
        if bits.take(1):
            bits.number()
        _must(not bits.take(1))  # no model of the decoder
    states_delay = bits.take(1)
    _must(bits.take(5 + 12) == 0)  # one layer
    if bits.take(5) > 7:
        bits.take(1)
    if states_delay and bits.take(1):
        bits.take(4)
    width_bits = bits.take(4) + 1
    height_bits = bits.take(4) + 1
    size = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    _must(not bits.take(1))  # frames have no numbers
    bits.take(7)
    has_order = bits.take(1)
    if has_order:
        bits.take(2)
    screen_tools = _AV1_CHOSEN if bits.take(1) else bits.take(1)
    whole_motion = _AV1_CHOSEN
    if screen_tools:
        whole_motion = _AV1_CHOSEN if bits.take(1) else bits.take(1)
    order_bits = bits.take(3) + 1 if has_order else 0
    return _Sequence(size, order_bits, screen_tools, whole_motion)


def _av1_kind(sequence: _Sequence, packet: bytes, start: int, end: int, sets: set[bytes]) -> Kind | None:
    kinds = []
    for unit, content in _av1_units(packet[start:end]):
        if unit in _AV1_FRAMES:
            kinds.append(_av1_frame(_Bits(content[:_AV1_HEAD], has_marks=False), sequence))
        elif unit == _AV1_SEQUENCE:
            _must(_av1_sequence(content) == sequence)
        else:
            _must(unit in _AV1_OTHERS)
    _must(len(kinds) == 1 or (len(kinds) > 1 and not any(kind.is_key for kind in kinds)))
    return kinds[0] if len(kinds) == 1 else Kind(False, True)


def _av1_frame(bits: _Bits, sequence: _Sequence) -> Kind:
    """Read the header of a frame, up to the places in which it is kept for others."""
    if bits.take(1):  # one that is kept is shown
        return Kind(False, True)
    kind = bits.take(2)
    is_shown = bits.take(1)
    if kind == _AV1_KEY and is_shown:
        return Kind(True, True)
    if not is_shown:
        return Kind(False, True)
    resists_errors = kind == _AV1_SWITCH or bits.take(1)
    bits.take(1)
    has_tools = bits.take(1) if sequence.screen_tools == _AV1_CHOSEN else sequence.screen_tools
    if has_tools and sequence.whole_motion == _AV1_CHOSEN:
        bits.take(1)
    if kind != _AV1_SWITCH:
        bits.take(1)
    bits.take(sequence.order_bits)
    if kind != _AV1_INTRA and not resists_errors:
        bits.take(3)
    return Kind(False, kind == _AV1_SWITCH or bits.take(8) != 0)
