#!/usr/bin/env bash
# A thread of root that has encoded AV1 by libsvtav1 stays a real-time thread of the highest priority.
#
# Package: av 18.1.0, whose wheel for Linux brings SVT-AV1. Run it as root, as most containers do.
# Expected: the scheduling of a thread is what it was once the file is closed.
# Seen: `SCHED_FIFO` with priority 99 in the place of `SCHED_OTHER`, for good. Whoever may not ask for it keeps what it had.
# Why it matters: all that the thread does from then on, and each process that it starts, goes before everything else of
#     the machine: workers beside it wait, and niceness counts no more. Nothing is logged.
# How to live with it: `os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))` after encoding, or a process for it.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet av==18.1.0 numpy==2.4.6

cat > encode.py <<'PYTHON'
import io
import os
import sys

import av
import numpy as np


def scheduling():
    """Return the policy and the priority of this thread."""
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority


before = scheduling()
with av.open(io.BytesIO(), "w", format="mp4") as output:
    stream = output.add_stream("libsvtav1", rate=25)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    for _ in range(3):
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
    output.mux(stream.encode())
after = scheduling()
print(f"av {av.__version__}, user {os.geteuid()}: policy and priority before {before}, after {after}")
if (before, after) != ((os.SCHED_OTHER, 0), (os.SCHED_FIFO, 99)):
    sys.exit("This has changed.")
PYTHON
venv/bin/python encode.py 2> log || { cat log; exit 1; }
