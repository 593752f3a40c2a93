import io
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from hmba_hf import VideoDecodeError, decode_frames
from hmba_hf.data.clips import ClipWriter, cut_clips, even_size, video_duration, write_video
from hmba_hf.data.micro_world.world import MicroWorld
from numbered_videos import numbered_video, read_numbers


@pytest.fixture
def drive(tmp_path):
    """A video of six seconds, ten numbered frames a second."""
    path = tmp_path / "drive.mov"
    path.write_bytes(numbered_video(60, rate=10, container="mov"))
    return path


def numbers(clip):
    """The numbers of all frames of a clip."""
    return read_numbers(decode_frames(clip, None, None)[0])


def test_a_clip_shows_what_the_video_shows_at_its_times(drive):
    first, second = cut_clips(drive, [(1, 2), (3.0, 4.5)], fps=10)
    assert numbers(first) == list(range(10, 21)) and numbers(second) == list(range(30, 46))
    assert decode_frames(first, None, 1)[1].timestamps == [1.0], "its last picture is that at the end of the span"


def test_clips_of_one_pass_may_overlap_and_come_in_any_order(drive):
    late, early, inside = cut_clips(drive, [(4, 5), (0, 3), (2, 4)], fps=10)
    assert (numbers(late)[0], numbers(early), numbers(inside)[-1]) == (40, list(range(31)), 40)


@pytest.mark.parametrize(("fps", "wanted"), [(5, [10, 12, 14, 16, 18, 20]), (20, [10, 10, 11, 11, 12])])
def test_a_clip_has_its_own_rate(drive, fps, wanted):
    (clip,) = cut_clips(drive, [(1, 2)], fps=fps)
    assert numbers(clip)[: len(wanted)] == wanted
    assert decode_frames(clip, None, 1)[1].fps == fps


def test_a_clip_ends_with_its_video(drive):
    (clip,) = cut_clips(drive, [(5, 222)], fps=10)
    assert numbers(clip) == list(range(50, 60))


def test_a_video_whose_header_is_silent_ends_where_it_ends(shared_data):
    path = shared_data / "fixtures" / "raw_annexb.h264"  # 125 frames, 25 a second
    assert len(decode_frames(cut_clips(path, [(4, 222)], fps=5)[0], None, None)[0]) == 5


def test_a_video_of_one_frame_gives_a_clip_of_it(tmp_path):
    (tmp_path / "one.mp4").write_bytes(numbered_video(1))
    assert numbers(cut_clips(tmp_path / "one.mp4", [(0, 2)], fps=10)[0]) == [0]


def test_a_span_after_the_video_is_an_error_of_its_own(drive):
    good, bad = cut_clips(drive, [(0, 1), (30, 33)], fps=10)
    assert isinstance(good, bytes) and isinstance(bad, VideoDecodeError)
    assert "shows nothing from 30 s to 33 s" in str(bad)


def test_uneven_times_are_held(tmp_path):
    times = [0, 0.5, 0.6, 2.0]
    (tmp_path / "a.mkv").write_bytes(numbered_video(4, container="matroska", codec="mjpeg", times=times))
    assert numbers(cut_clips(tmp_path / "a.mkv", [(0, 2)], fps=5)[0]) == [0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 3]


def test_pictures_are_scaled_down_and_never_up(drive):
    small, same = (cut_clips(drive, [(0, 1)], fps=2, height=height)[0] for height in (24, 480))
    assert decode_frames(small)[0].shape[1:3] == (24, 32) and decode_frames(same)[0].shape[1:3] == (48, 64)


@pytest.mark.parametrize(
    ("size", "most", "wanted"),
    [
        ((1280, 720), 360, (640, 360)),
        ((427, 241), None, (428, 240)),
        ((1280, 720), 101, (180, 100)),
        ((9, 1), None, (8, 2)),
    ],
)
def test_sizes_are_even(size, most, wanted):
    assert even_size(*size, most) == wanted


@pytest.mark.parametrize("name", ["rot_display_180.mov", "rot_display_ccw90.mov", "rot_display_cw90.mov"])
def test_turned_videos_give_upright_clips(shared_data, name):
    clips = [
        cut_clips(shared_data / "fixtures" / file, [(1, 2)], fps=5)[0]
        for file in (name, "rot_reference_upright_270p.mp4")
    ]
    turned, upright = (decode_frames(clip, None, None)[0].astype(int) for clip in clips)
    assert turned.shape == upright.shape == (6, 270, 480, 3)
    assert np.abs(turned - upright).mean() < 4


def test_the_same_frames_give_the_same_bytes_while_others_are_written(drive):
    found = []

    def cut():
        for _ in range(15):
            found.append(tuple(cut_clips(drive, [(0, 2), (2, 4)], fps=10)))

    threads = [threading.Thread(target=cut) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 45


def test_keyframes_are_two_seconds_apart(drive):
    (clip,) = cut_clips(drive, [(0, 5)], fps=10)
    with av.open(io.BytesIO(clip)) as container:
        keys = [frame.time for frame in container.decode(video=0) if frame.key_frame]
    assert keys[0] == 0 and max(np.diff(keys)) <= 2


def test_a_file_that_is_cut_off_hurts_only_the_spans_beyond(shared_data):
    path = shared_data / "fixtures" / "broken_truncated_faststart.mp4"  # 70 of 125 frames, 25 a second
    before, across, beyond = cut_clips(path, [(0, 2), (2, 4.5), (4, 4.5)], fps=5)
    assert isinstance(before, bytes) and len(decode_frames(before, None, None)[0]) == 11
    assert "is damaged: its frames end at 2." in str(across) and "of 5.000 s" in str(beyond)


def test_damage_hurts_only_the_spans_in_it(monkeypatch):
    """Of ten frames the fourth and fifth cannot be decoded."""

    def damaged(path, *rules):
        for number in range(10):
            if number == 3:
                yield 0.2, VideoDecodeError("a hole")
            if number not in (3, 4):
                yield number / 10, np.full((32, 32, 3), 20 * number, np.uint8)

    monkeypatch.setattr("hmba_hf.data.clips.iter_frames", damaged)
    monkeypatch.setattr("hmba_hf.data.clips.video_duration", lambda *_: 1.0)
    before, across, inside, after = cut_clips("a", [(0, 0.2), (0.2, 0.6), (0.3, 0.4), (0.5, 0.9)], fps=10)
    assert [decode_frames(clip, None, None)[0][:, 0, 0, 0].tolist() for clip in (before, after)] == [
        pytest.approx([0, 20, 40], abs=3),
        pytest.approx([100, 120, 140, 160, 180], abs=3),
    ]
    assert str(across) == str(inside) == "a hole"


class Watched:
    """A file that is written, and whether it has been closed."""

    def __init__(self, container):
        self.container = container
        self.is_closed = False

    def __getattr__(self, name):
        return getattr(self.container, name)

    def close(self):
        self.container.close()
        self.is_closed = True


@pytest.fixture
def written(monkeypatch):
    """The files that are written."""
    written = []
    open_any = av.open

    def watched(file, mode="r", **options):
        container = open_any(file, mode, **options)
        if mode != "w":
            return container
        written.append(Watched(container))
        return written[-1]

    monkeypatch.setattr(av, "open", watched)
    return written


def test_no_file_stays_open_where_a_clip_ends_in_an_error(written, monkeypatch):
    def broken(*rules):
        yield 0.0, np.zeros((32, 32, 3), np.uint8)
        yield 0.1, np.zeros((32, 32, 3), np.uint8)
        yield 0.2, VideoDecodeError("a hole")
        if rules[0] == "ends":
            raise TypeError("a mistake")

    monkeypatch.setattr("hmba_hf.data.clips.iter_frames", broken)
    monkeypatch.setattr("hmba_hf.data.clips.video_duration", lambda *_: 1.0)
    [clip] = cut_clips("hole", [(0, 1)], fps=10)
    assert str(clip) == "a hole"
    with pytest.raises(TypeError):
        cut_clips("ends", [(0, 1)], fps=10)
    with pytest.raises(AttributeError):
        write_video(io.BytesIO(), [Image.new("RGB", (32, 32)), None])
    assert [file.is_closed for file in written] == [True, True, True]


@pytest.mark.parametrize("name", ["broken_empty.mp4", "broken_text.mp4", "broken_header_only.mp4", "audio_only.mp4"])
def test_what_is_no_video_is_an_error(shared_data, name):
    with pytest.raises(VideoDecodeError):
        cut_clips(shared_data / "fixtures" / name, [(0, 1)], fps=5)


def test_the_duration_is_that_of_the_header(drive, tmp_path):
    assert video_duration(drive) == 6.0
    (tmp_path / "text.mp4").write_bytes(b"text")
    with pytest.raises(VideoDecodeError, match="cannot be read as a video"):
        video_duration(tmp_path / "text.mp4")


def test_pictures_of_another_size_are_scaled_to_the_files():
    file = io.BytesIO()
    writer = ClipWriter(file, (32, 32), Fraction(5), {"qp": "12"})
    for size in (32, 64):
        writer.write(av.VideoFrame.from_ndarray(np.full((size, size, 3), 99, np.uint8), format="rgb24"))
    writer.close()
    assert decode_frames(file.getvalue(), None, None)[0].shape == (2, 32, 32, 3)


def test_a_written_video_is_the_same_each_time():
    files = [io.BytesIO() for _ in range(3)]
    for file in files:
        write_video(file, MicroWorld()[0].frames)
    assert len({file.getvalue() for file in files}) == 1


def test_clips_that_are_done_hold_no_encoder(drive, monkeypatch):
    holding = set()
    most = []

    class Counting(ClipWriter):
        def __init__(self, *values, **options):
            super().__init__(*values, **options)
            holding.add(self)
            most.append(len(holding))

        def close(self):
            super().close()
            holding.discard(self)

    monkeypatch.setattr("hmba_hf.data.clips.ClipWriter", Counting)
    spans = [(number / 2, number / 2 + 0.3) for number in range(8)]
    assert all(isinstance(clip, bytes) for clip in cut_clips(drive, spans, fps=10))
    assert most == [1] * 8 and not holding
