#!/usr/bin/env bash
# No side data of a picture can be read, the rotation included, as soon as the picture has EXIF.
#
# Package: av 18.1.0; av 19.0.2 is right.
# Expected: `frame.side_data` lists what it knows, as it does for a picture without EXIF.
# Seen: ValueError "31 is not a valid Type". The FFmpeg in the wheel knows a type that PyAV's table lacks.
# Why it matters: most photographs have EXIF, and their display matrix (which way is up) stands in the side data.
# How to live with it: read `frame.rotation`, or pass the frame through the filter `sidedata=mode=delete:type=31`.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet av==18.1.0 numpy==2.4.6 pillow==13.0.0

venv/bin/python - <<'PYTHON'
import io
import sys

import av
from PIL import Image

ORIENTATION = 0x0112  # the tag of EXIF


def ask(picture_format, **options):
    """Save a picture, decode it, and return how many items of side data it has, or the error, and its rotation."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 10, 10)).save(file, picture_format, **options)
    file.seek(0)
    with av.open(file) as source:
        frame = next(source.decode(video=0))
    try:
        return len(frame.side_data), frame.rotation
    except ValueError as error:
        return str(error), frame.rotation


turned = Image.Exif()
turned[ORIENTATION] = 6
changed = False
for picture_format in ("JPEG", "PNG", "WEBP"):
    without = ask(picture_format)
    found = ask(picture_format, exif=turned)
    print(f"{picture_format}: without EXIF {without}, with EXIF {found}")
    changed = changed or without != (0, 0) or found != ("31 is not a valid Type", -90)
if changed:
    sys.exit("This has changed.")
PYTHON
