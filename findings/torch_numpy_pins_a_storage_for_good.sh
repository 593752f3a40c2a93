#!/usr/bin/env bash
# A tensor that was looked at once through numpy() can never be resized again, also when the array is long gone.
#
# Package: torch 2.13.0.
# Expected: the documentation of `Tensor.numpy` says that both share memory. Looking at values changes no tensor, and
#     what the array needs ends with the array. `tolist` leaves the storage as it was.
# Seen: `numpy()`, and `numpy.asarray(tensor)` with it, clears `resizable` of the storage for good. `resize_` raises
#     "Trying to resize storage that is not resizable" ever after.
# Why it matters: fully sharded training frees gathered weights by a resize. A callback or a digest that read one
#     weight through NumPy ends the run later, at a place that does not name it.
# How to live with it: take the array of a copy, `tensor.clone().numpy()`.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6

venv/bin/python - <<'PYTHON'
import sys

import numpy
import torch


def resize_after(look):
    """Return what a resize says after `look` has read a tensor and its result is gone."""
    tensor = torch.ones(4)
    look(tensor)
    try:
        tensor.resize_(8)
    except RuntimeError as error:
        return str(error)
    return "resized"


REFUSED = "Trying to resize storage that is not resizable"
looks = {
    "tolist": (lambda tensor: tensor.tolist(), "resized"),
    "clone().numpy": (lambda tensor: tensor.clone().numpy(), "resized"),
    "numpy": (lambda tensor: tensor.numpy(), REFUSED),
    "numpy.asarray": (lambda tensor: numpy.asarray(tensor), REFUSED),
}
changed = False
for name, (look, known) in looks.items():
    seen = resize_after(look)
    print(f"after {name}: {seen}")
    changed = changed or seen != known
if changed:
    sys.exit("This has changed.")
PYTHON
