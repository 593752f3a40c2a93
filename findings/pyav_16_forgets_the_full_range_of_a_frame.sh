#!/usr/bin/env bash
# A frame of the full range becomes RGB as one of the limited range, unless its format is one of the deprecated `yuvj` ones.
#
# Package: av 16.1.0; 15.0.0 does the same, 17.0.0 and 18.1.0 do not.
# Expected: gray of 250 in a frame with `color_range` 2 (JPEG, the full one) is gray of 250 in RGB.
# Seen: 255, as 250 of the limited range lies beyond its white. A `yuvj444p` frame is right, until `dst_colorspace` names a
#     matrix: then it is 255, too.
# Why it matters: phones and action cameras record the full range, and codecs such as H.265 and AV1 say so beside a plain
#     format. Highlights and shadows are cut off, without a word.
# How to live with it: `frame.to_ndarray(format="rgb24", src_color_range=frame.color_range)`.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet av==16.1.0 numpy==2.4.6
venv/bin/pip install --quiet --no-deps --target newer av==18.1.0

cat > gray.py <<'PYTHON'
import sys

import av
import numpy as np

planes = np.stack([np.full((48, 64), value, np.uint8) for value in (250, 128, 128)])
shown = {}
for name in ("yuv444p", "yuvj444p"):
    frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
    if name != "yuv444p":
        copy = av.VideoFrame(64, 48, name)
        for plane, values in zip(copy.planes, planes, strict=True):
            plane.update(np.ascontiguousarray(values).tobytes())
        frame = copy
    frame.color_range = 2
    shown[name] = int(frame.to_ndarray(format="rgb24")[0, 0, 0])
    named = frame.to_ndarray(format="rgb24", dst_colorspace="ITU601")
    shown[f"{name}, matrix named"] = int(named[0, 0, 0])
    told = frame.to_ndarray(format="rgb24", src_color_range=2)
    shown[f"{name}, range told"] = int(told[0, 0, 0])
print(f"av {av.__version__}: 250 becomes {shown}")
wrong = {name for name, value in shown.items() if abs(value - 250) > 1}
expected = set() if int(av.__version__.split(".")[0]) >= 17 else {"yuv444p", "yuv444p, matrix named", "yuvj444p, matrix named"}
if wrong != expected:
    sys.exit("This has changed.")
PYTHON
venv/bin/python gray.py
PYTHONPATH=newer venv/bin/python gray.py
