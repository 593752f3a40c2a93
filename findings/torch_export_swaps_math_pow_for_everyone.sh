#!/usr/bin/env bash
# While torch.export traces a module, `math.pow` is another function for the whole process, which breaks Numba.
#
# Packages: torch 2.13.0, numba 0.68.1.
# Expected: tracing changes the traced calls only. The same module runs before and after the export.
# Seen: without strict mode the export puts functions of its own into `math` and `builtins` while it traces. Numba
#     builds its table of `math` at its first compilation. If that falls into the export, it finds a lambda and raises
#     AttributeError "module 'torch._export.non_strict_utils' has no attribute '<lambda>'".
# Why it matters: whether an export works depends on what ran before it in the same process.
# How to live with it: compile something, or import `numba.core.typing.mathdecl`, before you export.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 numba==0.68.1

cat > export.py <<'PYTHON'
import sys

import numba
import torch


class Increment(torch.nn.Module):
    """Multiplies by a number that a compiled function computes."""

    def forward(self, x):
        compiled = numba.njit(lambda number: number + 1)
        return x * compiled(1)


module = Increment()
x = torch.ones(2)
first_use, known = sys.argv[1:]
if first_use == "before":
    module(x)
try:
    exported = torch.export.export(module, (x,), strict=False)
    seen = str(exported.module()(x).tolist())
except AttributeError as error:
    seen = str(error)
print(f"first use of Numba {first_use} the export: {seen}")
if seen != known:
    sys.exit("This has changed.")
PYTHON
venv/bin/python export.py before "[2.0, 2.0]"
venv/bin/python export.py during "module 'torch._export.non_strict_utils' has no attribute '<lambda>'"
