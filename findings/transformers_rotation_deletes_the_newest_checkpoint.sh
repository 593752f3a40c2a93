#!/usr/bin/env bash
# Rotating checkpoints deletes the newest one where an older one has more steps.
#
# Packages: transformers 5.24.0, torch 2.13.0.
# Expected: `rotate_checkpoints` is documented to preserve the most recent checkpoint always. With `use_mtime=True`, as
#     Trainer calls it, that is the one written last.
# Seen: where all of them are younger than a second of each other, their order is that of the steps in their names.
#     The checkpoint written last is deleted, and one copied in or left over by a longer run stays.
# Why it matters: with `save_total_limit=1` the weights just trained are gone.
# How to live with it: start a run in a folder without checkpoints of another run.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0

venv/bin/python - <<'PYTHON'
import os
import sys

from transformers.trainer_utils import rotate_checkpoints


def kept(runs, seconds_between):
    """Write two checkpoints, the one of 10 steps first, and return which of them rotating to one keeps."""
    for place, steps in enumerate((10, 4)):
        checkpoint = f"{runs}/checkpoint-{steps}"
        os.makedirs(checkpoint)
        written = 1_700_000_000 + place * seconds_between
        os.utime(checkpoint, (written, written))
    rotate_checkpoints(runs, save_total_limit=1, use_mtime=True)
    return os.listdir(runs)


slow = kept("slow", seconds_between=2)
fast = kept("fast", seconds_between=0.5)
print(f"checkpoint-10, then checkpoint-4: after 2 s kept {slow}, after 0.5 s kept {fast}")
if slow != ["checkpoint-4"] or fast != ["checkpoint-10"]:
    sys.exit("This has changed.")
PYTHON
