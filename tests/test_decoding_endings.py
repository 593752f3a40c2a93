"""What the bytes of a file tell of its end, looked at through the doors."""

import logging

import pytest

from hmba_hf import decode_frames, iter_frames
from numbered_videos import numbered_video, read_numbers

FORMATS = {
    "matroska": ("libx264", "it ends at byte"),
    "ogg": ("libvpx", "it ends within a page"),
    "flv": ("libx264", "it ends within a tag"),
    "mxf": ("mpeg2video", "its last partition is missing"),
}


@pytest.mark.parametrize("container", FORMATS)
def test_a_file_that_lacks_its_last_bytes_is_named_and_its_pictures_are_the_right_ones(container, caplog):
    codec, sign = FORMATS[container]
    whole = numbered_video(30, rate=25, container=container, codec=codec, gop=8)
    assert read_numbers(decode_frames(whole, num_frames=1)[0]) == [29] and not caplog.records
    cut = whole[:-5] if container != "mxf" else whole[: int(0.97 * len(whole))]

    with caplog.at_level(logging.WARNING):
        pairs = list(iter_frames(cut))
        times = [seconds for seconds, _ in pairs]
        numbers = read_numbers([picture[None] for _, picture in pairs][-1])

    assert f"is cut short: {sign}" in caplog.text
    assert numbers == read_numbers(decode_frames(cut, times[-1], num_frames=1)[0]) == [len(pairs) - 1]


def test_a_last_page_of_ogg_that_is_not_marked_as_the_last_shows_a_cut(caplog):
    whole = numbered_video(30, container="ogg", codec="libvpx")

    list(iter_frames(whole[: whole.rindex(b"OggS")]))

    assert "is cut short: its last page is not marked as the last" in caplog.text
