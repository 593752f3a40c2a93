"""The rate at which pictures without times are counted, at every door, and pictures that a decoder makes up."""

import weakref
from fractions import Fraction
from io import BytesIO
from types import SimpleNamespace

import av
import numpy as np
import pytest
from transformers import pipeline

from hmba_hf import decode_frames, iter_frames
from hmba_hf.data.clips import cut_clips, video_duration
from hmba_hf.models import decoding_streams
from hmba_hf.models.decoding_containers import opened
from hmba_hf.models.decoding_streams import OpenVideo
from hmba_hf.models.sampling_video import causal_timestamps, latest_frames
from hmba_hf.models.video_processing_hmba import HMBAVideoProcessor
from numbered_videos import numbered_video, read_numbers
from tiny_models import lively_model
from tiny_processors import tiny_processor

RAW = [("h264", "libx264"), ("hevc", "libx265"), ("mpeg2video", "mpeg2video"), ("m4v", "mpeg4")]


def raw_video(container, codec, rate, count=60):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    return numbered_video(count, rate=rate, container=container, codec=codec)


def numbers(*args, **kwargs):
    return read_numbers(decode_frames(*args, **kwargs)[0])


@pytest.fixture(scope="module")
def unstated():
    """Sixty pictures that nobody states a rate for."""
    return numbered_video(60, rate=20, container="mjpeg", codec="mjpeg")


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        (*form, rate)
        for form in RAW
        for rate in (10, 12, 20, 30, 50, 120, 240)
        if form[1] != "mpeg2video" or rate in (30, 50)  # it has no code for others
    ],
)
def test_a_rate_that_a_raw_stream_declares_is_used(container, codec, rate, caplog):
    data = raw_video(container, codec, rate)
    assert [time for time, _ in iter_frames(data)] == pytest.approx([index / rate for index in range(60)])
    frames, metadata = decode_frames(data, 59 / rate, 3, rate)
    assert read_numbers(frames) == [57, 58, 59]
    _, unfinished = decode_frames(data, 20 / rate)
    assert (unfinished.fps, unfinished.total_num_frames, unfinished.duration) == (rate, None, None)
    assert (metadata.fps, metadata.total_num_frames, metadata.duration) == (rate, 60, 60 / rate)
    assert not caplog.messages


def test_without_any_rate_25_is_assumed_with_a_warning_and_metadata_claim_nothing(unstated, caplog):
    frames, metadata = decode_frames(unstated, 1.0, 3, 25)
    assert "states no rate: 25 pictures a second are assumed, unless source_fps gives another" in caplog.text
    assert read_numbers(frames) == [23, 24, 25] and metadata.frames_indices == [23, 24, 25]
    assert (metadata.fps, metadata.total_num_frames, metadata.duration) == (None, None, None)
    assert decode_frames(unstated)[1].total_num_frames == 60
    caplog.clear()
    assert len([*iter_frames(unstated)]) == 60 and caplog.text.count("states no rate") == 1


def test_a_stated_rate_counts_at_every_door(unstated, tmp_path, caplog):
    path = tmp_path / "drive.mjpeg"
    path.write_bytes(unstated)
    assert numbers(path, 2.95, 3, 20, source_fps=20) == [57, 58, 59]
    assert [time for time, _ in iter_frames(path, source_fps=20)][-1] == pytest.approx(2.95)
    assert video_duration(path, source_fps=20) == 3.0
    _, metadata = decode_frames(path, source_fps=20)
    assert (metadata.fps, metadata.total_num_frames, metadata.duration) == (20.0, 60, 3.0)
    options = {"timestamp": 2.0, "return_tensors": "pt"}
    wanted = HMBAVideoProcessor()([decode_frames(path, 2.0, source_fps=20)[0]], return_tensors="pt")
    for inputs in (
        HMBAVideoProcessor()(path, source_fps=20, **options),
        HMBAVideoProcessor(source_fps=20)(path, **options),
    ):
        assert np.array_equal(inputs["pixel_values_videos"], wanted["pixel_values_videos"])
    processor = tiny_processor()
    pipe = pipeline("video-text-to-text", model=lively_model(), processor=processor, device="cpu")
    with pytest.raises(ValueError, match="lies outside"):
        pipe(videos=str(path), text="?", timestamp=2.9, max_new_tokens=1)
    assert caplog.text.count("states no rate") == 1
    assert pipe(videos=str(path), text="?", timestamp=2.9, source_fps=20, max_new_tokens=1)


def test_a_stated_rate_stays_with_a_processor_and_none_leaves_no_trace(tmp_path):
    assert "source_fps" not in HMBAVideoProcessor().to_dict()
    HMBAVideoProcessor(source_fps=20).save_pretrained(tmp_path)
    loaded = HMBAVideoProcessor.from_pretrained(tmp_path)
    loaded.set_source_fps(None)
    assert loaded.source_fps == 20
    loaded.set_source_fps(10)
    assert loaded.source_fps == 10


def test_a_stated_rate_overrides_what_headers_declare_and_never_what_pictures_have():
    assert numbers(raw_video("h264", "libx264", 30), 1.0, 1, source_fps=10) == [10]
    assert numbers(numbered_video(60, rate=30), 1.0, 1, source_fps=10) == [30]


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), True, "20"])
def test_a_rate_that_is_none_is_refused(unstated, wrong):
    for door in (
        lambda: decode_frames(unstated, source_fps=wrong),
        lambda: next(iter_frames(unstated, source_fps=wrong)),
        lambda: video_duration(unstated, source_fps=wrong),
        lambda: HMBAVideoProcessor(source_fps=wrong),
        lambda: HMBAVideoProcessor().set_source_fps(wrong),
    ):
        with pytest.raises(ValueError, match="source_fps must be a number of frames per second"):
            door()


def test_metadata_of_a_varying_rate_claim_what_is_known():
    times = [index // 2 + 0.1 * (index % 2) for index in range(60)]
    _, metadata = decode_frames(numbered_video(60, times=times, container="matroska"), 5.0)
    assert (metadata.fps, metadata.frames_indices, metadata.total_num_frames) == (None, None, None)
    _, metadata = decode_frames(numbered_video(60, times=times, codec="mjpeg", container="mp4"), 5.0)
    assert metadata.frames_indices is None and metadata.total_num_frames == 60
    assert metadata.fps == pytest.approx(60 / metadata.duration)


@pytest.mark.parametrize(("container", "rate"), [("matroska", 30), ("flv", 30), ("matroska", 60), ("matroska", 7)])
def test_times_that_a_container_rounds_are_those_of_their_frames(container, rate):
    data = numbered_video(90, rate=rate, gop=10, container=container, codec="flv" if container == "flv" else "mpeg4")
    for last in range(20, 90, 3):
        for timestamp in (last / rate, round(last / rate, 3)):
            assert numbers(data, timestamp, 6, rate) == [*range(last - 5, last + 1)]
        if last % 23 == 0 or last == 89:
            (clip,) = cut_clips_of(data, [(0.0, last / rate)], rate)
            assert numbers(clip, None, None) == [*range(last + 1)]


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001)])
def test_times_in_the_600ths_of_a_second_of_quicktime_are_those_of_their_frames(rate):
    data = numbered_video(90, rate=rate, container="mov", codec="mpeg4", video_track_timescale="600")
    for last in range(20, 90):
        assert numbers(data, float(last / rate), 3, float(rate)) == [*range(last - 2, last + 1)]


@pytest.mark.parametrize(("ticks", "is_stamp"), [(-(2**60), False), (2**62, False), (-25, True), (45 * 10**9, True)])
def test_numbers_that_are_no_time_of_any_camera_are_no_stamps(ticks, is_stamp):
    data = BytesIO(numbered_video(3, rate=25, container="avi"))
    with opened(data) as (file, name):
        video = OpenVideo(file, name)
        stamp = video.stamp_of(SimpleNamespace(pts=ticks, dts=ticks))
        video.close()
    assert stamp == (Fraction(ticks, 25) if is_stamp else None)


def cut_clips_of(data, spans, rate):
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return cut_clips(file.name, spans, rate)


@pytest.mark.parametrize(
    ("codec", "container"),
    [
        *((codec, "avi") for codec in ("mpeg4", "h263", "msmpeg4", "wmv2", "flv")),
        *((codec, "mov") for codec in ("mpeg4", "h263", "msmpeg4")),  # it has no tag for the others
    ],
)
def test_pictures_that_a_decoder_makes_up_after_a_seek_are_never_shown(codec, container):
    size = (128, 96) if codec == "h263" else (64, 48)
    lying = all_keyframes(numbered_video(100, rate=25, gop=12, container=container, codec=codec, size=size))
    everything, facts = decode_frames(lying, num_frames=None)  # from the start, where nothing is made up
    assert read_numbers(everything) == [*range(100)]
    for timestamp in (0.2, 0.52, 1.0, 2.04, 3.3, 3.96, None):
        end = facts.timestamps[-1] if timestamp is None else timestamp
        wanted = latest_frames(facts.timestamps, causal_timestamps(end, 3, 12.5))
        frames, _ = decode_frames(lying, timestamp, 3, 12.5)
        assert np.array_equal(frames, everything[wanted]), timestamp


def all_keyframes(data):
    """The same file with every sample flagged as a keyframe."""
    with av.open(BytesIO(data)) as source:
        name = source.format.name
        with av.open(file := BytesIO(), "w", format="avi" if name == "avi" else "mov") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.is_keyframe = True
                    packet.stream = stream
                    target.mux(packet)
    return file.getvalue()


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60000, 1001), 12.5, 15, 8])
@pytest.mark.parametrize("kind", [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("mpegts", "mpeg2video")])
def test_a_camera_with_jitter_and_lost_and_doubled_frames_keeps_each_at_its_time(rate, kind, caplog):
    draw = np.random.default_rng(int(rate))
    times = np.arange(int(3 * rate)) / float(rate)
    times[1:] += draw.uniform(-0.004, 0.004, len(times) - 1)
    lost = draw.random(len(times)) < 0.1
    lost[0] = False
    doubled = times[draw.random(len(times)) < 0.1] + 0.002
    times = np.unique(np.concatenate([times[~lost], doubled]).round(3)).tolist()
    data = numbered_video(len(times), rate=round(rate), container=kind[0], codec=kind[1], times=times)

    pairs = list(iter_frames(data))
    assert read_numbers(np.stack([picture for _, picture in pairs])) == list(range(len(times)))
    assert [time for time, _ in pairs] == pytest.approx(times, abs=1e-3)
    for current in (5, len(times) // 2, len(times) - 1):
        clip, _ = decode_frames(data, times[current], 4, 3.0)
        wanted = [times[current] - step / 3 for step in (3, 2, 1)]
        latest = [
            [max((i for i, t in enumerate(times) if t <= time + slack), default=0) for time in wanted]
            for slack in (0, 1e-3)
        ]
        numbers = read_numbers(clip)
        assert numbers[3] == current
        assert all(low <= number <= high for low, number, high in zip(latest[0], numbers, latest[1], strict=False))
    assert not caplog.records


@pytest.mark.parametrize("gap", [20, 40, 4000])
def test_a_camera_that_rests_between_two_pictures_has_no_wrong_timestamp(gap, caplog):
    times = [0, 1 / 30, 2 / 30, *(gap + number / 30 for number in range(30))]
    data = numbered_video(len(times), rate=30, container="matroska", codec="mjpeg", times=times)
    for moment, numbers in ((gap / 2, [2, 2]), (gap + 0.01, [2, 3]), (gap + 0.8, [12, 27])):
        clip, metadata = decode_frames(data, moment, 2, 2.0)
        assert read_numbers(clip) == numbers
        assert metadata.timestamps == pytest.approx([times[number] for number in numbers], abs=1e-3)
    assert not caplog.records


def test_heavy_pictures_that_wait_for_their_turn_take_no_memory(monkeypatch):
    def deepen(stream):
        stream.pix_fmt = "yuv444p12le"

    made = []
    held = []

    def counted(*args):
        picture = make(*args)
        made.append(weakref.ref(picture))
        held.append(sum(one() is not None for one in made))
        return picture

    make = decoding_streams.picture_or_error
    monkeypatch.setattr(decoding_streams, "picture_or_error", counted)
    times = [(index ^ 1) / 10 for index in range(20)]
    data = numbered_video(20, container="nut", codec="ffv1", times=times, size=(320, 240), prepare=deepen)
    shown = []
    for _, picture in iter_frames(BytesIO(data)):
        shown += read_numbers(picture[None])
        del picture
    assert shown == [index ^ 1 for index in range(20)]
    assert max(held) == 1, "eight of them wait, in files"
