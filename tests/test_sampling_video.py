import numpy as np
import pytest

from hmba_hf.models.decoding_reader import VideoReader
from hmba_hf.models.decoding_video import VideoDecodeError, decode_frames, decode_segments, decode_times
from hmba_hf.models.sampling_video import consecutive_times, segment_times
from numbered_videos import numbered_video, read_numbers


def chosen(video, **options):
    frames, metadata = decode_segments(video, **options)
    return read_numbers(frames), metadata.timestamps


def test_segments_cover_the_whole_video_and_one_view_takes_their_middles():
    assert segment_times(8.0, 4) == [1.0, 3.0, 5.0, 7.0]
    assert segment_times(8.0, 4, position=0) == [0.0, 2.0, 4.0, 6.0]
    views = [segment_times(6.0, 2, (view + 1) / 3) for view in range(2)]
    np.testing.assert_allclose(views, [[1.0, 4.0], [2.0, 5.0]])
    assert segment_times(8.0, 4, [0.0, 0.25, 0.5, 0.75]) == [0.0, 2.5, 5.0, 7.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 4), "duration must be a number of seconds greater than zero, got 0.0"),
        ((float("nan"), 4), "duration must be .*, got nan"),
        ((8.0, 0), "num_frames must be a whole number, one or more, got 0"),
        ((8.0, 4, 1.0), "position must be from 0 up to but without 1, got 1.0"),
        ((8.0, 4, [0.5, 0.5]), "position must be one for all or each of 4 segments, got 2"),
        ((8.0, 2, [0.5, float("nan")]), "position must be from 0 up to but without 1"),
    ],
)
def test_segments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        segment_times(*arguments)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "avi"])
def test_a_frame_of_each_segment_is_decoded(container):
    video = numbered_video(40, rate=10, container=container)
    numbers, times = chosen(video, num_frames=4)
    assert numbers == [5, 15, 25, 35]
    np.testing.assert_allclose(times, [0.5, 1.5, 2.5, 3.5], atol=1e-3)
    assert chosen(video, num_frames=4, position=0.0)[0] == [0, 10, 20, 30]
    assert chosen(video, num_frames=40)[0] == list(range(40))


def test_segments_are_of_time_where_the_rate_varies():
    times = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 30]  # seconds
    video = numbered_video(12, rate=10, container="matroska", times=times)
    numbers, _ = chosen(video, num_frames=3)
    frames, _ = decode_frames(video, num_frames=None)
    assert len(frames) == 12 and numbers == [5, 9, 10]


def test_more_segments_than_frames_repeat_frames():
    assert chosen(numbered_video(2, rate=10), num_frames=4)[0] == [0, 0, 1, 1]
    assert chosen(numbered_video(1, rate=10), num_frames=3)[0] == [0, 0, 0]


def test_the_last_recording_of_a_file_counts():
    joined = numbered_video(20, rate=10, container="mpegts") + numbered_video(
        20, rate=10, container="mpegts", first=100
    )
    assert chosen(joined, num_frames=4)[0] == [102, 107, 112, 117]


def test_segments_of_a_recording_whose_clock_begins_later_are_its_own():
    first = numbered_video(60, rate=10, container="mpegts")
    times = [2 + number / 10 for number in range(20)]
    second = numbered_video(20, rate=10, container="mpegts", first=100, times=times)
    assert chosen(first + second, num_frames=4)[0] == [102, 107, 112, 117]


def test_a_cut_video_has_no_segments():
    whole = numbered_video(40, rate=10)
    with pytest.raises(VideoDecodeError):
        decode_segments(whole[: len(whole) // 2], num_frames=4)


@pytest.fixture
def decoded(monkeypatch):
    """Count the frames that are decoded."""
    counted = []
    read = VideoReader.read

    def counting(reader, start):
        for moment in read(reader, start):
            counted.append(moment.time)
            yield moment

    monkeypatch.setattr(VideoReader, "read", counting)
    return counted


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "avi"])
def test_frames_of_a_long_file_cost_no_more_than_those_of_a_short_one(container, decoded):
    counts = []
    for length in (100, 800):
        decoded.clear()
        numbers, _ = chosen(numbered_video(length, rate=10, container=container), num_frames=4)
        assert numbers == [length * (2 * segment + 1) // 8 for segment in range(4)]
        counts.append(len(decoded))
    assert counts[1] <= 1.2 * counts[0] < 120


def test_frames_near_each_other_are_decoded_in_one_stretch(decoded):
    assert chosen(numbered_video(200, rate=10, gop=300), num_frames=8)[0] == [12, 37, 62, 87, 112, 137, 162, 187]
    assert len(decoded) < 3 * 200, "each frame is read about once, beside the search for the end"


def test_times_are_chosen_from_duration_and_rate_and_come_in_their_order():
    seen = []

    def choose(duration, rate):
        seen.append((duration, rate))
        return [3.0, 0.5, 0.5, 100.0]

    frames, metadata = decode_times(numbered_video(40, rate=10), choose)
    assert read_numbers(frames) == metadata.frames_indices == [30, 5, 5, 39]
    assert metadata.timestamps == [3.0, 0.5, 0.5, 3.9] and seen == [(4.0, 10.0)]


def test_consecutive_frames_keep_their_step_and_stay_within_the_video():
    def numbers(*arguments, **options):
        return [round(time * 10 - 0.5) for time in consecutive_times(4.0, 10.0, *arguments, **options)]

    assert numbers(3) == [19, 20, 21]
    assert numbers(4, 5, position=0.0) == [0, 5, 10, 15]
    assert numbers(4, 5, position=0.999) == [24, 29, 34, 39]
    assert numbers(3, 15) == [5, 20, 35]
    assert numbers(4, 20) == [0, 20, 39, 39], "the last frame stands for those after the end"
    assert numbers(3, 2, start=1.0) == [10, 12, 14] and numbers(2, 2, start=3.9) == [39, 39]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": 1.0}, "position must be from 0 up to but without 1, got 1.0"),
        ({"start": 5}, "start must be from 0 to 4 s, the end of the video, got 5"),
        ({"start": -1}, "zero or more, got -1"),
    ],
)
def test_consecutive_frames_out_of_the_video_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        consecutive_times(4.0, 10.0, 3, **options)


def test_frames_of_two_sizes_make_no_clip():
    joined = numbered_video(60, rate=10, container="mpegts", size=(64, 48))
    with pytest.raises(VideoDecodeError, match="changes its frame size"):
        decode_segments(joined + numbered_video(60, rate=10, container="mpegts", size=(32, 32), times=LATER), 4)


LATER = [6 + number / 10 for number in range(60)]
