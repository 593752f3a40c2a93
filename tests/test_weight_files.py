"""Of a folder the weights count that transformers loads, in every reader."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, TrainingArguments

from hmba_hf import VideoMambaConfig, VideoMambaModel
from hmba_hf.conversion.tensor_files import FileTensors
from hmba_hf.digests import fingerprint
from hmba_hf.families import load_model
from hmba_hf.hub.checkpoints import checkpoint_files
from hmba_hf.tasks.answering.arguments import ModelArguments
from hmba_hf.tasks.answering.base_model import load_base
from hmba_hf.training.checkpoints import checkpoint_to_resume, seal_checkpoint
from hmba_hf.training.trainer import ResumableTrainer
from hmba_hf.weight_files import check_resumed, find_weights, stale_weights

SAFE, PICKLE = "model.safetensors", "pytorch_model.bin"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def put(folder, *names, **content):
    for name in names:
        (folder / name).write_text(json.dumps(content) if name.endswith(".json") else "")


def index_of(folder, shards, name=SAFE):
    put(folder, *shards)
    put(folder, f"{name}.index.json", metadata={}, weight_map={f"tensor {n}": shard for n, shard in enumerate(shards)})


def test_one_file_comes_before_an_index_and_safetensors_before_pickles(tmp_path):
    pickled = ["pytorch_model-00001-of-00001.bin"]
    assert find_weights(tmp_path) is None and stale_weights(tmp_path) == []
    index_of(tmp_path, pickled, PICKLE)
    assert find_weights(tmp_path).files == [tmp_path / pickled[0]]
    put(tmp_path, PICKLE)
    assert find_weights(tmp_path).files == [tmp_path / PICKLE]
    index_of(tmp_path, SHARDS)
    assert find_weights(tmp_path).files == [tmp_path / name for name in SHARDS]
    assert find_weights(tmp_path).weight_map == {"tensor 0": SHARDS[0], "tensor 1": SHARDS[1]}
    put(tmp_path, SAFE, "adapter_model.safetensors", "model.txt")
    assert find_weights(tmp_path).files == [tmp_path / SAFE]
    stale = [*SHARDS, f"{SAFE}.index.json", *pickled, PICKLE, f"{PICKLE}.index.json"]
    assert stale_weights(tmp_path) == sorted(stale)


def test_the_file_that_the_configuration_names_comes_first(tmp_path):
    put(tmp_path, SAFE, "averaged.safetensors")
    put(tmp_path, "config.json", transformers_weights="averaged.safetensors")
    assert find_weights(tmp_path).files == [tmp_path / "averaged.safetensors"]
    (tmp_path / "averaged.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"averaged.safetensors must be there for .*config.json"):
        find_weights(tmp_path)
    put(tmp_path, "config.json", transformers_weights="../averaged.safetensors")
    with pytest.raises(ValueError, match="must name a file beside it, got '../averaged.safetensors'"):
        find_weights(tmp_path)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ('{"weight_map": {}}', ValueError, "an index must name the tensors of its shards, got none in .*index.json"),
        ('{"weight_map": null}', ValueError, "an index must have a weight_map of names, got none in .*index.json"),
        ('{"weight_map": {"a": 1}}', ValueError, "an index must have a weight_map of names, got none"),
        ("[]", ValueError, "index.json must be a JSON object, got list"),
        ("{", ValueError, "index.json must be a whole JSON file, got one that cannot be read"),
        (
            '{"weight_map": {"a": "gone.safetensors"}}',
            FileNotFoundError,
            "gone.safetensors must be there for .*index.json",
        ),
        ('{"weight_map": {"a": "../config.json"}}', FileNotFoundError, "config.json must be there for .* beside it"),
    ],
)
def test_an_index_that_names_no_weights_is_refused_in_every_reader(
    tmp_path, stored_model, monkeypatch, content, error, message
):
    folder = tmp_path / "checkpoint-1"
    shutil.copytree(stored_model, folder)
    (folder / SAFE).rename(folder / "other.safetensors")
    (folder / f"{SAFE}.index.json").write_text(content)
    seal_checkpoint(folder, {})
    arguments = ModelArguments(model=str(folder))
    readers = [
        lambda: find_weights(folder),
        lambda: load_model(folder),
        lambda: checkpoint_files(folder),
        lambda: load_base(arguments, tmp_path, False),
        lambda: checkpoint_to_resume(tmp_path, {}),
    ]
    for read in readers:
        with pytest.raises(error, match=message):
            read()


def test_a_tensor_that_two_shards_hold_is_refused_in_every_reader(tmp_path, stored_model):
    folder = tmp_path / "model"
    shutil.copytree(stored_model, folder)
    weights = load_file(folder / SAFE)
    (folder / SAFE).unlink()
    first, *others = sorted(weights)
    save_file({first: weights[first]}, folder / SHARDS[0], {"format": "pt"})
    save_file({**weights, first: weights[first] + 1}, folder / SHARDS[1], {"format": "pt"})
    index = {first: SHARDS[0], **dict.fromkeys(others, SHARDS[1])}
    put(folder, f"{SAFE}.index.json", metadata={}, weight_map=index)
    for read in (load_model, lambda place: AutoModelForImageTextToText.from_pretrained(place), FileTensors):
        with pytest.raises(ValueError, match=f"{first} .*must be in one (shard|file), got it in .*{SHARDS[0]} and"):
            read(folder)


@pytest.mark.parametrize("other", ["a pickle", "a named file"])
def test_a_run_resumes_from_no_weights_that_other_readers_pass_over(tmp_path, other, stored_model):
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    index_of(folder, SHARDS)
    index_of(folder, ["pytorch_model-00001-of-00001.bin"], PICKLE)
    check_resumed(folder)  # the index of safetensors comes first everywhere
    if other == "a pickle":
        put(folder, PICKLE)
        counted, resumed = f"{SAFE}.index.json", PICKLE
    else:
        put(folder, SAFE, "averaged.safetensors")
        put(folder, "config.json", transformers_weights="averaged.safetensors")
        counted, resumed = "averaged.safetensors", SAFE
    seal_checkpoint(folder, {})
    trainer = ResumableTrainer(
        model=load_model(stored_model),
        args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none"),
        data_collator=list,
    )
    doors = [
        lambda: checkpoint_to_resume(tmp_path, {}),
        lambda: trainer.train(resume_from_checkpoint=str(folder)),
        lambda: trainer.train(resume_from_checkpoint=True),
    ]
    for resume in doors:
        with pytest.raises(
            ValueError, match=f"loaded elsewhere, {counted}, got .*, of which {resumed} would be taken"
        ):
            resume()


def test_the_newer_single_file_is_loaded_and_pushed_without_the_older_shards(tmp_path, stored_model):
    folder = tmp_path / "model"
    shutil.copytree(stored_model, folder)
    newer = load_file(folder / SAFE)
    older = {name: torch.zeros_like(tensor) for name, tensor in newer.items()}
    names = sorted(older)
    for shard, part in zip(SHARDS, (names[::2], names[1::2]), strict=True):
        save_file({name: older[name] for name in part}, folder / shard, {"format": "pt"})
    index_of_older = {name: SHARDS[number % 2] for number, name in enumerate(names)}
    put(folder, f"{SAFE}.index.json", metadata={}, weight_map=index_of_older)
    plain = AutoModelForImageTextToText.from_pretrained(stored_model)
    assert fingerprint(load_model(folder)) == fingerprint(plain)
    assert [name for name in checkpoint_files(folder) if "safetensors" in name] == [SAFE]
    (folder / SAFE).unlink()
    assert fingerprint(load_model(folder)) != fingerprint(plain)
    pushed = [name for name in checkpoint_files(folder) if "safetensors" in name]
    assert pushed == [*SHARDS, f"{SAFE}.index.json"]


def test_a_model_answers_only_if_all_of_its_weights_are_there(tmp_path, stored_model):
    folder = tmp_path / "model"
    shutil.copytree(stored_model, folder)
    weights = load_file(folder / SAFE)
    gone = next(key for key in weights if "multi_modal_projector" in key)
    save_file({key: tensor for key, tensor in weights.items() if key != gone}, folder / SAFE, {"format": "pt"})
    with pytest.raises(ValueError, match=f"must hold every weight that is read, in its shape, got none for {gone}"):
        load_model(folder)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", b"", None])
def test_a_torn_file_of_weights_is_refused_with_its_checkpoint(tmp_path, stored_model, content):
    folders = [tmp_path / "hmba", tmp_path / "videomamba"]
    shutil.copytree(stored_model, folders[0])
    VideoMambaModel(VideoMambaConfig(hidden_size=32, num_hidden_layers=1, image_size=32)).save_pretrained(folders[1])
    for folder in folders:
        weights = folder / SAFE
        weights.write_bytes(weights.read_bytes()[:-10] if content is None else content)
        with pytest.raises(OSError, match=f"{folder} must hold whole weights, got a torn file: "):
            load_model(folder)
