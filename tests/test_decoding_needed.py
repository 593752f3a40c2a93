import logging
from io import BytesIO

import av
import numpy as np
import pytest
from packaging.version import Version

from hmba_hf.models import decoding_needed, decoding_plain, decoding_reader, decoding_streams
from hmba_hf.models.decoding_containers import LIMITS, opened
from hmba_hf.models.decoding_needed import PlainStretch
from hmba_hf.models.decoding_references import references_of
from hmba_hf.models.decoding_video import decode_frames, decode_segments
from numbered_videos import numbered_video, read_numbers

RATE = 25
TIMES = (0.0, 0.9, 2.0, 2.5, 3.3, 4.04, 5.2, None)


def video(words="", codec="libx264", container="mp4", **muxer):
    """Six seconds with a keyframe every two."""
    name = {"libx264": "x264-params", "libx265": "x265-params", "libsvtav1": "svtav1-params"}[codec]
    words = f"{words}:log-level=error:keyint=50" if codec == "libx265" else words
    size = (64, 64) if codec == "libsvtav1" else (64, 48)

    def prepare(stream):
        stream.options = {name: words, "preset": "10"} if codec == "libsvtav1" else {name: words}

    return numbered_video(
        6 * RATE, rate=RATE, gop=2 * RATE, codec=codec, container=container, prepare=prepare, size=size, **muxer
    )


@pytest.fixture
def decoding_all(monkeypatch):
    """Switch between decoding what is needed and decoding all."""

    def switch(is_on):
        monkeypatch.undo()
        if is_on:
            monkeypatch.setattr(decoding_plain, "references_in", lambda video: None)
            monkeypatch.setattr(decoding_streams, "states_pictures", lambda stream: False)

    return switch


@pytest.fixture
def decoded(monkeypatch):
    """Count packets that are decoded where all is plain."""
    counted = []
    needed = PlainStretch._needed

    def counting(stretch, wanted):
        packets = needed(stretch, wanted)
        counted.extend(packets)
        return packets

    monkeypatch.setattr(PlainStretch, "_needed", counting)
    return counted


def outcome(read, caplog):
    """Frames, metadata, warnings; or the error."""
    caplog.clear()
    try:
        frames, metadata = read()
    except ValueError as error:
        return str(error)
    said = [record.getMessage() for record in caplog.records]
    return frames.tobytes(), frames.shape, repr(metadata), said


def assert_the_same(source, decoding_all, caplog, times=TIMES):
    reads = [lambda time=time: decode_frames(source, time, 5, 4.0) for time in times]
    reads += [lambda: decode_frames(source, 3.0, 8, 25.0), lambda: decode_segments(source, 5)]
    with caplog.at_level(logging.WARNING):
        for read in reads:
            decoding_all(True)
            expected = outcome(read, caplog)
            decoding_all(False)
            assert outcome(read, caplog) == expected


AV1 = {"codec": "libsvtav1", "words": "pred-struct=2"}  # with pictures that no other refers to
PLAIN = {
    "mp4": {},
    "mkv": {"container": "matroska"},
    "no pictures between": {"words": "bframes=0"},
    "many between": {"words": "bframes=8:b-adapt=0"},
    "slices": {"words": "slices=3"},
    "sets in packets": {"words": "repeat-headers=1"},
    "hevc": {"codec": "libx265", "words": "open-gop=0"},
    "hevc, open": {"codec": "libx265", "words": "open-gop=1:bframes=4"},
    "av1": AV1,
    "av1, mkv": AV1 | {"container": "matroska"},
}
OTHER = {
    "open": {"words": "open-gop=1"},
    "fields": {"words": "interlaced=1"},
    "refreshed": {"words": "intra-refresh=1"},
    "fragments": {"movflags": "frag_keyframe+empty_moov"},
    "ts": {"container": "mpegts"},
    "avi": {"container": "avi"},
    "layers": {"codec": "libx265", "words": "temporal-layers=2"},
}


@pytest.mark.parametrize("name", [*PLAIN, *OTHER])
def test_frames_metadata_and_warnings_are_those_of_decoding_every_picture(name, decoding_all, caplog):
    assert_the_same(video(**(PLAIN | OTHER)[name]), decoding_all, caplog)


@pytest.mark.parametrize("name", PLAIN)
def test_a_picture_that_nothing_needs_is_not_decoded(name, decoded):
    frames, _ = decode_frames(video(**PLAIN[name]), 3.3, 3, 4.0)
    assert read_numbers(frames) == [70, 76, 82]
    is_all_needed = name == "no pictures between"
    assert (len(decoded) == 33) if is_all_needed else (3 <= len(decoded) < 30)


@pytest.mark.parametrize("name", PLAIN)
def test_the_last_clip_of_a_plain_file_is_decoded_once_and_from_what_it_needs(name, decoded, monkeypatch):
    monkeypatch.setattr(decoding_reader.VideoReader, "last_time", lambda reader: pytest.fail("decodes the end"))
    frames, metadata = decode_frames(video(**PLAIN[name]), None, 3, 4.0)
    assert read_numbers(frames) == [136, 142, 149] and metadata.timestamps[-1] == pytest.approx(5.96)
    assert 3 <= len(decoded) <= 50, "pictures from the last keyframe on"


@pytest.mark.parametrize("name", PLAIN)
def test_the_end_of_a_plain_file_is_not_decoded_to_part_it_into_segments(name, monkeypatch):
    monkeypatch.setattr(decoding_reader.VideoReader, "last_time", lambda reader: pytest.fail("decodes the end"))
    frames, metadata = decode_segments(video(**PLAIN[name]), 3)
    assert read_numbers(frames) == [25, 75, 125] and metadata.duration == pytest.approx(6.0)


def test_pictures_between_a_wanted_one_and_the_next_keyframe_are_not_decoded(decoded):
    frames, _ = decode_frames(video("bframes=0"), 4.04, 2, 2.0)
    assert read_numbers(frames) == [88, 101]
    assert len(decoded) == 39 + 2


@pytest.mark.parametrize("name", PLAIN)
def test_the_first_pictures_of_a_plain_file_are_not_decoded_to_open_it(name, monkeypatch):
    monkeypatch.setattr(decoding_reader.VideoReader, "_first_decoded", lambda reader: pytest.fail("decodes"))
    with opened(video(**PLAIN[name])) as (file, title):
        with decoding_reader.VideoReader(file, title, LIMITS, None) as reader:
            assert reader.origin == 0


def test_the_header_of_an_mp4_file_states_what_its_first_pictures_do():
    with opened(video()) as (file, title):
        facts = []
        for is_read_in_parts in (False, True):
            opened_video = decoding_streams.OpenVideo(file, title, is_read_in_parts=is_read_in_parts)
            stream = opened_video.stream
            codec = stream.codec_context
            facts.append(
                (opened_video.rate, stream.sample_aspect_ratio or 1, codec.width, codec.height, stream.duration)
            )
            opened_video.close()
    assert facts[0] == facts[1]


def test_pixels_that_are_not_square_are_stretched_whatever_the_header_leaves_out(decoding_all, caplog):
    data = video("sar=4/3")
    assert decode_frames(data, 2.5)[0].shape[1:3] == (48, 85)
    assert_the_same(data, decoding_all, caplog, times=(2.5,))


@pytest.mark.parametrize("step", [0.02, 0.3, 3.0])
def test_frames_of_a_rate_that_varies_are_those_of_decoding_every_picture(step, decoding_all, caplog):
    times = [index / RATE + (step if index > 90 else 0) for index in range(150)]
    data = numbered_video(150, rate=RATE, codec="libx264", gop=50, times=times, prepare=without_reordering)
    assert_the_same(data, decoding_all, caplog)


def without_reordering(stream):
    stream.options = {"x264-params": "bframes=0"}


def damaged(data, first, last, is_reference):
    """A file in which one picture between two times is damaged in its middle: one that others refer to, or not."""
    with av.open(BytesIO(data)) as container:
        stream = container.streams.video[0]
        references = references_of(stream.codec_context.name, stream.codec_context.extradata)
        for packet in container.demux(stream):
            kind = references.kind_of(bytes(packet))
            is_between = packet.pts is not None and first < packet.pts * stream.time_base < last
            if is_between and kind.is_reference == is_reference:
                middle = packet.pos + packet.size // 2
                return data[:middle] + bytes(byte ^ 0xFF for byte in data[middle : middle + 6]) + data[middle + 6 :]
    raise AssertionError("no such picture")


@pytest.mark.parametrize("name", ["mp4", "mkv", "hevc"])
def test_damage_of_a_picture_that_a_clip_needs_gives_what_decoding_every_picture_gives(name, decoding_all, caplog):
    broken = damaged(video(**PLAIN[name]), 2.1, 2.4, is_reference=True)
    assert_the_same(broken, decoding_all, caplog, times=(2.9, 3.5))


@pytest.mark.parametrize("first", [4.9, 5.4, 5.7])
@pytest.mark.parametrize("name", ["mp4", "mkv", "hevc"])
def test_damage_of_the_last_pictures_gives_what_decoding_every_picture_gives(name, first, decoding_all, caplog):
    if name == "hevc" and Version(av.__version__) < Version("16"):
        pytest.skip("FFmpeg 7 mends these by whatever it has decoded before, and tells nobody")
    broken = damaged(video(**PLAIN[name]), first, 6.0, is_reference=True)
    reads = [
        lambda: decode_frames(broken, None, 5, 25.0),
        lambda: decode_frames(broken, None, 3, 4.0, only_whole=True),
    ]
    with caplog.at_level(logging.WARNING):
        for read in reads:
            decoding_all(True)
            expected = outcome(read, caplog)
            decoding_all(False)
            assert outcome(read, caplog) == expected


@pytest.mark.parametrize("name", ["mp4", "mkv"])
def test_the_end_of_a_file_that_was_cut_gives_what_decoding_every_picture_gives(name, decoding_all, caplog):
    data = video(**PLAIN[name], **({"movflags": "faststart"} if name == "mp4" else {}))
    for lost in (1, 200, 3000):
        assert_the_same(data[:-lost], decoding_all, caplog, times=(None,))


@pytest.mark.parametrize("name", ["mp4", "hevc"])
def test_damage_of_a_picture_that_a_clip_does_not_need_leaves_it_whole(name, caplog):
    sound = video(**PLAIN[name])
    broken = damaged(sound, 2.1, 2.4, is_reference=False)
    with caplog.at_level(logging.WARNING):
        frames, _ = decode_frames(broken, 3.5, 2, 4.0, only_whole=True)
    assert np.array_equal(frames, decode_frames(sound, 3.5, 2, 4.0)[0])
    assert not caplog.records


@pytest.mark.parametrize("name", ["mp4", "hevc"])
def test_damage_behind_the_last_segments_frame_leaves_the_segments_whole(name, caplog):
    sound = video(**PLAIN[name])
    broken = damaged(sound, 5.7, 6.0, is_reference=True)
    with caplog.at_level(logging.WARNING):
        frames, metadata = decode_segments(broken, 3, only_whole=True)
    wanted, told = decode_segments(sound, 3)
    assert np.array_equal(frames, wanted) and repr(metadata) == repr(told)
    assert not caplog.records


def test_packets_of_a_stretch_take_no_more_memory_than_two_pictures(monkeypatch, decoded):
    monkeypatch.setattr(decoding_needed, "_HELD_PICTURES", 0)
    assert read_numbers(decode_frames(video(), 3.3, 3, 4.0)[0]) == [70, 76, 82]
    assert not decoded, "all are decoded as they come"


@pytest.mark.parametrize(
    "name",
    [
        "fixtures/one_keyframe_bframes.mp4",
        "fixtures/hevc_360p.mp4",
        "fixtures/av1_270p.mkv",
        "fixtures/broken_bitflips.mp4",
        "fixtures/vfr_360p.mp4",
        "fixtures/start_offset_2500ms.mkv",
        "reports/tail_trim.mp4",
        "reports/head_tail_trim.mp4",
        "reports/held.mp4",
        "reports/r30.mkv",
        "thirdparty_fixtures/torchcodec_nasa_13013.mp4",
        "thirdparty_fixtures/torchcodec_h265_video.mp4",
    ],
)
def test_frames_of_real_files_are_those_of_decoding_every_picture(name, shared_data, decoding_all, caplog):
    assert_the_same(str(shared_data / name), decoding_all, caplog)


@pytest.mark.parametrize("fps", [1e-17, 5e-324])
def test_a_rate_that_reaches_back_before_all_times_shows_the_first_frame(fps):
    data = numbered_video(30, rate=25, container="mp4", codec="libx264", gop=8)
    assert read_numbers(decode_frames(data, num_frames=3, fps=fps)[0]) == [0, 0, 29]
