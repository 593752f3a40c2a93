"""Small files after public reports: which numbered frames reach a clip, a stream and a cutting of clips.

What is right was taken from FFmpeg's pictures and FFprobe's times.
"""

from typing import NamedTuple

import numpy as np
import pytest

from hmba_hf import VideoDecodeError, decode_frames, iter_frames
from hmba_hf.data.clips import cut_clips, video_duration
from hmba_hf.data.driving.bddx import convert_segments
from hmba_hf.data.driving.bddx_annotations import Segment
from hmba_hf.data.preparing.converting import Entry
from hmba_hf.data.preparing.parquet_shards import Dropped
from numbered_videos import read_numbers


class Truth(NamedTuple):
    """The numbers of a file's frames, their rate, and how many seconds its last recording lasts."""

    numbers: list[int]
    rate: float
    end: float


def steady(count, rate=25.0):
    return Truth([*range(count)], rate, count / rate)


WHOLE = {
    "ak_h263p_all.avi": steady(200),
    "ak_mpeg4_b_nostss.mp4": steady(200),
    "ak_mpeg4_nostss.mp4": steady(200),
    "ak_xvid_all.avi": steady(200),
    "h264_b.avi": steady(150),
    "head_tail_trim.mp4": Truth([*range(150, 202)], 25.0, 2.08),
    "held.mp4": Truth([*range(176)], 25.0, 10.0),
    "lapse.mp4": steady(12, 0.5),
    "mpeg4_b.avi": steady(150),
    "r30.mkv": steady(150, 30.0),
    "short_header.mp4": steady(250),
    "stray_past.mkv": steady(300),
    "tail_trim.mp4": steady(100),
    "xvid_packed.avi": steady(149),
}
# Two recordings in a file: the numbers of both, and the second at which the second one begins.
JOINED = {
    "joined.ts": (range(100), range(1000, 1100), 0.0),
    "mixed.ts": (range(100), range(1000, 1050), 0.0),
    "step_back.mkv": (range(200), range(200, 300), 5.0),
    "step_back_small.mkv": (range(150), range(150, 300), 5.939),
}


@pytest.fixture(scope="module")
def reports(shared_data):
    return shared_data / "reports"


def streamed(path, **options):
    """Times and numbers of the frames of a stream."""
    pairs = [*iter_frames(path, **options)]
    assert not [frame for _, frame in pairs if isinstance(frame, Exception)]
    return [time for time, _ in pairs], read_numbers(np.stack([frame for _, frame in pairs]))


def numbers(path, *args, **kwargs):
    return read_numbers(decode_frames(path, *args, **kwargs)[0])


@pytest.mark.parametrize("name", WHOLE)
def test_a_stream_gives_every_frame_at_its_time(reports, name):
    truth = WHOLE[name]
    times, shown = streamed(reports / name)
    assert shown == truth.numbers
    assert times == pytest.approx([index / truth.rate for index in range(len(shown))], abs=6e-4)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("share", [0.0, 0.31, 0.5, 0.77, 0.99])
def test_a_clip_shows_the_frames_at_its_times(reports, name, share):
    truth = WHOLE[name]
    index = round(share * (len(truth.numbers) - 1))
    wanted = [truth.numbers[max(index - back, 0)] for back in (3, 2, 1, 0)]
    assert numbers(reports / name, index / truth.rate, 4, truth.rate) == wanted


@pytest.mark.parametrize("name", WHOLE)
def test_a_clip_without_a_timestamp_ends_with_the_last_frame(reports, name):
    truth = WHOLE[name]
    frames, metadata = decode_frames(reports / name, None, 4, truth.rate)
    assert read_numbers(frames) == truth.numbers[-4:]
    assert metadata.duration == pytest.approx(truth.end, abs=1e-3)
    assert numbers(reports / name, None, None) == truth.numbers


@pytest.mark.parametrize("name", WHOLE)
def test_clips_are_cut_up_to_the_real_end(reports, name):
    truth = WHOLE[name]
    assert video_duration(reports / name) == pytest.approx(truth.end, abs=1e-3)
    (clip,) = cut_clips(reports / name, [(max(truth.end - 4, 0), truth.end)], fps=truth.rate)
    cut = numbers(clip, None, None)
    assert cut[-1] == truth.numbers[-1] and sorted(cut) == cut


@pytest.mark.parametrize("name", JOINED)
def test_a_stream_gives_both_recordings_and_says_where_the_clock_goes_back(reports, name, caplog):
    first, second, start = JOINED[name]
    times, shown = streamed(reports / name)
    assert shown == [*first, *second]
    assert times[len(first)] == pytest.approx(start) and times[len(first)] < times[len(first) - 1]
    assert caplog.text.count("a clock that goes back after") == 1


@pytest.mark.parametrize("name", JOINED)
def test_a_clip_shows_one_recording_and_without_a_timestamp_the_end_of_the_last(reports, name):
    first, second, _ = JOINED[name]
    assert numbers(reports / name)[-1] == second[-1]
    assert numbers(reports / name, None, None) == [*second]
    for timestamp in (None, 0.0, 0.5, 1.0, 1.9, 3.0, 3.9, 6.0, 8.0):
        for fps in (2.0, 10.0):
            try:
                clip = set(numbers(reports / name, timestamp, 5, fps))
            except ValueError as error:
                assert "lies outside" in str(error) and timestamp > 3.9
            else:
                assert clip <= {*first} or clip <= {*second}


@pytest.mark.parametrize("name", ["joined.ts", "mixed.ts"])
def test_a_warning_names_the_break(reports, name, caplog):
    decode_frames(reports / name)
    assert "a clock that goes back after 3.960 s, to 0.000 s: another recording begins" in caplog.text


@pytest.mark.parametrize("name", JOINED)
def test_a_cut_clip_shows_one_recording(reports, name):
    first, second, start = JOINED[name]
    for clip in cut_clips(reports / name, [(0, 1), (1.5, 3.9), (3.0, 5.0), (start + 0.5, start + 1.5)], fps=25):
        if not isinstance(clip, VideoDecodeError):
            cut = {*numbers(clip, None, None)}
            assert cut <= {*first} or cut <= {*second}


def test_one_stray_stamp_is_named(reports, caplog):
    streamed(reports / "stray_past.mkv")
    assert "a wrong timestamp: the one after 5.960 s is -92.000 s" in caplog.text


def test_the_pictures_of_an_avi_file_with_dropped_ones_keep_the_decoders_order(reports):
    times, shown = streamed(reports / "xvid_b.avi")
    assert len(shown) == 148 and shown == sorted(shown)
    assert times == sorted(set(times)) and times[-1] == pytest.approx(5.92)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("short_header.mp4", [31, 31, 40]),  # of which the header promises 3 s alone
        ("held.mp4", [31, 31, 40]),
        ("lapse.mp4", [31, 31, 40]),
        ("step_back.mkv", [31, 31, 20]),
        ("mixed.ts", [31, 20, "segment_after_the_video"]),
    ],
)
def test_no_segment_of_bddx_is_lost_for_what_a_header_says(reports, name, counts):
    spans = [(0, 3), (3, 6), (6, 9.9)]
    records = [
        Entry(f"a_{index}", "train", "a", Segment(index, 1, "a", start, end, "It waits", "for long"))
        for index, (start, end) in enumerate(spans)
    ]
    outcomes = convert_segments(records, {"a": reports / name}, 10.0, None)
    found = [
        outcome.reason if isinstance(outcome, Dropped) else len(numbers(outcome.row["video"]["bytes"], None, None))
        for outcome in outcomes
    ]
    assert found == counts
