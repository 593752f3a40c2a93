"""FSDP spreads models whose tables lie within layers, whose heads share weights and which have scalars."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from hmba_hf import VideoMambaForVideoTextRetrieval
from hmba_hf.training.arguments import ResumableArguments
from hmba_hf.training.sharding import (
    check_is_spread,
    complete_states,
    give_scalars_an_axis,
    spread_in_units_of_their_own,
)
from tiny_mambavl import tiny_model as tiny_mambavl
from tiny_models import tiny_model as tiny_hmba
from tiny_pairs import tiny_pair_processor, tiny_retrieval
from tiny_pretraining import pretrain_tiny, save_student, save_teacher
from tiny_runs import EXAMPLES

SCRIPT = Path(__file__).with_name("sharded_training.py")
ALONE = ["--max_steps", 2, "--max_train_samples", 12, "--per_device_train_batch_size", 4]  # as two with 2 each
pytestmark = pytest.mark.timeout(600)


def train(config, module, folder, *words):
    """Train on two processes of this machine's CPUs; return the losses."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    launcher += ["--main_process_port", "0"]  # any free one: other tests launch at the same time
    config = EXAMPLES / "accelerate" / f"{config}.yaml"
    own = ["--use_cpu", "True", "--per_device_train_batch_size", 2, "--logging_steps", 1, "--save_steps", 1]
    own += ["--max_steps", 2, "--save_total_limit", 2, "--max_train_samples", 12, "--output_dir", folder]
    command = [*launcher, "--config_file", config, SCRIPT, f"hmba_hf.commands.{module}", *own, *words]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "history.json").read_text())["loss"], done.stdout


@pytest.mark.long
def test_masked_pretraining_under_fsdp_is_that_of_one_process_and_resumes(tmp_path):
    student = save_student(tmp_path / "student")
    teacher = save_teacher(tmp_path / "teacher")
    words = ["--model", student, "--teacher", teacher, "--learning_rate", "1e-2"]
    losses, _ = train("fsdp", "pretrain", tmp_path / "spread", *words)
    alone = pretrain_tiny(student, teacher, tmp_path / "alone", *ALONE)
    wanted = [row["loss"] for row in alone.state.log_history if "loss" in row]
    torch.testing.assert_close([loss for _, loss in losses], wanted, rtol=0, atol=2e-4)
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "spread", again)
    shutil.rmtree(again / "checkpoint-2")
    (again / "model.safetensors").unlink()
    resumed, printed = train("fsdp", "pretrain", again, *words)
    assert "resuming from" in printed and resumed == losses
    weights = load_file(tmp_path / "spread" / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in load_file(again / "model.safetensors").items())


@pytest.mark.long
def test_retrieval_under_fsdp_is_that_of_whole_models(tmp_path):
    torch.manual_seed(0)
    tiny_retrieval().save_pretrained(tmp_path / "base")
    tiny_pair_processor().save_pretrained(tmp_path / "base")
    words = ["--model", tmp_path / "base", "--dataset_name", "micro-actions"]
    spread, _ = train("fsdp", "finetune_retrieval", tmp_path / "spread", *words)
    whole, _ = train("ddp", "finetune_retrieval", tmp_path / "whole", *words)
    torch.testing.assert_close(spread, whole, rtol=0, atol=1e-4)
    models = [VideoMambaForVideoTextRetrieval.from_pretrained(tmp_path / folder) for folder in ("spread", "whole")]
    assert models[0].logit_temperature.shape == ()
    torch.testing.assert_close(*(model.state_dict() for model in models), rtol=0, atol=1e-5)


@pytest.mark.parametrize("build", [tiny_retrieval, tiny_mambavl, tiny_hmba])
def test_no_unit_shares_a_parameter_with_another(build):
    model = build()
    give_scalars_an_axis(model)
    assert all(parameter.ndim for parameter in model.parameters())
    tables = model.get_input_embeddings(), model.get_output_embeddings()
    plugin = SimpleNamespace(transformer_cls_names_to_wrap=None)
    with spread_in_units_of_their_own(plugin, model):
        seen = model.get_input_embeddings(), model.get_output_embeddings()
        units = [module for module in model.modules() if type(module).__name__ in plugin.transformer_cls_names_to_wrap]
    assert units and seen in (tables, (None, None))
    alone = [table for table in seen if table is not None]
    for unit in units:
        inside = {*unit.modules()}
        assert inside.isdisjoint(alone)
        outside = {p for module in model.modules() if module not in inside for p in module.parameters(recurse=False)}
        assert outside.isdisjoint(unit.parameters())
    assert (model.get_input_embeddings(), model.get_output_embeddings()) == tables
    assert plugin.transformer_cls_names_to_wrap is None, "another training begins as this one did"


def test_layers_that_the_user_names_stay():
    plugin = SimpleNamespace(transformer_cls_names_to_wrap=["BertEmbeddings"])
    with spread_in_units_of_their_own(plugin, tiny_retrieval()):
        assert plugin.transformer_cls_names_to_wrap == ["BertEmbeddings"]


def test_parameters_without_gradients_have_the_states_of_a_first_step():
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.AdamW([first, second])
    first.grad = torch.ones(2)
    optimizer.step()
    complete_states(optimizer)
    zeros = torch.zeros(2)
    assert {name: value.tolist() for name, value in optimizer.state[second].items()} == {
        "step": 0,
        "exp_avg": zeros.tolist(),
        "exp_avg_sq": zeros.tolist(),
    }
    assert optimizer.state[first]["step"] == 1


@pytest.mark.parametrize("number", ["", " "])
def test_an_empty_number_in_the_environment_is_none(monkeypatch, tmp_path, number):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, number)
    assert ResumableArguments(output_dir=str(tmp_path), use_cpu=True).world_size == 1


def test_a_word_in_the_place_of_a_number_in_the_environment_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("LOCAL_RANK", "first")
    with pytest.raises(
        ValueError, match="LOCAL_RANK in the environment must be a whole number or absent, got 'first'"
    ):
        ResumableArguments(output_dir=str(tmp_path), use_cpu=True)


def test_processes_on_cpus_train_together_and_fsdp_is_not_left_out(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: None)
    assert ResumableArguments(output_dir=str(tmp_path)).use_cpu
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert not ResumableArguments(output_dir=str(tmp_path)).use_cpu, "it has its own way on CPUs"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "True")  # Accelerate reads either
    arguments = SimpleNamespace(world_size=2, device=torch.device("cpu"))
    check_is_spread(SimpleNamespace(is_fsdp_enabled=True, args=arguments))
    with pytest.raises(ValueError, match="FSDP must have several accelerators, got 2 of cpu"):
        check_is_spread(SimpleNamespace(is_fsdp_enabled=False, args=arguments))
