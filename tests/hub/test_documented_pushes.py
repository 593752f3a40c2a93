"""The documented commands that push reach the Hub in their order, and the documented Python loads what they pushed."""

import runpy

import pytest
from huggingface_hub import HfApi

from documented import PROGRAMS, PUSHES, QUICK, blocks, maker_of, name_of, run_program, split_program
from hmba_hf.data.micro_world.parquet import write_drama
from hmba_hf.data.micro_world.world import MicroWorldConfig
from hmba_hf.hub import push_checkpoint

RESULTS = "hmba-drama/test"
pytestmark = pytest.mark.timeout(600)


def test_the_documented_pushes_reach_the_hub_and_are_loaded_from_there(
    hub, parts, stored_model, tmp_path, monkeypatch
):
    def start(line):
        script, words = split_program(line)
        run_program(monkeypatch, tmp_path, script, words + QUICK[name_of(line)])

    write_drama(tmp_path / "DRAMA_FOLDER", MicroWorldConfig(frame_size=32), {"train": 2, "validation": 1, "test": 2})
    push_checkpoint(*parts, "org/hmba-base")
    trained = [line for line in PUSHES if name_of(line) == "finetune"]
    pushed = [line for line in PUSHES if name_of(line) == "push"]
    for line in trained:
        start(line)
        assert {"model.safetensors", "example.png"} <= hub.repository("org/hmba-drama").files().keys()
    start(maker_of(RESULTS))
    start(next(line for line in PROGRAMS if line.endswith(f"--output_dir {RESULTS}") and name_of(line) == "evaluate"))
    for line in pushed:
        start(line)
        card = hub.repository("org/hmba-drama").files()["README.md"].decode()
        assert "model-index" in card
        assert ("license: llama2" in card) == ("--license llama2" in line)

    HfApi().create_tag("org/hmba-drama", tag="v1")
    (loading,) = [text for page, text in blocks("python") if page == "hub.md"]
    (tmp_path / "loading.py").write_text(loading)
    loaded = runpy.run_path(str(tmp_path / "loading.py"))
    assert loaded["pipe"].model.config.model_type == loaded["model"].config.model_type == "hmba"
