"""Training in several processes: the configurations of examples/accelerate, and what they ask of the model."""

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from torch import nn
from transformers import initialization

from hmba_hf.data.bad_samples import BadSamples
from hmba_hf.data.micro_world.parquet import write_drama
from hmba_hf.data.micro_world.world import MicroWorldConfig
from hmba_hf.training import set_trainable
from tiny_bases import FAST, save_base
from tiny_models import PARTS, part_of, tiny_config, tiny_model

EXAMPLES = Path(__file__).parents[1] / "examples"
CONFIGS = sorted((EXAMPLES / "accelerate").glob("*.yaml"))
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes"]

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_each_configuration(path):
    config = load_config_from_file(str(path))
    named = {"ddp": "MULTI_GPU", "fsdp": "FSDP", "deepspeed_zero2": "DEEPSPEED", "deepspeed_zero3": "DEEPSPEED"}
    assert config.distributed_type.value == named[path.stem] and config.use_cpu is False
    written = yaml.safe_load(path.read_text())
    for part in ("fsdp_config", "deepspeed_config"):
        assert set(written.get(part, {})) <= set(getattr(config, part)), "nothing that accelerate does not know"
    if path.stem.startswith("deepspeed"):
        assert config.deepspeed_config["zero_stage"] == int(path.stem[-1])


@pytest.mark.parametrize("adapter", ["mamba", "transformer", "none"])
def test_fsdp_finds_every_layer_that_the_model_names(adapter, monkeypatch):
    model = tiny_model(adapter=adapter)
    options = yaml.safe_load((EXAMPLES / "accelerate" / "fsdp.yaml").read_text())["fsdp_config"]
    assert "fsdp_transformer_layer_cls_to_wrap" not in options, "the model's own list is taken"
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy=options["fsdp_auto_wrap_policy"])
    plugin.set_auto_wrap_policy(model)
    wrapped = {layer.__name__ for layer in plugin.auto_wrap_policy.keywords["transformer_layer_cls"]}
    adapters = {"mamba": {"TemporalAdapter"}, "transformer": {"TransformerAdapter"}, "none": set()}
    assert {"LlamaDecoderLayer", "CLIPEncoderLayer"} | adapters[adapter] <= wrapped
    assert wrapped <= {type(module).__name__ for module in model.modules()}


@contextlib.contextmanager
def parameters_parted():
    """Build modules as DeepSpeed's ZeRO-3 does: once a module is built, its parameters are empty."""
    classes, originals = [nn.Module], {}
    for cls in classes:
        classes += cls.__subclasses__()

    def wrap(init):
        def build(self, *args, **kwargs):
            init(self, *args, **kwargs)
            if type(self).__init__ is build:
                for parameter in self.parameters(recurse=False):
                    if not hasattr(parameter, "ds_shape"):
                        parameter.ds_shape, parameter.data = parameter.shape, parameter.data.new_empty(0)

        return build

    for cls in set(classes) - {nn.Module}:
        if "__init__" in vars(cls):
            originals[cls] = cls.__init__
            cls.__init__ = wrap(cls.__init__)
    try:
        with initialization.no_init_weights(), initialization.no_tie_weights():
            yield
    finally:
        for cls, init in originals.items():
            cls.__init__ = init


@pytest.mark.parametrize(
    "values",
    [{}, {"fusion": "cosine"}, {"fusion": "add"}, {"fusion": "concat"}, {"adapter": "transformer"}],
    ids=str,
)
def test_a_model_is_built_where_zero_3_parts_its_parameters(values):
    whole = tiny_model(**values)
    with parameters_parted():
        parted = type(whole)(tiny_config(**values))
    assert not any(parameter.numel() for parameter in parted.parameters())
    shapes = {name: parameter.ds_shape for name, parameter in parted.named_parameters()}
    assert shapes == {name: parameter.shape for name, parameter in whole.named_parameters()}
    assert set_trainable(parted, list(PARTS)) == set_trainable(whole, list(PARTS))


def test_a_layer_on_its_own_still_draws_its_values():
    torch.manual_seed(0)
    assert all(parameter.isfinite().all() for parameter in tiny_model().model.temporal_adapter.parameters())
    assert {part_of(name) for name, _ in tiny_model().named_parameters()} == set(PARTS)


def launch(processes, folder, *words):
    """Fine-tune by command."""
    command = [*LAUNCH, processes, "--config_file", EXAMPLES / "accelerate" / "ddp.yaml", EXAMPLES / "finetune.py"]
    done = subprocess.run(
        [*map(str, command), *map(str, words), "--output_dir", str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_two_processes_learn_and_evaluate_what_one_does(tmp_path):
    """With a sample that cannot be read, whose place another takes, and with low-rank updates."""
    torch.manual_seed(0)
    base = save_base(tmp_path / "base")
    write_drama(tmp_path / "drama", MicroWorldConfig(frame_size=32), {"train": 8, "validation": 5})
    words = ["--model", base, "--adapter", "mamba", "--dataset_name", tmp_path / "drama", *FAST]
    words += ["--learns", "adapter", "projector", "lora", "--max_steps", 3, "--eval_strategy", "steps"]
    words += ["--eval_steps", 3, "--max_new_tokens", 4, "--on_error", "skip", "--max_length", 130]
    histories = []
    for processes, batch in ((1, 4), (2, 2)):
        folder = tmp_path / str(processes)
        sizes = ["--per_device_train_batch_size", batch, "--per_device_eval_batch_size", 1]
        printed = launch(processes, folder, *words, *sizes)
        assert printed.count("8 clips; parameters that learn") == 1
        histories.append(json.loads((folder / "history.json").read_text()))
    one, two = histories
    assert [step for step, _ in two["loss"]] == [1, 2, 3]
    torch.testing.assert_close(torch.tensor(two["loss"]), torch.tensor(one["loss"]), rtol=0, atol=3e-6)
    assert two["metrics"].keys() == one["metrics"].keys() >= {"loss", "mean_iou", "unparsed"}
    for name, curve in one["metrics"].items():
        # Of the loss in an evaluation Trainer weighs the tokens by what the other processes have at that moment.
        tolerance = 0.02 if name == "loss" else 0
        torch.testing.assert_close(torch.tensor(two["metrics"][name]), torch.tensor(curve), rtol=0, atol=tolerance)
    assert (
        two["bad_samples"] == one["bad_samples"] == BadSamples("skip", tmp_path / "2" / "bad_samples.jsonl").skipped()
    )
    assert re.search("max_length=130", str(one["bad_samples"])) and len(one["bad_samples"]) < 12
