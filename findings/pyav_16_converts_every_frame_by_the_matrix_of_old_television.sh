#!/usr/bin/env bash
# A frame that says it is of BT.709, as HD video is, is converted to RGB by the matrix of BT.601.
#
# Package: av 16.1.0 (FFmpeg 8); av 15.1.0 does the same, av 17.1.0 and newer read what the frame says.
# Expected: `reformat(format="rgb24")` follows `frame.colorspace`, as it does when another destination is named.
# Seen: the same RGB whatever the frame says, 20 levels off for a saturated green of BT.709.
# Why it matters: colours of HD recordings are wrong in every picture, with nothing to show it.
# How to live with it: name a destination other than the frame's own: RGB has no matrix, so it changes nothing else.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet av==16.1.0 numpy==2.4.6

venv/bin/python - <<'PYTHON'
import sys

import av
import numpy as np
from av.video.reformatter import Colorspace


def green(colorspace, **options):
    """Convert one saturated green, given as YUV, of a frame that states its matrix."""
    frame = av.VideoFrame(16, 16, "yuv444p")
    for plane, value in zip(frame.planes, (173, 42, 26), strict=True):
        plane.update(np.full(plane.buffer_size, value, np.uint8).tobytes())
    frame.colorspace = colorspace
    return frame.reformat(format="rgb24", **options).to_ndarray()[0, 0].tolist()


old = green(Colorspace.ITU601)
new = green(Colorspace.ITU709)
named = green(Colorspace.ITU709, dst_colorspace=Colorspace.ITU601)
print(f"BT.601 {old}, BT.709 {new}, BT.709 with a destination {named}")
if new != old or named == new:
    sys.exit("This has changed.")
PYTHON
