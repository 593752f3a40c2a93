"""The example `stream_video.py` on drives whose clocks go back, stand nearly still or are not stated."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from hmba_hf import HMBAForConditionalGeneration, iter_frames
from hmba_hf.streaming.annotated import AnnotatedVideo
from numbered_videos import numbered_video

SCRIPT = Path(__file__).parents[1] / "examples" / "stream_video.py"


@pytest.fixture
def stream(stored_model, tmp_path, monkeypatch, capsys):
    """Run the example on a source; return what it printed, the times of its answers, and those of its pictures."""

    def run(source, *words):
        out = tmp_path / "out"
        options = ["--model", stored_model, "--source", source, "--max_new_tokens", 1, "--output_dir", out, *words]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, options)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        printed = capsys.readouterr()
        answers = [json.loads(line)["timestamp"] for line in (out / "answers.jsonl").read_text().splitlines()]
        return printed.out + printed.err, answers, [time for time, _ in iter_frames(out / "annotated.mp4")]

    return run


@pytest.mark.parametrize(
    ("name", "count", "answers"),
    [
        ("joined.ts", 200, [0.0, 2.0, 0.0, 2.0]),
        ("step_back_small.mkv", 300, [0.0, 2.0, 4.0, 5.939, 7.939, 9.939]),
    ],
)
def test_a_stream_starts_anew_where_the_clock_goes_back_and_keeps_every_frame(
    shared_data, stream, name, count, answers
):
    printed, asked, written = stream(shared_data / "reports" / name)
    assert f"{count} frames, 0 broken" in printed and printed.count("starting anew: timestamp must be later") == 1
    assert asked == pytest.approx(answers)
    assert len(written) == count and written == sorted(set(written))
    assert written[-1] == pytest.approx(count / 25, abs=0.1), "the annotated file's own clock goes on"


def test_a_stream_starts_anew_where_its_pictures_change_their_size_and_keeps_every_one(stream, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (64, 48) if number < 3 else (48, 64)).save(folder / f"{number}.jpg")
    printed, asked, written = stream(folder, "--source_fps", 2, "--on_error", "stop")
    assert "6 frames, 0 broken" in printed and printed.count("starting anew: frames must have the shape") == 1
    assert asked == [0.0, 1.5] and len(written) == 6


def test_a_stated_rate_is_that_of_a_video_without_timestamps(shared_data, stream):
    _, asked, written = stream(shared_data / "reports" / "fcamera.hevc", "--source_fps", 20, "--every", 4)
    assert asked == pytest.approx([0.0, 4.0, 8.0])
    assert len(written) == 200 and written[-1] == pytest.approx(9.95, abs=1e-3)


def test_what_is_missing_of_a_file_is_a_broken_frame(stream, tmp_path):
    data = numbered_video(50, container="webm", codec="libvpx")
    (tmp_path / "cut.webm").write_bytes(data[: len(data) // 2])
    printed, _, written = stream(tmp_path / "cut.webm")
    assert "1 broken" in printed and "its frames end at" in printed and "of 5.000 s" in printed
    assert 10 < len(written) < 40


def test_pictures_a_tenth_of_a_millisecond_apart_are_annotated(tmp_path):
    video = AnnotatedVideo(tmp_path / "a.mp4")
    times = [0.0, 0.1, 0.1001, 0.1002, 0.1002, 0.2, 0.15, 0.3]
    for seconds in times:
        video.write(Image.new("RGB", (32, 32)), seconds)
    video.close()
    written = [time for time, _ in iter_frames(tmp_path / "a.mp4")]
    assert len(written) == len(times) and written == sorted(set(written))
    assert written[:6] == pytest.approx(times[:6], abs=1e-4)


@pytest.mark.parametrize(
    ("make", "words", "sentence"),
    [
        (b"no video", (), "source cannot be read as a video"),
        (None, (), "must be a local file or an http"),
        ({}, (), "the folder must hold pictures .*, got none"),
        (40, ("--max_pixels", 100), "must have at most max_pixels=100, got 64 x 48"),
        (40, ("--source_format", "nosuch"), "source_format must be FFmpeg's name"),
        (
            {"a.jpg": (8, 8), "b.jpg": (64, 48)},
            ("--max_pixels", 100, "--on_error", "stop"),
            "0.100 s: .* must have at most max_pixels=100, got 64 x 48",
        ),
        ({"a.jpg": (64, 48)}, ("--max_pixels", 100), "has shown no frame"),
    ],
)
def test_a_source_that_cannot_be_read_ends_with_one_line(tmp_path, stored_model, make, words, sentence):
    source = tmp_path / "source"
    if isinstance(make, dict):
        source.mkdir()
        for name, size in make.items():
            Image.new("RGB", size).save(source / name)
    elif make is not None:
        source.write_bytes(make if isinstance(make, bytes) else numbered_video(make))
    options = ["--model", stored_model, "--source", source, "--output_dir", tmp_path / "out", *words]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, options)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert isinstance(end.value.code, str) and re.search(sentence, end.value.code) and "\n" not in end.value.code


def test_a_mistake_of_the_model_is_no_broken_frame(monkeypatch, stream, tmp_path):
    def forget(self, pixels):
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(HMBAForConditionalGeneration, "get_frame_features", forget)
    (tmp_path / "a.mp4").write_bytes(numbered_video(3))
    with pytest.raises(ValueError, match="a mistake of ours"):
        stream(tmp_path / "a.mp4", "--on_error", "skip")


@pytest.mark.parametrize("words", [("--every", "nan"), ("--source_fps", 0), ("--max_aspect_ratio", -1)])
def test_a_wrong_option_ends_with_one_line_before_anything_is_loaded(monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--model", "none", "--source", "none", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert end.value.code == 2 and f"{words[0][2:]} must be a number" in capsys.readouterr().err


def test_a_source_that_shows_no_frame_leaves_what_an_earlier_drive_has_left(stream, tmp_path):
    (tmp_path / "a.mp4").write_bytes(numbered_video(3))
    stream(tmp_path / "a.mp4")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(SystemExit, match="typo.mp4"):
        stream(tmp_path / "typo.mp4")
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        (tmp_path / "pictures" / f"{number}.jpg").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match="has shown no frame"):
        stream(tmp_path / "pictures")
    assert set(before) == {"answers.jsonl", "annotated.mp4"} and all(before.values())
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
