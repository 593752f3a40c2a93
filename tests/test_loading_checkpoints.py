"""What a checkpoint may not do to who loads it: each attempt ends in an error that says so, and runs nothing."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from hmba_hf import HMBAConfig, HMBAForConditionalGeneration, VideoMambaModel
from hmba_hf.models.loading_checkpoints import check_file_names
from tiny_bases import save_base

SOURCE = Path(__file__).parents[1] / "src"


class Program:
    """A pickle of this leaves a file behind when somebody loads it."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("saved"), adapter="mamba")


@pytest.fixture
def folder(saved, tmp_path):
    """A checkpoint to spoil."""
    return shutil.copytree(saved, tmp_path / "checkpoint")


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_pickled_weights_are_not_opened(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    torch.save({"program": Program(tmp_path / "trace")}, folder / "pytorch_model.bin")
    with pytest.raises(
        OSError, match="weights must be in safetensors, for H-MBA never loads pickles: .*model.safetensors"
    ):
        AutoModelForImageTextToText.from_pretrained(folder)
    with pytest.raises(ValueError, match="weights must be in safetensors, got use_safetensors=False"):
        AutoModelForImageTextToText.from_pretrained(folder, use_safetensors=False)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("part", ["config", "vision_config", "text_config"])
def test_private_keys_in_a_config_are_refused(folder, part):
    config = json.loads((folder / "config.json").read_text())
    (config if part == "config" else config[part]).update(_attn_implementation="stranger/kernel", _other=1)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"{part} must hold no private keys.*'_attn_implementation', '_other'"):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_private_keys_that_an_older_transformers_has_left_in_a_parent_do_not_reach_a_checkpoint(saved, tmp_path):
    config = HMBAConfig.from_pretrained(saved)
    config.text_config._flash_attn_2_enabled = False
    config.save_pretrained(tmp_path)
    assert not [key for key in json.loads((tmp_path / "config.json").read_text())["text_config"] if key[0] == "_"]
    AutoConfig.from_pretrained(tmp_path)


def test_a_config_cannot_bring_a_strangers_kernel(folder):
    change(folder / "config.json", attn_implementation="stranger/kernel")
    with pytest.raises((ImportError, ValueError), match="kernel"):
        AutoModelForImageTextToText.from_pretrained(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "a/../../outside.safetensors"])
def test_a_list_of_shards_does_not_lead_out_of_the_folder(folder, name):
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        weights = dict.fromkeys(file.keys(), name)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    with pytest.raises(
        ValueError, match=r"model.safetensors.index.json of .* must name files beside it, got \['.*out"
    ):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_a_config_does_not_lead_to_weights_out_of_the_folder(folder):
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    change(folder / "config.json", transformers_weights="../outside.safetensors")
    with pytest.raises(ValueError, match="must reference a file inside the model directory"):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_a_tokenizer_does_not_lead_out_of_the_folder(folder):
    shutil.copy(folder / "tokenizer.json", folder.parent / "tokenizer.5.0.0.json")
    change(folder / "tokenizer_config.json", fast_tokenizer_files=["../tokenizer.5.0.0.json"])
    with pytest.raises(ValueError, match=r"tokenizer_config.json of .* must name files beside it, got \['\.\./token"):
        AutoProcessor.from_pretrained(folder)


def test_names_of_files_beside_it_are_let_through(folder):
    AutoProcessor.from_pretrained(folder)
    check_file_names(folder, "absent.json", lambda held: held["names"], {})
    (folder / "list.json").write_text('{"names": ["model-00001-of-00002.safetensors", "a..b", ""]}')
    with pytest.raises(ValueError, match=r"got \[''\]"):
        check_file_names(folder, "list.json", lambda held: held["names"], {})


@pytest.mark.parametrize("content", ["[]", '{"weight_map": ["model.safetensors"]}', '{"weight_map": null}', "{"])
def test_a_list_of_shards_that_is_none_is_refused_by_name(folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match="model.safetensors.index.json of .* must be a JSON object that names files"):
        AutoModelForImageTextToText.from_pretrained(folder)


LOAD_THE_CODE_OF_A_FOLDER = """
import sys
from transformers import AutoConfig
AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
"""


@pytest.mark.parametrize("name", ["../outside", "a/../../outside"])
def test_a_class_does_not_come_from_out_of_the_folder(folder, tmp_path, name):
    (tmp_path / "outside.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    change(folder / "config.json", auto_map={"AutoConfig": f"{name}.HMBAConfig"})
    command = [sys.executable, "-I", "-c", LOAD_THE_CODE_OF_A_FOLDER, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env={"HF_HOME": str(tmp_path / "home")})
    assert done.returncode and "ValueError" in done.stderr
    assert not (tmp_path / "trace").exists()


def test_where_the_package_is_installed_no_class_of_a_checkpoint_is_loaded(folder, tmp_path):
    (tmp_path / "outside.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    change(folder / "config.json", auto_map={"AutoConfig": f"{tmp_path}/outside.HMBAConfig"})
    assert type(AutoConfig.from_pretrained(folder, trust_remote_code=True)) is HMBAConfig
    assert not (tmp_path / "trace").exists()


def test_code_is_refused_unless_it_is_trusted(folder, tmp_path):
    script = LOAD_THE_CODE_OF_A_FOLDER.replace(", trust_remote_code=True", "")
    command = [sys.executable, "-I", "-c", script, str(folder)]
    environment = {"HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    assert done.returncode
    last = done.stderr.strip().splitlines()[-1]
    assert "trust_remote_code=True" in last


def test_a_header_of_ten_gigabytes_is_refused_without_taking_them(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 10 * 10**9) + weights[8:])
    with pytest.raises(OSError, match="must hold whole weights, .*header too large"):
        HMBAForConditionalGeneration.from_pretrained(folder)


OLD = """
import importlib.metadata, runpy, sys
version = importlib.metadata.version
importlib.metadata.version = lambda name: "5.18.0" if name == "transformers" else version(name)
sys.path.insert(0, sys.argv[1])
try:
    {do}
except ImportError as error:
    print(error)
else:
    raise AssertionError("it must not be imported")
"""


@pytest.mark.parametrize(
    "do",
    [
        "import hmba_hf",
        "from transformers import AutoConfig; AutoConfig.from_pretrained(sys.argv[2], trust_remote_code=True)",
        "from transformers import AutoProcessor; AutoProcessor.from_pretrained(sys.argv[2], trust_remote_code=True)",
    ],
)
def test_a_transformers_that_is_too_old_is_named_in_a_sentence(folder, tmp_path, do):
    source = str(SOURCE) if "hmba_hf" in do else str(tmp_path)
    command = [sys.executable, "-c", OLD.format(do=do), source, str(folder)]
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "transformers>=5.19 is required" in done.stdout and "found transformers==5.18.0" in done.stdout
    assert "pip install -U 'transformers>=5.19'" in done.stdout


@pytest.mark.parametrize("held", [{"metadata": {}, "weight_map": {}}, {"metadata": {}}, {"weight_map": {"a": "b"}}])
def test_an_index_that_lists_no_weights_is_refused_unless_one_file_has_them_all(folder, held):
    (folder / "model.safetensors.index.json").write_text(json.dumps(held))
    AutoModelForImageTextToText.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="model.safetensors.index.json of .* must have metadata and a weight_map"):
        AutoModelForImageTextToText.from_pretrained(folder)


@pytest.mark.parametrize("model_class", [HMBAForConditionalGeneration, VideoMambaModel])
def test_a_path_that_is_not_utf8_is_named_and_no_file_is_called_torn(tmp_path, model_class):
    folder = tmp_path / os.fsdecode(b"\xfe")
    folder.mkdir()
    with pytest.raises(ValueError, match="the path of a checkpoint must be UTF-8, .* got '.*udcfe'"):
        model_class.from_pretrained(folder)
