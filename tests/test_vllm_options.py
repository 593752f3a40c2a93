"""Options with which vLLM's requests and engines read videos; they need no vLLM."""

import numpy as np
import pytest

from hmba_hf.integrations.vllm.options import MOST_FRAMES, media_of_engine, options_of_engine, options_of_request

NAN = float("nan")
INFINITY = float("inf")

WRONG = [
    ({"num_frames": "x"}, "num_frames must be a whole number, one or more, got 'x'"),
    ({"num_frames": True}, "num_frames must be a whole number, one or more, got True"),
    ({"num_frames": NAN}, "num_frames must be a whole number, one or more, got nan"),
    ({"num_frames": INFINITY}, "num_frames must be a whole number, one or more, got inf"),
    ({"num_frames": -1}, "num_frames must be a whole number, one or more, got -1"),
    ({"num_frames": 0}, "num_frames must be a whole number, one or more, got 0"),
    ({"num_frames": [4]}, r"num_frames must be a whole number, one or more, got \[4\]"),
    ({"num_frames": {}}, "num_frames must be a whole number, one or more, got {}"),
    ({"num_frames": MOST_FRAMES + 1}, f"a clip must have at most {MOST_FRAMES} frames, got {MOST_FRAMES + 1}"),
    ({"fps": "2"}, "fps must be a number greater than zero, got '2'"),
    ({"fps": False}, "fps must be a number greater than zero, got False"),
    ({"fps": NAN}, "fps must be a number greater than zero, got nan"),
    ({"fps": [2]}, r"fps must be a number greater than zero, got \[2\]"),
    ({"source_fps": "x"}, "source_fps must be a number of frames per second .* got 'x'"),
    ({"source_fps": -3}, "source_fps must be a number of frames per second .* got -3"),
    ({"only_whole": "x"}, "only_whole must be true or false, got 'x'"),
    ({"only_whole": 1}, "only_whole must be true or false, got 1"),
    ({"time_format": 3}, "time_format must be a text with one {seconds}, or None, got 3"),
    ({"time_format": ["{seconds}"]}, "time_format must be a text with one {seconds}, or None, got"),
    ({"speed": 3}, r"must be among .*, got \['speed'\]"),
    ({"speed": 3, 4: 5}, r"must be among .*, got \['4', 'speed'\]"),
    ({"videos_kwargs": 3}, "videos_kwargs must be options by name, got 3"),
    ({"videos_kwargs": ["num_frames"]}, "videos_kwargs must be options by name, got"),
    ({"videos_kwargs": {"num_frames": "x"}}, "num_frames must be a whole number, one or more, got 'x'"),
    ({"videos_kwargs": {"videos_kwargs": {}}}, r"must be among .*, got \['videos_kwargs'\]"),
    ("x", "mm_processor_kwargs must be options by name, got 'x'"),
    ([("num_frames", 3)], "mm_processor_kwargs must be options by name, got"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=str)
def test_a_wrong_option_of_a_request_or_an_engine_is_one_sentence(given, message):
    with pytest.raises(ValueError, match=message):
        options_of_request(given, 1)
    with pytest.raises(ValueError, match=message):
        options_of_engine(given)


@pytest.mark.parametrize("moment", ["x", True, NAN, -1.0, {}, b"1", np.array(1.0), [[1.0]]], ids=repr)
def test_a_moment_that_is_no_number_is_one_sentence(moment):
    for timestamp, videos in ((moment, 0), (moment, 1), (moment, 2), ([0.5, moment], 2)):
        with pytest.raises(ValueError, match="timestamp must be a number of seconds, zero or more, got"):
            options_of_request({"timestamp": timestamp}, videos)


def test_moments_are_one_for_all_videos_or_one_for_each():
    assert options_of_request({"timestamp": 1.5}, 2) == ({}, [1.5, 1.5])
    assert options_of_request({"timestamp": (1.5, None), "fps": 2}, 2) == ({"fps": 2}, [1.5, None])
    assert options_of_request({"timestamp": None}, 2) == ({}, None)
    for videos in (0, 1, 3):
        with pytest.raises(ValueError, match=f"one number or one for each of {videos} videos, got "):
            options_of_request({"timestamp": [0.5, 1.0]}, videos)


def test_options_of_the_scope_of_videos_count_as_those_beside_it():
    assert options_of_request({"fps": 1, "videos_kwargs": {"fps": 2, "timestamp": 3}}, 1) == ({"fps": 2}, [3])
    assert options_of_engine({"fps": 1, "videos_kwargs": {"fps": 2}}) == {"fps": 2}


def test_an_engine_has_no_moment_and_reads_videos_on_the_processor():
    with pytest.raises(ValueError, match="timestamp must be an option of a request, got 3.0 for an engine"):
        options_of_engine({"timestamp": 3.0})
    with pytest.raises(ValueError, match="device must be 'cpu', where H-MBA's videos are read, got 'cuda:1'"):
        options_of_engine({"device": "cuda:1"})
    assert options_of_engine({"device": "cpu", "only_whole": True}) == {"only_whole": True}


def test_absent_options_leave_what_was_chosen_before():
    assert options_of_request({"num_frames": None, "fps": None, "time_format": None}, 1) == (
        {"time_format": None},
        None,
    )
    assert options_of_engine(None) == {}
    assert options_of_engine({"num_frames": None, "timestamp": None, "time_format": None}) == {"time_format": None}


def test_videos_are_left_whole_by_the_reader_that_takes_no_options():
    assert media_of_engine(None, "hmba") == {"video_backend": "hmba"}
    assert media_of_engine({"video_backend": "hmba"}, "hmba") == {"video_backend": "hmba"}
    others = {"video_backend": "opencv", "num_frames": 3}
    assert media_of_engine(others, "hmba") == others
    with pytest.raises(ValueError, match="must hold no options, .* got .'fps', 'num_frames'."):
        media_of_engine({"num_frames": 3, "fps": 2}, "hmba")
    with pytest.raises(ValueError, match="media_io_kwargs of videos must be options by name, got 3"):
        media_of_engine(3, "hmba")
