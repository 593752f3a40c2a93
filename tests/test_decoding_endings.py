"""What the bytes of a file tell of its end, looked at through the doors."""

import logging
import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from encoded_pictures import encoded
from hmba_hf import VideoDecodeError, decode_frames, iter_frames
from hmba_hf.models.decoding_stills import read_picture
from hmba_hf.models.decoding_video import video_duration
from numbered_videos import numbered_frame, numbered_video, read_numbers

FORMATS = {
    "matroska": ("libx264", "it ends at byte"),
    "ogg": ("libvpx", "it ends within a page"),
    "flv": ("libx264", "it ends within a tag"),
    "mxf": ("mpeg2video", "its last partition is missing"),
    "asf": ("wmv2", "it ends at byte"),
    "avi": ("mpeg4", "it ends at byte"),
    "nut": ("ffv1", "its index is missing"),
    "yuv4mpegpipe": ("rawvideo", "it ends within a picture"),
}


@pytest.mark.parametrize("container", FORMATS)
def test_a_file_that_lacks_its_last_bytes_is_named_and_its_pictures_are_the_right_ones(container, caplog):
    codec, sign = FORMATS[container]
    whole = numbered_video(30, rate=25, container=container, codec=codec, gop=8)
    assert read_numbers(decode_frames(whole, num_frames=1)[0]) == [29] and not caplog.records
    cut = whole[: int(0.97 * len(whole))] if container in ("mxf", "nut") else whole[:-5]

    with caplog.at_level(logging.WARNING):
        pairs = [(time, picture) for time, picture in iter_frames(cut) if not isinstance(picture, VideoDecodeError)]
        times = [seconds for seconds, _ in pairs]
        numbers = read_numbers([picture[None] for _, picture in pairs][-1])

    assert f"is cut short: {sign}" in caplog.text
    assert numbers == read_numbers(decode_frames(cut, times[-1], num_frames=1)[0]) == [len(pairs) - 1]


def test_a_last_page_of_ogg_that_is_not_marked_as_the_last_shows_a_cut(caplog):
    whole = numbered_video(30, container="ogg", codec="libvpx")

    list(iter_frames(whole[: whole.rindex(b"OggS")]))

    assert "is cut short: its last page is not marked as the last" in caplog.text


def test_half_the_header_of_a_picture_at_the_end_of_an_ivf_file_shows_a_cut(caplog):
    whole = numbered_video(30, rate=25, container="ivf", codec="libvpx")
    last = whole.rindex((29).to_bytes(8, "little"))  # its time, in the middle of its header

    assert len(list(iter_frames(whole))) == 30 and not caplog.records
    assert len(list(iter_frames(whole[: last + 2]))) == 29

    assert "is cut short: it ends within a picture" in caplog.text


def test_half_a_picture_at_the_end_of_a_dv_file_is_not_shown(caplog):
    whole = numbered_video(3, rate=25, container="dv", codec="dvvideo", size=(720, 576))
    assert read_numbers(decode_frames(whole, num_frames=1)[0]) == [2] and not caplog.records

    *pairs, (_, error) = iter_frames(whole[:-10_000])

    assert [read_numbers(picture[None]) for _, picture in pairs] == [[0], [1]]
    assert isinstance(error, VideoDecodeError) and "the file ends within a picture" in str(error)
    with pytest.raises(VideoDecodeError, match="is damaged: the last frame cannot be decoded"):
        decode_frames(whole[:-10_000], num_frames=1)


def test_a_file_of_parts_as_cameras_send_them_ends_behind_its_last_part():
    whole = numbered_video(20, rate=25, container="mpjpeg", codec="mjpeg")
    for data in (whole, whole[: whole.rindex(b"\r\n--")]):
        assert read_numbers(decode_frames(data, num_frames=2, fps=25)[0]) == [18, 19]
        assert [read_numbers(picture[None]) for _, picture in iter_frames(data)] == [[n] for n in range(20)]

    for data in (whole[:-300], whole + whole):
        *_, (_, error) = iter_frames(data)
        assert isinstance(error, VideoDecodeError)
        with pytest.raises(VideoDecodeError, match="is damaged: the last frame cannot be decoded"):
            decode_frames(data, num_frames=1)


@pytest.mark.parametrize(
    ("container", "codec", "before", "number"),
    [
        ("matroska", "mpeg4", b"\x44\x89\x88", struct.pack(">d", 1e12)),
        ("avi", "mpeg4", b"vidsFMP4" + bytes(12) + struct.pack("<II", 1, 25) + bytes(4), struct.pack("<I", 2**32 - 1)),
        ("ivf", "libvpx", struct.pack("<II", 25, 1), struct.pack("<I", 2**32 - 1)),
    ],
)
def test_a_header_that_promises_years_promises_nothing(container, codec, before, number, caplog):
    data = numbered_video(30, rate=25, container=container, codec=codec)
    place = data.index(before) + len(before)
    changed = data[:place] + number + data[place + len(number) :]

    assert read_numbers(decode_frames(changed, num_frames=2, fps=25.0)[0]) == [28, 29]
    assert video_duration(changed) == pytest.approx(1.2)
    assert len([*iter_frames(changed)]) == 30 and not caplog.records


def test_a_gif_file_cut_at_any_byte_shows_whole_pictures_alone():
    pictures = [Image.fromarray(numbered_frame(number)) for number in range(4)]
    file = BytesIO()
    pictures[0].save(file, format="GIF", save_all=True, append_images=pictures[1:], duration=100, comment=b"x" * 300)
    whole = file.getvalue()
    for length in range(400, len(whole)):
        try:
            found = [picture for _, picture in iter_frames(whole[:length])]
        except VideoDecodeError:
            continue
        shown = [picture for picture in found if not isinstance(picture, VideoDecodeError)]
        assert read_numbers(np.stack(shown)) == [*range(len(shown))], length


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "QOI", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.6, 0.9])
def test_half_of_a_picture_that_is_alone_is_none(kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    options = {"progressive": True} if "prog" in kind else {}
    whole = encoded(Image.fromarray(noise), kind.split()[-1], **options)

    assert decode_frames(whole, num_frames=1, only_whole=True)[0].shape == (1, 48, 64, 3)
    for door in (decode_frames, lambda source: [*iter_frames(source)], read_picture):
        with pytest.raises(VideoDecodeError):
            door(whole[: int(share * len(whole))])


def test_delays_of_animated_pictures_are_believed(caplog):
    pictures = [Image.fromarray(numbered_frame(number)) for number in range(14)]
    for container, longest in (("GIF", 90_000), ("PNG", 65_000)):  # Pillow 10.1 writes 16 bits of it into PNG
        delays = [longest, *[20] * 10, 30_000, 20, 20]
        starts = np.cumsum([0, *delays[:-1]]) / 1000
        file = BytesIO()
        pictures[0].save(file, container, save_all=True, append_images=pictures[1:], duration=delays)
        pairs = [*iter_frames(file.getvalue())]
        assert [time for time, _ in pairs] == pytest.approx(starts, abs=0.02)
        assert read_numbers(np.stack([picture for _, picture in pairs])) == [*range(14)]
    assert not caplog.records
