"""Reports of long work: one logger, which commands show."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("hmba_hf")


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
