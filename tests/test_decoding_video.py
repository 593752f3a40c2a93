import struct
import threading
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO, RawIOBase, StringIO

import av
import numpy as np
import pytest
from PIL import Image

from hmba_hf import SourceLimits
from hmba_hf.models.decoding_metadata import VideoTooLongError
from hmba_hf.models.decoding_streams import OpenVideo
from hmba_hf.models.decoding_video import (
    VideoDecodeError,
    causal_timestamps,
    decode_frames,
    decode_segments,
    latest_frames,
    video_duration,
)
from numbered_videos import numbered_frame, numbered_video, read_numbers

RATE = 10


@pytest.fixture(scope="module")
def video():
    """Five seconds of numbered frames, ten a second, a keyframe every second."""
    return numbered_video(50, rate=RATE)


def numbers(*args, **kwargs):
    return read_numbers(decode_frames(*args, **kwargs)[0])


# Which frames a clip holds


def test_times_of_a_clip_end_at_the_timestamp_and_lie_one_over_fps_apart():
    assert causal_timestamps(3.0, 4, 2.0) == [1.5, 2.0, 2.5, 3.0]
    assert causal_timestamps(0.5, 3, 1) == [-1.5, -0.5, 0.5]


def test_the_latest_frame_not_after_a_time_is_chosen_and_the_earliest_before_all_of_them():
    assert latest_frames([0.0, 0.4, 0.5, 1.2], [-1.0, 0.0, 0.39, 0.4, 1.19, 9.0]) == [0, 0, 0, 1, 2, 3]
    assert latest_frames([0.5, 0.0, 0.4], [0.1, 0.45, 0.6]) == [1, 2, 0]


def test_a_clip_ends_with_the_last_frame_unless_told_otherwise(video):
    assert numbers(video) == [29, 34, 39, 44, 49]


@pytest.mark.parametrize("timestamp", [0.0, 0.05, 0.95, 1.0, 2.34, 3.999, 4.9, 5.0])
@pytest.mark.parametrize("fps", [0.7, 2.0, 3.0, 30.0])
def test_a_clip_never_shows_what_comes_after_its_timestamp(video, timestamp, fps):
    wanted = [int(max(timestamp - k / fps, 0) * RATE + 1e-4) for k in (3, 2, 1, 0)]
    assert numbers(video, timestamp, 4, fps) == [min(number, 49) for number in wanted]


def test_a_clip_that_starts_before_the_video_repeats_its_first_frame(video):
    frames, metadata = decode_frames(video, 0.6, 5, 2.0)
    assert read_numbers(frames) == [0, 0, 0, 1, 6]
    assert metadata.timestamps == [0.0, 0.0, 0.0, 0.1, 0.6]


def test_without_a_number_of_frames_every_frame_up_to_the_timestamp_is_given(video):
    assert numbers(video, 1.25, None) == list(range(13))
    assert numbers(video, num_frames=None) == list(range(50))


def test_the_clock_of_a_file_starts_at_its_first_frame():
    times = [2.5 + index / RATE for index in range(30)]
    late = numbered_video(30, times=times, container="matroska")
    assert numbers(late, 1.0, 3, 5.0) == [6, 8, 10]
    assert numbers(late)[-1] == 29


def test_frames_of_a_varying_rate_are_chosen_by_their_times():
    frames, metadata = decode_frames(
        numbered_video(6, times=[0, 0.1, 0.5, 0.6, 1.4, 1.5], container="matroska"), fps=5
    )
    assert read_numbers(frames) == [3, 3, 3, 3, 5]
    assert metadata.timestamps == [0.6, 0.6, 0.6, 0.6, 1.5]


# FFmpeg 7 writes an MP4 file whose pictures begin with the first packet: earlier ones are not shown.
@pytest.mark.parametrize(
    ("container", "order"), [("matroska", (2, 0, 3, 1)), ("mp4", (0, 3, 1, 2)), ("nut", (2, 0, 3, 1))]
)
@pytest.mark.parametrize("timestamp", [None, 0.0, 0.5, 3.2, 3.33, 5.0, 7.9])
def test_frames_out_of_order_are_put_in_order(container, order, timestamp):
    times = [(index // 4 * 4 + order[index % 4]) / RATE for index in range(80)]
    shuffled = numbered_video(80, times=times, codec="mjpeg", container=container)
    wanted = causal_timestamps(7.9 if timestamp is None else timestamp, 5, 5.0)
    assert numbers(shuffled, timestamp, 5, 5.0) == latest_frames(times, wanted)


@pytest.mark.parametrize(
    ("container", "codec", "muxer"),
    [
        ("avi", "mpeg4", {}),
        ("flv", "flv", {}),
        ("h264", "libx264", {}),
        ("matroska", "libx264", {}),
        ("matroska", "mpeg4", {"live": "1"}),
        ("mp4", "libx264", {}),
        ("mp4", "mpeg4", {"movflags": "frag_keyframe+empty_moov"}),
        ("mpegts", "libx264", {}),
        ("mpegts", "mpeg2video", {}),
        ("vob", "mpeg2video", {}),
    ],
)
def test_seeking_gives_the_same_frames_as_decoding_from_the_start(container, codec, muxer):
    rate = 25
    data = numbered_video(150, rate=rate, gop=24, container=container, codec=codec, **muxer)
    everything, metadata = decode_frames(data, num_frames=None)
    assert len(everything) == 150
    for timestamp in (None, 0.3, 2.04, 3.9, 5.5):
        frames, _ = decode_frames(data, timestamp, 4, 6.0)
        end = metadata.timestamps[-1] if timestamp is None else timestamp
        chosen = latest_frames(metadata.timestamps, causal_timestamps(end, 4, 6.0))
        assert np.array_equal(frames, everything[chosen]), timestamp


@pytest.mark.parametrize("factor", [0.1, 20])
def test_the_last_frame_is_found_whatever_duration_the_header_claims(video, factor):
    field = video.index(b"mdhd") + 20
    (duration,) = struct.unpack(">I", video[field : field + 4])
    wrong = video[:field] + struct.pack(">I", int(duration * factor)) + video[field + 4 :]
    assert numbers(wrong) == [29, 34, 39, 44, 49]


def test_the_cost_of_a_clip_does_not_grow_with_the_file(monkeypatch):
    decoded, read = [], OpenVideo.decode

    def counted(video):
        for frame in read(video):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(OpenVideo, "decode", counted)
    costs = {}
    for seconds in (10, 600):
        data = numbered_video(seconds * RATE, rate=RATE, gop=12)
        for timestamp in (None, seconds - 1):
            decoded.clear()
            last = numbers(data, timestamp)[-1]
            assert last == (seconds * RATE - 1 if timestamp is None else timestamp * RATE)
            costs[seconds, timestamp is None] = len(decoded)
    assert costs[600, True] <= 2 * costs[10, True]
    assert costs[600, False] <= 2 * costs[10, False]


# Sources


class Unseekable(RawIOBase):
    def __init__(self, data):
        self.file = BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.file.readinto(buffer)


def test_paths_bytes_and_file_objects_give_the_same_clip(video, tmp_path):
    path = tmp_path / "drive 12:30.mp4"
    path.write_bytes(video)
    wanted = numbers(video, 3.0)
    assert wanted == [10, 15, 20, 25, 30]
    for source in (path, str(path), bytearray(video), memoryview(video), BytesIO(video), Unseekable(video)):
        assert numbers(source, 3.0) == wanted


def test_a_file_object_is_read_from_its_start_then_rewound_and_left_open(video, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(video)
    with open(tmp_path / "clip.mp4", "rb") as file:
        file.seek(1000)
        assert numbers(file, 3.0) == numbers(video, 3.0)
        assert not file.closed and file.tell() == 0
        assert numbers(file) == numbers(video)


@pytest.fixture
def server(video):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/clip.mp4")
                self.end_headers()
            else:
                self.send_response(200 if self.path == "/clip.mp4" else 404)
                self.end_headers()
                self.wfile.write(video if self.path == "/clip.mp4" else b"no such clip")

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_url_is_fetched_and_redirects_are_followed(server, video):
    assert numbers(f"{server}/clip.mp4") == numbers(f"{server}/moved") == numbers(video)


def test_a_url_that_does_not_answer_with_a_file_is_named(server):
    with pytest.raises(VideoDecodeError, match="cannot fetch .*/gone.mp4.*404"):
        decode_frames(f"{server}/gone.mp4")


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.mp4"):
        decode_frames(tmp_path / "absent.mp4")
    with pytest.raises(FileNotFoundError, match="a directory"):
        decode_frames(tmp_path)
    with pytest.raises(ValueError, match="got int"):
        decode_frames(3)
    with pytest.raises(VideoDecodeError, match="cannot be read as a video"):
        decode_frames(StringIO("text"))
    with pytest.raises(VideoDecodeError, match="cannot be read as a video"):
        decode_frames(b"")


def test_tags_in_any_encoding_are_no_obstacle():
    def tag(stream):
        stream.container.metadata["title"] = "LATIN-ONE"

    data = numbered_video(5, container="matroska", prepare=tag)
    assert b"LATIN-ONE" in data
    assert numbers(data.replace(b"LATIN-ONE", b"\xe9\xe8\xff\xfe\xe9\xe8\xff\xfe\xe9"))[-1] == 4


# Damage


def cut_after(number, extra=0):
    """The video with a whole index, cut `extra` bytes after its frame `number`."""
    data = numbered_video(50, rate=RATE, movflags="faststart")
    with av.open(BytesIO(data)) as container:
        packet = list(container.demux(video=0))[number]
    return data[: packet.pos + packet.size + extra]


@pytest.fixture(scope="module")
def truncated():
    return cut_after(32)


def test_frames_before_the_damage_are_given_and_later_ones_are_an_error(truncated):
    assert numbers(truncated, 2.0) == [0, 5, 10, 15, 20]
    assert numbers(truncated, 3.2)[-1] == 32
    for timestamp in (3.3, 4.5, 4.9):
        with pytest.raises(VideoDecodeError, match=f"the frame at {timestamp:.3f} s cannot be decoded"):
            decode_frames(truncated, timestamp)


def test_a_damaged_end_is_an_error_that_names_the_last_time_one_can_ask_for(truncated):
    with pytest.raises(VideoDecodeError, match="the last frame cannot be decoded.* timestamp=3.2 "):
        decode_frames(truncated)


def test_a_frame_that_the_decoder_mends_is_given_with_a_warning(caplog):
    half_a_frame_more = cut_after(32, extra=20)
    assert numbers(half_a_frame_more, 3.2)[-1] == 32
    assert "damaged" not in caplog.text
    decode_frames(half_a_frame_more, 3.3)
    assert "damaged at 3.300 s" in caplog.text


def test_damage_in_an_earlier_group_of_pictures_does_no_harm(video):
    assert numbers(video, 4.5, 2, 5.0) == [43, 45]
    start = video.index(b"mdat") + 4
    wounded = bytearray(video)
    wounded[start + len(video) // 5 : start + len(video) // 4] = bytes(len(video) // 4 - len(video) // 5)
    assert numbers(bytes(wounded), 4.5, 2, 5.0) == [43, 45]


def test_a_change_of_the_frame_size_within_a_clip_is_an_error():
    two_sizes = b"".join(
        numbered_video(10, rate=25, container="h264", codec="libx264", size=size) for size in ((64, 48), (96, 64))
    )
    with pytest.raises(VideoDecodeError, match="changes its frame size"):
        decode_frames(two_sizes, fps=5)
    assert decode_frames(two_sizes, fps=25)[0].shape == (5, 64, 96, 3)


@pytest.mark.parametrize("timestamp", [5.2, 60.0, 1e300])
def test_a_timestamp_after_the_end_is_an_error_that_names_the_end(video, timestamp):
    with pytest.raises(ValueError, match=r"lies outside .*, which ends at 5\.0 s") as error:
        decode_frames(video, timestamp)
    assert not isinstance(error.value, VideoDecodeError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestamp": -0.1}, "timestamp must be"),
        ({"timestamp": float("nan")}, "timestamp must be"),
        ({"timestamp": "now"}, "timestamp must be"),
        ({"num_frames": 0}, "num_frames must be"),
        ({"num_frames": -2}, "num_frames must be"),
        ({"num_frames": 2.5}, "num_frames must be"),
        ({"fps": 0}, "fps must be"),
        ({"fps": -1.0}, "fps must be"),
        ({"fps": float("inf")}, "fps must be"),
        ({"fps": np.float32("inf")}, "fps must be"),
        ({"timestamp": np.float16("nan")}, "timestamp must be"),
        ({"timestamp": 10**400}, "timestamp must be"),
    ],
)
def test_impossible_sampling_is_refused(video, options, message):
    with pytest.raises(ValueError, match=message):
        decode_frames(video, **options)


def test_numbers_of_numpy_are_numbers(video):
    assert numbers(video, np.float32(3.0), np.int64(4), np.float32(2.0)) == numbers(video, 3.0, 4, 2.0)


# The picture


def upright():
    """A picture whose four corners differ."""
    picture = np.zeros((48, 64, 3), dtype=np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = 255, (255, 0, 0), (0, 0, 255)
    return picture


@pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_rotation"),
    reason="PyAV 15 writes no rotation; test_real_video has files with one",
)
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("hflip", [False, True])
def test_the_display_matrix_turns_and_mirrors_frames(degrees, hflip, monkeypatch):
    monkeypatch.setattr("numbered_videos.numbered_frame", lambda number, size: upright())
    data = numbered_video(3, container="mov", prepare=lambda stream: stream.set_display_rotation(degrees, hflip=hflip))
    wanted = np.rot90(upright(), degrees // 90)
    wanted = wanted[:, ::-1] if hflip else wanted
    frames, metadata = decode_frames(data)
    assert frames.shape[1:] == wanted.shape == (metadata.height, metadata.width, 3)
    assert np.abs(frames[-1].astype(int) - wanted).mean() < 12


def test_pixels_that_are_not_square_are_stretched():
    def stretch(stream):
        stream.sample_aspect_ratio = Fraction(3, 2)

    frames, metadata = decode_frames(numbered_video(3, container="matroska", prepare=stretch))
    assert frames.shape == (5, 48, 96, 3)
    assert (metadata.height, metadata.width) == (48, 96)


def test_transparency_shows_white():
    file = BytesIO()
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (0, 0, 8, 16))
    clear.save(file, format="GIF", save_all=True, append_images=[clear.rotate(180)], duration=100)
    frames, _ = decode_frames(file.getvalue(), 0.0)
    assert (frames[:, 8, 12] == 255).all() and (frames[:, 8, 4] == (255, 0, 0)).all()


def test_numbered_frames_can_be_read_back():
    assert read_numbers(np.stack([numbered_frame(number) for number in (0, 7, 5999)])) == [0, 7, 5999]


def test_a_video_that_is_longer_by_its_header_than_allowed_is_refused():
    video = numbered_video(25)  # 2.5 seconds
    assert len(decode_frames(video, limits=SourceLimits(max_video_seconds=2.5))[0]) == 5
    for read in (decode_frames, decode_segments, video_duration):
        with pytest.raises(VideoTooLongError, match=r"in bytes must have at most 2\.4 seconds, got 2\.5"):
            read(video, limits=SourceLimits(max_video_seconds=2.4))
