"""From a picture file, or a picture that Pillow has opened, to upright RGB in 8 bits, by the rules of videos."""

import os
import re
import struct
import zlib
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from .decoding_containers import HEAD, LIMITS, LONGEST_SHOWN, SourceLimits, VideoDecodeError, opened
from .decoding_headers import picture_size

PICTURE_FORMATS = tuple(
    "AVIF BMP DIB GIF HEIF ICO JPEG JPEG2000 JXL MPO PCX PNG PPM QOI SGI SUN TGA TIFF WEBP XBM XPM".split()
)
"""Pillow's names of the accepted formats, which hold pixels alone: for PostScript it would start another program."""

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""How names of pictures in a folder end, in small letters."""

_ORIENTATION = 274
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where Pillow keeps an orientation, which would turn a copy once more.
_KEPT_ORIENTATION = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
# The errors of Pillow for damaged files, as found in trials with thousands of them.
_PICTURE_TROUBLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class PictureHeader(NamedTuple):
    """The header of a picture file.

    Args:
        size: width and height of the upright picture.
        is_plain_jpeg: whether it is an upright JPEG file in RGB, which can be kept as it is.
    """

    size: tuple[int, int]
    is_plain_jpeg: bool


def list_pictures(folder: str | os.PathLike) -> list[Path]:
    """List the pictures in a folder in the natural order of their names, 2 before 10, without hidden files."""
    paths = [path for path in Path(folder).iterdir() if not path.name.startswith(".") and not path.is_dir()]
    return sorted((path for path in paths if path.suffix.lower() in PICTURE_SUFFIXES), key=_natural_order)


def _natural_order(path: Path) -> tuple[list[Any], str]:
    pieces = re.split(r"(\d+)", path.stem)  # text and numbers by turns; the suffix would part 1.png from 1 (2).png
    return [int(piece) if place % 2 else piece.casefold() for place, piece in enumerate(pieces)], path.name


def read_picture(source: Any, limits: SourceLimits = LIMITS) -> Image.Image:
    """Read a picture file as an upright RGB image in 8 bits, transparency over white.

    Args:
        source: path, http(s) URL, bytes or binary file object.
        limits: of the file and its claims.

    Raises:
        FileNotFoundError: a path leads to no file.
        VideoDecodeError: it is no picture, is damaged, or is larger than `limits` allow.
    """
    with opened(source, limits, kind="picture") as (file, name):
        return upright_rgb(_open_picture(file, name, limits), limits, name)


def load_frame(source: str, limits: SourceLimits = LIMITS) -> Image.Image:
    """Read a frame from a path, a URL or base64 text, upright and in 8 bits, within `limits`.

    Raises:
        VideoDecodeError: it holds no picture that can be read, or a larger one than `limits` allow.
        ValueError: the text is none of these.
    """
    if os.path.exists(source) or source.startswith(("http://", "https://")):
        return read_picture(source, limits)
    text = source.partition(",")[2] if source.startswith("data:image/") else source
    try:
        data = b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        start = source if len(source) <= LONGEST_SHOWN else f"{source[:LONGEST_SHOWN]}..."
        raise ValueError(f"a picture must be a local file, an http(s) URL or base64 text, got {start!r}") from error
    return read_picture(data, limits)


def read_picture_header(source: Any, limits: SourceLimits = LIMITS) -> PictureHeader:
    """Read the header of a picture file; one that has to be turned is decoded. Errors are those of `read_picture`."""
    with opened(source, limits, kind="picture") as (file, name):
        picture = _open_picture(file, name, limits)
        limits.check_size(*picture.size, name)
        is_plain_jpeg = (picture.format, picture.mode) == ("JPEG", "RGB") and _orientation(picture) not in _TURNS
        return PictureHeader(upright(picture, name).size, is_plain_jpeg)


def _open_picture(file: Any, name: str, limits: SourceLimits) -> Image.Image:
    Image.init()
    formats = [known for known in PICTURE_FORMATS if known in Image.OPEN]  # packages add some of them
    with _errors_named(name):
        try:
            return Image.open(file.file, formats=formats)
        except Image.DecompressionBombError as error:  # does not tell the size
            trouble = error
    file.seek(0)
    limits.check_size(*picture_size(file.read(HEAD)), name)
    raise VideoDecodeError(f"{name} cannot be read as a picture: {trouble}") from trouble


def upright_rgb(picture: Image.Image, limits: SourceLimits = LIMITS, name: str = "a picture") -> Image.Image:
    """Decode an opened picture and turn it upright, as `decode_picture` does, in RGB, transparency over white."""
    picture = decode_picture(picture, limits, name)
    if "A" in picture.getbands() or picture.info.get("transparency") is not None:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def decode_picture(picture: Image.Image, limits: SourceLimits = LIMITS, name: str = "a picture") -> Image.Image:
    """Decode an opened picture, turn it upright, and bring 16 bits to 8.

    Raises:
        VideoDecodeError: it is damaged or larger than `limits` allow.
    """
    limits.check_size(*picture.size, name)
    if picture.format == "EPS":
        raise VideoDecodeError(f"{name} must hold pixels, got PostScript, which Pillow runs in another program")
    load_picture(picture, name)
    return eight_bits(upright(picture, name), name)


def load_picture(picture: Image.Image, name: str = "a picture") -> None:
    """Decode an opened picture in its place.

    Raises:
        VideoDecodeError: it is damaged.
    """
    with _errors_named(name):
        picture.load()


def upright(picture: Image.Image, name: str = "a picture") -> Image.Image:
    """Turn an opened picture upright as its EXIF data ask; one that is upright stays as it is, decoded or not."""
    if _orientation(picture) not in _TURNS:
        return picture
    load_picture(picture, name)
    turn = _TURNS.get(_orientation(picture))  # Pillow may have turned it by itself, as it does TIFF files
    if turn is None:
        return picture
    turned = picture.transpose(turn)
    for key in _KEPT_ORIENTATION:
        turned.info.pop(key, None)
    return turned


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or the EXIF data are damaged."""
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except _PICTURE_TROUBLE:
        return 1
    return value if isinstance(value, int) else 1


def eight_bits(picture: Image.Image, name: str = "a picture") -> Image.Image:
    """Bring a gray picture of 16 bits to 8, as FFmpeg does for videos: `min((x + 128) // 256, 255)`.

    Pillow's mode `I`, of 32 bits, holds 16 of them where a value exceeds 255 or the file is a PNG. Its mode `F` has no
    scale of its own: values are rounded, unless they show that they are none of 8 bits.
    """
    if picture.mode == "F":
        return _rounded(picture, name)
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.int32)
    if picture.mode == "I" and values.max(initial=0) <= 255 and picture.format != "PNG":
        return picture
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise VideoDecodeError(f"{name} must have pixels between 0 and 65535, got {values.min()} to {values.max()}")
    return Image.fromarray(np.minimum((values + 128) >> 8, 255).astype(np.uint8))


def _rounded(picture: Image.Image, name: str) -> Image.Image:
    """Round a gray picture of floats, and refuse one of another scale, such as 0 to 1, or with a NaN."""
    values = np.asarray(picture)
    low = values.min(initial=0)
    high = values.max(initial=0)
    is_of_one = high <= 1 and bool((values % 1).any())
    if not (low >= 0 and high <= 255) or is_of_one:
        raise VideoDecodeError(f"{name} must have pixels between 0 and 255, got floats from {low} to {high}")
    return Image.fromarray(np.rint(values).astype(np.uint8))


@contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """Turn the errors of Pillow for a file into a `VideoDecodeError`; it belongs around calls of Pillow alone."""
    try:
        yield
    except UnidentifiedImageError as error:  # its text has an address of this process
        raise VideoDecodeError(f"{name} cannot be read as a picture: it is damaged or of no known format") from error
    except _PICTURE_TROUBLE as error:
        raise VideoDecodeError(f"{name} cannot be read as a picture: {str(error) or type(error).__name__}") from error
