"""Prepared datasets to the Hub and back: whole, streamed, in fewer files than before, pinned, and kept private."""

import json
import re
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard, HfApi

from hmba_hf.data.dataset_streams import open_stream
from hmba_hf.data.loading import load_samples
from hmba_hf.data.micro_world import parquet
from hmba_hf.data.micro_world.parquet import write_bddx, write_drama
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.preparing.publishing import PushOptions, push_folder
from hmba_hf.evaluation.recipes import dataset_revision
from synthetic_downloads import BDDX_ROWS, write_bddx_annotations
from tiny_bases import save_base, tune
from tiny_runs import run_example

NAME = "org/drama"
CONFIG = MicroWorldConfig(seed=3, frame_size=32)
SIZES = {"train": 5, "test": 2}
both_transports = pytest.mark.parametrize("transport", ["lfs", "xet"])


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """`datasets` does not wait long before it reads again, nor when it has read all."""
    for name in ("STREAMING_READ_RETRY_INTERVAL", "SLEEP_TIME_ON_THREADS_SHUTDOWN"):
        monkeypatch.setattr(datasets.config, name, 0.1, raising=False)  # the second came with 4.5


@pytest.fixture
def drama(tmp_path, monkeypatch):
    """A folder in the DRAMA schema, of four files."""
    monkeypatch.setattr(parquet, "_ROWS_PER_FILE", 2)
    write_drama(tmp_path / "drama", CONFIG, SIZES)
    return tmp_path / "drama"


def assert_same(sample, expected):
    """The same sample, its pictures compared by their pixels."""
    as_in_a_row = replace(expected, frames=None, video=b"", tags=(), others=())
    assert replace(sample, frames=None, video=b"") == as_in_a_row
    for frame, wanted in zip(sample.frames, expected.frames, strict=True):
        assert np.array_equal(np.asarray(frame), np.asarray(wanted))


@both_transports
def test_a_pushed_dataset_gives_back_its_samples(hub, drama, transport):
    assert push_folder(drama, PushOptions(NAME)) == f"{hub.url}/datasets/{NAME}"
    assert hub.repository(NAME, "dataset").private
    samples, world = load_samples(NAME, "train"), MicroWorld(CONFIG, "train", SIZES["train"])
    assert len(samples) == SIZES["train"]
    for index in range(len(samples)):
        assert_same(samples[index], world[index])


@both_transports
def test_a_pushed_dataset_is_streamed(hub, drama, transport):
    push_folder(drama, PushOptions(NAME))
    world = {sample.id: sample for sample in MicroWorld(CONFIG, "train", SIZES["train"])}
    streamed = [read() for read in open_stream([NAME], "train").passage(0)]
    assert {sample.id for sample in streamed} == world.keys()
    for sample in streamed:
        assert_same(sample, world[sample.id])
    first = next(iter(load_dataset(NAME, split="test", streaming=True)))
    assert first["id"] == MicroWorld(CONFIG, "test", 1)[0].id
    assert any(request.range for request in hub.asked("download")), "read in parts"


def test_a_streamed_run_with_an_evaluation_downloads_no_split(hub, drama, tmp_path):
    push_folder(drama, PushOptions(NAME))
    words = ["--dataset_name", NAME, "--streaming", True, "--max_steps", 1, "--eval_strategy", "steps"]
    words += ["--eval_split", "test", "--max_new_tokens", 2]
    trainer = tune(save_base(tmp_path / "base"), tmp_path / "out", *words)
    assert len(trainer.eval_dataset) == SIZES["test"] and "eval_loss" in trainer.state.log_history[1]
    assert hub.asked("download") and not [*Path(datasets.config.HF_DATASETS_CACHE).rglob("*.arrow")]


def test_a_stream_goes_on_after_a_cut(hub, drama):
    push_folder(drama, PushOptions(NAME))
    fault = hub.faults.cut_response("download", after=100, times=2, skip=1)
    streamed = [read() for read in open_stream([NAME], "train").passage(0)]
    assert fault.reached.is_set()
    assert {sample.id for sample in streamed} == {s.id for s in MicroWorld(CONFIG, "train", SIZES["train"])}


def test_videos_come_back_as_the_bytes_they_were(hub, tmp_path):
    write_bddx(tmp_path, CONFIG, {"train": 2})
    push_folder(tmp_path, PushOptions("org/bddx"))
    local = load_samples(str(tmp_path), "train")
    streamed = {sample.id: sample for sample in (read() for read in open_stream(["org/bddx"], "train").passage(0))}
    for sample in load_samples("org/bddx", "train"):
        assert sample == streamed[sample.id] == next(other for other in local if other.id == sample.id)
        assert isinstance(sample.video, bytes)


def test_a_dataset_in_fewer_files_leaves_none_of_the_old_and_a_tag_keeps_them(hub, drama, monkeypatch):
    push_folder(drama, PushOptions(NAME))
    HfApi().create_tag(NAME, tag="v1", repo_type="dataset")
    monkeypatch.setattr(parquet, "_ROWS_PER_FILE", 100)
    write_drama(drama, MicroWorldConfig(seed=4, frame_size=32), {"train": 1, "test": 1})
    push_folder(drama, PushOptions(NAME))
    paths = [path for path in hub.repository(NAME, "dataset").files() if path.endswith(".parquet")]
    assert sorted(paths) == ["data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"]
    assert len(load_samples(NAME, "train")) == 1
    assert load_dataset(NAME, split="train", revision="v1").num_rows == SIZES["train"]


@both_transports
def test_a_prepared_dataset_is_one_commit_and_the_next_pins_it_in_a_card_of_stored_numbers(
    hub, transport, tmp_path, capsys
):
    path = write_bddx_annotations(tmp_path / "raw", BDDX_ROWS)
    (path.parent / "LICENSE").write_text("The terms.")
    words = [
        "--annotations",
        path,
        "--annotations_only",
        "--output_dir",
        tmp_path / "out",
        "--push_to_hub",
        "org/bddx",
    ]
    run_example("prepare_bddx.py", *words)
    assert f"pushed to {hub.url}/datasets/org/bddx" in capsys.readouterr().out
    repository = hub.repository("org/bddx", "dataset")
    assert repository.private and repository.titles() == ["Pin the revision", "Upload dataset", "initial commit"]
    files, first = repository.files(), list(repository.log())[1].id
    assert files["LICENSE"] == b"The terms."
    card = DatasetCard(files["README.md"].decode())
    assert card.data.license == "other" and card.data["license_name"] == "bdd-x" and "Licence" in card.text
    report = json.loads(files["report.json"])
    for split, count in report["rows"].items():
        assert f"| {split} | {count} |" in card.text
        assert load_dataset("org/bddx", split=split, revision=first).num_rows == count
    (snippet,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert f'revision = "{first}"' in snippet
    exec(snippet, found := {})
    assert found["rows"].num_rows == report["rows"][found["rows"].split]

    (tmp_path / "out" / "README.md").write_text("# mIoU 0.99")
    push_folder(tmp_path / "out", PushOptions("org/bddx"))
    assert len(repository.titles()) == 3 and repository.files() == files, "a number by hand is not uploaded"


def test_a_dataset_that_is_cut_off_leaves_what_was_there(hub, drama, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits before it tries again
    push_folder(drama, PushOptions(NAME))
    before = hub.repository(NAME, "dataset").head
    write_drama(drama, MicroWorldConfig(seed=4, frame_size=32), {"train": 3, "test": 1})
    for route in ("upload", "commit"):
        hub.faults.cut_request(route, 10, times=50)
        with pytest.raises(Exception):  # noqa: B017 - whatever the client makes of it
            push_folder(drama, PushOptions(NAME))
        hub.faults.clear()
        assert hub.repository(NAME, "dataset").head == before and len(load_samples(NAME, "train")) == SIZES["train"]
    push_folder(drama, PushOptions(NAME))
    assert len(load_samples(NAME, "train")) == 3


def test_a_dataset_is_read_at_a_revision(hub, drama):
    push_folder(drama, PushOptions(NAME))
    first = hub.repository(NAME, "dataset").head
    HfApi().create_tag(NAME, tag="v1", repo_type="dataset")
    write_drama(drama, MicroWorldConfig(seed=4, frame_size=32), {"train": 3})
    push_folder(drama, PushOptions(NAME))
    for revision, count in (("", 3), ("@main", 3), ("@v1", SIZES["train"]), (f"@{first}", SIZES["train"])):
        samples = load_samples(f"{NAME}{revision}", "train")
        streamed = [read() for read in open_stream([f"{NAME}{revision}"], "train").passage(0)]
        assert len(samples) == len(streamed) == count
        if revision.startswith("@v"):
            assert dataset_revision(samples) == first
    with pytest.raises(ValueError, match=f"a Hub id, got '{NAME}@v9'.*v9"):
        load_samples(f"{NAME}@v9", "train")
    with pytest.raises(ValueError, match="revision='v1' needs a Hub repository; '.*' is a local folder"):
        load_samples(f"{drama}@v1", "train")


def test_a_public_repository_gets_nothing_unasked(hub, drama):
    hub.create(NAME, "dataset")
    with pytest.raises(ValueError, match=f"{NAME} is public"):
        push_folder(drama, PushOptions(NAME))
    assert hub.repository(NAME, "dataset").files().keys() == {".gitattributes"}
    push_folder(drama, PushOptions(NAME, public=True))
    assert len(load_samples(NAME, "test")) == 2


def test_a_dataset_that_may_not_be_read_is_an_error_that_says_what_would_do(hub, drama, monkeypatch):
    push_folder(drama, PushOptions(NAME))
    monkeypatch.setenv("HF_TOKEN", hub.other_token)
    for name in (NAME, "org/none"):
        with pytest.raises(ValueError, match=f"a folder or a Hub id, got '{name}'"):
            load_samples(name, "train")
    hub.repository(NAME, "dataset").private = False
    hub.gate(NAME, "dataset")
    with pytest.raises(ValueError, match="gated"):
        load_samples(NAME, "train")


def test_a_model_is_tuned_from_a_base_and_a_dataset_on_the_hub(hub, drama, tmp_path):
    push_folder(drama, PushOptions(NAME))
    api = HfApi()
    api.create_repo("org/base", private=True)
    api.upload_folder(repo_id="org/base", folder_path=save_base(tmp_path / "base"))
    words = ["--dataset_name", NAME, "--max_steps", 1, "--eval_strategy", "no"]
    local = ["--dataset_name", drama, "--max_steps", 1, "--eval_strategy", "no"]
    losses = []
    for base, options in (("org/base", words), (tmp_path / "base", local)):
        folder = tmp_path / f"tuned-{len(losses)}"
        losses.append(tune(base, folder, *options).state.log_history[0]["loss"])
        assert (folder / "model.safetensors").is_file()
    assert losses[0] == losses[1]
