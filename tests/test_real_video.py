"""Every real or damaged file of the shared folder: what it decodes to, or the error it gives."""

from typing import NamedTuple

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from packaging.version import Version

from hmba_hf.models.decoding_video import (
    VideoDecodeError,
    causal_timestamps,
    decode_frames,
    iter_frames,
    latest_frames,
)
from hmba_hf.models.video_processing_hmba import HMBAVideoProcessor


class Facts(NamedTuple):
    """Frames and upright `(height, width)` of a file, the time of its last frame, and when it ends."""

    count: int
    size: tuple[int, int]
    last: float
    end: float


LONG, MIDDLE, SHORT = (125, 4.96, 5.0), (75, 2.96, 3.0), (50, 1.96, 2.0)


def facts(length, *size):
    count, last, end = length
    return Facts(count, size, last, end)


READABLE = {
    "clips/ego_walk_gopro_480p.mp4": Facts(352, (480, 848), 11.7117, 11.745067),
    "clips/freeway_cars_720p_38f.mp4": Facts(38, (720, 1280), 1.48, 1.52),
    "clips/freeway_cars_audio_720p.mp4": Facts(88, (720, 1280), 3.48, 3.52),
    "clips/freeway_day_540p.mp4": Facts(221, (540, 960), 8.8, 8.84),
    "clips/parking_person_bicycle_car.gif": Facts(41, (270, 480), 3.33, 3.41),
    "fixtures/all_intra.mp4": facts(SHORT, 270, 480),
    "fixtures/anamorphic_sar4x3.mp4": facts(MIDDLE, 360, 853),
    "fixtures/audio_longer_than_video.mp4": facts(MIDDLE, 270, 480),
    "fixtures/av1_270p.mkv": facts(LONG, 270, 480),
    "fixtures/gif_180p_8fps.gif": Facts(24, (180, 320), 2.88, 3.01),
    "fixtures/h264_10bit_270p.mp4": facts(SHORT, 270, 480),
    "fixtures/h264_fullrange_pc_270p.mp4": facts(SHORT, 270, 480),
    "fixtures/hevc_360p.mp4": facts(LONG, 360, 640),
    "fixtures/mjpeg_270p.avi": facts(MIDDLE, 270, 480),
    "fixtures/mpeg2_360p.ts": facts(LONG, 360, 640),
    "fixtures/mpeg4_360p.avi": facts(LONG, 360, 640),
    "fixtures/odd_size_427x241_yuv444p.mp4": facts(SHORT, 241, 427),
    "fixtures/one_keyframe_bframes.mp4": facts(LONG, 270, 480),
    "fixtures/raw_annexb.h264": facts(LONG, 270, 480),
    "fixtures/rot_display_180.mov": facts(MIDDLE, 270, 480),
    "fixtures/rot_display_ccw90.mov": facts(MIDDLE, 270, 480),
    "fixtures/rot_display_cw90.mov": facts(MIDDLE, 270, 480),
    "fixtures/rot_reference_upright_270p.mp4": facts(MIDDLE, 270, 480),
    "fixtures/single_frame.mp4": Facts(1, (270, 480), 0.0, 0.04),
    "fixtures/start_offset_2500ms.mkv": facts(MIDDLE, 270, 480),
    "fixtures/vfr_360p.mp4": Facts(81, (360, 640), 4.92, 4.96),
    "fixtures/vp9_480p.webm": facts(LONG, 480, 854),
    "fixtures/wrong_extension_webm.mp4": facts(LONG, 480, 854),
    "thirdparty_fixtures/decord_unordered.mov": Facts(4, (50, 50), 0.09375, 0.125),
    "thirdparty_fixtures/decord_video_0.mov": Facts(3, (320, 568), 0.066667, 0.1),
    "thirdparty_fixtures/decord_video_180.mov": Facts(3, (320, 568), 0.066667, 0.1),
    "thirdparty_fixtures/decord_video_270.mov": Facts(3, (568, 320), 0.066667, 0.1),
    "thirdparty_fixtures/decord_video_90.mov": Facts(3, (568, 320), 0.066667, 0.1),
    "thirdparty_fixtures/torchcodec_h265_video.mp4": Facts(10, (128, 128), 0.9, 1.0),
    "thirdparty_fixtures/torchcodec_nasa_13013.mp4": Facts(390, (270, 480), 12.979633, 13.013),
    "thirdparty_fixtures/torchcodec_var_fps_video.mp4": Facts(300, (128, 128), 14.933333, 14.966667),
}
# Files that stop after so many frames, at 25 or 10 a second.
DAMAGED = {
    "fixtures/broken_bitflips.mp4": (78, 25),
    "fixtures/broken_truncated_faststart.mp4": (70, 25),
    "thirdparty_fixtures/decord_corrupted.mp4": (28, 10),
}
UNREADABLE = {
    "fixtures/audio_only.mp4": "no video stream",
    "fixtures/broken_empty.mp4": "cannot be read as a video",
    "fixtures/broken_header_only.mp4": "no frame that can be decoded",
    "fixtures/broken_text.mp4": "cannot be read as a video",
    "fixtures/broken_truncated_no_moov.mp4": "cannot be read as a video",
}
FOLDERS = ("clips", "fixtures", "thirdparty_fixtures")


def stored_picture(frame, **size):
    """RGB of a frame as it is stored; PyAV before 17 has to be told its matrix and, beside that, its range."""
    colours = {}
    if Version(av.__version__) < Version("17") and frame.colorspace == Colorspace.ITU709:
        colours = {"dst_colorspace": Colorspace.DEFAULT, "src_color_range": frame.color_range}
    return frame.to_ndarray(format="rgb24", interpolation="BICUBIC", **size, **colours)


def read_plainly(path, size):
    """All frames `(t, h, w, 3)` and their times, decoded from the start by PyAV and turned to the upright `size`."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        pairs = []
        for index, frame in enumerate(container.decode(stream)):
            time = index / stream.average_rate if frame.pts is None else frame.pts * stream.time_base
            width = size[1] if frame.rotation % 180 == 0 else size[0]
            picture = stored_picture(frame, width=width)
            pairs.append((time, np.rot90(picture, frame.rotation // 90)))
    pairs.sort(key=lambda pair: pair[0])
    return np.stack([picture for _, picture in pairs]), [float(time - pairs[0][0]) for time, _ in pairs]


def test_every_file_of_the_folder_is_tested(shared_data):
    files = {f"{folder}/{path.name}" for folder in FOLDERS for path in (shared_data / folder).iterdir()}
    assert files == {*READABLE, *DAMAGED, *UNREADABLE}


@pytest.fixture(scope="module", params=READABLE)
def readable(request, shared_data):
    """A path, what is known about the file, and all its frames and times."""
    path, wanted = shared_data / request.param, READABLE[request.param]
    return path, wanted, *read_plainly(path, wanted.size)


def test_a_file_decodes_to_its_frames(readable):
    path, wanted, frames, times = readable
    assert frames.shape == (wanted.count, *wanted.size, 3)
    assert times[0] == 0 and times[-1] == pytest.approx(wanted.last, abs=1e-5)
    clip, metadata = decode_frames(path)
    assert metadata.timestamps[-1] == times[-1] and np.array_equal(clip[-1], frames[-1])
    assert (metadata.height, metadata.width) == wanted.size
    assert metadata.duration == pytest.approx(wanted.end, abs=1e-5)
    # Exact for a constant rate; for a varying one it is the length times the average rate.
    assert metadata.total_num_frames == pytest.approx(
        wanted.count, abs=2 if len(set(np.diff(times).round(3))) > 1 else 0
    )


def test_seeking_is_exact_to_the_frame(readable):
    path, wanted, frames, times = readable
    for timestamp, fps in ((times[-1], 2.0), (times[len(times) // 2], 25.0), (wanted.end * 0.71, 7.5), (0.0, 0.9)):
        clip, metadata = decode_frames(path, timestamp, 4, fps)
        limits = causal_timestamps(timestamp, 4, fps)
        chosen = latest_frames(times, limits)
        assert metadata.timestamps == [times[index] for index in chosen]
        assert np.array_equal(clip, frames[chosen])
        assert all(time <= limit + 1e-6 or time == 0 for time, limit in zip(metadata.timestamps, limits, strict=True))


def test_a_file_streams_to_its_frames(readable):
    path, _, frames, times = readable
    streamed = sorted(iter_frames(path), key=lambda pair: pair[0])
    assert [time - streamed[0][0] for time, _ in streamed] == pytest.approx(times, abs=1e-6)
    assert all(np.array_equal(got, frame) for (_, got), frame in zip(streamed, frames, strict=True))


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_streams_what_can_be_decoded_and_says_where_something_is_missing(name, shared_data):
    streamed = list(iter_frames(shared_data / name))
    errors = [i for i, (_, frame) in enumerate(streamed) if isinstance(frame, VideoDecodeError)]
    assert errors and "is damaged" in str(streamed[errors[0]][1])
    assert len(streamed) - len(errors) >= DAMAGED[name][0] - 1


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_without_a_frame_streams_none(name, shared_data):
    with pytest.raises(VideoDecodeError, match=UNREADABLE[name]):
        list(iter_frames(shared_data / name))


@pytest.mark.parametrize("name", READABLE)
def test_a_timestamp_after_the_last_frame_is_outside_the_file(name, shared_data):
    with pytest.raises(ValueError, match="lies outside") as error:
        decode_frames(shared_data / name, READABLE[name].end + 0.01)
    assert not isinstance(error.value, VideoDecodeError)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_gives_the_frames_before_the_damage_and_names_the_last(name, shared_data):
    count, rate = DAMAGED[name]
    last = (count - 1) / rate
    with pytest.raises(VideoDecodeError, match=rf"decoding stopped after the frame at timestamp={last} "):
        decode_frames(shared_data / name)
    for timestamp in (0.0, last / 2, last):
        _, metadata = decode_frames(shared_data / name, timestamp)
        assert metadata.timestamps[-1] == pytest.approx(np.floor(timestamp * rate + 1e-6) / rate)
    for timestamp in (count / rate, 4.5):
        with pytest.raises(VideoDecodeError, match=f"the frame at {timestamp:.3f} s cannot be decoded"):
            decode_frames(shared_data / name, timestamp)


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("timestamp", [None, 0.0, 1.0])
def test_a_file_without_frames_says_what_is_wrong(name, timestamp, shared_data):
    with pytest.raises(VideoDecodeError, match=UNREADABLE[name]):
        HMBAVideoProcessor()(shared_data / name, timestamp=timestamp)


@pytest.mark.parametrize("name", ["rot_display_180.mov", "rot_display_ccw90.mov", "rot_display_cw90.mov"])
def test_rotated_files_are_shown_upright(name, shared_data):
    upright, _ = decode_frames(shared_data / "fixtures/rot_reference_upright_270p.mp4", num_frames=None)
    shown, _ = decode_frames(shared_data / "fixtures" / name, num_frames=None)
    assert np.abs(shown.astype(int) - upright).mean() < 2


@pytest.mark.parametrize("name", ["decord_video_90.mov", "decord_video_180.mov", "decord_video_270.mov"])
def test_phone_videos_are_turned_as_they_were_held(name, shared_data):
    path = shared_data / "thirdparty_fixtures" / name
    with av.open(str(path)) as container:
        stored = stored_picture(next(container.decode(video=0)))
    shown, _ = decode_frames(path, 0.0, 1)
    quarter_turns = {"decord_video_90.mov": 3, "decord_video_180.mov": 2, "decord_video_270.mov": 1}[name]
    assert np.array_equal(shown[0], np.rot90(stored, quarter_turns))


@pytest.mark.parametrize(
    "name", ["all_intra.mp4", "h264_10bit_270p.mp4", "av1_270p.mkv", "mjpeg_270p.avi", "h264_fullrange_pc_270p.mp4"]
)
def test_depth_range_and_codec_do_not_change_the_colours(name, shared_data):
    """The full-range file is grey, so only its brightness is compared."""
    times = {"timestamp": 1.0, "num_frames": 3}
    reference, _ = decode_frames(shared_data / "fixtures/rot_reference_upright_270p.mp4", **times)
    shown, _ = decode_frames(shared_data / "fixtures" / name, **times)
    if "fullrange" in name:
        reference, shown = reference.mean(axis=-1), shown.mean(axis=-1)
    assert np.abs(shown.astype(float) - reference).mean() < 4
    assert abs(shown.mean() - reference.mean()) < 1


def test_the_best_of_several_video_streams_is_read(shared_data):
    frames, metadata = decode_frames(shared_data / "thirdparty_fixtures/torchcodec_nasa_13013.mp4", 6.0)
    assert frames.shape == (5, 270, 480, 3)
    assert metadata.fps == pytest.approx(30000 / 1001)


def test_a_batch_of_real_clips_becomes_one_tensor(shared_data):
    names = ["clips/freeway_day_540p.mp4", "clips/parking_person_bicycle_car.gif", "fixtures/rot_display_cw90.mov"]
    features = HMBAVideoProcessor()(
        [shared_data / name for name in names], timestamp=[8.0, None, 2.0], return_metadata=True, return_tensors="pt"
    )
    assert features["pixel_values_videos"].shape == (3, 5, 3, 224, 224)
    assert [(m.height, m.width) for m in features["video_metadata"]] == [READABLE[name].size for name in names]
    assert set(features) == {"pixel_values_videos", "video_metadata"}
