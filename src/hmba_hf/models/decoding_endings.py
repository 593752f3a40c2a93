"""Where a file ends by its own bytes, and how they show that it was cut short, in formats that state their end."""

import struct
from collections.abc import Callable
from typing import NamedTuple, SupportsBytes

LONGEST_HEAD = 2**16  # bytes of a header about its file
LONGEST_TAIL = 2**17  # bytes that hold the last page of an Ogg file, which has 65,307 at the most
MATROSKA_SEGMENT = b"\x18\x53\x80\x67"
# The header of ASF: what begins the object that describes the file, and where in it numbers stand.
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_NUMBERS = struct.Struct("<16x8x16xQ8x8xQ8xQ")
# What stands in the metadata of FLV before the length of the file, a floating-point number.
FLV_LENGTH = b"\0\x08filesize\0"
RIFF_HEADER = 8  # bytes, of which the last four hold the length of what follows
FLV_TAG_HEADER = 11  # bytes, of which three hold the length of what follows; behind a tag, four hold its whole length
# How keys begin of the partition with which an MXF file ends, and of the list of partitions that may follow it.
MXF_FOOTER = bytes.fromhex("060e2b34020501010d0102010104")
MXF_PARTITIONS = bytes.fromhex("060e2b34020501010d01020101110100")
MXF_KEY = 16  # bytes
LARGEST_FILE = 2**53  # bytes: larger numbers are no lengths
OGG_PAGE = b"OggS"
OGG_PAGE_HEADER = 27  # bytes, of which the sixth holds flags and the last one counts the lengths that follow
OGG_LAST = 4
MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
# Kinds of the outermost boxes of an MP4 file; what is of no known kind is no box.
MP4_BOXES = (*b"ftyp moov moof mdat mfra sidx styp ssix emsg prft free skip wide udta meta uuid pdin".split(),)
MOST_BOXES = 2**15
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
LONGEST_RIFF = 2**32 - 2**16  # bytes: larger lengths stand for unknown ones
RIFF_PADDING = 1  # byte that some programs count and do not write
# Packets of MPEG-TS: their length, and where in it the byte stands that each one has.
TS_PACKETS = ((188, 0), (192, 4), (204, 0))
TS_SYNC = 0x47
NUT_INDEX = b"NX\xddg/#\xe6N"
# Formats whose pictures reach to the end of the file, and the bytes before each that FFmpeg counts to its place.
PICTURES_TO_THE_END = {"dv": 0, "ivf": 12, "yuv4mpegpipe": 0}
JPEG_END = b"\xff\xd9"
QOI_END = bytes(7) + b"\1"
# The header of a GIF file, with flags three bytes before its end, and how blocks begin: others, and those of pixels,
# whose description ends with flags.
GIF_HEADS = (b"GIF87a", b"GIF89a")
GIF_HEADER = 13
GIF_EXTENSION = 0x21
GIF_PIXELS = 0x2C
GIF_DESCRIPTION = 10
PART_MARK = b"--"  # before and behind each part of a file of parts


class AsfProperties(NamedTuple):
    """The header of an ASF file: its bytes, its time in units of 100 ns, and the ms that come before it."""

    length: int
    time: int
    before: int


def asf_properties(head: bytes) -> AsfProperties | None:
    """Read the object of an ASF header that describes the file; `None` where there is none."""
    place = head.find(ASF_PROPERTIES)
    if place < 0 or len(head) < place + ASF_NUMBERS.size:
        return None
    return AsfProperties(*ASF_NUMBERS.unpack_from(head, place))


def stated_end(format_name: str, head: bytes) -> int | None:
    """Return the byte at which a file ends by its `head`, whatever follows; `None` where the head has none.

    Args:
        format_name: FFmpeg's name of its container.
        head: the first bytes of the file.
    """
    if format_name == "matroska,webm":
        return _segment_end(head)
    if format_name == "asf":
        properties = asf_properties(head)
        return None if properties is None else properties.length
    if format_name == "avi":
        return RIFF_HEADER + int.from_bytes(head[4:RIFF_HEADER], "little")
    place = head.find(FLV_LENGTH) + len(FLV_LENGTH)
    if format_name != "flv" or place < len(FLV_LENGTH) or len(head) < place + 8:
        return None
    (length,) = struct.unpack_from(">d", head, place)
    return int(length) if 0 < length < LARGEST_FILE else None


def torn_bytes(format_name: str, bytes_at: Callable[[int, int], bytes], size: int) -> str | None:
    """Return the evidence that a file of `size` bytes was longer; `None` where there is none.

    Args:
        format_name: FFmpeg's name of its container.
        bytes_at: returns the bytes from a place on, at most so many.
        size: of the file; zero or less where unknown.
    """
    if size <= 0:
        return None
    if format_name == "matroska,webm":
        return _torn_matroska(bytes_at(0, LONGEST_HEAD), size)
    if format_name == "flv":
        return _torn_flv(bytes_at, size)
    if format_name == MP4:
        return _torn_box(bytes_at, size)
    if format_name in ("asf", "avi"):
        return _torn_by_length(format_name, bytes_at(0, LONGEST_HEAD), size)
    if format_name not in ("ogg", "apng", "gif", "mxf", "nut"):
        return None
    tail = bytes_at(max(size - LONGEST_TAIL, 0), LONGEST_TAIL)
    if not tail:  # of a source that cannot be looked into
        return None
    if format_name == "apng":
        return None if PNG_END in tail else "its last chunk is missing"
    if format_name == "gif":  # a picture ends with a zero, and what else may follow is none of its own
        return "its end mark is missing" if tail.endswith(b"\0") and not tail.rstrip(b"\0").endswith(b";") else None
    if format_name == "nut":
        return None if NUT_INDEX in tail else "its index is missing"
    if format_name == "mxf":
        return None if _ends_as_mxf(tail) else "its last partition is missing or torn"
    return _torn_ogg(tail)


def torn_picture(format_name: str, rest: bytes) -> str | None:
    """Return the evidence of a torn picture in what follows the last whole one; `None` where there is none."""
    if format_name not in PICTURES_TO_THE_END:
        return None
    is_torn = rest[PICTURES_TO_THE_END[format_name] :].strip(b"\0")
    return "it ends within a picture" if is_torn else None


def is_whole_picture(codec: str, picture: SupportsBytes) -> bool | None:
    """Return whether a picture ends as whole ones do; `None` where nothing is known of its codec.

    Decoders of these codecs fill the rest of half a picture with what is in memory.
    """
    if codec == "mjpeg":
        return bytes(picture).endswith(JPEG_END)
    if codec == "qoi":
        return bytes(picture).endswith(QOI_END)
    return _is_whole_gif(bytes(picture)) if codec == "gif" else None


def _is_whole_gif(picture: bytes) -> bool:
    """Return whether the blocks of a picture of a GIF file, behind the header of the file or not, come to their ends.

    Half a picture may end as a whole one does, by zeros of a palette.
    """
    place = 0
    if picture.startswith(GIF_HEADS):
        place = GIF_HEADER + _palette_length(picture, GIF_HEADER - 3)
    has_pixels = False
    while place < len(picture):
        kind = picture[place]
        if kind == GIF_EXTENSION:
            place += 2
        elif kind == GIF_PIXELS:
            place += GIF_DESCRIPTION + _palette_length(picture, place + GIF_DESCRIPTION - 1) + 1
            has_pixels = True
        else:  # the end of the file, or of no known kind
            return has_pixels
        while place < len(picture) and picture[place]:
            place += 1 + picture[place]
        place += 1
    return has_pixels and place == len(picture)


def _palette_length(picture: bytes, place: int) -> int:
    """Bytes of the palette that the flags at a place announce."""
    flags = picture[place] if place < len(picture) else 0
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def torn_ts_packet(bytes_at: Callable[[int, int], bytes], start: int, end: int) -> bool:
    """Return whether a transport stream ends within a packet.

    Args:
        bytes_at: returns the bytes from a place on, at most so many.
        start: of a packet.
        end: of the file.
    """
    head = bytes_at(start, 2 * TS_PACKETS[-1][0])
    marks = bytes([TS_SYNC, TS_SYNC])
    for length, place in TS_PACKETS:
        if head[place::length][:2] == marks:
            tail = bytes_at(end - 2 * length, 2 * length)
            # What is no packet may lie before, and then the last ones still end where the file does.
            return (end - start) % length > 0 and tail[place::length][:2] != marks
    return False


def ends_parts(rest: bytes) -> bool:
    """Return whether a file of parts, as cameras send pictures, ends behind its last whole part."""
    mark = rest.strip()
    return not mark or (mark.startswith(PART_MARK) and b"\n" not in mark)


def _torn_by_length(format_name: str, head: bytes, size: int) -> str | None:
    """Compare the length that the header states with the size of the file. Live recordings state none, or zero."""
    end = stated_end(format_name, head)
    longest = LONGEST_RIFF if format_name == "avi" else LARGEST_FILE
    if end is None or not size + RIFF_PADDING < end < longest:
        return None
    return f"it ends at byte {size} of {end}"


def _torn_matroska(head: bytes, size: int) -> str | None:
    """Compare where the segment ends with the size of the file."""
    end = _segment_end(head)
    return None if end is None or end <= size else f"it ends at byte {size} of {end}"


def _torn_box(bytes_at: Callable[[int, int], bytes], size: int) -> str | None:
    """Follow the outermost boxes of an MP4 file to the last one: fragments tell nothing of those that are missing."""
    place = 0
    for _ in range(MOST_BOXES):
        header = bytes_at(place, 16)
        if header[4:8] not in MP4_BOXES:
            return None
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:], "big")
        if length < 8:  # zero: the box is open to the end of the file
            return None
        place += length
        if place > size:
            return f"it ends at byte {size}, in a box that ends at byte {place}"
    return None


def _segment_end(head: bytes) -> int | None:
    """The byte at which a segment of Matroska ends, after a number with its own length in the first byte."""
    place = head.find(MATROSKA_SEGMENT) + len(MATROSKA_SEGMENT)
    if place < len(MATROSKA_SEGMENT) or place >= len(head) or head[place] == 0:
        return None
    length = 9 - head[place].bit_length()
    bits = 7 * length
    stated = int.from_bytes(head[place : place + length], "big") & ((1 << bits) - 1)
    is_unknown = stated == (1 << bits) - 1  # as in live recordings
    return None if is_unknown else place + length + stated


def _torn_flv(bytes_at: Callable[[int, int], bytes], size: int) -> str | None:
    length = int.from_bytes(bytes_at(size - 4, 4), "big")
    start = size - 4 - length
    if not bytes_at(0, 1):
        return None
    header = bytes_at(start, FLV_TAG_HEADER) if start > 0 else b""
    is_whole = FLV_TAG_HEADER + int.from_bytes(header[1:4], "big") == length
    return None if is_whole else "it ends within a tag"


def _ends_as_mxf(tail: bytes) -> bool:
    """Return whether the keys and lengths of the last partition, or of the list behind it, lead to the very end."""
    place = tail.rfind(MXF_FOOTER)
    if place < 0:
        place = tail.rfind(MXF_PARTITIONS)
    while 0 <= place < len(tail) - MXF_KEY:
        place += MXF_KEY
        length = tail[place]
        place += 1
        if length >= 0x80:  # the length of the length
            size = length - 0x80
            length = int.from_bytes(tail[place : place + size], "big")
            place += size
        place += length
    return place == len(tail)


def _torn_ogg(tail: bytes) -> str | None:
    place = tail.rfind(OGG_PAGE)
    header = tail[place : place + OGG_PAGE_HEADER]
    if place < 0:
        return None
    if len(header) < OGG_PAGE_HEADER:
        return "it ends within a page"
    lengths = tail[place + OGG_PAGE_HEADER : place + OGG_PAGE_HEADER + header[-1]]
    if place + OGG_PAGE_HEADER + header[-1] + sum(lengths) > len(tail):
        return "it ends within a page"
    return None if header[5] & OGG_LAST else "its last page is not marked as the last"
