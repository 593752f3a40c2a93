from io import BytesIO
from itertools import islice

import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from hmba_hf.data.bad_samples import BadSamples
from hmba_hf.data.dataset_streams import open_stream
from hmba_hf.data.encoded_samples import EncodedSamples, EncodedStream
from hmba_hf.data.loading import load_samples
from hmba_hf.data.micro_world.parquet import write_bddx, write_drama
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.mixing import MixedSamples
from hmba_hf.data.samples import drama_features, to_drama_row
from hmba_hf.tasks.answering.collator import SampleCollator
from tiny_bases import SHORT_TEMPLATE
from tiny_processors import tiny_processor

WORLD = MicroWorldConfig(frame_size=32)


@pytest.fixture(autouse=True)
def soon_over(monkeypatch):
    """At the end of a pass datasets waits five seconds for the threads of Arrow."""
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1, raising=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder in the DRAMA schema and one in the BDD-X schema."""
    drama, bddx = tmp_path_factory.mktemp("drama"), tmp_path_factory.mktemp("bddx")
    write_drama(drama, WORLD, {"train": 8})
    write_bddx(bddx, WORLD, {"train": 4})
    return [str(drama), str(bddx)]


def ids(stream, epoch=0):
    return [read().id for read in stream.passage(epoch)]


def test_a_stream_gives_the_samples_of_the_dataset_in_another_order_each_epoch(folders):
    stream = open_stream(folders[:1], "train", seed=3)
    held = {sample.id: sample for sample in load_samples(folders[0], "train")}
    passages = [ids(stream, epoch) for epoch in (0, 1, 0)]
    assert sorted(passages[0]) == sorted(passages[1]) == sorted(held)
    assert passages[0] == passages[2] != passages[1]
    collator = SampleCollator(tiny_processor(chat_template=SHORT_TEMPLATE))
    for read in islice(stream.passage(0), 2):
        got, wanted = collator.encode(read()), collator.encode(held[read().id])
        assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_two_schemas_are_mixed_with_each_row_once_or_by_weights(folders):
    every = {sample.id for name in folders for sample in load_samples(name, "train")}
    assert sorted(ids(open_stream(folders, "train"))) == sorted(every)
    weighted = ids(open_stream(folders, "train", [1, 3], seed=1))
    assert set(weighted) == every and len(weighted) > 12
    samples = [read() for read in open_stream(folders, "train").passage(0)]
    assert {sample.video is None for sample in samples} == {True, False}


def test_a_size_takes_rows_of_each_dataset_from_the_start(folders):
    wanted = {sample.id for name in folders for sample in load_samples(name, "train", 2)}
    assert set(ids(open_stream(folders, "train", size=2))) == wanted


def test_processes_share_a_stream_row_by_row(folders):
    whole = ids(open_stream(folders[:1], "train"))
    shares = [ids(open_stream(folders[:1], "train", process_index=rank, num_processes=2)) for rank in (0, 1)]
    assert [name for pair in zip(*shares, strict=True) for name in pair] == whole


def test_a_row_with_a_damaged_picture_is_named_and_counted_once(tmp_path):
    rows = [to_drama_row(sample) for sample in MicroWorld(WORLD, "train", 6)]
    for row in rows:
        row["frames"] = [{"bytes": png(frame), "path": None} for frame in row["frames"]]
    rows[3]["frames"][2]["bytes"] = rows[3]["frames"][2]["bytes"][:200]
    Dataset.from_list(rows, features=drama_features()).to_parquet(tmp_path / "train.parquet")
    collator, name = SampleCollator(tiny_processor(chat_template=SHORT_TEMPLATE)), f"sample {rows[3]['id']}"
    held = load_samples(str(tmp_path), "train")
    mixed = EncodedSamples(MixedSamples([held, held], [3, 1]), collator, BadSamples("skip", tmp_path / "mixed.jsonl"))
    stream = EncodedStream(open_stream([str(tmp_path)], "train"), collator, BadSamples("skip", tmp_path / "bad.jsonl"))
    for passage, bad in (((mixed[i] for i in range(len(mixed))), mixed.bad), (islice(stream, 20), stream.bad)):
        assert sum(1 for _ in passage) > 12 and list(bad.skipped()) == [name]
        assert "truncated" in bad.skipped()[name]
    with pytest.raises(ValueError, match=f"{name}: .*image file is truncated.* .--on_error skip"):
        EncodedSamples(held, collator, BadSamples("stop"))[3]


def png(picture):
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_the_workers_of_a_loader_give_each_row_once_in_a_pass(folders):
    collator = SampleCollator(tiny_processor(chat_template=SHORT_TEMPLATE))
    wanted = {collator.encode(sample)["labels"].sum().item() for sample in load_samples(folders[0], "train")}
    encoded = EncodedStream(open_stream(folders[:1], "train"), collator, BadSamples("stop"))
    loader = iter(DataLoader(encoded, 4, collate_fn=list, num_workers=2))  # one file gives work to one of them
    passage = [sample["labels"].sum().item() for _ in range(2) for sample in next(loader)]
    assert len(passage) == 8 and set(passage) == wanted


def test_what_cannot_be_streamed_is_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="a streamed dataset must be a folder or a Hub id, got 'micro-world'"):
        open_stream(["micro-world"], "train")
    with pytest.raises(ValueError, match=r"got '.*nowhere'"):
        open_stream([str(tmp_path / "nowhere")], "train")
    Dataset.from_dict({"picture": ["a"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"columns of DRAMA .* or BDD-X .*, got \['picture'\]"):
        open_stream([str(tmp_path)], "train")
    with pytest.raises(ValueError, match="weights must be one positive number for each of 2 datasets"):
        open_stream(folders, "train", [1, 0])
