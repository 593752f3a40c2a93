#!/usr/bin/env bash
# llvmlite's handle of its library answers `vars()` with a function of the library.
#
# Packages: llvmlite 0.47.0.
# Expected: `vars(x)` is a dict, or a TypeError where `x` has none.
# Seen: `vars(llvmlite.binding.ffi.lib)` is a `_lib_fn_wrapper`, since the handle has slots alone and takes every unknown
#     name, `__dict__` too, for a function of the library, and ctypes finds one: its own attribute.
# Why it matters: who scans all modules for values with an attribute meets it. The worker of vLLM 0.32 for CPUs does so
#     when it starts, by `vars(value).get(...)`, and ends with an AttributeError wherever Numba has been imported.
# How to live with it: an entry `__dict__` in the handle's own table of functions, `lib._fntab`.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet llvmlite==0.47.0

cat > scan.py <<'PYTHON'
import sys

from llvmlite.binding import ffi

found = vars(ffi.lib)
print(f"vars() of the handle is a {type(found).__name__}")
if isinstance(found, dict):
    sys.exit("This has changed.")
ffi.lib._fntab["__dict__"] = {}
print(f"with an entry in its table it is {vars(ffi.lib)}")
PYTHON
venv/bin/python scan.py
