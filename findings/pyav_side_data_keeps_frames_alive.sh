#!/usr/bin/env bash
# A decoded frame that was asked once for its side data stays in memory until the cyclic garbage collector comes.
#
# Package: av 18.1.0.
# Expected: a frame goes, with its pixels, when the last name for it goes, as it does if `side_data` is not read.
# Seen: `frame.side_data` keeps a container in the frame that refers back to the frame, so that counting cannot free it.
# Why it matters: the collector counts objects, not pixels. Decoding large frames fills gigabytes before it runs.
# How to live with it: make `av.sidedata.sidedata.SideDataContainer(frame)` yourself, which the frame does not keep.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet av==18.1.0 numpy==2.4.6

venv/bin/python - <<'PYTHON'
import gc
import io
import sys

import av
from av.sidedata.sidedata import SideDataContainer

file = io.BytesIO()
with av.open(file, "w", format="matroska") as output:
    stream = output.add_stream("mpeg4", rate=10)
    stream.width = 64
    stream.height = 64
    stream.pix_fmt = "yuv420p"
    for number in range(60):
        frame = av.VideoFrame(64, 64, "yuv420p")
        frame.pts = number
        output.mux(stream.encode(frame))
    output.mux(stream.encode())
    del frame


def frames_left(ask):
    """Decode 60 frames, ask each one and drop it; return how many are still alive."""
    gc.collect()
    file.seek(0)
    with av.open(file) as source:
        for frame in source.decode(video=0):
            ask(frame)
            del frame
    return sum(type(found) is av.VideoFrame for found in gc.get_objects())


gc.disable()
untouched = frames_left(lambda frame: None)
asked = frames_left(lambda frame: frame.side_data)
own = frames_left(SideDataContainer)
print(f"frames alive of 60: {untouched} untouched, {asked} after side_data, {own} after a container of one's own")
if untouched > 1 or own > 1 or asked < 60:
    sys.exit("This has changed.")
PYTHON
