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


class FileForm:
    """A form with one part `file`, a file with a name; what other parts hold is passed over.

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
            RequestError: there is none, or the form has not come to its end.
        """
        if self._file is None:
            raise _no_form("must have a part `file`, got none")
        if not self._is_whole:
            raise _no_form("must end with its boundary, got a part of it")
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
            return
        if field != "file" or self._file is not None:
            raise _no_form(f"must have one file, as its part `file`, got another one as {field!r}")
        name = options[b"filename"].decode("utf-8", "replace")
        if len(name) > _LONGEST_NAME:
            raise _no_form(f"must name its file in at most {_LONGEST_NAME} letters, got {len(name)}")
        self._name = name or "video"
        self._file = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - it is closed by whom it is given to
        self._is_in_file = True

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_in_file and self._file is not None:
            self._file.write(data[start:end])
            self._size += end - start

    def _end(self) -> None:
        self._is_whole = True


def _options(header: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Return the value of a header and what stands behind its semicolons."""
    try:
        return parse_options_header(header)
    except ValueError as error:  # of the older releases, which read headers as those of mails
        raise _no_form(f"must have headers that can be read, got: {error}") from error


def _no_form(what: str) -> RequestError:
    return RequestError(400, "invalid_form", f"an upload {what}")
