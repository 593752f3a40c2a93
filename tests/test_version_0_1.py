"""What version 0.1 has left on disk is read: a checkpoint, a run that was stopped, answers with their scores.

`golden/version_0_1.tar.gz` was written by commit 9909b90 with transformers 5.23.0. It holds a tiny base of random
weights, two of the four steps of its run, the answers of a micro-world model about twelve clips, and what version 0.1
computes from them.
"""

import json
import re
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from hmba_hf import HMBAForConditionalGeneration, HMBAProcessor
from hmba_hf.digests import fingerprint
from hmba_hf.hub.stored_runs import StoredRun
from hmba_hf.training.checkpoints import read_recipe, seal_checkpoint
from tiny_bases import tune
from tiny_runs import run_example

ARCHIVE = Path(__file__).parent / "golden" / "version_0_1.tar.gz"


@pytest.fixture
def left(tmp_path, monkeypatch):
    """The folder that 0.1 has worked in, with what it computed there."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return json.loads(Path("expected.json").read_text())


def test_a_checkpoint_gives_the_logits_that_it_gave(left):
    model = HMBAForConditionalGeneration.from_pretrained("run/checkpoint-2").eval()
    processor = HMBAProcessor.from_pretrained("run/checkpoint-2")
    expected = load_file("expected.safetensors")
    inputs = processor(text=[left["prompt"]], videos=[list(expected["video"].numpy())], return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    assert_close(logits, expected["logits"], atol=2e-5, rtol=0)
    assert fingerprint(model) == left["weights"]


def name_module_of_numpy(checkpoint, name):
    """Write a checkpoint's random state as a NumPy writes it whose module of arrays has this name, 1 or 2."""
    recipe = read_recipe(checkpoint)
    file = checkpoint / "rng_state.pth"
    with zipfile.ZipFile(file) as archive:
        records = {record: archive.read(record) for record in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for record, content in records.items():
            archive.writestr(record, re.sub(rb"numpy\._?core\.", name + b".", content))
    seal_checkpoint(checkpoint, recipe)


@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_a_run_that_was_stopped_ends_as_it_would_have(left, capsys, module):
    name_module_of_numpy(Path("run/checkpoint-2"), module)
    words = ["--learns", "adapter", "projector", "--gate_learning_rate", 1]
    tune("base", "run", *words, "--save_steps", 2, "--max_steps", 4, "--save_total_limit", 3)
    assert "checkpoint-2" in capsys.readouterr().out
    losses = json.loads(Path("run/history.json").read_text())["loss"]
    assert [step for step, _ in losses] == [1, 2, 3, 4]
    assert_close(torch.tensor(losses), torch.tensor(left["losses"]), atol=1e-4, rtol=0)


def test_the_scores_of_a_stored_run_are_still_those_of_its_answers(left):
    run = StoredRun("evaluation")
    assert len(run.results) == 10
    assert run.metrics["scores"]["mean_iou"] == pytest.approx(0.228, abs=5e-4)


def test_a_prediction_file_is_scored_again_with_the_same_numbers(left):
    words = ["--predictions", "evaluation/predictions.jsonl", "--output_dir", "again"]
    run_example("evaluate.py", *words, "--draws", 50, "--tokenizer", "words")
    held = json.loads(Path("evaluation/metrics.json").read_text())
    found = json.loads(Path("again/metrics.json").read_text())
    assert found["scores"] == pytest.approx(held["scores"])
