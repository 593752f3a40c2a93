"""Another file behind the first one, as in files that were joined byte by byte, wherever a clip lies."""

from io import BytesIO

import av
import numpy as np
import pytest

from hmba_hf import VideoDecodeError, decode_frames, iter_frames
from hmba_hf.data.clips import video_duration
from hmba_hf.models.decoding_endings import ASF_NUMBERS, ASF_PROPERTIES
from hmba_hf.models.decoding_joined import PART, next_file
from hmba_hf.models.video_processing_hmba import HMBAVideoProcessor
from numbered_videos import numbered_frame, numbered_video, read_numbers

NOT_READ = "which is not read"
# Formats, with their codecs, that state no end or that were seen to be read wrongly.
KINDS = {
    "flv": ("flv", NOT_READ),
    "asf": ("wmv2", NOT_READ),
    "ivf": ("libvpx", NOT_READ),
    "nut": ("mpeg4", NOT_READ),
    "mxf": ("mpeg2video", NOT_READ),
    "rm": ("rv20", NOT_READ),
    "wtv": ("mpeg2video", NOT_READ),
    "smjpeg": ("mjpeg", NOT_READ),
    "yuv4mpegpipe": ("wrapped_avframe", NOT_READ),
    "apng": ("apng", NOT_READ),
    "gif": ("gif", "whose pictures are counted on"),
    "ogg": ("libvpx", "whose clock begins anew"),
    "webm": ("libvpx", "whose clock begins anew"),
}
PIXELS = {"gif": "rgb8", "apng": "rgb24"}
LIVE = {"flv": {"flvflags": "no_duration_filesize"}, "webm": {"live": "1"}}


def one_file(container, count=60, first=0):
    """The bytes of a file as a live recorder leaves it, without a stated end."""
    codec, _ = KINDS[container]

    def in_its_format(stream):
        stream.pix_fmt = PIXELS.get(container, stream.pix_fmt)

    size = (176, 144) if container == "rm" else (64, 48)
    data = numbered_video(
        count,
        rate=25,
        gop=12,
        container=container,
        codec=codec,
        size=size,
        first=first,
        prepare=in_its_format,
        **LIVE.get(container, {}),
    )
    if container != "asf":
        return data
    numbers = data.index(ASF_PROPERTIES) + len(ASF_PROPERTIES)
    return data[: numbers + 24] + bytes(ASF_NUMBERS.size - 40) + data[numbers + ASF_NUMBERS.size - 16 :]


def numbers(data, timestamp=None, count=1):
    return read_numbers(decode_frames(data, timestamp, count, 25.0)[0])


def streamed(data):
    pictures = []
    for _, picture in iter_frames(data):
        assert not isinstance(picture, VideoDecodeError)
        pictures.append(picture)
    return read_numbers(np.stack(pictures))


@pytest.mark.parametrize("container", KINDS)
def test_a_file_behind_a_file_is_named_wherever_a_clip_lies_and_mixes_with_none(container, caplog):
    first = one_file(container)
    joined = first + one_file(container, 30, 1000)
    fate = KINDS[container][1]
    what = f"holds another file behind its last picture, from byte {len(first)} of {len(joined)} on, {fate}"
    for timestamp in (0.0, 1.0, 2.36):
        caplog.clear()
        frames, metadata = decode_frames(joined, timestamp, 1)
        assert read_numbers(frames) == [round(25 * timestamp)]
        assert caplog.text.count(what) == 1
        assert fate == NOT_READ or (metadata.duration, metadata.total_num_frames) == (None, None)
    shown = [*range(60)] if fate == NOT_READ else [*range(60), *range(1000, 1030)]
    caplog.clear()
    assert streamed(joined) == shown
    assert numbers(joined, None, 3) == shown[-3:]
    assert caplog.text.count(what) == 2 and "damaged" not in caplog.text
    assert video_duration(joined) == pytest.approx(3.6 if "counted" in fate else 2.4)


@pytest.mark.parametrize("container", KINDS)
def test_one_file_alone_is_not_called_joined(container, caplog):
    data = one_file(container)
    assert streamed(data) == [*range(60)]
    for timestamp in (None, 1.0):
        decode_frames(data, timestamp)
    assert "another file" not in caplog.text


def test_a_file_whose_stated_end_is_that_of_the_file_is_not_searched():
    data = numbered_video(30, container="flv", codec="flv")
    places = []

    def bytes_at(place, length):
        places.append(place)
        return data[place : place + length]

    assert next_file(bytes_at, len(data)) is None
    assert {*places} <= {0, len(data)}


@pytest.mark.parametrize("counts", [(20, 60), (60, 20), (20, 60, 30)])
@pytest.mark.parametrize("flags", ["", "+bitexact"])
def test_joined_ogg_files_are_recordings_of_which_none_is_lost(counts, flags, caplog):
    """Their streams may have one number, as files have that are made to be the same each time."""
    parts = []
    for index, count in enumerate(counts):
        options = {"fflags": flags} if flags else {}
        part = numbered_video(count, rate=25, gop=12, container="ogg", codec="libvpx", first=1000 * index, **options)
        parts.append(part)
    joined = b"".join(parts)
    shown = []
    for index, count in enumerate(counts):
        shown += range(1000 * index, 1000 * index + count)
    assert streamed(joined) == shown
    assert numbers(joined, None, 3) == shown[-3:]
    longest = 1000 * counts.index(60)
    assert numbers(joined, 0.4) == [10]
    assert numbers(joined, 2.0, 3) == [longest + 48, longest + 49, longest + 50]
    assert video_duration(joined) == pytest.approx(2.4)
    with pytest.raises(ValueError, match="timestamp 3.000 s lies outside .* which ends at 2.4 s"):
        decode_frames(joined, 3.0)
    assert "damaged" not in caplog.text


def test_several_streams_of_one_ogg_file_are_one_file(caplog):
    file = BytesIO()
    with av.open(file, "w", format="ogg") as output:
        streams = [output.add_stream("libvpx", rate=25), output.add_stream("libvpx", rate=25)]
        for stream in streams:
            stream.width = 64
            stream.height = 48
            stream.pix_fmt = "yuv420p"
        for number in range(30):
            for stream in streams:
                output.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")))
        for stream in streams:
            output.mux(stream.encode())
    assert numbers(file.getvalue()) == [29]
    assert "another file" not in caplog.text


@pytest.mark.parametrize("shift", [-8, -1, 0, 1])
def test_the_start_of_a_file_is_found_where_two_pieces_of_it_are_read(shift):
    start = b"nut/multimedia container\0"
    data = start + bytes(PART + 1 - len(start) + shift) + start

    def bytes_at(place, length):
        return data[place : place + length]

    found = next_file(bytes_at, len(data))
    assert found is not None and found.start == PART + 1 + shift


@pytest.mark.parametrize("container", ["mpegts", "matroska", "vob"])
@pytest.mark.parametrize("start", [20, 100])  # by a longer step back FFmpeg takes the clock of MPEG for one that wraps
def test_a_recording_whose_clock_begins_earlier_begins_at_zero_at_every_door(container, start):
    codec = "mpeg2video" if container == "vob" else "mpeg4"
    kind = {"rate": 25, "container": container, "codec": codec}
    first = numbered_video(90, output_ts_offset=str(start), **kind)
    joined = first + numbered_video(70, first=100, **kind)
    pairs = list(iter_frames(joined))
    assert read_numbers(np.stack([frame for _, frame in pairs])) == [*range(90), *range(100, 170)]
    assert [time for time, _ in pairs[90:]] == pytest.approx([index / 25 for index in range(70)], abs=1e-3)
    clip, metadata = decode_frames(joined, None, 4, 25.0)
    assert read_numbers(clip) == [166, 167, 168, 169]
    assert metadata.timestamps == pytest.approx([2.64, 2.68, 2.72, 2.76], abs=1e-3) and metadata.duration is None
    assert read_numbers(decode_frames(joined, None, None)[0]) == [*range(100, 170)]
    assert read_numbers(decode_frames(joined, 1.0, 3, 25.0)[0]) == [23, 24, 25]
    assert video_duration(joined) == pytest.approx(3.6, abs=1e-3)
    assert HMBAVideoProcessor()(joined)["pixel_values_videos"] is not None
