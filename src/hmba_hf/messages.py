"""Reports of long work: one logger, which commands show."""

import logging
import sys

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
