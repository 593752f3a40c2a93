"""What a file promises and does not keep, a passing shortage, and times that only an index tells."""

from io import BytesIO
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.codec.context import Flags
from PIL import Image

from hmba_hf import VideoDecodeError, decode_frames, iter_frames
from hmba_hf.data.clips import video_duration
from hmba_hf.models.decoding_packets import VideoPackets
from hmba_hf.models.decoding_video import decode_segments
from hmba_hf.models.video_processing_hmba import HMBAVideoProcessor
from numbered_videos import numbered_frame, numbered_video, read_numbers


def numbers(*args, **kwargs):
    return read_numbers(decode_frames(*args, **kwargs)[0])


def streamed(data):
    """Times and numbers of the frames of a stream, and its errors."""
    pairs = [*iter_frames(data)]
    frames = [(time, frame) for time, frame in pairs if not isinstance(frame, VideoDecodeError)]
    errors = [str(frame) for _, frame in pairs if isinstance(frame, VideoDecodeError)]
    return [time for time, _ in frames], read_numbers(np.stack([frame for _, frame in frames])), errors


def packets_of(data):
    with av.open(BytesIO(data)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


CUT = [
    ("webm", "libvpx"),
    ("matroska", "libx264"),
    ("matroska", "mjpeg"),
    ("flv", "flv"),
    ("avi", "mpeg4"),
    ("avi", "mjpeg"),
    ("ivf", "libvpx"),
]


@pytest.mark.parametrize(("container", "codec"), CUT)
def test_a_file_that_is_cut_short_is_named_with_what_it_promises_and_what_came(container, codec, caplog):
    data = numbered_video(100, rate=25, gop=25, container=container, codec=codec)
    position, size = packets_of(data)[60]
    cut = data[: position + size // 2]
    times, shown, errors = streamed(cut)
    assert shown[:58] == [*range(58)] and 57 / 25 <= times[-1] <= 63 / 25
    assert "its frames end at 2." in errors[-1] and "of 4.000 s" in errors[-1]
    assert "is damaged: its frames end at 2." in caplog.text
    assert video_duration(cut) == pytest.approx(4.0, abs=0.1)
    assert numbers(cut, 1.0, 3, 25.0) == [23, 24, 25]
    for timestamp in (None, times[-1] + 0.2, 3.5):
        with pytest.raises(VideoDecodeError, match="is damaged: .* cannot be decoded, because decoding stopped after"):
            decode_frames(cut, timestamp)


def numbered_gif():
    pictures = [Image.fromarray(numbered_frame(number)) for number in range(30)]
    file = BytesIO()
    pictures[0].save(file, format="GIF", save_all=True, append_images=pictures[1:], duration=100)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["mjpeg", "gif"])
def test_half_a_picture_is_none(kind):
    data = numbered_gif() if kind == "gif" else numbered_video(30, container="mjpeg", codec="mjpeg")
    position, size = packets_of(data)[20]
    cut = data[: position + 2 * size // 3]
    _, shown, errors = streamed(cut)
    assert shown == [*range(20)] and "the file ends within a picture" in errors[0]
    with pytest.raises(VideoDecodeError, match="the file ends within a picture"):
        decode_frames(cut)
    assert streamed(data)[1:] == ([*range(30)], [])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_half_of_the_only_picture_of_a_gif_is_none(share):
    file = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, format="GIF")
    data = file.getvalue()
    for only_whole in (False, True):
        with pytest.raises(VideoDecodeError):
            decode_frames(data[: int(share * len(data))], num_frames=1, only_whole=only_whole)
    assert decode_frames(data, num_frames=1, only_whole=True)[0].shape == (1, 48, 64, 3)


@pytest.mark.parametrize("container", ["mp4", "mov", "ismv"])
@pytest.mark.parametrize("kind", [b"moof", b"mdat"])
def test_fragments_that_end_within_a_box_are_named(container, kind, caplog):
    fragments = {} if container == "ismv" else {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    data = numbered_video(50, container=container, codec="libx264", **fragments)
    assert streamed(data)[1:] == ([*range(50)], []) and "cut short" not in caplog.text
    cut = data[: data.rindex(kind) + 20]
    streamed(cut)
    assert f"is cut short: it ends at byte {len(cut)}, in a box that ends at byte" in caplog.text


@pytest.fixture
def no_index(monkeypatch):
    """PyAV shows no index, as PyAV 15."""
    monkeypatch.setattr(VideoPackets, "_index", ())
    monkeypatch.setattr(VideoPackets, "_hides_index", True)


def test_a_cut_mp4_file_is_named_by_its_header_where_pyav_shows_no_index(no_index):
    data = numbered_video(50, movflags="faststart")
    position, size = packets_of(data)[32]
    cut = data[: position + size]
    assert numbers(cut, 3.2)[-1] == 32
    for timestamp in (None, 3.3, 4.9):
        with pytest.raises(VideoDecodeError, match="is damaged: .* cannot be decoded, because decoding stopped after"):
            decode_frames(cut, timestamp)
    assert streamed(data)[1:] == ([*range(50)], [])
    fragmented = numbered_video(50, movflags="frag_keyframe+empty_moov")
    assert streamed(fragmented)[1:] == ([*range(50)], [])


def test_chunks_of_an_avi_file_are_not_counted_as_pictures_where_pyav_shows_no_index(no_index):
    data = numbered_video(50, container="avi")
    _, metadata = decode_frames(data, 2.0)
    assert (metadata.duration, metadata.total_num_frames) == (None, None)
    _, metadata = decode_frames(data)
    assert (metadata.duration, metadata.total_num_frames) == (5.0, 50)


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4"])
def test_a_lost_block_of_an_avi_file_does_not_move_later_pictures(codec):
    if not hasattr(av.stream.Stream, "index_entries") and not hasattr(av.video.stream.VideoStream, "index_entries"):
        pytest.skip("this PyAV does not show the index of a file")
    data = bytearray(numbered_video(100, rate=25, gop=10, container="avi", codec=codec))
    places = packets_of(bytes(data))
    start, end = places[33][0], places[48][0]
    data[start:end] = bytes(end - start)
    times, shown, _ = streamed(bytes(data))
    by_time = {round(25 * time): number for time, number in zip(times, shown, strict=True)}
    assert [by_time[number] for number in range(50, 100)] == [*range(50, 100)]
    assert [by_time[number] for number in range(33)] == [*range(33)]
    assert numbers(bytes(data), None, 4) == [61, 74, 86, 99]


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4"])
@pytest.mark.parametrize("way", ["cut out", "overwritten", "one of each"])
def test_pictures_between_lost_blocks_of_an_avi_file_keep_their_times(codec, way):
    if not hasattr(av.stream.Stream, "index_entries") and not hasattr(av.video.stream.VideoStream, "index_entries"):
        pytest.skip("this PyAV does not show the index of a file")
    data = bytearray(numbered_video(100, rate=25, gop=10, container="avi", codec=codec))
    places = packets_of(bytes(data))
    for first, last, is_cut in ((63, 68, way == "cut out"), (23, 28, way != "overwritten")):
        start, end = places[first][0] + 5, places[last][0] + 9
        data[start:end] = b"" if is_cut else bytes(end - start)
    times, shown, _ = streamed(bytes(data))
    by_time = {round(25 * time): number for time, number in zip(times, shown, strict=True)}
    sound = [*range(23), *range(40, 63), *range(80, 100)]
    assert [by_time[number] for number in sound] == sound
    assert numbers(bytes(data), 50 / 25, 3, 25.0) == [48, 49, 50]


def test_a_passing_shortage_is_not_the_end(caplog):
    data = numbered_video(100, rate=25, gop=25, container="mpegts", codec="mpeg2video")
    middle = len(data) // 2 // 188 * 188
    holed = data[:middle] + bytes(300_000) + data[middle:]
    assert streamed(holed)[1:] == ([*range(100)], [])
    assert numbers(holed) == [49, 61, 74, 86, 99] and numbers(holed, 3.0, 3, 25.0) == [73, 74, 75]
    assert "cut short" not in caplog.text
    assert streamed(holed[:-100]) and "is cut short: it ends within a packet" in caplog.text


def test_a_source_that_gives_nothing_for_long_has_ended(monkeypatch):
    class Silent:
        streams = ()
        format = SimpleNamespace(name="mpegts")

        def demux(self):
            raise BlockingIOError(11, "try again")
            yield

    stream = SimpleNamespace(codec_context=SimpleNamespace(name="h264"))
    monkeypatch.setattr("hmba_hf.models.decoding_packets.PATIENCE", 0.05)
    with pytest.raises(BlockingIOError):
        next(iter(VideoPackets(Silent(), stream, None)))


def test_a_header_that_promises_too_little_is_not_believed(shared_data):
    _, metadata = decode_frames(shared_data / "reports" / "short_header.mp4", 4.0)
    assert metadata.duration is None, "3 s, of which the index has 10"
    assert decode_frames(shared_data / "reports" / "short_header.mp4")[1].duration == 10.0


def test_audio_that_is_longer_than_the_video_promises_nothing(shared_data):
    path = shared_data / "fixtures" / "audio_longer_than_video.mp4"
    for container in ("mp4", "matroska"):
        with av.open(str(path)) as source, av.open(file := BytesIO(), "w", format=container) as target:
            streams = {stream: target.add_stream_from_template(stream) for stream in source.streams}
            for packet in source.demux():
                if packet.dts is not None:
                    stream = streams[packet.stream]
                    packet.stream = stream
                    target.mux(packet)
        assert len([*iter_frames(file.getvalue())]) == 75
        assert decode_frames(file.getvalue())[1].timestamps[-1] == pytest.approx(2.96)


def with_b_frames(stream):
    stream.codec_context.max_b_frames = 2


def test_a_cut_transport_stream_that_lacks_pictures_before_its_last_one_is_named(caplog):
    options = {"rate": 25, "gop": 12, "container": "mpegts", "codec": "mpeg2video", "prepare": with_b_frames}
    data = numbered_video(60, **options)
    starts = [position for position, _ in packets_of(data)]
    for count in (20, 30, 38, 39, 40, 41, 60):
        caplog.clear()
        cut = data if count == 60 else data[: starts[count]]
        shown = streamed(cut)[1]
        lacking = shown[-1] + 1 - len(shown)
        assert caplog.text.count(f"it lacks {lacking} of the pictures before its last one") == bool(lacking)
        caplog.clear()
        assert numbers(cut)[-1] == shown[-1] and caplog.text.count("is cut short") == bool(lacking)
        caplog.clear()
        assert video_duration(cut) == pytest.approx((shown[-1] + 1) / 25)
        assert caplog.text.count("is cut short") == bool(lacking)


@pytest.mark.parametrize("container", ["vob", "mpeg"])
@pytest.mark.parametrize("b_frames", [1, 2])
def test_interlaced_pictures_of_a_program_stream_are_one_recording(container, b_frames, caplog):
    def prepare(stream):
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.flags |= Flags.interlaced_dct | Flags.interlaced_me

    data = numbered_video(100, rate=25, gop=8, container=container, codec="mpeg2video", prepare=prepare)

    times, shown, errors = streamed(data)

    assert (shown, errors) == ([*range(100)], [])
    assert times == pytest.approx([number / 25 for number in shown])
    assert numbers(data, 3.0, 3, 25.0) == [73, 74, 75] and numbers(data)[-1] == 99
    assert not caplog.records


PACES = {
    "a pause": lambda ticks: ticks + 18000 * (ticks > 126_000 + 58 * 3600),
    "pictures left out": lambda ticks: ticks + 3600 * (ticks // 18000),
    "ever slower": lambda ticks: ticks + ticks * ticks // 1_000_000,
}


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_a_whole_transport_stream_of_varying_rate_is_not_called_cut(codec, pace, caplog):
    data = numbered_video(60, rate=25, gop=12, container="mpegts", codec=codec, prepare=with_b_frames)
    with av.open(BytesIO(data)) as source, av.open(file := BytesIO(), "w", format="mpegts") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                packet.pts = PACES[pace](packet.pts)
                packet.dts = PACES[pace](packet.dts)
                target.mux(packet)
    assert streamed(file.getvalue())[1:] == ([*range(60)], [])
    assert numbers(file.getvalue()) and "is cut short" not in caplog.text


def test_the_header_of_asf_promises_bytes_and_seconds(caplog):
    data = numbered_video(400, rate=25, gop=25, container="asf", codec="wmv2")
    cut = data[: len(data) * 6 // 10]
    times, shown, errors = streamed(cut)
    assert shown == [*range(len(shown))] and len(shown) < 300
    assert f"its frames end at {times[-1]:.3f} of 16.000 s" in errors[-1] and errors[-1][-40:] in caplog.text
    assert video_duration(cut) == pytest.approx(16.0)
    assert numbers(cut, 1.0, 3, 25.0) == [23, 24, 25]
    for timestamp in (None, 15.0):
        with pytest.raises(VideoDecodeError, match="is damaged: .* cannot be decoded, because decoding stopped after"):
            decode_frames(cut, timestamp)
    assert streamed(data)[2] == [] and decode_frames(data)[1].duration == 16.0


@pytest.mark.parametrize("length", [188, 192])
def test_a_transport_stream_that_ends_within_a_packet_is_named(length, caplog):
    data = numbered_video(60, container="mpegts", codec="mpeg2video", mpegts_m2ts_mode=str(int(length == 192)))
    assert len(data) % length == 0
    for missing, is_named in ((0, False), (1, True), (100, True), (5 * length, False)):
        caplog.clear()
        streamed(data[: len(data) - missing])
        assert ("is cut short: it ends within a packet" in caplog.text) == is_named


@pytest.mark.parametrize("container", ["mpegts", "matroska", "vob", "avi"])
@pytest.mark.parametrize(("before", "after"), [(30, 70), (70, 30)])
def test_files_joined_byte_by_byte_are_recordings_of_which_none_is_lost(container, before, after):
    codec = "mpeg2video" if container in ("mpegts", "vob") else "mpeg4"
    parts = [numbered_video(count, rate=25, gop=12, container=container, codec=codec) for count in (before, after)]
    joined = b"".join(parts)
    assert streamed(joined)[1:] == ([*range(before), *range(after)], [])
    assert numbers(joined, None, 3, 12.5) == [after - 5, after - 3, after - 1]
    if container != "avi":  # which counts on
        assert numbers(joined, None, 9, 2.5) == [max(after - 1 - 10 * back, 0) for back in reversed(range(9))]


@pytest.mark.parametrize(("container", "codec"), [("flv", "flv"), ("mp4", "mpeg4"), ("asf", "wmv2")])
def test_a_file_behind_a_file_that_ffmpeg_does_not_read_is_named(container, codec, caplog):
    data = numbered_video(30, rate=25, container=container, codec=codec)
    what = (
        f"holds another file behind its last picture, from byte {len(data)} of {2 * len(data)} on, which is not read"
    )
    assert streamed(2 * data)[1] == [*range(30)]
    assert caplog.text.count(what) == 1
    for timestamp in (None, 1.16, 0.0, 0.4):
        caplog.clear()
        assert numbers(2 * data, timestamp)[-1] in (0, 10, 29) and caplog.text.count(what) == 1
    caplog.clear()
    with pytest.raises(ValueError, match="which ends at 1.2 s"):
        decode_frames(2 * data, 2.0)
    assert caplog.text.count(what) == 1, "it may hold what was asked for"
    caplog.clear()
    assert video_duration(2 * data) == pytest.approx(1.2) and caplog.text.count(what) == 1


@pytest.mark.parametrize("flags", ["default_base_moof", "default_base_moof+skip_trailer", "dash", "faststart"])
@pytest.mark.parametrize("counts", [(60, 30), (30, 60), (60, 30, 30)])
def test_of_joined_mp4_files_the_first_one_is_read_whatever_indices_and_fragments_tell(flags, counts, caplog):
    if flags != "faststart":
        flags += "+frag_keyframe+empty_moov"
    options = {"rate": 25, "gop": 12, "codec": "libx264", "movflags": flags}
    parts = [numbered_video(count, **options, first=1000 * index) for index, count in enumerate(counts)]
    joined = b"".join(parts)
    assert streamed(joined)[1:] == ([*range(counts[0])], [])
    what = f"another file behind its last picture, from byte {len(parts[0])} of {len(joined)} on, which is not read"
    assert caplog.text.count(what) == 1
    end = counts[0] / 25
    for timestamp in (0.0, 1.0, end - 0.04):
        assert numbers(joined, timestamp, 1) == [round(25 * timestamp)]
    assert numbers(joined)[-1] == counts[0] - 1 and video_duration(joined) == pytest.approx(end)
    with pytest.raises(ValueError, match=f"lies outside .* which ends at {end:g} s"):
        decode_frames(joined, end + 0.1)


@pytest.mark.parametrize(
    ("container", "codec", "fate"),
    [
        ("matroska", "mpeg4", "whose clock begins anew"),
        ("webm", "libvpx", "whose clock begins anew"),
        ("avi", "mpeg4", "whose pictures are counted on"),
    ],
)
def test_a_file_behind_a_file_that_is_read_is_named_wherever_a_clip_lies(container, codec, fate, caplog):
    parts = [numbered_video(count, rate=25, gop=12, container=container, codec=codec) for count in (60, 30)]
    what = f"from byte {len(parts[0])} of {len(b''.join(parts))} on, {fate}"
    for timestamp in (None, 0.0, 1.0, 2.3):
        caplog.clear()
        _, metadata = decode_frames(b"".join(parts), timestamp)
        assert caplog.text.count(what) == 1
        assert timestamp is None or (metadata.duration, metadata.total_num_frames) == (None, None)
    caplog.clear()
    decode_frames(parts[0] + bytes(100), 1.0)
    assert "holds another file" not in caplog.text
    streamed(b"".join(parts) + parts[0])
    third = f"from byte {len(b''.join(parts))} of"
    assert (third in caplog.text) == (container != "avi"), "FFmpeg reads two files of Matroska"


@pytest.mark.parametrize("container", ["mpegts", "vob", "matroska", "webm"])
@pytest.mark.parametrize("counts", [(60, 20), (20, 60), (20, 60, 30)])
def test_a_moment_that_no_recording_shows_is_refused_with_the_end_of_the_longest(container, counts):
    codec = {"matroska": "mpeg4", "webm": "libvpx"}.get(container, "mpeg2video")
    joined = b"".join(numbered_video(n, rate=25, gop=12, container=container, codec=codec) for n in counts)
    for options in ({}, {"num_frames": None}):
        with pytest.raises(ValueError, match="timestamp 3.000 s lies outside .* which ends at 2.4 s"):
            decode_frames(joined, 3.0, **options)
    assert numbers(joined, 2.3, 1) == [57]


@pytest.mark.parametrize("container", ["mpegts", "vob"])
@pytest.mark.parametrize(("before", "after"), [(200, 200), (200, 60), (60, 200)])
def test_a_clock_that_goes_back_outside_of_a_clip_is_named_and_decides_what_a_timestamp_means(
    container, before, after, caplog
):
    options = {"rate": 25, "gop": 12, "container": container, "codec": "mpeg2video"}
    joined = numbered_video(before, **options) + numbered_video(after, **options, first=1000)
    for timestamp in (0.0, 1.0, 2.0, 5.0, 7.0):
        caplog.clear()
        frame = round(25 * timestamp)
        assert numbers(joined, timestamp, 1)[0] == (frame if frame < before else 1000 + frame)
        assert caplog.text.count("has a clock that goes back") == 1
        assert decode_frames(joined, timestamp)[1].duration is None, "no recording is the whole file"
    caplog.clear()
    assert numbers(joined)[-1] == 999 + after and caplog.text.count("has a clock that goes back") == 1
    assert video_duration(joined) == pytest.approx(max(before, after) / 25)


@pytest.mark.parametrize("back_to", [0.0, 3.0])
def test_frames_that_are_spread_evenly_over_a_matroska_file_are_those_of_one_recording(back_to, caplog):
    times = [number / 25 for number in range(200)]
    times += [back_to + time for time in times]
    data = numbered_video(400, rate=25, container="matroska", codec="mjpeg", times=times)
    frames, metadata = decode_segments(data, 8)
    assert read_numbers(frames) == list(range(212, 400, 25)) and metadata.duration is None
    assert caplog.text.count("has a clock that goes back") == 1


def test_one_cluster_with_a_stray_time_is_no_other_recording(shared_data, caplog):
    stray = shared_data / "reports" / "stray_past.mkv"
    frames, _ = decode_segments(stray, 6)
    assert read_numbers(frames) == list(range(25, 300, 50)) and "goes back" not in caplog.text
    frames, _ = decode_segments(shared_data / "reports" / "step_back.mkv", 6)
    assert min(read_numbers(frames)) >= 200 and "goes back" in caplog.text


@pytest.mark.parametrize("start", [0, 2**33 / 90000 - 5])
def test_a_clock_of_33_bits_that_starts_anew_is_no_other_recording(start, caplog):
    data = numbered_video(250, rate=25, gop=12, container="mpegts", codec="mpeg2video", output_ts_offset=str(start))
    for timestamp in (0.0, 4.0, 6.0, 9.0):
        assert numbers(data, timestamp, 1) == [round(25 * timestamp)]
    assert numbers(data)[-1] == 249 and caplog.text == ""


@pytest.mark.parametrize("container", ["avi", "mp4"])
def test_a_picture_of_a_packet_that_is_marked_corrupt_is_refused_where_whole_ones_are_wanted(container, caplog):
    data = numbered_video(50, rate=25, gop=50, container=container, movflags="faststart")
    position, size = packets_of(data)[-1]
    cut = data[: position + 2 * size // 3]
    seen = [*iter_frames(cut)]
    whole = [*iter_frames(cut, only_whole=True)]
    (seconds,) = [
        time for (time, frame), (_, other) in zip(seen, whole, strict=True) if type(frame) is not type(other)
    ]
    assert seconds == pytest.approx(49 / 25)
    caplog.clear()
    assert decode_frames(cut, seconds, 1) and "frames from there on may look wrong" in caplog.text
    with pytest.raises(VideoDecodeError, match="the frame at .* s is not whole"):
        decode_frames(cut, seconds, 1, only_whole=True)
    with pytest.raises(VideoDecodeError, match="is not whole"):
        HMBAVideoProcessor()(cut, timestamp=seconds, only_whole=True)
    assert decode_frames(cut, seconds - 0.1, 3, 25.0, only_whole=True)


@pytest.mark.parametrize("wild", [0, 3, 30, 50, 98])
def test_one_wild_stamp_moves_no_other_frame_and_no_end(wild):
    data = numbered_video(100, rate=25, gop=25, container="matroska")
    with av.open(BytesIO(data)) as source, av.open(file := BytesIO(), "w", format="matroska") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                packet.stream = stream
                packet.pts += 500_000 if number == wild else 0
                target.mux(packet)
    times, shown, errors = streamed(file.getvalue())
    assert (shown, errors) == ([*range(100)], [])
    assert times == pytest.approx([index / 25 for index in range(100)])
    assert numbers(file.getvalue(), None, 4, 12.5) == [93, 95, 97, 99]
    assert numbers(file.getvalue(), 2.4, 4, 12.5) == [54, 56, 58, 60]


def test_pictures_of_mxf_are_shown_in_the_order_of_the_decoder():
    data = numbered_video(30, rate=25, container="mxf", codec="libx264", gop=8)

    numbers = read_numbers(np.stack([picture for _, picture in iter_frames(data)]))
    clip, _ = decode_frames(data, 0.6, num_frames=3, fps=25)

    assert numbers == list(range(30)) and read_numbers(clip) == [13, 14, 15]


def test_chunks_without_pictures_in_avi_are_no_damage():
    times = [i / 10 if i < 5 else 2 + i / 10 for i in range(21)]
    data = numbered_video(21, container="avi", codec="mjpeg", times=times)

    pictures = [picture for _, picture in iter_frames(data)]
    _, metadata = decode_frames(data, 2.5, num_frames=1)

    assert read_numbers(np.stack(pictures)) == list(range(21))
    assert metadata.duration is None and metadata.total_num_frames is None


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4"])
def test_chunks_without_pictures_behind_the_first_one_in_avi_move_no_other(codec, caplog):
    times = [0.0, *(2 + i / 10 for i in range(1, 20))]
    data = numbered_video(20, container="avi", codec=codec, times=times)

    seen, shown, errors = streamed(data)

    assert seen == pytest.approx(times) and (shown, errors) == ([*range(20)], [])
    assert [*numbers(data, 1.5, 1), *numbers(data, 2.1, 1), *numbers(data, 3.9, 1)] == [0, 1, 19]
    assert not caplog.records
