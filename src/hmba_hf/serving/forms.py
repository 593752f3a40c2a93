"""The form in which a client uploads a file, read piece by piece, without keeping anything but the file."""

from tempfile import SpooledTemporaryFile
from typing import IO

from ..installation import missing_extra
from .errors import RequestError

try:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header
except ImportError as missing:
    raise missing_extra("`hmba serve` needs", "serve") from missing

_KIND = b"multipart/form-data"
_IN_MEMORY = 2**20  # bytes; a larger file lies on disk
_MOST_PARTS = 16  # a form of OpenAI's has at most four
_LONGEST_HEAD = 8192  # bytes of the headers of a part
_LONGEST_BOUNDARY = 256
_LONGEST_NAME = 255  # letters of a file's name
_LONGEST_TEXT = 32  # bytes of a text that is read
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"  # as OpenAI's clients write an expiry
_SHORTEST_LIFE, _LONGEST_LIFE = 3600, 2_592_000  # seconds that OpenAI's own takes: an hour to 30 days


class FileForm:
    """A form with one part `file`, a file with a name, and its expiry if any; what other parts hold is passed over.

    Starlette's parser keeps a thousand fields of a megabyte each in memory, decodes them by whatever charset the
    client names, and parses in the event loop, which a form of many small parts holds up for seconds.

    Args:
        kind: the header Content-Type of the request.

    Raises:
        RequestError: it is none of a form.
    """

    def __init__(self, kind: str):
        name, options = _options(kind.encode("latin-1"))
        boundary = options.get(b"boundary", b"")
        if name.lower() != _KIND or not 0 < len(boundary) <= _LONGEST_BOUNDARY:
            raise _no_form(f"must be of type multipart/form-data with a boundary, got {kind[:80]!r}")
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._take_header_name,
                "on_header_value": self._take_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_head,
                "on_part_data": self._take_data,
                "on_end": self._end,
            },
        )
        self._file: IO[bytes] | None = None
        self._name = ""
        self._size = 0
        self._parts = 0
        self._texts: dict[str, bytearray] = {}
        self._text: bytearray | None = None
        self._is_in_file = False
        self._is_whole = False

    def write(self, data: bytes) -> None:
        """Take the next piece of the form.

        Raises:
            RequestError: it is not of the form that it must be.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _no_form(f"must be a form with one file, got: {error}") from error

    def file(self) -> tuple[IO[bytes], str, int]:
        """Return the file at its beginning, its name and its size, once all of the form has come.

        Raises:
            RequestError: there is none, the form has not come to its end, or its expiry is none of OpenAI's.
        """
        if self._file is None:
            raise _no_form("must have a part `file`, got none")
        if not self._is_whole:
            raise _no_form("must end with its boundary, got a part of it")
        _check_expiry({field: bytes(text) for field, text in self._texts.items()})
        self._file.seek(0)
        return self._file, self._name, self._size

    def close(self) -> None:
        """Forget the file."""
        if self._file is not None:
            self._file.close()

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise _no_form(f"must have at most {_MOST_PARTS} parts, got more")
        self._text = None
        self._is_in_file = False
        self._disposition = b""
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._head = 0

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._take_header(self._header_name, data[start:end])

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._take_header(self._header_value, data[start:end])

    def _take_header(self, header: bytearray, piece: bytes) -> None:
        self._head += len(piece)
        if self._head > _LONGEST_HEAD:
            raise _no_form(f"must have at most {_LONGEST_HEAD} bytes of headers in a part, got more")
        header += piece

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _end_head(self) -> None:
        _, options = _options(self._disposition)
        if b"name" not in options:
            raise _no_form("must have a name in the Content-Disposition of each part, got none")
        field = options[b"name"].decode("utf-8", "replace")[:80]
        if b"filename" not in options:
            if field == "file":
                raise _no_form("must have a file with a name as its part `file`, got a text")
            if field in (_ANCHOR, _SECONDS):
                self._begin_text(field)
            return
        if field != "file" or self._file is not None:
            raise _no_form(f"must have one file, as its part `file`, got another one as {field!r}")
        name = options[b"filename"].decode("utf-8", "replace")
        if len(name) > _LONGEST_NAME:
            raise _no_form(f"must name its file in at most {_LONGEST_NAME} letters, got {len(name)}")
        self._name = name or "video"
        self._file = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - it is closed by whom it is given to
        self._is_in_file = True

    def _begin_text(self, field: str) -> None:
        if field in self._texts:
            raise _no_form(f"must have one part {field!r}, got another one")
        self._text = self._texts[field] = bytearray()

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_in_file and self._file is not None:
            self._file.write(data[start:end])
            self._size += end - start
        if self._text is not None:
            self._text += data[start:end]
            if len(self._text) > _LONGEST_TEXT:
                raise _no_form(f"must have at most {_LONGEST_TEXT} bytes in a part of its expiry, got more")

    def _end(self) -> None:
        self._is_whole = True


def _check_expiry(texts: dict[str, bytes]) -> None:
    if not texts:
        return
    anchor, seconds = texts.get(_ANCHOR, b""), texts.get(_SECONDS, b"")
    if anchor != b"created_at":
        raise _no_form(f"must have {_ANCHOR} 'created_at' where it has an expiry, got {_shown(anchor)}")
    if not seconds.isdigit() or not _SHORTEST_LIFE <= int(seconds) <= _LONGEST_LIFE:
        wanted = f"{_SECONDS} of {_SHORTEST_LIFE} to {_LONGEST_LIFE} where it has an expiry"
        raise _no_form(f"must have {wanted}, got {_shown(seconds)}")


def _shown(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace"))


def _options(header: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Return the value of a header and what stands behind its semicolons."""
    try:
        return parse_options_header(header)
    except ValueError as error:  # of the older releases, which read headers as those of mails
        raise _no_form(f"must have headers that can be read, got: {error}") from error


def _no_form(what: str) -> RequestError:
    return RequestError(400, "invalid_form", f"an upload {what}")
