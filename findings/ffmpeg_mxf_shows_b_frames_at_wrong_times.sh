#!/usr/bin/env bash
# Frames of H.264 with B-frames come out of an MXF file in the right order, with the wrong times.
#
# Package: av 18.1.0 (FFmpeg 8).
# Expected: 12 frames at 25/s, written to MXF and read again, have the times 0, 1/25, 2/25 and so on, as in MOV.
# Seen: every packet of MXF has a presentation time equal to its decoding time. The third frame shown has the time
#     3/25, the fourth 1/25.
# Why it matters: a frame looked for by its time is another frame, and times of consecutive frames fall.
# How to live with it: count frames of MXF files, or write them without B-frames (`bf=0`).
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet av==18.1.0 numpy==2.4.6

venv/bin/python - <<'PYTHON'
import io
import sys

import av
import numpy as np


def times(container_format, b_frames):
    """Encode 12 frames at 25/s and return their times, in frames, in the order in which they are shown."""
    file = io.BytesIO()
    with av.open(file, "w", format=container_format) as output:
        stream = output.add_stream("libx264", rate=25, options={"bf": str(b_frames)})
        stream.width = 64
        stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(12):
            picture = np.full((64, 64, 3), 20 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    file.seek(0)
    with av.open(file) as source:
        return [round(25 * frame.time) for frame in source.decode(video=0)]


mov = times("mov", b_frames=2)
mxf = times("mxf", b_frames=2)
without = times("mxf", b_frames=0)
print(f"MOV: {mov}\nMXF: {mxf}\nMXF without B-frames: {without}")
right = list(range(12))
if mov != right or without != right or mxf == right or sorted(mxf) != right:
    sys.exit("This has changed.")
PYTHON
