"""Where another file begins behind the first one, as in files that were joined byte by byte.

FFmpeg reads on into files of some kinds. Of all others it is shown the first one alone: it would take indices and
fragments of the second for those of the first, or the second's header for damage.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from .decoding_damage import ogg_page_length
from .decoding_endings import LONGEST_HEAD, stated_end

BytesAt = Callable[[int, int], bytes]

NOT_READ = "which is not read"
COUNTED_ON = "whose pictures are counted on"
ANEW = "whose clock begins anew"
# Bytes that are searched where nothing states the end of a file, and read at once.
SEARCHED = 2**29
PART = 2**20
LONGEST_TRAILER = 2**20  # bytes behind the last picture in which another file is looked for: indices and tags
LONGEST_START = 256  # bytes by which a file is known
MP4_START = b"ftyp"  # kind of the first box, behind its length
MOST_BOXES = 2**15  # of an MP4 file, among which the start of another one is looked for
OGG_FIRST = 2  # flag of the first page of a stream
# How headers of pictures in Ogg begin, which FFmpeg takes for pictures in all files but the first.
OGG_HEADERS = {"vp8": (b"OVP80",), "theora": (b"\x80theora", b"\x81theora", b"\x82theora")}


class Kind(NamedTuple):
    """How all files of a kind begin, and what becomes of one behind another. No file holds its start twice."""

    start: re.Pattern[bytes]
    fate: str = NOT_READ


# By FFmpeg's names of them. Files that consist of pictures alone, such as raw streams, are not joined but longer.
KINDS = {
    "apng": Kind(re.compile(rb"\x89PNG\r\n\x1a\n.{29,200}?acTL", re.DOTALL)),
    "asf": Kind(re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c")),
    "avi": Kind(re.compile(rb"RIFF....AVI LIST", re.DOTALL), COUNTED_ON),
    "flv": Kind(re.compile(rb"FLV\x01.\0\0\0\x09\0\0\0\0", re.DOTALL)),
    "gif": Kind(re.compile(rb"GIF8[79]a"), COUNTED_ON),
    "ivf": Kind(re.compile(rb"DKIF\0\0\x20\0")),
    "matroska,webm": Kind(re.compile(rb"\x1a\x45\xdf\xa3.{1,60}?(?:matroska|webm)", re.DOTALL), ANEW),
    "mov,mp4,m4a,3gp,3g2,mj2": Kind(re.compile(rb"\0\0\0.ftyp", re.DOTALL)),
    "mxf": Kind(re.compile(rb"\x06\x0e\x2b\x34\x02\x05\x01.\x0d\x01\x02\x01\x01\x02", re.DOTALL)),
    "nut": Kind(re.compile(rb"nut/multimedia container\0")),
    "ogg": Kind(re.compile(rb"OggS\0[\x02\x06]\0{8}"), ANEW),
    "rm": Kind(re.compile(rb"\.RMF\0\0\0[\x10\x12]\0[\0\x01]")),
    "smjpeg": Kind(re.compile(rb"\0\nSMJPEG\0\0\0\0")),
    "wtv": Kind(re.compile(rb"\xb7\xd8\x00\x20\x37\x49\xda\x11\xa6\x4e\x00\x07\xe9\x5e\xad\x8d")),
    "yuv4mpegpipe": Kind(re.compile(rb"YUV4MPEG2 ")),
}


class NextFile(NamedTuple):
    """The byte at which a file begins behind another one, and what becomes of it."""

    start: int
    fate: str


def next_file(bytes_at: BytesAt, size: int) -> NextFile | None:
    """Find the file that follows the first one, from its boxes, its stated end or its first bytes.

    Args:
        bytes_at: gives the bytes from a place on, at most so many.
        size: of all files together.
    """
    head = bytes_at(0, LONGEST_HEAD)
    for name, kind in KINDS.items():
        if kind.start.match(head):
            start = _start_behind(name, kind, bytes_at, size)
            return None if start is None else NextFile(start, kind.fate)
    return None


def is_header(codec: str, packet: bytes) -> bool:
    """Return whether a packet of a joined Ogg file is the header of a stream instead of a picture."""
    return packet.startswith(OGG_HEADERS.get(codec, ()))


def start_in(format_name: str, data: bytes) -> int | None:
    """Return the place in `data` at which a file of the format begins, `None` where none does."""
    if format_name not in KINDS:
        return None
    found = KINDS[format_name].start.search(data)
    return None if found is None else found.start()


def _start_behind(name: str, kind: Kind, bytes_at: BytesAt, size: int) -> int | None:
    head = bytes_at(0, LONGEST_HEAD)
    if head[4:8] == MP4_START:
        return _next_ftyp(bytes_at, size)
    stated = stated_end(name, head)
    if stated is None or not 0 < stated <= size:
        first = _behind_first_pages(bytes_at) if name == "ogg" else 1
        return _searched(name, bytes_at, first, size)
    return stated if kind.start.match(bytes_at(stated, LONGEST_START)) else None


def _searched(name: str, bytes_at: BytesAt, first: int, size: int) -> int | None:
    for place in range(first, min(size, SEARCHED), PART):
        found = start_in(name, bytes_at(place, PART + LONGEST_START))
        if found is not None:
            return place + found
    return None


def _behind_first_pages(bytes_at: BytesAt) -> int:
    """The byte behind the first pages of all streams of an Ogg file, which stand together at its start."""
    place = 0
    while True:
        page = bytes_at(place, LONGEST_HEAD)
        length = ogg_page_length(page)
        if length == 0 or not page[5] & OGG_FIRST:
            return place
        place += length


def _next_ftyp(bytes_at: BytesAt, size: int) -> int | None:
    place = 0
    for _ in range(MOST_BOXES):
        header = bytes_at(place, 16)
        kind = header[4:8]
        if len(header) < 8 or (place == 0) != (kind == MP4_START):
            return place if kind == MP4_START else None
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:], "big")
        if length < 8 or place + length >= size:
            return None
        place += length
    return None
