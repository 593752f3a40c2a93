"""What may be opened as a video, and whose fault it is when that fails."""

import av
import pytest

from hmba_hf.data.clips import video_duration
from hmba_hf.models.decoding_containers import VideoDecodeError
from hmba_hf.models.video_decoding_hmba import decode_frames, iter_frames
from numbered_videos import numbered_video, read_numbers


@pytest.fixture(scope="module")
def video():
    """Two seconds of numbered frames, ten a second."""
    return numbered_video(20, rate=10)


@pytest.fixture
def path(video, tmp_path):
    (tmp_path / "drive.mp4").write_bytes(video)
    return tmp_path / "drive.mp4"


DOORS = {
    "clip": decode_frames,
    "iter_frames": lambda source: list(iter_frames(source)),
    "video_duration": video_duration,
}


def test_containers_open_without_the_option_for_tags_that_pyav_19_has_no_more(video, monkeypatch):
    monkeypatch.setattr("hmba_hf.models.decoding_containers._TAG_OPTIONS", {})
    assert read_numbers(decode_frames(video, 1.0, 2)[0]) == [5, 10]


def test_every_option_of_opening_is_one_that_the_installed_pyav_knows(path):
    for door in DOORS.values():
        door(path)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("error", [TypeError, AttributeError, NameError, KeyError])
def test_a_mistake_in_our_own_call_is_never_a_damaged_file(path, door, error, monkeypatch):
    def open_with_a_mistake(*args, **kwargs):
        raise error("open() got an unexpected keyword argument")

    monkeypatch.setattr(av, "open", open_with_a_mistake)
    with pytest.raises(error, match="unexpected keyword") as raised:
        door(path)
    assert not isinstance(raised.value, VideoDecodeError)
