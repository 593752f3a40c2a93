"""What may be opened as a video: paths, addresses, bytes and file objects, as containers of PyAV."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import av
from huggingface_hub.utils import httpx

# PyAV before 19 refuses tags that are not UTF-8 unless it is told otherwise, and PyAV from 19 on cannot be told.
_TAG_OPTIONS: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "replace"}


class VideoDecodeError(ValueError):
    """A file that is no readable video, or one that is damaged where a wanted frame lies."""


@contextmanager
def errors_named(name: str, trouble: str) -> Iterator[None]:
    """Turn what PyAV and FFmpeg raise for a file into a `VideoDecodeError`: `{name} {trouble}: {reason}`.

    It belongs around calls of PyAV alone. What a mistake of ours raises, such as a `TypeError`, passes.
    """
    try:
        yield
    except VideoDecodeError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoDecodeError(f"{name} {trouble}: {error}") from error


def open_container(source: Any, name: str, source_format: str | None = None) -> tuple[Any, Any]:
    """Open a container at its start and choose its best video stream."""
    if hasattr(source, "seek"):
        source.seek(0)
    with errors_named(name, "cannot be read as a video"):
        container = av.open(source, mode="r", format=source_format, **_TAG_OPTIONS)
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None or stream.disposition & av.stream.Disposition.attached_pic:
        container.close()
        raise VideoDecodeError(f"{name} has no video stream that can be decoded")
    # Frame threads would swallow the error at the end of a truncated file.
    stream.thread_type = "SLICE"
    return container, stream


@contextmanager
def opened(source: Any) -> Iterator[tuple[Any, str]]:
    """Turn any kind of source into what PyAV can open and seek, with a name for messages; clean up behind it."""
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        with tempfile.TemporaryFile() as file:
            _download(source, file)
            yield file, source
    elif isinstance(source, (str, os.PathLike)):
        if not os.path.isfile(source):
            reason = "a directory" if os.path.isdir(source) else "no such file"
            raise FileNotFoundError(f"a video must be a local file or an http(s) URL, got {str(source)!r} ({reason})")
        # The prefix keeps FFmpeg from reading a colon in the name as a protocol.
        yield f"file:{os.fspath(source)}", str(source)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield BytesIO(source), "the video in bytes"
    elif not hasattr(source, "read"):
        raise ValueError(f"a video must be a path, URL, bytes or binary file object, got {type(source).__name__}")
    elif isinstance(source.read(0), str):
        raise VideoDecodeError("the video file object cannot be read as a video: it must give bytes, got text")
    elif hasattr(source, "seek") and getattr(source, "seekable", lambda: True)():
        try:
            yield source, "the video file object"
        finally:
            source.seek(0)
    else:
        with tempfile.TemporaryFile() as file:
            shutil.copyfileobj(source, file)
            yield file, "the video file object"


def _download(url: str, file: Any) -> None:
    try:
        with httpx.stream("GET", url, follow_redirects=True) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                file.write(chunk)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise VideoDecodeError(f"cannot fetch {url}: {error}") from error
