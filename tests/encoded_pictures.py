"""Files of one picture."""

from fractions import Fraction
from io import BytesIO

import av
from PIL import Image


def encoded(picture, kind, orientation=None, **options):
    """Write a PIL image in a format that Pillow names, with an EXIF orientation if one is given; return the bytes."""
    if kind == "QOI":
        return _encoded_by_ffmpeg(picture)  # not every Pillow that reads it writes it
    file = BytesIO()
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][274] = orientation
    picture.save(file, kind, **options)
    return file.getvalue()


def _encoded_by_ffmpeg(picture):
    writer = av.CodecContext.create("qoi", "w")
    writer.width, writer.height = picture.size
    writer.pix_fmt = {"RGB": "rgb24", "RGBA": "rgba"}[picture.mode]
    writer.time_base = Fraction(1, 25)
    frame = av.VideoFrame(*picture.size, writer.pix_fmt)
    plane = frame.planes[0]
    row = len(picture.mode) * picture.width
    rows = (picture.tobytes()[start : start + row] for start in range(0, row * picture.height, row))
    plane.update(b"".join(pixels.ljust(plane.line_size, b"\0") for pixels in rows))
    return b"".join(bytes(packet) for packet in [*writer.encode(frame), *writer.encode(None)])
