"""What may be opened as a video: paths, addresses, bytes and file objects, as containers of PyAV.

No other file opens containers. FFmpeg reads a file object and opens nothing by itself, unless the caller names the
format of a camera or of another live source.
"""

import bz2
import errno
import gzip
import http.client
import lzma
import os
import re
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache
from io import SEEK_END, SEEK_SET, BytesIO, IOBase
from typing import Any

import av
from huggingface_hub.utils import httpx

from .decoding_deadlines import client_for
from .decoding_headers import picture_size
from .decoding_joined import NOT_READ, NextFile, next_file

# PyAV before 19 refuses tags that are not UTF-8 without this option, and PyAV from 19 on has no such option.
_PYAV = int(av.__version__.partition(".")[0])
_TAG_OPTIONS: dict[str, Any] = {} if _PYAV >= 19 else {"metadata_errors": "replace"}
# PyAV before 18 takes no options for streams that a container announces late, as MPEG-TS does.
_TAKES_STREAM_OPTIONS = _PYAV >= 18
# FFmpeg counts the pixels of whole blocks beyond the edges, so its own limit is a little higher than ours.
_BLOCKS = 1.25
_BLOCK_PIXELS = 2**20

# Decoders that mend damaged pictures and flag them in one thread alone. With threads for slices they leave old
# pictures in the holes without a flag.
_MENDING_ALONE = ("h264",)
# Decoders that mend damaged pictures without a flag, unless they must refuse them.
_MENDING_IN_SILENCE = ("mjpeg",)
REFUSING = {"err_detect": "crccheck+explode"}
_UNDECODED = {"skip_frame": "all"}
# The decoder of AV1 works on as many frames at once as the machine has cores for, each with several times its memory.
_ONE_FRAME_AT_A_TIME = {"max_frame_delay": "1"}

CONTAINERS = tuple(
    "apng asf av1 avi avs avs2 avs3 bmp_pipe cavsvideo dhav dirac dnxhd dpx_pipe dv evc exr_pipe flv gif gif_pipe gxf "
    "h261 h263 h264 hevc ipu ivf ivr j2k_pipe jpeg_pipe jpegls_pipe jpegxl_anim jpegxl_pipe jpegxs_pipe kux live_flv "
    "m4v matroska,webm mjpeg mjpeg_2000 mov,mp4,m4a,3gp,3g2,mj2 mpeg mpegts mpegtsraw mpegvideo mpjpeg mxf nsv nut "
    "obu ogg pam_pipe pbm_pipe pcx_pipe pgm_pipe pgmyuv_pipe png_pipe ppm_pipe qoi_pipe rm sgi_pipe smjpeg "
    "sunrast_pipe tiff_pipe vc1 vc1test vvc webp_pipe wtv xbm_pipe xpm_pipe xwd_pipe yuv4mpegpipe".split()
)
"""FFmpeg's names of the accepted formats, which hold pictures and refer to no other file or address."""

LIVE_FORMATS = ("dash", "hls", "image2pipe", "rawvideo", "rtp", "rtsp", "sap", "sdp")
"""Formats that the caller may name, beside `CONTAINERS` and the devices of FFmpeg."""

_LOCAL_PROTOCOLS = "file,pipe,fd,crypto,data,udp,rtp,srtp"
_REMOTE_PROTOCOLS = "http,https,httpproxy,tls,tcp,udp,udplite,rtp,srtp,rtmp,rtmps,rtmpe,rtmpt,rtmpts,srt,crypto,data"
_NO_PROTOCOL = "none"
_SEGMENTS = ("aac", "ac3", "eac3", "mp3", "webvtt")  # what live sources send beside pictures
_ADDRESS = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]*://")
# Content types and first bytes of sources that have no end or lead elsewhere, and the format to name for each.
_LIVE_CONTENT = {"multipart/": "mpjpeg", "mpegurl": "hls", "dash+xml": "dash", "application/sdp": "sdp"}
_LISTS = {b"#EXTM3U": "hls", b"v=0\r\n": "sdp", b"v=0\n": "sdp"}

# Files whose seeks read all again from the front, or fail although `seekable()` is true.
_STREAMED = (gzip.GzipFile, bz2.BZ2File, lzma.LZMAFile, zipfile.ZipExtFile, tarfile.ExFileObject)
# The errors of a damaged file of those kinds, of a network or of a disk.
_READ_TROUBLE = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    http.client.HTTPException,
)
_CHUNK = 2**20
LONGEST_SHOWN = 300  # characters of a text that leads to no file, as base64 text does
HEAD = 2**20  # bytes of a picture that hold its size, behind EXIF data and a preview, too


@dataclass(frozen=True)
class SourceLimits:
    """Limits on a file and its claims, so that no file takes more memory, disk or time than its pictures need.

    Beside the frames that are returned, decoding takes at most 16 times the memory of one frame: in RGB, in 8 bits,
    before it is stretched. The bound counts all that is held at once, the decoder's own frames with it, and holds
    where these leave room for the picture that is made. HEVC in 4:4:4 with 12 bits takes 14 for seven of them; a
    stream that needs more takes more.

    Args:
        max_pixels: of a picture, before and after pixels that are not square have been stretched.
        max_aspect_ratio: of a pixel, its longer side to its shorter.
        max_bytes: of a file that is kept on disk because it can be read only once: a download, a compressed file.
        max_unstated_bytes, max_seconds: of a download, a pipe or a socket that states no length, as where is no end.
        max_download_seconds: of any download.
        max_video_seconds: of a video of which a clip is read, by its header.
    """

    max_pixels: int = field(default=2**26, metadata={"help": "of a picture"})
    max_aspect_ratio: float = field(default=3.0, metadata={"help": "of a pixel, its longer side to its shorter"})
    max_bytes: int = field(default=2**33, metadata={"help": "of a download, or of a compressed file"})
    max_unstated_bytes: int = field(default=2**28, metadata={"help": "of a download whose server states no length"})
    max_seconds: float = field(default=60.0, metadata={"help": "of a download whose server states no length"})
    max_download_seconds: float = field(default=3600.0, metadata={"help": "of any download"})
    max_video_seconds: float = float("inf")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"{name} must be a number greater than zero, got {value!r}")

    def stated(self) -> dict[str, Any]:
        """The limits that differ from the defaults, by name."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) != one.default}

    def check_size(self, width: int, height: int, name: str) -> None:
        """Raise `VideoDecodeError` if pictures of this size are larger than allowed."""
        if width * height > self.max_pixels:
            raise VideoDecodeError(
                f"{name} cannot be read: its pictures must have at most max_pixels={self.max_pixels}, "
                f"got {width} x {height} pixels"
            )


LIMITS = SourceLimits()


class VideoDecodeError(ValueError):
    """A file that is no readable video or picture, or that is damaged at a wanted frame."""


@contextmanager
def errors_named(name: str, trouble: str) -> Iterator[None]:
    """Turn the errors of PyAV and FFmpeg for a file into a `VideoDecodeError`: `{name} {trouble}: {reason}`.

    It belongs around calls of PyAV alone. Errors of our own mistakes, such as a `TypeError`, pass.
    """
    try:
        yield
    except VideoDecodeError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = (isinstance(error, OSError | av.FFmpegError) and error.strerror) or error
        raise VideoDecodeError(f"{name} {trouble}: {reason}") from error


def open_container(
    source: Any,
    name: str,
    source_format: str | None = None,
    limits: SourceLimits = LIMITS,
    decodes: bool = True,
) -> tuple[Any, Any]:
    """Open a container at its start and choose its best video stream.

    Args:
        source: as `opened` gives it; with a format, also an address or a device.
        name: of the source, for messages.
        source_format: FFmpeg's name of an input format; found by the content when absent.
        limits: for the size of its pictures.
        decodes: whether the first pictures are decoded, for what the header may not state of them.

    Raises:
        VideoDecodeError: `source` is no video, is in a format that leads to other files, or exceeds `limits`.
        ValueError: there is no such `source_format`, or it is neither a container nor a live source.
    """
    options = {"max_pixels": str(int(_BLOCKS * limits.max_pixels) + _BLOCK_PIXELS)}
    container = _open(source, name, source_format, options if decodes else options | _UNDECODED)
    try:
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None or stream.disposition & av.stream.Disposition.attached_pic:
            raise VideoDecodeError(f"{name} has no video stream that can be decoded")
        codec = stream.codec_context
        if codec.width and codec.height:
            limits.check_size(codec.width, codec.height, name)
        elif isinstance(source, ReadableFile):  # FFmpeg discards a size beyond the limit
            limits.check_size(*_claimed_size(source, name, source_format), name)
            source.seek(0)
            container.close()
            container = _open(source, name, source_format, options)
            stream = container.streams.best("video")
    except BaseException:
        container.close()
        raise
    options = options | _ONE_FRAME_AT_A_TIME
    stream.codec_context.options = options | (REFUSING if mends_in_silence(stream) else {})
    # Frame threads would swallow the error at the end of a truncated file.
    stream.thread_type = "NONE" if stream.codec_context.name in _MENDING_ALONE else "SLICE"
    return container, stream


def mends_in_silence(stream: Any) -> bool:
    """Return whether the decoder of a stream must refuse damaged pictures, since it does not flag what it mends.

    Each of its pictures stands for itself, so that another decoder may mend it.
    """
    return stream.codec_context.name in _MENDING_IN_SILENCE


def _open(source: Any, name: str, source_format: str | None, options: dict[str, str]) -> Any:
    formats: tuple[str, ...] = CONTAINERS
    protocols = _NO_PROTOCOL
    if source_format is not None:
        _check_format(source_format)
        formats = (*CONTAINERS, *_SEGMENTS, source_format)
    if isinstance(source, str):
        protocols = _REMOTE_PROTOCOLS if _ADDRESS.match(source) else _LOCAL_PROTOCOLS
    else:
        _check_head(source, name, source_format)
        source.look_behind()
        source.seek(0)
    with errors_named(name, "cannot be read as a video"):
        try:
            return av.open(
                source,
                mode="r",
                format=source_format,
                options=options if _TAKES_STREAM_OPTIONS else None,
                container_options={"format_whitelist": ",".join(formats), "protocol_whitelist": protocols},
                **_TAG_OPTIONS,
            )
        except av.FFmpegError as error:
            if error.errno != errno.EINVAL:
                raise
            reason = "it is damaged, or in a format without video or one that leads to other files"
            raise VideoDecodeError(f"{name} cannot be read as a video: {error.strerror}: {reason}") from error


def _check_format(source_format: str) -> None:
    """Refuse a format that is neither a container nor a live source nor a device."""
    try:
        known = av.ContainerFormat(source_format, "r")
    except ValueError as error:
        raise ValueError(
            f"source_format must be FFmpeg's name of an input format, such as 'v4l2', got {source_format!r}"
        ) from error
    if not (_is_device(known) or source_format in LIVE_FORMATS or source_format in ",".join(CONTAINERS).split(",")):
        raise ValueError(f"source_format must be a device, a container or a live source, got {source_format!r}")


def _is_device(known: av.ContainerFormat) -> bool:
    return known.no_file and known.name not in ("image2", *LIVE_FORMATS)


def _check_head(source: "ReadableFile", name: str, source_format: str | None) -> None:
    """Refuse a list of addresses by the format that leads to them, unless the caller has named one."""
    source.seek(0)
    head = source.read(max(map(len, _LISTS)))
    for start, leading in _LISTS.items():
        if head.startswith(start) and source_format is None:
            raise VideoDecodeError(_live(name, "no video but a list of addresses", repr(leading)))


def _claimed_size(source: "ReadableFile", name: str, source_format: str | None) -> tuple[int, int]:
    """Width and height of a header, found without memory for a picture; zeros where it states none.

    FFmpeg states no size that it could not hold itself, nor that of a JPEG file beyond the limit.
    """
    with _open(source, name, source_format, _UNDECODED) as container:
        codec = container.streams.best("video").codec_context
        if codec.width and codec.height:
            return codec.width, codec.height
    source.seek(0)
    return picture_size(source.read(HEAD))


class ReadableFile:
    """The part of a binary file object that PyAV needs, without others from which it would guess a mode or a format.

    Args:
        file: is read and moved, and never closed.
        title: of the file, for messages.
        suffix: hint at the format, such as `.h264`.
    """

    def __init__(self, file: Any, title: str, suffix: str = ""):
        self.file = file
        self._title = title
        self._trouble: Exception | None = None
        self.name = f"video{suffix}"
        self.end: int | None = None  # of what is shown of the file, if more is there
        self.whole_size: int | None = None  # of the file, likewise
        self.next_file: NextFile | None = None  # behind the first one, where files were joined
        self._is_searched = False

    def read(self, size: int) -> bytes:
        """Read `size` bytes, fewer at the end alone; an error is raised once and ends the file from then on."""
        if self._trouble is not None:
            return b""
        if self.end is not None:
            size = min(size, max(self.end - self.tell(), 0))
        data = bytearray()
        try:
            while len(data) < size and (piece := _read(self.file, size - len(data), self._title)):
                data += piece  # of a file whose reads are short, as those of unbuffered ones may be
        except VideoDecodeError as error:
            self._trouble = error
            raise
        return bytes(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a place, as file objects do."""
        if self.end is not None and whence == SEEK_END:
            whence = SEEK_SET
            offset += self.end
        try:
            self.file.seek(offset, whence)
            return int(self.file.tell())
        except _READ_TROUBLE as error:
            raise VideoDecodeError(f"{self._title} cannot be read as a video: {error}") from error

    def look_behind(self) -> None:
        """Find out whether another file was joined byte by byte; unless FFmpeg reads on into it, hide it."""
        if self._is_searched:
            return
        self._is_searched = True
        size = self.seek(0, SEEK_END)
        self.next_file = next_file(self._bytes_at, size)
        if self.next_file is not None and self.next_file.fate == NOT_READ:
            self.end = self.next_file.start
            self.whole_size = size

    def _bytes_at(self, place: int, length: int) -> bytes:
        self.seek(place)
        return self.read(length)

    def tell(self) -> int:
        """The place at which the next read begins."""
        return int(self.file.tell())


def _read(file: Any, size: int, title: str) -> bytes:
    try:
        data = file.read(size)
    except _READ_TROUBLE as error:
        raise VideoDecodeError(f"{title} cannot be read as a video: {str(error) or type(error).__name__}") from error
    if not isinstance(data, (bytes, bytearray, memoryview)) or len(data) > max(size, 0):
        got = f"{len(data)} of {size} bytes" if isinstance(data, (bytes, bytearray)) else type(data).__name__
        raise VideoDecodeError(f"{title} cannot be read as a video: its read must give bytes, got {got}")
    return bytes(data)


@contextmanager
def opened(
    source: Any, limits: SourceLimits = LIMITS, source_format: str | None = None, kind: str = "video"
) -> Iterator[tuple[ReadableFile | str, str]]:
    """Turn any kind of source into one that PyAV can read and seek, with a name for messages; clean up behind it.

    With a format, FFmpeg opens an address or a device itself. Messages call the source a `kind`.

    Raises:
        FileNotFoundError: a path leads to no file.
        VideoDecodeError: the source cannot be read, has no end or is longer than `limits` allow.
        ValueError: it is of no kind that can be a video.
    """
    if isinstance(source, (str, os.PathLike)):
        place = os.fsdecode(source)
        if source_format is not None and (source_format in LIVE_FORMATS or not os.path.isfile(place)):
            _check_format(source_format)
            is_device = _is_device(av.ContainerFormat(source_format, "r"))
            # The prefix keeps FFmpeg from reading a colon in the name as a protocol.
            yield f"file:{place}" if os.path.exists(place) and not is_device else place, place
        elif re.match("https?://", place, re.IGNORECASE) and not os.path.exists(place):
            with tempfile.TemporaryFile() as file:
                _download(place, file, limits)
                yield ReadableFile(file, place), place
        else:
            _check_path(place, kind)
            suffix = os.path.splitext(place)[1]
            with errors_named(place, "cannot be read as a video"):
                opened_file = open(place, "rb")
            with opened_file as file:
                yield ReadableFile(file, place, suffix if _names_a_container(suffix) else ""), place
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data = source.tobytes() if isinstance(source, memoryview) else source  # `BytesIO` takes no view with gaps
        yield ReadableFile(BytesIO(data), f"the {kind} in bytes"), f"the {kind} in bytes"
    elif not hasattr(source, "read"):
        raise ValueError(f"a {kind} must be a path, URL, bytes or binary file object, got {type(source).__name__}")
    else:
        yield from _opened_object(source, f"the {kind} file object", limits)


def _names_a_container(suffix: str) -> bool:
    """Return whether the end of a name may help FFmpeg to find the format of a file.

    It must not lead FFmpeg away from the content to a refused format: for the names of pictures that is
    `image2`, which reads files by patterns.
    """
    return suffix[1:].lower() in _container_suffixes()


@cache
def _container_suffixes() -> frozenset[str]:
    known = [name for name in CONTAINERS if name in av.formats_available]
    suffixes = {suffix for name in known for suffix in av.ContainerFormat(name, "r").extensions}
    return frozenset(suffixes - av.ContainerFormat("image2", "w").extensions - {"mpo"})


def _check_path(path: str, kind: str) -> None:
    if os.path.isfile(path):
        return
    if os.path.exists(path) and not os.path.isdir(path):
        raise VideoDecodeError(_live(path, "a pipe or a device", "'mpegts' or 'v4l2'"))
    if _ADDRESS.match(path):
        raise VideoDecodeError(_live(path, "an address that cannot be fetched as a file", "'rtsp' or 'mpegts'"))
    reason = "a directory" if os.path.isdir(path) else "no such file"
    shown = path if len(path) <= LONGEST_SHOWN else f"{path[:LONGEST_SHOWN]}..."
    raise FileNotFoundError(f"a {kind} must be a local file or an http(s) URL, got {shown!r} ({reason})")


def _live(name: str, kind: str, formats: str) -> str:
    return (
        f"{name} is {kind}: what is read as it comes needs its address and format, source_format={formats} of "
        "iter_frames, --source_format of `hmba stream`"
    )


def _opened_object(source: Any, title: str, limits: SourceLimits) -> Iterator[tuple[ReadableFile, str]]:
    if getattr(source, "closed", False):
        raise ValueError(f"{title} must be an open file object, got a closed one")
    _read(source, 0, title)
    if _can_seek(source):
        try:
            yield ReadableFile(source, title), title
        finally:
            source.seek(0)
    else:
        lengths = [getattr(source, name, None) for name in ("length", "length_remaining")]  # of a server's response
        has_end = isinstance(source, _STREAMED) or any(isinstance(length, int) for length in lengths)
        with tempfile.TemporaryFile() as file:
            _keep(iter(lambda: _read(source, _CHUNK, title), b""), file, title, limits, has_end)
            yield ReadableFile(file, title), title


def _can_seek(source: Any) -> bool:
    if isinstance(source, _STREAMED) or not hasattr(source, "seek") or not hasattr(source, "tell"):
        return False
    if isinstance(source, IOBase) and not source.seekable():
        return False
    try:
        source.seek(0, SEEK_END)
        source.seek(0)
    except (OSError, ValueError):  # as `io.UnsupportedOperation` is
        return False
    return True


def _keep(chunks: Iterable[bytes], file: Any, name: str, limits: SourceLimits, has_end: bool) -> None:
    """Copy a source that can be read only once to a file, within limits, which are narrower if it may have no end."""
    kept = 0
    for chunk in chunks if has_end else _ending(chunks, name, limits):
        kept += len(chunk)
        if kept > limits.max_bytes:
            raise VideoDecodeError(f"{name} must have at most max_bytes={limits.max_bytes}, got more")
        file.write(chunk)


def _ending(chunks: Iterable[bytes], name: str, limits: SourceLimits) -> Iterator[bytes]:
    """Yield the bytes of a source that states no length, and refuse one that seems to have no end."""
    received = 0
    start = time.monotonic()
    for chunk in chunks:
        received += len(chunk)
        took = time.monotonic() - start
        if received > limits.max_unstated_bytes or took > limits.max_seconds:
            kind = f"a source that states no length and has not ended after {received} bytes and {took:.0f} s"
            raise VideoDecodeError(_live(name, kind, "'mpegts' or 'mpjpeg'"))
        yield chunk


def _download(url: str, file: Any, limits: SourceLimits) -> None:
    seconds = limits.max_download_seconds
    late = VideoDecodeError(f"{url} must come within max_download_seconds={seconds:g}, got no end")
    try:
        with client_for(seconds, late) as client, client.stream("GET", url) as response:
            _keep_response(response, url, file, limits)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise VideoDecodeError(f"cannot fetch {url}: {error}") from error


def _keep_response(response: httpx.Response, url: str, file: Any, limits: SourceLimits) -> None:
    response.raise_for_status()
    content = response.headers.get("content-type", "").lower()
    for kind, source_format in _LIVE_CONTENT.items():
        if kind in content:
            raise VideoDecodeError(_live(url, f"a source of type {content!r}", repr(source_format)))
    length = response.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.max_bytes:
        raise VideoDecodeError(f"{url} must have at most max_bytes={limits.max_bytes}, got {length}")
    states_length = length.isdecimal() and "content-encoding" not in response.headers  # of what it unpacks to
    _keep(response.iter_bytes(), file, url, limits, states_length)
