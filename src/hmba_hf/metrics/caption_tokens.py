"""Captions as the words that caption metrics count; which tokenizer made them decides the numbers."""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

TOKENIZERS = ("ptb", "words")

START_LIMIT = 120.0  # seconds that a program in Java may take to start
LINE_LIMIT = 1.0  # and for each line that it is sent

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_VERSION = re.compile(r'^(?:\w+ )?version "?\d[\w.+-]*"?', re.MULTILINE)


class MetricUnavailable(RuntimeError):
    """One sentence that says what a metric or a tokenizer needs and this machine does not have."""


def tokenize_captions(captions: Sequence[str], tokenizer: str) -> list[str]:
    """Bring captions to lower-case words joined by single spaces; one without any word becomes the empty string.

    A word of `"ptb"` may hold a no-break space.

    Args:
        captions: any text, also empty, of several lines or with odd characters.
        tokenizer: `"ptb"`: Stanford's Penn Treebank tokenizer without punctuation, the one of the published numbers,
            which needs Java; `"words"`: runs of letters and digits, also with a hyphen or an apostrophe inside.

    Raises:
        ValueError: if there is no such tokenizer.
        MetricUnavailable: if it needs Java and there is none.

    Source: github.com/salaniz/pycocoevalcap 1.2, `tokenizer/ptbtokenizer.py`, whose jar, arguments and punctuation
        marks are used.
    Differs: there, a caption with a line separator shifts those after it, markup that one leaves open runs on through
        the next ones (here `<` always stands alone), and a temporary file is written beside the jar.
    """
    if tokenizer not in TOKENIZERS:
        raise ValueError(f"expected a tokenizer of {TOKENIZERS}, got {tokenizer!r}")
    lines = [" ".join(caption.replace("<", " < ").split()) for caption in captions]
    if tokenizer == "words":
        return [" ".join(_WORD.findall(line.lower())) for line in lines]
    filled = iter(_ptb_lines([line for line in lines if line]))
    tokenized = []
    for line in lines:
        tokenized.append(next(filled) if line else "")
    return tokenized


def best_tokenizer() -> str:
    """`"ptb"` where Java runs, else `"words"`."""
    return "words" if java_version() is None else "ptb"


@functools.cache
def java_version() -> str | None:
    """Product and number of `java -version`, or `None` where there is no Java that runs.

    What else Java prints stays out: it quotes the options that it finds in the environment, passwords included.
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
    """Folder of pycocoevalcap, the caption benchmark's package, or one sentence that says how to get it."""
    try:
        import pycocoevalcap
    except ImportError as error:
        raise ImportError("caption metrics need `pip install hmba-hf[eval]`") from error
    return Path(next(iter(pycocoevalcap.__path__)))  # it has no __init__.py


def ask_java(what: str, arguments: Sequence[str], lines: Sequence[str], folder: Path | None = None) -> list[str]:
    """Send lines to a program in Java, and return the lines that it answers, one for each.

    Args:
        what: its name in errors.
        arguments: of `java`.
        lines: without line breaks.
        folder: where it runs.

    Raises:
        MetricUnavailable: where there is no Java, or if the program does not end within `START_LIMIT` seconds and
            `LINE_LIMIT` for each line.
        RuntimeError: if it fails, or answers more or fewer lines.
    """
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", errors="replace")
    done = run_java(what, arguments, len(lines), folder=folder, text=text)
    answers = done.stdout.decode("utf-8").split("\n")[:-1]
    if done.returncode or len(answers) != len(lines):
        raise RuntimeError(f"expected {len(lines)} lines from {what}, got {len(answers)}: {java_errors(done)}")
    return answers


def run_java(
    what: str, arguments: Sequence[str], size: int, folder: Path | None = None, text: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in Java within `START_LIMIT` seconds and `LINE_LIMIT` for each line.

    Args:
        what, arguments, folder: as in `ask_java`.
        size: number of lines that it reads.
        text: what it reads from its standard input.

    Raises:
        MetricUnavailable: where there is no Java, or if the program does not end in time.
    """
    require_java(what)
    limit = START_LIMIT + LINE_LIMIT * size
    try:
        return subprocess.run(["java", *arguments], input=text, capture_output=True, cwd=folder, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise MetricUnavailable(f"{what} gave no answer to {size} lines within {limit:g} s") from error


def java_errors(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the end of what a program in Java has complained of, without the options of the environment."""
    return _without_options(done.stderr.decode("utf-8", errors="replace"))[-500:]


def _without_options(text: str) -> str:
    """Cut the options of the environment, such as `JAVA_TOOL_OPTIONS`, out of what Java prints."""
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
        # Only at spaces: the tokenizer writes a number with its fraction, "2 1/2", as one word, with a no-break space.
        words = line.rstrip().split(" ")
        captions.append(" ".join(word for word in words if word not in PUNCTUATIONS))
    return captions
