"""Captions as the words that caption metrics count; the scores depend on the tokenizer."""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..installation import missing_extra

TOKENIZERS = ("ptb", "words")

START_LIMIT = 120.0  # seconds for a program in Java to start
LINE_LIMIT = 1.0  # seconds for each line of its input

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_VERSION = re.compile(r'^(?:\w+ )?version "?\d[\w.+-]*"?', re.MULTILINE)


class MetricUnavailable(RuntimeError):
    """One sentence about what a metric or a tokenizer needs and this machine lacks."""


def tokenize_captions(captions: Sequence[str], tokenizer: str) -> list[str]:
    """Turn captions into lower-case words joined by single spaces; without any word, into the empty string.

    A word of `"ptb"` may hold a no-break space.

    Args:
        captions: any text, also empty, of several lines or with odd characters.
        tokenizer: `"ptb"`: Stanford's Penn Treebank tokenizer without punctuation, that of published scores, which
            needs Java; `"words"`: runs of letters and digits, also with a hyphen or an apostrophe inside.

    Raises:
        ValueError: if there is no such tokenizer.
        MetricUnavailable: if it needs Java and there is none.

    Source: github.com/salaniz/pycocoevalcap 1.2, `tokenizer/ptbtokenizer.py`, with its jar, arguments and punctuation
        marks.
    Differs: there, a line separator in a caption shifts those after it, open markup in a caption extends through the
        next ones (here `<` is always a word), and a temporary file is written beside the jar.
    """
    if tokenizer not in TOKENIZERS:
        raise ValueError(f"tokenizer must be one of {TOKENIZERS}, got {tokenizer!r}")
    lines = [" ".join(caption.replace("<", " < ").split()) for caption in captions]
    if tokenizer == "words":
        return [" ".join(_WORD.findall(line.lower())) for line in lines]
    filled = iter(_ptb_lines([line for line in lines if line]))
    tokenized = []
    for line in lines:
        tokenized.append(next(filled) if line else "")
    return tokenized


def best_tokenizer() -> str:
    """Return `"ptb"` where Java runs, else `"words"`."""
    return "words" if java_version() is None else "ptb"


@functools.cache
def java_version() -> str | None:
    """Return product and number of `java -version`, or `None` where no Java runs.

    The rest of Java's output is dropped: it quotes options of the environment, passwords included.
    """
    if shutil.which("java") is None:
        return None
    try:
        done = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    found = _VERSION.search(_without_options(done.stderr))
    if found is None:
        return "unknown version"
    return found.group()


def require_java(what: str) -> None:
    """Raise `MetricUnavailable` in the name of `what` where no Java runs."""
    if java_version() is None:
        raise MetricUnavailable(f"{what} needs Java, and no `java` that runs was found on the PATH")


def benchmark_folder() -> Path:
    """Return the folder of pycocoevalcap, the caption benchmark's package.

    Raises:
        ImportError: with the command that installs it, if it is absent.
    """
    try:
        import pycocoevalcap
    except ImportError as error:
        raise missing_extra("caption metrics need", "eval") from error
    return Path(next(iter(pycocoevalcap.__path__)))  # it has no __init__.py


def ask_java(what: str, arguments: Sequence[str], lines: Sequence[str], folder: Path | None = None) -> list[str]:
    """Send lines to a program in Java, and return its answer, one line for each.

    Args:
        what: its name in errors.
        arguments: of `java`.
        lines: without line breaks.
        folder: its working directory.

    Raises:
        MetricUnavailable: where there is no Java, or if the program does not end within `START_LIMIT` seconds and
            `LINE_LIMIT` for each line.
        RuntimeError: if it fails, or answers more or fewer lines.
    """
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", errors="replace")
    done = run_java(what, arguments, len(lines), folder=folder, text=text)
    answers = done.stdout.decode("utf-8").split("\n")[:-1]
    if done.returncode or len(answers) != len(lines):
        raise RuntimeError(f"{what} must answer {len(lines)} lines, got {len(answers)}: {java_errors(done)}")
    return answers


def run_java(
    what: str, arguments: Sequence[str], size: int, folder: Path | None = None, text: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in Java within `START_LIMIT` seconds and `LINE_LIMIT` for each line.

    Args:
        what, arguments, folder: as in `ask_java`.
        size: number of lines of its input.
        text: its standard input.

    Raises:
        MetricUnavailable: where there is no Java, or if the program does not end in time.
    """
    require_java(what)
    limit = START_LIMIT + LINE_LIMIT * size
    try:
        return subprocess.run(["java", *arguments], input=text, capture_output=True, cwd=folder, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise MetricUnavailable(f"{what} must answer {size} lines within {limit:g} s, got no answer") from error


def java_errors(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the end of a Java program's error output, without the options of the environment."""
    return _without_options(done.stderr.decode("utf-8", errors="replace"))[-500:]


def _without_options(text: str) -> str:
    """Remove the options of the environment, such as `JAVA_TOOL_OPTIONS`, from Java's output."""
    for name, value in os.environ.items():
        if "JAVA" in name and name.endswith("_OPTIONS") and value.strip():
            text = text.replace(value, "")
    return "".join(line for line in text.splitlines(keepends=True) if "Picked up " not in line)


def _ptb_lines(lines: Sequence[str]) -> list[str]:
    """Tokenize lines, none of them empty, in one run of the tokenizer."""
    require_java("the PTB tokenizer")
    folder = benchmark_folder() / "tokenizer"
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

    if not lines:
        return []
    program = ["-cp", str(folder / STANFORD_CORENLP_3_4_1_JAR), "edu.stanford.nlp.process.PTBTokenizer"]
    tokenized = ask_java("the PTB tokenizer", [*program, "-preserveLines", "-lowerCase"], lines)
    captions = []
    for line in tokenized:
        # Only at spaces: the tokenizer joins a number and its fraction, "2 1/2", by a no-break space.
        words = line.rstrip().split(" ")
        captions.append(" ".join(word for word in words if word not in PUNCTUATIONS))
    return captions
