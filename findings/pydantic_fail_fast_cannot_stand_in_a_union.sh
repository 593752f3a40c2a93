#!/usr/bin/env bash
# A type that carries pydantic's `FailFast` cannot stand in a union: Python 3.11 refuses it before pydantic sees it.
#
# Package: pydantic 2.14.4 with Python 3.11.
# Expected: `Annotated[list[int], FailFast()] | None` is a type, as it is with pydantic's other marks, such as `Strict()`.
# Seen: `TypeError: unhashable type: 'FailFast'`. A union compares its members by hash, and the dataclass `FailFast` has
#     an `__eq__` without one.
# Why it matters: the lists whose first mistake should end the reading, those of clients, are often optional ones.
# How to live with it: `Field(fail_fast=True)` in its place does the same.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet pydantic==2.14.4

cat > union.py <<'PYTHON'
import sys
from typing import Annotated

import pydantic
from pydantic import FailFast, Field, Strict, TypeAdapter

if sys.version_info[:2] != (3, 11):
    sys.exit("This finding is about Python 3.11.")
error = None
try:
    Annotated[list[int], FailFast()] | None
except TypeError as raised:
    error = raised
Annotated[list[int], Strict()] | None
optional = TypeAdapter(Annotated[list[int], Field(fail_fast=True)] | None)
mistakes = 0
try:
    optional.validate_python(["a", "b", "c"])
except pydantic.ValidationError as found:
    mistakes = found.error_count()
print(f"pydantic {pydantic.VERSION}: FailFast() in a union: {error!r}; Field(fail_fast=True) there: {mistakes} mistake")
if "unhashable" not in str(error) or mistakes != 1:
    sys.exit("This has changed.")
PYTHON
venv/bin/python union.py
