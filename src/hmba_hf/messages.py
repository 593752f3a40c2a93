"""What commands say: reports of long work by one logger, and what ends them, in a sentence."""

import argparse
import errno
import io
import logging
import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .files import is_failed_write

logger = logging.getLogger("hmba_hf")

INTERRUPTED = 130  # as shells count what SIGINT has ended
# What a file or folder must be, by the number of the system's error.
_WANTED = {
    errno.EACCES: "be open to you",
    errno.EDQUOT: "have room",
    errno.EEXIST: "be new or a folder",
    errno.EIO: "be one to read or write",
    errno.EISDIR: "be a file",
    errno.ENAMETOOLONG: "have a shorter name",
    errno.ENOENT: "be there",
    errno.ENOSPC: "have room",
    errno.ENOTDIR: "lie in a folder",
    errno.EPERM: "be open to you",
    errno.EPIPE: "be read to its end",
    errno.EROFS: "be writable",
}


class _Printer(logging.Handler):
    """Prints reports as `print` would, and warnings where errors go."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stdout if record.levelno < logging.WARNING else sys.stderr
        try:
            stream.write(self.format(record) + "\n")
            stream.flush()
        except OSError:  # a full disk behind the output stops no work
            self.handleError(record)


def show_messages() -> None:
    """Print the reports of the package, as its commands do; a second call changes nothing."""
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Printer) for handler in logger.handlers):
        logger.addHandler(_Printer())


@contextmanager
def without_load_report() -> Iterator[None]:
    """Keep back the table in which transformers lists every weight that a checkpoint lacks; after an error, show it.

    The caller checks `output_loading_info` and says what matters of it.
    """
    source = logging.getLogger("transformers.modeling_utils")
    kept: list[logging.LogRecord] = []

    def keep_report(record: logging.LogRecord) -> bool:
        is_report = "LOAD REPORT" in str(record.msg)
        if is_report:
            kept.append(record)
        return not is_report

    source.addFilter(keep_report)
    try:
        yield
        kept.clear()
    finally:
        source.removeFilter(keep_report)
        for record in kept:
            source.handle(record)


def show_escapes() -> None:
    """Let standard output show escapes in the place of letters that it cannot encode.

    Such are names of files that are not UTF-8, and answers on a terminal of few letters. Standard error does so, too.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class HelpFormatter(argparse.HelpFormatter):
    """The layout of `--help`: paragraphs fill the terminal, indented lines and lists stay, options show defaults."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = []
        for paragraph in text.strip().split("\n\n"):
            if not re.search(r"^( |- )", paragraph, flags=re.MULTILINE):
                paragraph = textwrap.fill(" ".join(paragraph.split()), width, break_long_words=False)
            paragraphs.append(paragraph)
        return "\n\n".join(paragraphs)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        text = action.help or ""
        says_nothing = default is None or default is False or default in (argparse.SUPPRESS, "", [])
        if says_nothing or "default" in text:
            return action.help
        if isinstance(default, list | tuple):
            default = " ".join(map(str, default))
        return f"{text} (default: {str(default).replace('%', '%%')})".strip()


def run_command(main: Callable[..., Any], *arguments: Any) -> None:
    """Run a command; what the user can mend, and Ctrl-C, end it in a sentence.

    Where `HMBA_TRACEBACK` is set in the environment, not to 0, such an error shows its traceback instead.

    Raises:
        SystemExit: after such an error, with status 1, and after Ctrl-C.
    """
    shows_tracebacks = os.environ.get("HMBA_TRACEBACK", "0") not in ("", "0")
    try:
        with _plain_warnings():
            main(*arguments)
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped\n")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if shows_tracebacks or not _can_be_mended(error):
            raise
        sys.exit(_sentence(error))


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show warnings of this package as its sentences alone, without the line of source that they come from."""
    shown = warnings.formatwarning

    def show(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        if category is UserWarning and Path(filename).is_relative_to(Path(__file__).parent):
            return f"{message}\n"
        return shown(message, category, filename, lineno, line)

    warnings.formatwarning = show
    try:
        yield
    finally:
        warnings.formatwarning = shown


def _can_be_mended(error: Exception) -> bool:
    """Return whether an error is of files, the Hub or a missing package, or a sentence of this package about a value.

    A `ValueError` that Python or a library raises is a mistake of ours, also in a line of ours. So is an error of the
    system that is not of a file, such as a closed descriptor.
    """
    if isinstance(error, io.UnsupportedOperation):
        return False
    if isinstance(error, OSError):
        return error.errno is None or error.errno in _WANTED
    if isinstance(error, ImportError):
        return "pip install" in str(error)
    if isinstance(error, ValueError):
        return is_raised_here(error)
    return is_failed_write(error)


def is_raised_here(error: Exception) -> bool:
    """Return whether a `raise` of this package is the origin of an error, also in a worker of a loader."""
    told = _told_by_worker(error)
    if told is None:
        *_, innermost = traceback.extract_tb(error.__traceback__)
        file, line = innermost.filename, innermost.line or ""
    else:
        file, line, _ = told
    return Path(file).is_relative_to(Path(__file__).parent) and line.startswith("raise ")


def _told_by_worker(error: Exception) -> tuple[str, str, str] | None:
    """Return the file and the line that raised an error in a worker of a loader, and its text; `None` for others.

    torch raises such an error again, of the same type, with the worker's whole traceback as its text.
    """
    text = str(error)
    if not re.match(r"Caught \w+ in \w+ worker process \d+\.\nOriginal ", text):
        return None
    frames = list(re.finditer(r'^  File "(.+)", line \d+, in .+\n(?:    (.*)\n)?', text, flags=re.MULTILINE))
    if not frames:
        return None
    frame = frames[-1]
    said = re.search(r"^\w[\w.]*: (.*)", text[frame.end() :], flags=re.MULTILINE | re.DOTALL)
    return frame[1], frame[2] or "", said[1] if said else ""


def _sentence(error: Exception) -> str:
    """Return what was wanted and what came, in one line."""
    if isinstance(error, OSError) and error.errno in _WANTED:
        place = error.filename
        if place is None:
            place = "the output" if error.errno == errno.EPIPE else "the disk"
        is_no_folder = error.errno == errno.ENOTDIR and os.path.exists(place)
        wanted = "be a folder" if is_no_folder else _WANTED[error.errno]
        return f"{place} must {wanted}, got: {error.strerror}"
    told = _told_by_worker(error)
    return " ".join((str(error) if told is None else told[2]).split())
