"""Bytes that are changed or lost inside a file: no picture that suffers from them passes as whole."""

import logging
from io import BytesIO

import av
import numpy as np
import pytest

from hmba_hf import VideoDecodeError, decode_frames, iter_frames
from numbered_videos import numbered_video, read_numbers

RATE = 25
GROUP = 12
COUNT = 4 * GROUP
SIZE = (128, 96)


def textured_video(container, codec, pixels="yuv420p", **options):
    """The bytes of a video of four groups of pictures, whose noise leaves no part of a packet without a meaning."""
    random = np.random.default_rng(0)
    texture = random.integers(0, 200, (SIZE[1] // 4, SIZE[0] // 4, 3)).repeat(4, axis=0).repeat(4, axis=1)
    with av.open(file := BytesIO(), "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=RATE)
        stream.width, stream.height = SIZE
        stream.pix_fmt = pixels
        stream.gop_size = GROUP
        stream.codec_context.max_b_frames = 0
        if codec.startswith("libvpx"):
            stream.options = {"deadline": "realtime", "cpu-used": "8"}
        if codec == "ffv1":
            stream.options = {"level": "3", "slicecrc": "1"}
        for shift in range(COUNT):
            picture = (np.roll(texture, shift, axis=1) + random.integers(0, 50, texture.shape)).astype(np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return file.getvalue()


def pictures_of(data):
    """The bytes of each picture."""
    with av.open(BytesIO(data)) as opened:
        return [bytes(packet) for packet in opened.demux(video=0)]


def overwritten(data, start, count, byte=b"\xff"):
    """The same bytes, but for some."""
    return data[:start] + count * byte + data[start + count :]


def middle_of(data, number, count=60):
    """Where so many bytes behind the middle of a picture begin that do not lie apart in the file."""
    picture = pictures_of(data)[number]
    part = len(picture) // 2
    while picture[part : part + count] not in data:
        part += 1
    return data.index(picture[part : part + count])


def changed(data, number):
    """The same bytes, but for some inside a picture."""
    return overwritten(data, middle_of(data, number), 60)


def whole_frames(data):
    """Numbers of the frames, as their times tell, that are said to be whole."""
    pairs = iter_frames(data, only_whole=True)
    return [round(RATE * time) for time, frame in pairs if not isinstance(frame, VideoDecodeError)]


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "flv", "h264", "avi"])
def test_pictures_that_a_decoder_mends_are_not_whole_until_the_next_group(container, caplog):
    data = textured_video(container, "libx264")
    damaged = changed(data, 2 * GROUP)

    whole = whole_frames(damaged)

    assert whole == [*range(2 * GROUP), *range(3 * GROUP, COUNT)]
    with pytest.raises(VideoDecodeError, match="is not whole"):
        decode_frames(damaged, 0.96, num_frames=1, only_whole=True)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert len(list(iter_frames(damaged))) == COUNT
    assert "is damaged at 0.960 s: frames from there on may look wrong" in caplog.text
    caplog.clear()
    assert whole_frames(data) == [*range(COUNT)] and not caplog.records


CODECS = [("mp4", "libx264"), ("mp4", "mpeg4"), ("webm", "libvpx"), ("webm", "libvpx-vp9"), ("avi", "msmpeg4")]


@pytest.mark.parametrize(("container", "codec"), CODECS)
def test_pictures_behind_one_that_cannot_be_decoded_are_not_whole_until_the_next_group(container, codec):
    data = textured_video(container, codec)
    start = data.index(pictures_of(data)[2 * GROUP + 3])

    whole = whole_frames(overwritten(data, start, 40, b"\0"))

    assert whole == [*range(2 * GROUP + 3), *range(3 * GROUP, COUNT)]


def cut_out(data, number):
    """The bytes without some that begin inside a picture."""
    start = middle_of(data, number, 30)
    return data[:start] + data[start + 400 :]


def check_that_whole_frames_are_right(data, damaged, caplog):
    right = [frame for _, frame in iter_frames(data)]
    assert whole_frames(data) == [*range(COUNT)] and not caplog.records
    whole = []
    for time, frame in iter_frames(damaged, only_whole=True):
        if not isinstance(frame, VideoDecodeError):
            whole.append(round(RATE * time))
            assert np.array_equal(frame, right[whole[-1]])
    assert whole[:GROUP] == [*range(GROUP)] and len(whole) < COUNT
    assert "frames from there on may look wrong or be missing" in caplog.text
    caplog.clear()
    list(iter_frames(damaged))
    assert "frames from there on may look wrong or be missing" in caplog.text


CHECKSUMS = [
    ("matroska", "mpeg4"),
    ("matroska", "libvpx-vp9"),
    ("matroska", "prores_ks"),
    ("ogg", "libvpx"),
    ("avi", "ffv1"),
]


@pytest.mark.parametrize("number", [2 * GROUP, 2 * GROUP + 3])
@pytest.mark.parametrize(("container", "codec"), CHECKSUMS)
def test_pictures_whose_checksum_fails_are_not_whole(container, codec, number, caplog):
    data = textured_video(container, codec, pixels="yuv422p10le" if codec == "prores_ks" else "yuv420p")

    check_that_whole_frames_are_right(data, changed(data, number), caplog)


FOLLOWED = [
    ("flv", "libx264"),
    ("flv", "flv"),
    ("webm", "libvpx"),
    ("webm", "libvpx-vp9"),
    ("matroska", "ffv1"),
    ("ogg", "libvpx"),
    ("mpegts", "mpeg2video"),
    ("mpegts", "libx264"),
]


@pytest.mark.parametrize(("container", "codec"), FOLLOWED)
def test_where_bytes_are_missing_inside_a_file_frames_are_not_whole(container, codec, caplog):
    data = textured_video(container, codec)

    check_that_whole_frames_are_right(data, cut_out(data, GROUP + 5), caplog)


@pytest.mark.parametrize(
    ("codec", "sound"), [("rawvideo", False), ("libx264", False), ("libx264", True), ("msmpeg4", True)]
)
def test_bytes_that_are_missing_inside_an_avi_file_are_named(codec, sound, caplog):
    """Its pictures are counted, so that those behind the gap may come too early."""
    data = textured_video("avi", codec)
    if sound:  # chunks of which FFmpeg makes several packets
        data = with_sound(data)
    assert whole_frames(data) == [*range(COUNT)] and not caplog.records
    picture = pictures_of(data)[GROUP + 5]
    end = data.index(picture) + len(picture)
    damaged = data[: end - 8] + data[end + 60 :]

    shown = [frame for _, frame in iter_frames(damaged)]

    assert len(shown) >= GROUP
    assert "frames from there on may look wrong or be missing" in caplog.text


def without(data, *holes):
    """The bytes without those in the holes: start and length, in ascending order."""
    for start, length in reversed(holes):
        data = data[:start] + data[start + length :]
    return data


@pytest.mark.parametrize("change", ["one hole", "two holes", "more bytes", "overwritten"])
@pytest.mark.parametrize(("codec", "sound"), [("rawvideo", False), ("mpeg4", False), ("libx264", True)])
def test_pictures_behind_a_gap_in_an_avi_file_have_the_times_of_its_index(codec, sound, change):
    data = textured_video("avi", codec)
    if sound:
        data = with_sound(data)
    right = [frame for _, frame in iter_frames(data)]
    places = [data.index(picture) for picture in pictures_of(data)[:-1]]
    start = places[GROUP + 5] + 9
    length = places[GROUP + 8] + 21 - start
    later = (places[2 * GROUP + 3] + 9, 50)
    damaged = {
        "one hole": without(data, (start, length)),
        "two holes": without(data, (start, length), later),
        "more bytes": data[:start] + bytes(length) + data[start:],
        "overwritten": overwritten(data, start, length),
    }[change]

    whole = {}
    for time, frame in iter_frames(damaged, only_whole=True):
        if not isinstance(frame, VideoDecodeError):
            whole[round(RATE * time)] = frame

    assert all(np.array_equal(frame, right[number]) for number, frame in whole.items())
    assert {*range(GROUP + 5), *range(3 * GROUP, COUNT)} <= set(whole)
    clip, _ = decode_frames(damaged, (COUNT - 2) / RATE, 3, RATE, only_whole=True)
    assert np.array_equal(clip, right[COUNT - 4 : COUNT - 1])


def with_sound(data):
    """The same video with noise beside it."""
    file = BytesIO()
    with av.open(BytesIO(data)) as source, av.open(file, "w", format="avi") as output:
        pictures = output.add_stream_from_template(source.streams.video[0])
        sound = output.add_stream("pcm_s16le", rate=44100)
        sound.layout = "stereo"
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size == 0:
                continue
            noise = av.AudioFrame.from_ndarray(np.full((1, 2 * 3528), number, np.int16), layout="stereo")
            noise.rate = 44100
            noise.pts = 3528 * number
            output.mux(sound.encode(noise))
            packet.stream = pictures
            output.mux(packet)
    return file.getvalue()


def test_pictures_that_are_lost_behind_the_last_one_are_told(caplog):
    data = textured_video("ogg", "libvpx")
    last = data.rindex(b"OggS")

    pairs = list(iter_frames(overwritten(data, last + 100, 9)))

    assert len(pairs) < COUNT
    assert "is damaged behind its last picture: others may be missing" in caplog.text


@pytest.mark.parametrize("container", ["avi", "mov", "mjpeg"])
def test_a_picture_of_motion_jpeg_that_is_mended_is_shown_and_is_not_whole(container, caplog):
    data = textured_video(container, "mjpeg", pixels="yuvj420p")
    damaged = changed(data, 2 * GROUP)

    whole = whole_frames(damaged)

    assert whole == [number for number in range(COUNT) if number != 2 * GROUP]
    assert whole_frames(data) == [*range(COUNT)]
    caplog.clear()
    frames = [frame for _, frame in iter_frames(damaged)]
    assert len(frames) == COUNT and all(isinstance(frame, np.ndarray) for frame in frames)
    assert "is damaged at 0.960 s: frames from there on may look wrong or be missing" in caplog.text


def test_a_tag_of_no_known_kind_hides_a_picture(caplog):
    data = textured_video("flv", "libx264")
    picture = pictures_of(data)[GROUP + 5]
    tag = data.index(picture) - 16

    check_that_whole_frames_are_right(data, overwritten(data, tag, 1), caplog)


CUT_INSIDE = [
    ("avi", "mjpeg"),
    ("avi", "mpeg4"),
    ("avi", "libx264"),
    ("matroska", "mjpeg"),
    ("flv", "flv"),
    ("mpegts", "mpeg2video"),
]


@pytest.mark.parametrize("way", ["cut out", "overwritten"])
@pytest.mark.parametrize(("container", "codec"), CUT_INSIDE)
def test_a_clip_behind_lost_pictures_has_its_frames_and_one_among_them_is_refused(container, codec, way):
    data = numbered_video(100, rate=RATE, gop=10, container=container, codec=codec)
    with av.open(BytesIO(data)) as opened:
        places = [packet.pos for packet in opened.demux(video=0)]
    start, end = places[33] + 25, places[43] + 29
    damaged = data[:start] + (b"" if way == "cut out" else bytes(end - start)) + data[end:]

    for timestamp, last in ((20 / RATE, 20), (66 / RATE, 66), (None, 99)):
        clip, metadata = decode_frames(damaged, timestamp, 3, RATE)
        assert read_numbers(clip) == [last - 2, last - 1, last]
        assert metadata.total_num_frames in (None, 100)
    for last, count in ((38, 3), (52, 20)):
        with pytest.raises(VideoDecodeError, match=r"cannot be decoded, because frames after 1\.[23]"):
            decode_frames(damaged, last / RATE, count, RATE)


def test_pictures_that_an_index_of_mp4_no_longer_finds_are_never_shown_at_the_times_of_others():
    data = numbered_video(100, rate=RATE, container="mov", codec="mjpeg", movflags="faststart")
    place = data.index(pictures_of(data)[33])
    longer = data[:place] + bytes(5000) + data[place:]

    assert read_numbers(decode_frames(longer, 32 / RATE, 3, RATE)[0]) == [30, 31, 32]
    for timestamp in (*range(34, 100, 6), None):
        with pytest.raises(VideoDecodeError, match="cannot be decoded"):
            decode_frames(longer, None if timestamp is None else timestamp / RATE, 3, RATE)


@pytest.mark.parametrize(("container", "codec", "count"), [("h264", "libx264", 500), ("mjpeg", "mjpeg", 500)])
def test_a_raw_stream_is_read_behind_a_loss_up_to_its_last_frame(container, codec, count, caplog):
    data = numbered_video(100, rate=RATE, gop=10, container=container, codec=codec)
    damaged = overwritten(data, len(data) // 2, count, b"\0")
    assert any(isinstance(frame, VideoDecodeError) for _, frame in iter_frames(damaged))

    clip, metadata = decode_frames(damaged, None, 3, RATE)

    assert read_numbers(clip) == [97, 98, 99]
    assert (metadata.duration, metadata.total_num_frames) == (None, None)
    assert "frames from there on may look wrong or be missing" in caplog.text
    assert read_numbers(decode_frames(damaged, 20 / RATE, 3, RATE)[0]) == [18, 19, 20]
    with pytest.raises(VideoDecodeError, match="cannot be decoded, because frames after"):
        decode_frames(damaged, 70 / RATE, 3, RATE)


@pytest.mark.parametrize("way", ["cut out", "overwritten"])
@pytest.mark.parametrize("length", [188, 192])
@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_pictures_behind_what_is_no_packet_of_a_transport_stream_are_whole_if_none_is_lost(codec, length, way):
    options = {"container": "mpegts", "codec": codec, "mpegts_m2ts_mode": str(int(length == 192))}
    data = numbered_video(100, rate=RATE, gop=10, **options)
    middle = len(data) // 2 // length * length
    assert whole_frames(data[:middle] + bytes(3000) + data[middle:]) == [*range(100)]

    for lost in range(4 * length, 8 * length, length):
        end = middle + lost + 4
        damaged = data[: middle + 25] + (b"" if way == "cut out" else bytes(end - middle - 25)) + data[end:]
        whole = [pair for pair in iter_frames(damaged, only_whole=True) if isinstance(pair[1], np.ndarray)]
        assert 80 < len(whole) < 100
        assert all(read_numbers(picture[None]) == [round(RATE * time)] for time, picture in whole)
