"""Sizes that the header of a picture claims, before memory is taken for them."""

import resource
import struct
import zlib
from io import BytesIO

import av
import pytest
from PIL import Image

from hmba_hf.models.decoding_containers import LIMITS, SourceLimits, VideoDecodeError
from hmba_hf.models.decoding_video import decode_frames, iter_frames


def gif_of_screen(width, height):
    file = BytesIO()
    Image.new("P", (64, 48)).save(file, "GIF", save_all=True, append_images=[Image.new("P", (64, 48), 3)])
    data = bytearray(file.getvalue())
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


@pytest.mark.parametrize("size", [(300, 200), (9900, 9900), (65535, 65535)])
def test_the_screen_that_a_gif_claims_is_refused_before_memory_is_taken_for_it(size):
    limits = SourceLimits(max_pixels=50_000) if size == (300, 200) else LIMITS
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VideoDecodeError, match=f"got {size[0]} x {size[1]} pixels"):
        decode_frames(gif_of_screen(*size), limits=limits)
    if int(av.__version__.partition(".")[0]) >= 18:  # PyAV before looks at a first picture whatever its size
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB
    assert decode_frames(gif_of_screen(300, 200))[0].shape == (5, 200, 300, 3)


def picture_of_size(suffix, width, height):
    """A small picture whose header claims another size."""
    file = BytesIO()
    Image.new("RGB", (32, 24)).save(file, suffix)
    data = bytearray(file.getvalue())
    known = struct.pack(">II", 32, 24)
    if suffix == "PNG":
        place = data.index(known)
        data[place : place + 8] = struct.pack(">II", width, height)
        data[place + 13 : place + 17] = struct.pack(">I", zlib.crc32(data[place - 4 : place + 13]))
    elif suffix == "BMP":
        data[18:26] = struct.pack("<ii", width, -height)  # its rows begin at the top
    elif suffix == "JPEG":
        place = data.index(b"\xff\xc0")
        data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    else:
        for tag, value in ((256, width), (257, height)):
            place = data.index(struct.pack("<HHI", tag, 4, 1))
            data[place + 8 : place + 12] = struct.pack("<I", value)
    return bytes(data)


@pytest.mark.parametrize("size", [(9_000, 8_000), (65_000, 64_000)])
@pytest.mark.parametrize("suffix", ["PNG", "BMP", "JPEG", "TIFF"])
def test_the_size_that_a_picture_claims_is_named_at_every_door_for_videos(suffix, size):
    data = picture_of_size(suffix, *size)
    for door in (decode_frames, lambda source: list(iter_frames(source))):
        with pytest.raises(VideoDecodeError, match=f"got {size[0]} x {size[1]} pixels"):
            door(data)
