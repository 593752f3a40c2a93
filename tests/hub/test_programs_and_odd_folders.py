"""The programs as they are, on folders with more or fewer weights than one save leaves: the right ones, or a name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from hmba_hf.digests import fingerprint
from hmba_hf.families import load_model
from tiny_runs import evaluate, run_example

SAFE = "model.safetensors"
SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
ONE_STEP = ["--dataset_name", "micro-world", "--max_train_samples", 1, "--max_steps", 1, "--learning_rate", 0]
ONE_STEP += ["--use_cpu", "True", "--learns", "projector", "--save_strategy", "no"]


def shard(folder, weights, unnamed=()):
    """Write weights as two shards and an index, of which some name nothing."""
    names = sorted(weights)
    places = {name: SHARDS[number % 2] for number, name in enumerate(names)}
    for file in SHARDS:
        save_file({name: weights[name] for name in names if places[name] == file}, folder / file, {"format": "pt"})
    held = {name: file for name, file in places.items() if name not in unnamed}
    (folder / f"{SAFE}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": held}))


def predict(model, folder):
    words = ["--max_samples", 1, "--max_new_tokens", 2, "--device_map", "cpu"]
    run_example("predict.py", "--model", model, "--output_dir", folder, *words)


def finetune(model, folder):
    run_example("finetune.py", "--model", model, "--output_dir", folder, *ONE_STEP)


def push(model, folder):
    run_example("push.py", "--model", model, "--repo_id", "org/tiny")


PROGRAMS = [predict, evaluate, finetune, push]


@pytest.mark.parametrize("odd", ["newer file", "tensor without a name"])
def test_the_weights_that_count_are_those_of_every_program(hub, odd, stored_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(stored_model, model)
    weights = load_file(model / SAFE)
    if odd == "newer file":
        shard(model, {name: torch.zeros_like(tensor) for name, tensor in weights.items()})
    else:
        (model / SAFE).unlink()
        shard(model, weights, unnamed=[next(name for name in weights if "projector" in name)])
    for program in PROGRAMS:
        program(model, tmp_path / program.__name__)
    known = fingerprint(load_model(stored_model))
    for program in (predict, evaluate):
        recipe = json.loads((tmp_path / program.__name__ / "recipe.json").read_text())
        assert recipe["weights"] == known
    files = hub.repository("org/tiny").files()
    for written in (load_file(tmp_path / "finetune" / SAFE), load(files[SAFE])):
        assert written.keys() == weights.keys()
        assert all(torch.equal(written[name], weights[name]) for name in weights)
    assert not [name for name in files if name in SHARDS]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_shard_that_is_missing_is_named_by_every_program(hub, program, stored_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(stored_model, model)
    shard(model, load_file(model / SAFE))
    (model / SAFE).unlink()
    (model / SHARDS[1]).unlink()
    with pytest.raises(FileNotFoundError, match=f"{SHARDS[1]} must be there for .*{SAFE}.index.json"):
        program(model, tmp_path / "out")
    assert not hub.repositories
