"""What a conversion refuses to read, and that it leaves nothing half-written behind; its tables, entry by entry."""

import argparse
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText

from hmba_hf import HMBAConfig, HMBAProcessor
from hmba_hf.conversion.checkpoint_folders import whole_folder, write_shards
from hmba_hf.conversion.rename_keys import Rule, TensorSpec, adapter_rules, plan_originals, plan_renaming, shikra_rules
from hmba_hf.conversion.tensor_files import FileTensors, local_path
from hmba_hf.conversion.tensor_sources import MemoryTensors, RecoveredTensors
from original_checkpoints import (
    CONVERSION,
    golden_weights,
    run_conversion,
    save_original,
    save_weights,
)

SCRIPTS = ["convert_hmba.py", "convert_llava.py", "convert_mambavl.py", "convert_videomamba.py"]


@pytest.fixture
def source(golden, tmp_path):
    """The folder of the original whole model without its weights, and its state dict."""
    tensors, facts = golden("hmba_e2e_small")
    return save_original(tmp_path, tensors, facts), golden_weights(tensors)


def refused(source, *words, error=ValueError, match):
    """See that a conversion is refused and leaves nothing behind."""
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(error, match=match):
        run_conversion("convert_hmba.py", "--checkpoint", source, "--output_dir", source.parent / "ours", *words)
    assert sorted(source.parent.rglob("*")) == before


class Malicious:
    """Something that runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {Path(os.environ['HF_HOME']) / 'was_run'}",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_runs_something_is_refused_and_not_run(source, is_zip):
    folder, weights = source
    content = {**weights, "model.norm.weight": Malicious()}
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    refused(folder, match=r"pytorch_model.bin must hold only tensors, got one that would run .*\.system")
    assert not (Path(os.environ["HF_HOME"]) / "was_run").exists()


def test_the_arguments_of_a_training_script_beside_the_weights_are_harmless(tmp_path):
    tensors = {"a": torch.randn(2, 3)}
    torch.save({"model": tensors, "args": argparse.Namespace(lr=0.1)}, tmp_path / "checkpoint.pth")
    files = FileTensors(tmp_path)
    assert_close({name: files.read(name) for name in files.specs}, tensors, atol=0, rtol=0)


@pytest.mark.parametrize("form", ["safetensors", "bin", "before torch 1.6", "sharded safetensors", "sharded bin"])
@pytest.mark.parametrize("cut", ["in its middle", "at its end"])
def test_a_truncated_file_is_refused(form, cut, source):
    folder, weights = source
    save_weights(folder, weights, form)
    path = max((path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")), key=os.path.getsize)
    size = path.stat().st_size
    os.truncate(path, size // 2 if cut == "in its middle" else size - 8)
    refused(folder, match=f"{path.name} must be a whole .*, got ")


def test_a_file_that_is_no_checkpoint_is_refused(source):
    folder, _ = source
    (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(folder, match="pytorch_model.bin must be a whole file of tensors, got other bytes, or objects that are no")
    torch.save([torch.ones(2)], folder / "pytorch_model.bin")
    refused(folder, match="must hold a dict of tensors, got list")
    torch.save({"a": torch.ones(2), "b": 3}, folder / "pytorch_model.bin")
    refused(folder, match="b must be a tensor, got int")


def test_a_new_file_beside_an_older_index_is_what_is_converted(source, tmp_path):
    folder, weights = source
    older = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    save_weights(folder, older, "sharded safetensors")
    assert FileTensors(folder).read("model.norm.weight").count_nonzero() == 0
    save_weights(folder, weights)
    assert len(list(folder.glob("*.safetensors"))) > 1 and (folder / "model.safetensors.index.json").is_file()
    assert_close(FileTensors(folder).read("model.norm.weight"), weights["model.norm.weight"], atol=0, rtol=0)


def test_a_tensor_that_the_index_does_not_name_is_read_with_its_file(source):
    folder, weights = source
    save_weights(folder, weights, "sharded safetensors")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["model.norm.weight"]
    path.write_text(json.dumps(index))
    files = FileTensors(folder)
    assert files.specs.keys() == weights.keys()
    assert_close(files.read("model.norm.weight"), weights["model.norm.weight"], atol=0, rtol=0)
    path.write_text(json.dumps({"weight_map": {}}))
    refused(folder, match="an index must name the tensors of its shards, got none in .*index.json")


@pytest.mark.parametrize(
    ("odd", "kind"),
    [
        (torch.eye(3).to_sparse(), "one of layout torch.sparse_coo"),
        (torch.ones(3, device="meta"), "one on the device meta, which holds none"),
        (torch.ones(3, device="meta", dtype=torch.long), "one on the device meta"),
        (torch.ones(3, dtype=torch.complex64), "one of torch.complex64"),
    ],
)
def test_a_tensor_of_a_pickle_without_plain_numbers_is_refused_by_name(odd, kind, tmp_path):
    torch.save({"a": torch.ones(2), "b.weight": odd}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=f"b.weight must be a dense tensor of real numbers, got {kind}"):
        FileTensors(tmp_path)


def test_the_extra_state_of_a_module_is_refused_by_name(source):
    folder, weights = source
    name = "model.layers.0.mlp._extra_state"
    torch.save({**weights, name: None}, folder / "pytorch_model.bin")
    refused(folder, match=f"{name} must be a tensor, got NoneType in .*pytorch_model.bin")
    save_weights(folder, {**weights, name: torch.ones(3, dtype=torch.uint8)})
    refused(folder, match=f"tensors must be those of the model, got {name}")


def test_a_hash_is_checked(source, tmp_path):
    folder, weights = source
    save_weights(folder, weights)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    wrong = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    refused(folder, "--sha256", f"model.safetensors={wrong}", match=f"must have the sha256 {wrong}, got {digest}")
    refused(folder, "--sha256", f"other={digest}", match=r"hashes must be of \['model.safetensors'\], got one of ot")
    refused(folder, "--sha256", digest, match="hashes must be NAME=HASH, 64 hexadecimal digits for each file, got ")
    words = ["--checkpoint", folder, "--output_dir", tmp_path / "ours"]
    run_conversion("convert_hmba.py", *words, "--sha256", f"model.safetensors={digest}")


@pytest.mark.parametrize("name", ["lm_head.weight", "model.hmba.t_mamba.A_log"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused_by_the_name_of_its_tensor(name, value, source):
    folder, weights = source
    weights[name].view(-1)[-1] = value
    save_weights(folder, weights)
    refused(folder, match=f"{name} must be finite, got NaN or infinity")


def test_a_number_too_large_for_the_dtype_is_refused(source):
    folder, weights = source
    weights["model.norm.weight"][0] = 1e6
    save_weights(folder, weights)
    refused(folder, "--dtype", "float16", match=r"norm\.weight must be finite, got NaN or infinity \(as torch.float16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.update({"model.hmba.strange": torch.ones(1)}),
            "tensors must have names in the table, got ",
        ),
        (lambda w: w.pop("model.layers.1.mlp.up_proj.weight"), r"must hold an origin of .*layers\.1\.mlp\.up_proj"),
        (lambda w: w.pop("model.hmba.v2"), r"context_scales must have 2 rows, .* got \['model.hmba.v3'\]"),
        (lambda w: w.pop("model.hmba.time_embed"), "must hold model.hmba.time_embed, got none"),
        (lambda w: w.update({"model.hmba.time_embed": torch.ones(5)}), r"time_embed must have 3 axes, got \(5,\)"),
        (
            lambda w: w.update({"model.embed_tokens.weight": torch.ones(())}),
            r"embed_tokens.weight must have 2 axes, got",
        ),
        (lambda w: w.update({"model.kbmamba.v2": torch.ones(1)}), "must have one adapter, got tensors of "),
        (lambda w: w.update({"model.norm.weight": torch.ones(31)}), r"model.norm.weight must be \(32,\), got \(31,\)"),
        (lambda w: w.update({"model.hmba.v3": torch.ones(2)}), r"model.hmba.v3 must be \(1,\), got \(2,\)"),
        (
            lambda w: w.update({"lm_head.weight": w["lm_head.weight"].half()}),
            "lm_head.weight must be torch.float32 as most tensors are, got torch.float16",
        ),
        (lambda w: w.update({"lm_head.weight": w["lm_head.weight"].long()}), "lm_head.weight must be of real numbers"),
        (
            lambda w: w.update({"model.layers.7.mlp.up_proj.weight": torch.ones(48, 32)}),
            r"got model\.layers\.7\.mlp\.up_proj\.weight, which would be .*: it has none such",
        ),
        (
            lambda w: w.update({"model.hmba.layer_3.1.bias": torch.ones(64)}),
            r"layer_3\.1\.bias must equal its alias model\.hmba\.layer_.*\.bias, got other values",
        ),
    ],
)
def test_a_tensor_that_is_not_as_the_table_says_is_named(change, message, source):
    folder, weights = source
    change(weights)
    save_weights(folder, weights, "bin")
    refused(folder, match=message)


def test_one_name_of_a_module_is_enough(source, tmp_path):
    folder, weights = source
    names = [name for name in weights if ".layer_norm." in name or name.endswith((".1.weight", ".1.bias"))]
    kept = {name: tensor for name, tensor in weights.items() if name not in names or "reverse_layer_2.1" in name}
    assert len(kept) == len(weights) - 12
    save_weights(folder, kept)
    run_conversion("convert_hmba.py", "--checkpoint", folder, "--output_dir", tmp_path / "ours")
    written = load_file(tmp_path / "ours" / "model.safetensors")
    norm = "model.temporal_adapter.context.norms.shared.weight"
    assert torch.equal(written[norm], weights["model.hmba.layer_norm.weight"])


def test_the_table_knows_every_name_of_the_released_adapter_and_the_way_back(golden):
    facts = golden("hmba_released_small")[1]
    names = [name.removeprefix("w.") for name in facts["tensors"] if name.startswith("w.")]
    rules = adapter_rules("", ours="")
    found = {name: next(rule for rule in rules if rule.match(name) is not None) for name in names}
    used = {name for name, rule in found.items() if rule.ours}
    assert len(names) == 102 and len(used) == 46
    ours = {our for name in used for our in found[name].match(name)}
    assert set(plan_originals(ours, rules)) == used


def test_two_tensors_for_one_place_are_refused():
    spec, rules = TensorSpec((2,), torch.float32), [Rule("a", ("x",)), Rule("b", ("x",))]
    with pytest.raises(ValueError, match=r"x must come from one tensor, got \['a', 'b'\]"):
        plan_renaming({"a": spec, "b": spec}, rules, {"x": spec})


def test_a_tensor_in_two_files_is_refused(source):
    folder, weights = source
    save_weights(folder, weights, "sharded safetensors")
    first, second = sorted(folder.glob("*.safetensors"))
    extra = load_file(second)
    save_file({**load_file(first), "lm_head.weight": weights["lm_head.weight"], **extra}, first, {"format": "pt"})
    refused(folder, match="must be in one file, got it in ")


def test_a_missing_shard_is_refused(source):
    folder, weights = source
    save_weights(folder, weights, "sharded bin")
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    refused(folder, error=FileNotFoundError, match="00002-of-00002.bin must be there for .*, got no such file")
    (folder / "pytorch_model.bin.index.json").unlink()
    refused(folder, error=FileNotFoundError, match=r"must hold 00002 shards, got 1: \[2\] are missing")


@pytest.mark.parametrize("content", ['{"weight_map": ', "[]", '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_refused(content, source):
    folder, weights = source
    save_weights(folder, weights, "sharded safetensors")
    (folder / "model.safetensors.index.json").write_text(content)
    index = "model.safetensors.index.json"
    refused(
        folder, match=f"{index} must be a (whole JSON file|JSON object), got |must have a weight_map .* in .*{index}"
    )


def test_a_damaged_config_is_refused(source):
    folder, weights = source
    save_weights(folder, weights)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config[: len(config) // 2])
    refused(folder, match="config.json must be a whole JSON file, got one that cannot be read: ")


def test_a_tensor_that_only_the_index_knows_is_refused(source):
    folder, weights = source
    save_weights(folder, weights, "sharded safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"lm_head.weight"', '"lm_head.bias"'))
    refused(folder, match="lm_head.bias must be in .*, as in the index, got no such tensor there")


def test_files_that_cannot_be_one_checkpoint_are_refused(source):
    folder, weights = source
    save_file(weights, folder / "one.safetensors")
    save_file(weights, folder / "two.safetensors")
    refused(folder, match=r"must hold the files of one checkpoint, got \['one.safetensors', 'two.safetensors'\]")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    refused(folder, error=FileNotFoundError, match="must hold weights .* got none")


def test_a_folder_that_holds_something_is_not_written_to(source, tmp_path):
    folder, weights = source
    save_weights(folder, weights)
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "mine").write_text("precious")
    refused(folder, error=FileExistsError, match="the folder of the checkpoint must be new or empty, got ")
    assert (tmp_path / "ours" / "mine").read_text() == "precious"


def killed_in(owner, name, call, *words):
    """Run a conversion in a child that is killed in the given call of a method; return how the child ended."""
    child, method, calls = os.fork(), getattr(owner, name), itertools.count(1)
    if child:
        return os.waitpid(child, 0)[1]

    def killing(*args, **kwargs):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*args, **kwargs)

    try:
        with mock.patch.object(owner, name, killing):
            run_conversion("convert_hmba.py", *words)
    finally:
        os._exit(0)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [(FileTensors, "read", 10), (HMBAProcessor, "save_pretrained", 1), (HMBAConfig, "save_pretrained", 1)],
)
def test_what_a_killed_conversion_leaves_does_not_load_and_the_next_one_clears_it(owner, name, call, source, tmp_path):
    folder, weights = source
    save_weights(folder, weights)
    words = ["--checkpoint", folder, "--output_dir", tmp_path / "ours"]
    assert killed_in(owner, name, call, *words) == signal.SIGKILL
    left = tmp_path / "_ours.unfinished"
    assert any(left.glob("*.safetensors")) and not (tmp_path / "ours").exists()
    with pytest.raises(ValueError, match=r"in its config\.json"):
        AutoModelForImageTextToText.from_pretrained(left)
    run_conversion("convert_hmba.py", *words)
    assert (tmp_path / "ours" / "config.json").is_file() and not left.exists()


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path):
    huge = MemoryTensors({})
    huge.specs = {"a": TensorSpec((2**50,), torch.float32)}
    with pytest.raises(OSError, match="must have 4194304.00 GiB free for the weights, got .* GiB free"):
        with whole_folder(tmp_path / "ours") as folder:
            write_shards(folder, huge, "5GB")
    assert not list(tmp_path.iterdir())


def test_written_files_are_those_of_the_library(tmp_path):
    tensors = {
        "odd": torch.randn(3).half(),
        "wide": torch.randn(2, 5, dtype=torch.float64),
        "brain": torch.randn(7, 2).bfloat16(),
        "scalar": torch.tensor(2.5),
        "turned": torch.randn(4, 6).T,
    }
    write_shards(tmp_path, MemoryTensors(tensors), 100)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 and (tmp_path / "model.safetensors.index.json").is_file()
    read = {name: tensor for path in tmp_path.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert_close(read, tensors, atol=0, rtol=0)
    files = FileTensors(tmp_path)
    assert_close({name: files.read(name) for name in files.specs}, tensors, atol=0, rtol=0)


def test_small_shards_load_like_one_file(source, tmp_path):
    folder, weights = source
    save_weights(folder, weights, "sharded bin")
    for name, size in (("one", "5GB"), ("many", "200KB")):
        run_conversion(
            "convert_hmba.py", "--checkpoint", folder, "--output_dir", tmp_path / name, "--max_shard_size", size
        )
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 3
    one, many = (FileTensors(tmp_path / name) for name in ("one", "many"))
    assert one.specs == {name: many.specs[name] for name in one.specs}
    assert all(torch.equal(one.read(name), many.read(name)) for name in one.specs)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_converter_says_how_it_is_called_from_anywhere(script, tmp_path):
    done = subprocess.run(
        [sys.executable, str(CONVERSION / script), "--help"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    kind = script.removeprefix("convert_").removesuffix(".py")
    assert f"hmba convert {kind}" in done.stdout and "--checkpoint" in done.stdout


def test_a_row_that_is_missing_or_doubled_is_seen():
    specs = {f"model.hmba.v{i}": TensorSpec((1,), torch.float32) for i in (2, 3)}
    wanted = {"model.temporal_adapter.query.fusion.context_scales": TensorSpec((3,), torch.float32)}
    with pytest.raises(ValueError, match="context_scales must have 3 rows, each from one tensor"):
        plan_renaming(specs, shikra_rules(), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("change", [0.0005, 0.002, 0.02])
def test_the_right_base_is_told_from_near_ones_in_any_precision(dtype, change):
    base, tuned, other = 0.02 * torch.randn(512, 512), change * torch.randn(512, 512), torch.randn(512, 512)
    base = base.to(dtype)
    delta = (base.float() + tuned).to(dtype) - base
    wrong = [0.02 * other, base.float() + 0.0005 * other, base.float() * 0.5]
    sources = [MemoryTensors({"a": x.to(dtype)}) for x in (delta, base, *wrong)]
    assert torch.equal(RecoveredTensors(*sources[:2]).read("a"), delta + base)
    for source in sources[2:]:
        with pytest.raises(ValueError, match="in a the sum loses .* eps of the delta's norm"):
            RecoveredTensors(sources[0], source).read("a")


def test_a_hub_id_may_name_its_revision(tmp_path, monkeypatch):
    asked = []

    def snapshot(repo, revision, allow_patterns):
        asked.append((repo, revision, allow_patterns[-1]))
        (tmp_path / "pytorch_model.bin").touch()
        return tmp_path

    monkeypatch.setattr("hmba_hf.conversion.tensor_files.snapshot_download", snapshot)
    assert local_path("org/name@0123abc") == tmp_path
    assert asked == [("org/name", "0123abc", "*.safetensors"), ("org/name", "0123abc", "*.bin")]
    with pytest.raises(
        FileNotFoundError, match="a checkpoint must be a file, a folder or a Hub id, got /no/such/place, which"
    ):
        local_path("/no/such/place")
