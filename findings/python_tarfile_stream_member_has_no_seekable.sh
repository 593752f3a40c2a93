#!/usr/bin/env bash
# The member of a streamed tar archive cannot say whether it can seek: asking it raises AttributeError.
#
# Package: none but Python's own tarfile (seen in 3.9, 3.11, 3.12.1 and 3.13.0).
# Expected: io.IOBase documents `seekable()` as a question that is answered by True or False. The same member of the
#     same archive, opened with "r:" instead of "r|", answers True.
# Seen: `seekable()` raises "'_Stream' object has no attribute 'seekable'", while `readable()` answers.
# Why it matters: every reader that asks first fails on a sound archive, `io.TextIOWrapper(member)` among them.
# How to live with it: read the member to the end into io.BytesIO, or catch AttributeError where you ask.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv --without-pip venv

venv/bin/python - <<'PYTHON'
import io
import sys
import tarfile

archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w") as output:
    member = tarfile.TarInfo("words.txt")
    member.size = 3
    output.addfile(member, io.BytesIO(b"abc"))


def ask(mode, question):
    """Return the answer of the first member to a question, or the error as text."""
    archive.seek(0)
    with tarfile.open(fileobj=archive, mode=mode) as source:
        try:
            return question(source.extractfile(source.next()))
        except AttributeError as error:
            return str(error)


MISSING = "'_Stream' object has no attribute 'seekable'"
whole = ask("r:", lambda member: member.seekable())
streamed = ask("r|", lambda member: member.seekable())
text = ask("r|", lambda member: io.TextIOWrapper(member).read())
print(f"Python {sys.version.split()[0]}: 'r:' {whole}; 'r|' {streamed}; text of 'r|' {text}")
if (whole, streamed, text) != (True, MISSING, MISSING):
    sys.exit("This has changed.")
PYTHON
