#!/usr/bin/env bash
# A stream of pictures (mpjpeg) that FFmpeg wrote whole ends, when FFmpeg reads it, in an error instead of an end.
#
# Package: av 18.1.0, whose wheel brings FFmpeg's muxer and demuxer of this name.
# Expected: five pictures, and then the end of the file.
# Seen: five pictures, and then `InvalidDataError`. The muxer ends a file by a plain boundary, the demuxer takes this for
#     the head of a sixth part.
# Why it matters: the format is that of web cameras over HTTP. A reader cannot tell a camera that has ended from one whose
#     connection broke, and one that treats the error as such loses the pictures that it has.
# How to live with it: keep what came before the error, and take it for the end where the last bytes are a boundary.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet av==18.1.0 numpy==2.4.6

cat > read.py <<'PYTHON'
import io
import sys

import av
import numpy as np

written = io.BytesIO()
with av.open(written, "w", format="mpjpeg") as output:
    stream = output.add_stream("mjpeg", rate=25)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuvj420p"
    for shade in range(5):
        output.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 * shade, np.uint8))))
    output.mux(stream.encode())
count = 0
error = None
try:
    with av.open(io.BytesIO(written.getvalue()), format="mpjpeg") as source:
        for _ in source.decode(video=0):
            count += 1
except av.FFmpegError as raised:
    error = raised
print(f"av {av.__version__}: the file ends in {written.getvalue()[-12:]}; {count} pictures, and then {error!r}")
if count != 5 or not isinstance(error, av.error.InvalidDataError):
    sys.exit("This has changed.")
PYTHON
venv/bin/python read.py
