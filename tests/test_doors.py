"""Every reported file through every door: what it shows, and that no file of many ends a run.

What is right was taken from FFmpeg's pictures and FFprobe's times. `test_reported_video.py` looks at single frames.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from hmba_hf import TimeJump, VideoDecodeError, VideoStream, decode_frames, iter_frames
from hmba_hf.commands import stream
from hmba_hf.data.driving.bddx import convert_segments
from hmba_hf.data.driving.bddx_annotations import Segment
from hmba_hf.data.preparing.converting import MEDIA_UNREADABLE, Converted, Entry
from hmba_hf.data.preparing.parquet_shards import Dropped
from numbered_videos import read_numbers
from tiny_bases import SHORT_TEMPLATE
from tiny_models import tiny_model
from tiny_processors import tiny_processor


class Truth(NamedTuple):
    """How many frames a file shows, the numbers on the first and the last one, and its height and width."""

    count: int
    first: int
    last: int
    size: tuple[int, int] = (96, 128)


FILES = {
    "ak_h263p_all.avi": Truth(200, 0, 199, (96, 140)),
    "ak_mpeg4_b_nostss.mp4": Truth(200, 0, 199),
    "ak_mpeg4_nostss.mp4": Truth(200, 0, 199),
    "ak_xvid_all.avi": Truth(200, 0, 199),
    "exif.avi": Truth(30, 0, 29),
    "exif.mkv": Truth(30, 0, 29),
    "exif.mov": Truth(30, 0, 29),
    "exif.png": Truth(1, 9, 9),
    "exif.webp": Truth(1, 9, 9),
    "fcamera.hevc": Truth(200, 0, 199),
    "h264_b.avi": Truth(150, 0, 149),
    "head_tail_trim.mp4": Truth(52, 150, 201),
    "held.mp4": Truth(176, 0, 175),
    "joined.ts": Truth(200, 0, 1099),
    "lapse.mp4": Truth(12, 0, 11),
    "mixed.ts": Truth(150, 0, 1049),
    "mpeg4_b.avi": Truth(150, 0, 149),
    "r30.mkv": Truth(150, 0, 149),
    "short_header.mp4": Truth(250, 0, 249),
    "step_back.mkv": Truth(300, 0, 299),
    "step_back_small.mkv": Truth(300, 0, 299),
    "stray_past.mkv": Truth(300, 0, 299),
    "tail_trim.mp4": Truth(100, 0, 99),
    "xvid_b.avi": Truth(148, 0, 148),
    "xvid_packed.avi": Truth(149, 0, 148),
}
LYING = [f"exif6/{number}.jpg" for number in range(3)]  # upright they are as wide as they were high
UNREADABLE = {"ycgco.mp4": "ycgco.mp4 has a picture of .* colour matrix, YCgCo"}
DAMAGE = (VideoDecodeError, ValueError)


@pytest.fixture(scope="module")
def reports(shared_data):
    return shared_data / "reports"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_model()


@pytest.fixture(scope="module")
def stream_video(model):
    """`hmba stream`, which finds a tiny model."""
    processor = tiny_processor(chat_template=SHORT_TEMPLATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "load_model", lambda *args, **options: model)
        patch.setattr(stream, "AutoProcessor", SimpleNamespace(from_pretrained=lambda *args, **options: processor))
        yield stream


@pytest.fixture(scope="module")
def watcher(model):
    return VideoStream(model, tiny_processor(chat_template=SHORT_TEMPLATE))


def test_every_reported_file_is_looked_at(reports):
    found = {path.relative_to(reports).as_posix() for path in reports.rglob("*") if path.suffix not in (".md", "")}
    assert found == {*FILES, *LYING, *UNREADABLE}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_through_every_door(reports, stream_video, watcher, tmp_path, name):
    truth, path = FILES[name], reports / name

    clip, _ = decode_frames(path)
    assert clip.shape == (5, *truth.size, 3) and read_numbers(clip)[-1] == truth.last

    pairs = list(iter_frames(path))
    pictures = np.stack([picture for _, picture in pairs])
    numbers = read_numbers(pictures)
    assert len(numbers) == truth.count and (numbers[0], numbers[-1]) == (truth.first, truth.last)

    watcher.reset()
    taken = 0
    for seconds, picture in pairs:
        try:
            taken += watcher.push(picture, seconds)
        except (TimeJump, ValueError):  # the clock went on or back
            watcher.reset()
            taken += watcher.push(picture, seconds)
    assert taken >= 1 and watcher.features().pooler_output.isfinite().all()

    (record,) = records(1)
    (outcome,) = convert_segments([record], {"a": path}, 5.0, None)
    assert isinstance(outcome, Converted)
    assert read_numbers(decode_frames(outcome.row["video"]["bytes"], 0.0)[0])[-1] == truth.first

    printed = watch(stream_video, path, tmp_path)
    assert f"{truth.count} frames, 0 broken" in printed


def records(count):
    segments = [Segment(index, 1, "a", 0.0, 2.0, "It waits", "the light is red") for index in range(count)]
    return [Entry(f"a_{segment.index}", "train", "a", segment) for segment in segments]


def watch(stream_video, source, folder, on_error="skip"):
    """Show a source to `hmba stream`, and return what it prints."""
    lines, before = [], stream_video.tqdm.write
    words = ["--model", "tiny", "--source", source, "--every", 1e9, "--max_new_tokens", 1, "--on_error", on_error]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_video.tqdm, "write", lines.append)
        stream_video.run(*stream_video.read_options([*map(str, words), "--output_dir", str(folder)]))
    assert stream_video.tqdm.write == before
    return "\n".join(lines)


def test_pictures_that_lie_are_upright_through_every_door(reports, stream_video, watcher, tmp_path):
    for name in LYING:
        clip, metadata = decode_frames(reports / name)
        ((_, picture),) = iter_frames(reports / name)
        assert clip.shape == (5, 128, 96, 3) and picture.shape == (128, 96, 3)
        assert (metadata.height, metadata.width) == (128, 96)
    moments = list(stream_video.read_folder(reports / "exif6", 4.0))
    assert [moment.frame.size for moment in moments] == [(96, 128)] * 3
    assert "3 frames, 0 broken" in watch(stream_video, reports / "exif6", tmp_path)


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_named_by_every_door_and_ends_no_run(
    reports, stream_video, watcher, tmp_path, name
):
    path, message = reports / name, UNREADABLE[name]
    with pytest.raises(VideoDecodeError, match=message):
        decode_frames(path)
    errors = [picture for _, picture in iter_frames(path)]
    assert len(errors) == 10 and all(isinstance(error, VideoDecodeError) for error in errors)
    with pytest.raises(VideoDecodeError, match=message):
        watcher.processor.video_processor([str(path)])
    assert "0 frames, 10 broken" in watch(stream_video, path, tmp_path)
    with pytest.raises(VideoDecodeError, match=message):
        watch(stream_video, path, tmp_path, on_error="stop")
    good = reports / "tail_trim.mp4"
    outcomes = [convert_segments(records(2), {"a": video}, 5.0, None) for video in (path, good)]
    assert all(isinstance(outcome, Dropped) and outcome.reason == MEDIA_UNREADABLE for outcome in outcomes[0])
    assert all(isinstance(outcome, Converted) for outcome in outcomes[1])


@pytest.mark.parametrize("timestamp", [0.0, 1.0, 60.0])
def test_no_door_raises_anything_but_the_errors_of_a_file(reports, timestamp):
    for name in (*FILES, *LYING, *UNREADABLE):
        for options in ({}, {"num_frames": 2, "fps": 10.0}):
            try:
                frames, _ = decode_frames(reports / name, timestamp, **options)
            except DAMAGE as error:
                assert "lies outside" in str(error) or isinstance(error, VideoDecodeError), name
            else:
                assert frames.dtype == np.uint8 and len(frames) in (2, 5)
