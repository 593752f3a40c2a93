"""The size that the header of a picture claims, read without a decoder."""

import struct

# Markers of JPEG that begin a frame, with its size; the others between 0xC0 and 0xCF are tables.
_JPEG_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_TIFF_KINDS = {3: "H", 4: "I"}  # numbers of 16 and of 32 bits


def picture_size(head: bytes) -> tuple[int, int]:
    """Return width and height in the header of a BMP, GIF, JPEG, PNG, QOI, SGI, TIFF or WebP picture, else zeros.

    Args:
        head: the first bytes of its file.
    """
    try:
        if head.startswith(b"GIF8"):
            width, height = struct.unpack_from("<HH", head, 6)
        elif head.startswith(b"\x89PNG"):
            width, height = struct.unpack_from(">II", head, 16)
        elif head.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", head, 18)
        elif head.startswith(b"\xff\xd8"):
            width, height = _jpeg_size(head)
        elif head.startswith((b"II*\0", b"MM\0*")):
            width, height = _tiff_size(head)
        elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            width, height = _webp_size(head)
        elif head.startswith(b"qoif"):
            width, height = struct.unpack_from(">II", head, 4)
        elif head.startswith(b"\x01\xda"):
            width, height = struct.unpack_from(">HH", head, 6)
        else:
            return 0, 0
    except struct.error:  # the header is cut short
        return 0, 0
    return abs(width), abs(height)  # a BMP whose rows begin at the top has a negative height


def _jpeg_size(head: bytes) -> tuple[int, int]:
    place = 2
    while True:
        mark, kind, length = struct.unpack_from(">BBH", head, place)
        if mark != 0xFF or kind == 0xDA:  # the pixels have begun
            return 0, 0
        if kind in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", head, place + 5)
            return width, height
        place += 2 + length


def _tiff_size(head: bytes) -> tuple[int, int]:
    order = "<" if head.startswith(b"II") else ">"
    (place,) = struct.unpack_from(f"{order}I", head, 4)
    (count,) = struct.unpack_from(f"{order}H", head, place)
    sizes = {256: 0, 257: 0}
    for entry in range(place + 2, place + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", head, entry)
        if tag in sizes and kind in _TIFF_KINDS:
            (sizes[tag],) = struct.unpack_from(f"{order}{_TIFF_KINDS[kind]}", head, entry + 8)
    return sizes[256], sizes[257]


def _webp_size(head: bytes) -> tuple[int, int]:
    """The size of the canvas, or that of the only picture, with loss or without."""
    kind = head[12:16]
    if kind == b"VP8X":
        low, high = struct.unpack_from("<IH", head, 24)
        size = low | high << 32
        return (size & 0xFFFFFF) + 1, (size >> 24) + 1
    if kind == b"VP8L":
        (size,) = struct.unpack_from("<I", head, 21)
        return (size & 0x3FFF) + 1, (size >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", head, 26)
    return width & 0x3FFF, height & 0x3FFF
