#!/usr/bin/env bash
# oneDNN's linear layer in torch takes hundreds of times as long by a matrix whose rows are parts of longer ones.
#
# Package: torch 2.13.0, the CPU build, whose compiled graphs multiply by `torch.ops.mkldnn._linear_pointwise`.
# Expected: a weight that is a view, such as half of the columns of a matrix, is copied or multiplied nearly as fast.
# Seen: 200 to 1,000 times the time of the same product by a copy, in float32. The results are equal. Rows that lie apart
#     in the input cost nothing, and neither does a transposed weight.
# Why it matters: gradients of weights are products by views of what a layer read. No warning says where the time went.
# How to live with it: `weight.contiguous()` where neither the weight nor its transpose is contiguous.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6

cat > linear.py <<'PYTHON'
import sys
import time

import torch

torch.set_num_threads(1)
x = torch.randn(320, 256)
view = torch.randn(512, 288)[:, :256]
copy = view.contiguous()


def seconds(weight):
    """Return the processor's time of one product."""
    times = []
    for _ in range(3):
        start = time.process_time()
        torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        times.append(time.process_time() - start)
    return min(times)


ratio = seconds(view) / seconds(copy)
print(f"torch {torch.__version__}: by a view it takes {ratio:.0f} times as long as by its copy")
if ratio < 20:
    sys.exit("This has changed.")
PYTHON
venv/bin/python linear.py
