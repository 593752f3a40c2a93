from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Video
from pyarrow import parquet

from hmba_hf.data.actions.samples import ActionSample, action_features, to_action_row
from hmba_hf.data.dataset_streams import open_stream
from hmba_hf.data.loading import MICRO_WORLD, RowSamples, load_samples, undecoded
from hmba_hf.data.micro_world.parquet import write_bddx, write_drama
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.samples import drama_features
from hmba_hf.data.schemas import ACTIONS, QUESTIONS
from hmba_hf.tasks.answering.collator import SampleCollator
from tiny_processors import tiny_processor

CONFIG = MicroWorldConfig(seed=3, frame_size=32)
SIZES = {"train": 3, "test": 2}


@pytest.fixture(scope="module")
def drama(tmp_path_factory):
    """A folder in the DRAMA schema."""
    folder = tmp_path_factory.mktemp("drama")
    write_drama(folder, CONFIG, SIZES)
    return str(folder)


@pytest.fixture(scope="module")
def bddx(tmp_path_factory):
    """A folder in the BDD-X schema."""
    folder = tmp_path_factory.mktemp("bddx")
    write_bddx(folder, CONFIG, SIZES)
    return str(folder)


def assert_same(sample, expected):
    """The same sample, its pictures compared by their pixels."""
    assert replace(sample, frames=None, video=b"") == replace(expected, frames=None, video=b"")
    for frame, wanted in zip(sample.frames, expected.frames, strict=True):
        assert np.array_equal(np.asarray(frame), np.asarray(wanted))


def as_in_a_row(sample):
    """What a row of the DRAMA schema holds of a clip of the micro-world."""
    return replace(sample, tags=(), others=())


def test_the_micro_world_is_loaded_by_name():
    samples = load_samples(MICRO_WORLD, "validation", 4, **asdict(CONFIG))
    assert len(samples) == 4
    assert_same(samples[3], MicroWorld(CONFIG, "validation", 4)[3])
    assert len(load_samples(MICRO_WORLD, "train")) == 10000


@pytest.mark.parametrize("split", SIZES)
def test_a_drama_folder_reads_back_as_the_samples_written(drama, split):
    samples, world = load_samples(drama, split), MicroWorld(CONFIG, split, SIZES[split])
    assert isinstance(samples, RowSamples) and len(samples) == SIZES[split]
    for index in range(len(samples)):
        assert_same(samples[index], as_in_a_row(world[index]))


def test_a_bddx_folder_reads_back_as_the_samples_written(bddx):
    samples, world = load_samples(bddx, "test"), MicroWorld(CONFIG, "test", 2)
    assert len(samples) == 2
    for index in range(len(samples)):
        sample, expected = samples[index], world.ego_sample(index)
        assert (sample.id, sample.split) == (expected.id, "test")
        assert (sample.question, sample.answer) == (expected.question, expected.answer)
        assert isinstance(sample.video, bytes) and sample.frames is None


def test_a_bddx_video_gives_a_model_the_frames_written(bddx):
    collator = SampleCollator(tiny_processor())
    read = collator([load_samples(bddx, "train", 1)[0]])
    written = collator([MicroWorld(CONFIG, "train", 1).ego_sample(0)])
    assert (read["labels"] == written["labels"]).all()
    distance = (read["pixel_values_videos"] - written["pixel_values_videos"]).abs()
    assert distance.mean() < 0.2, "the same frames but for the compression of the video"


def test_a_size_takes_samples_from_the_start_and_no_more_than_there_are(drama):
    assert [sample.id for sample in load_samples(drama, "train", 2)] == [
        MicroWorld(CONFIG, "train", 2)[index].id for index in range(2)
    ]
    assert len(load_samples(drama, "train", 100)) == 3


def test_samples_that_are_streamed_are_those_that_are_loaded(drama, bddx):
    for name in (drama, bddx):
        loaded, streamed = load_samples(name, "train"), load_samples(name, "train", streaming=True)
        assert len(streamed) == len(loaded) and len(load_samples(name, "train", 2, streaming=True)) == 2
        assert streamed.without_pictures(1) == loaded.without_pictures(1)
        if name == drama:
            assert_same(streamed[1], loaded[1])
        else:
            assert list(streamed) == list(loaded)


def test_samples_can_be_walked_through_and_end(drama):
    assert [sample.split for sample in load_samples(drama, "test")] == ["test", "test"]
    with pytest.raises(IndexError):
        load_samples(drama, "test")[2]


def test_samples_are_taken_as_from_any_sequence(drama):
    samples, world = load_samples(drama, "train"), MicroWorld(CONFIG, "train", 3)
    assert_same(samples[-1], as_in_a_row(world[2]))
    assert [sample.id for sample in samples[1:]] == [world[1].id, world[2].id]


def test_a_bddx_dataset_whose_videos_would_be_decoded_is_read_as_bytes(bddx):
    rows = load_samples(bddx, "train").rows
    decoding = RowSamples(undecoded(rows.cast_column("video", Video())), "train")
    assert decoding[0].video == load_samples(bddx, "train")[0].video


def test_an_empty_split_is_an_error(tmp_path):
    features = drama_features()
    parquet.ParquetWriter(tmp_path / "train.parquet", features.arrow_schema).close()
    for streaming in (False, True):
        with pytest.raises(ValueError, match="no data"):
            load_samples(str(tmp_path), "train", streaming=streaming)


def test_files_that_cannot_be_read_are_named_with_their_dataset(drama, tmp_path):
    whole = next(Path(drama).rglob("train*.parquet")).read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[: len(whole) // 2])
    for streaming in (False, True):
        with pytest.raises(ValueError, match=rf"the files of '{tmp_path}' must be whole, got .*[Pp]arquet"):
            load_samples(str(tmp_path), "train", streaming=streaming)


@pytest.mark.parametrize("size", [0, -1])
def test_asking_for_no_samples_is_an_error(drama, size):
    for name in (drama, MICRO_WORLD):
        with pytest.raises(ValueError, match=f"size must be at least 1, got {size}"):
            load_samples(name, "train", size)


def test_an_unknown_split_is_an_error_that_names_the_known_ones(drama):
    with pytest.raises(ValueError, match="validation.*train.*test"):
        load_samples(drama, "validation")
    with pytest.raises(ValueError, match="train.*validation.*test.*'dev'"):
        load_samples(MICRO_WORLD, "dev")


def test_columns_of_neither_schema_are_an_error_that_names_them(tmp_path):
    Dataset.from_dict({"picture": ["a"], "text": ["b"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"columns of DRAMA .* or BDD-X .*, got \['picture', 'text'\]"):
        load_samples(str(tmp_path), "train")


def test_a_dataset_that_is_not_there_is_an_error_that_says_what_would_do(tmp_path):
    for name in ("no/such-folder", str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match=f"a dataset must be 'micro-world', a folder or a Hub id, got '{name}'"):
            load_samples(name, "train")


def test_samples_of_another_kind_than_a_task_reads_are_refused(drama, tmp_path):
    row = to_action_row(ActionSample("clip", b"video", 0, "run"))
    Dataset.from_list([row], features=action_features(["run"])).to_parquet(tmp_path / "train.parquet")
    assert load_samples(str(tmp_path), "train")[0].label_name == "run"
    for name in (str(tmp_path), "micro-actions"):
        for options in ({}, {"streaming": True}):
            with pytest.raises(ValueError, match=r"must (be of|have the columns of).*DRAMA.*, got .*"):
                load_samples(name, "train", schemas=QUESTIONS, **options)
    with pytest.raises(ValueError, match=r"must have the columns of DRAMA .* or BDD-X .*, got \['id', 'label'"):
        open_stream([str(tmp_path)], "train", schemas=QUESTIONS)
    with pytest.raises(ValueError, match=r"must have the columns of actions \['id', 'label', 'video'\], got"):
        load_samples(drama, "train", schemas=[ACTIONS])


@pytest.mark.parametrize("name", ["run*", "a?b", "clips [1]", "two\nlines", "a::b"])
def test_a_folder_that_reads_as_a_pattern_is_refused_and_no_other_is_read_in_its_place(tmp_path, name):
    (tmp_path / name / "data").mkdir(parents=True)
    with pytest.raises(ValueError, match="must have a path without .* which datasets reads as patterns, got "):
        load_samples(str(tmp_path / name), "test", 1)
