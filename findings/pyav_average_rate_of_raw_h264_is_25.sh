#!/usr/bin/env bash
# A raw H.264 stream that declares 10 frames a second has the average rate 25.
#
# Package: av 18.1.0 (FFmpeg 8); av 19.0.2 does the same.
# Expected: the documentation has `average_rate` computed from the first few frames. The same frames in MP4 give 10.
# Seen: 25, which is only what FFmpeg assumes of a raw stream. `guessed_rate` and the codec's own rate are 10.
# Why it matters: times counted with the average rate are 2.5 times too short, with nothing to show it.
# How to live with it: read `guessed_rate`, or `codec_context.framerate`, of a container without timestamps.
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


def rates(container_format):
    """Encode 20 frames at 10/s and return the average and the guessed rate of the stream."""
    file = io.BytesIO()
    with av.open(file, "w", format=container_format) as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width = 64
        stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(20):
            picture = np.full((64, 64, 3), 10 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    file.seek(0)
    with av.open(file) as source:
        stream = source.streams.video[0]
        return stream.average_rate, stream.guessed_rate


raw = rates("h264")
mp4 = rates("mp4")
print(f"declared 10, raw H.264: average {raw[0]}, guessed {raw[1]}; MP4: average {mp4[0]}, guessed {mp4[1]}")
if raw != (25, 10) or mp4 != (10, 10):
    sys.exit("This has changed.")
PYTHON
