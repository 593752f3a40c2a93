import io

import av
import datasets
import numpy as np
import pytest

from hmba_hf.data.micro_world.parquet import write_bddx, write_drama, write_video
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.samples import from_bddx_row, from_drama_row
from hmba_hf.models.video_processing_hmba import decode_frames


def closest(frame, frames):
    return int(np.argmin([np.abs(frame.astype(int) - np.asarray(other)).mean() for other in frames]))


@pytest.mark.parametrize(("fps", "repeats"), [(2.0, 5), (2.5, 4), (3.0, 4), (29.97, 1), (0.3, 34)])
def test_a_video_sampled_at_the_worlds_rate_gives_its_frames_back(tmp_path, fps, repeats):
    frames = MicroWorld()[0].frames
    write_video(tmp_path / "clip.mp4", frames, fps)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5 * repeats
    decoded, _ = decode_frames(str(tmp_path / "clip.mp4"), None, 5, fps)
    assert [closest(frame, frames) for frame in decoded] == [0, 1, 2, 3, 4]
    assert np.abs(decoded.astype(int) - np.stack([np.asarray(frame) for frame in frames])).mean() < 6


def test_a_video_can_be_written_to_a_file_object():
    file = io.BytesIO()
    write_video(file, MicroWorld()[0].frames)
    assert decode_frames(file.getvalue(), None, 5, 2.0)[0].shape == (5, 64, 64, 3)


@pytest.mark.parametrize("fps", [0, -1.0, float("inf"), float("nan")])
def test_a_video_of_no_rate_is_refused(tmp_path, fps):
    with pytest.raises(ValueError, match="fps must be from 0.01 to 1000, got"):
        write_video(tmp_path / "a.mp4", MicroWorld()[0].frames, fps)


def test_frames_that_cannot_be_encoded_are_refused(tmp_path):
    with pytest.raises(ValueError, match="even width"):
        write_video(tmp_path / "a.mp4", MicroWorld(MicroWorldConfig(frame_size=65))[0].frames)
    with pytest.raises(ValueError, match="even width"):
        write_video(tmp_path / "a.mp4", [])


def test_drama_files_load_as_the_samples_that_were_written(tmp_path):
    config = MicroWorldConfig(seed=2)
    write_drama(tmp_path / "drama", config, {"train": 3, "test": 2})
    loaded = datasets.load_dataset(str(tmp_path / "drama"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 3, "test": 2}
    assert loaded["train"].features["risk"].names == ["No", "Yes"]
    for written, row in zip(MicroWorld(config, "train", 3), loaded["train"], strict=True):
        read = from_drama_row(row)
        assert (read.id, read.answer, read.boxes) == (written.id, written.answer, written.boxes)
        assert [frame.tobytes() for frame in read.frames] == [frame.tobytes() for frame in written.frames]


def test_bddx_files_hold_videos_that_need_no_decoder_to_load(tmp_path):
    write_bddx(tmp_path / "bddx", MicroWorldConfig(), {"validation": 2})
    rows = datasets.load_dataset(str(tmp_path / "bddx"), cache_dir=str(tmp_path / "cache"), split="validation")
    world = MicroWorld(split="validation")
    for index, row in enumerate(rows):
        sample, written = from_bddx_row(row, "validation"), world.ego_sample(index)
        assert (sample.id, sample.answer, row["end"]) == (written.id, written.answer, 2.5)
        decoded, _ = decode_frames(sample.video, sample.timestamp, 5, 2.0)
        assert np.abs(decoded[-1].astype(int) - np.asarray(written.frames[-1])).mean() < 6


def test_many_rows_are_spread_over_files(tmp_path, monkeypatch):
    monkeypatch.setattr("hmba_hf.data.micro_world.parquet._ROWS_PER_FILE", 2)
    paths = write_drama(tmp_path, MicroWorldConfig(frame_size=32), {"train": 5})
    assert [path.name for path in paths] == [f"train-{number:05d}-of-00003.parquet" for number in range(3)]


def test_writing_a_split_again_replaces_it_and_leaves_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr("hmba_hf.data.micro_world.parquet._ROWS_PER_FILE", 2)
    write_drama(tmp_path, MicroWorldConfig(frame_size=32), {"train": 5, "test": 1})
    write_drama(tmp_path, MicroWorldConfig(frame_size=32, seed=1), {"train": 2})
    rows = datasets.load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert rows["train"]["id"][:] == ["train-symmetric-1-000000", "train-symmetric-1-000001"]
    assert rows["test"]["id"][:] == ["test-symmetric-0-000000"]
