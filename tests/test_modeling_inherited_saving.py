"""Arguments of loading and saving that models inherit: each one works, or is refused by its name."""

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, GenerationConfig

from hmba_hf import HMBAConfig, HMBAForConditionalGeneration
from tiny_models import assert_equal_weights, lively_model, tiny_inputs

UPDATES = "adapter_model.safetensors"


@pytest.fixture
def model():
    return lively_model()


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def load(folder, **options):
    return HMBAForConditionalGeneration.from_pretrained(folder, **options)


def files(folder):
    return {path.name for path in folder.iterdir() if path.suffix != ".py"}


def test_a_model_is_loaded_by_another_config_than_its_own(model, saved, tmp_path):
    config = HMBAConfig.from_pretrained(saved, vision_feature_layer=-1)
    config.save_pretrained(tmp_path / "config")
    inputs = tiny_inputs()
    wanted = model.model.get_video_features(inputs["pixel_values_videos"], vision_feature_layer=-1).pooler_output
    for given in (config, tmp_path / "config"):
        loaded = load(saved, config=given)
        found = loaded.get_video_features(inputs["pixel_values_videos"]).pooler_output
        torch.testing.assert_close(found, wanted)


def test_weights_may_be_read_without_mapping_the_file(model, saved):
    loaded = load(saved, disable_mmap=True)
    assert_equal_weights(loaded, model)
    (saved / "model.safetensors").write_bytes(b"")
    assert torch.isfinite(loaded(**tiny_inputs()).logits).all(), "nothing of the file is needed any more"


def test_layers_that_shall_be_fused_are_refused(saved):
    with pytest.raises(ValueError, match="fusion_config must be absent, .*, got {'patch_embeddings': True}"):
        load(saved, fusion_config={"patch_embeddings": True})


def test_how_a_model_generates_may_be_given_or_comes_with_it(saved):
    GenerationConfig(max_new_tokens=5).save_pretrained(saved)
    assert load(saved).generation_config.max_new_tokens == 5
    assert load(saved, generation_config=GenerationConfig(max_new_tokens=7)).generation_config.max_new_tokens == 7
    (saved / "generation_config.json").unlink()
    assert load(saved).generation_config.max_new_tokens is None


def test_generation_of_a_checkpoints_own_runs_only_if_it_is_trusted(model, saved, capsys):
    (saved / "custom_generate").mkdir()
    (saved / "custom_generate" / "generate.py").write_text(
        "print('runs')\ndef generate(model, **rest):\n    return 7\n"
    )
    ids = load(saved).generate(**tiny_inputs(), max_new_tokens=2)
    assert ids.shape[1] == tiny_inputs()["input_ids"].shape[1] + 2
    for trusts in (None, False):
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            model.load_custom_generate(saved, trust_remote_code=trusts)
    assert "runs" not in capsys.readouterr().out.splitlines()
    assert model.load_custom_generate(saved, trust_remote_code=True)(model=model) == 7
    with pytest.raises(OSError, match="does not contain a `custom_generate`"):
        model.load_custom_generate(saved.parent, trust_remote_code=True)


@pytest.mark.parametrize("size", ["50GB", "40KB"])
def test_a_variant_lies_beside_the_weights_and_is_loaded_by_its_name(model, saved, size):
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    model.save_pretrained(saved, variant="night", max_shard_size=size)
    assert_equal_weights(load(saved, variant="night"), model)
    assert not torch.equal(load(saved).lm_head.weight, model.lm_head.weight)


def test_only_the_main_process_writes(model, tmp_path):
    model.save_pretrained(tmp_path, is_main_process=False)
    assert not [*tmp_path.iterdir()]
    assert model.should_save_on_this_rank(True) and not model.should_save_on_this_rank(False)


def test_weights_have_one_format(model, saved, tmp_path):
    for original in (False, True):
        model.save_pretrained(tmp_path / "other", save_original_format=original)
        assert load_file(tmp_path / "other" / "model.safetensors").keys() == model.state_dict().keys()
        assert_equal_weights(load(tmp_path / "other"), model)
    with pytest.raises(ValueError, match="weights must be in safetensors"):
        model.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    assert not (tmp_path / "pickled").exists()


@pytest.fixture
def updates(tmp_path, monkeypatch):
    """Save low-rank updates: `updates(name, rank)` returns their folder and what a model answers with them."""
    # transformers 5.24.0 asks for peft 0.22.0, which is not published yet; what it calls is in 0.21 as well.
    monkeypatch.setattr("transformers.integrations.peft.check_peft_version", lambda min_version: None)

    def save(name, rank=2, **options):
        model = lively_model()
        torch.manual_seed(len(name))
        model.add_adapter(LoraConfig(r=rank, target_modules=["q_proj"], init_lora_weights=False))
        model.save_pretrained(tmp_path / name, **options)
        return tmp_path / name, model(**tiny_inputs_of_one_seed()).logits

    return save


def tiny_inputs_of_one_seed():
    torch.manual_seed(5)
    return tiny_inputs()


def answer(model):
    return model(**tiny_inputs_of_one_seed()).logits


def learning(model):
    return {weight.requires_grad for name, weight in model.named_parameters() if "lora" in name}


def test_low_rank_updates_are_loaded_from_a_folder_or_from_memory(model, updates):
    folder, wanted = updates("one")
    model.load_adapter(folder, adapter_name="one", low_cpu_mem_usage=True, local_files_only=True)
    torch.testing.assert_close(answer(model), wanted)
    assert learning(model) == {False} and not model.training
    other = lively_model()
    config, weights = LoraConfig.from_pretrained(folder), load_file(folder / UPDATES)
    other.load_adapter(peft_config=config, adapter_state_dict=weights, is_trainable=True)
    torch.testing.assert_close(answer(other), wanted)
    assert learning(other) == {True}
    shutil.copytree(folder, folder / "inside")
    (folder / UPDATES).unlink()
    third = lively_model()
    third.load_adapter(folder, local_files_only=True, adapter_kwargs={"subfolder": "inside"})
    torch.testing.assert_close(answer(third), wanted)


def test_low_rank_updates_are_swapped_for_others_of_their_rank(model, updates):
    first, second = updates("one"), updates("second")
    model.load_adapter(first[0], adapter_name="mine")
    model.load_adapter(second[0], adapter_name="mine", hotswap=True)
    torch.testing.assert_close(answer(model), second[1])
    assert not torch.allclose(*(logits for _, logits in (first, second)))
    with pytest.raises(ValueError, match="already exists"):
        model.load_adapter(first[0], adapter_name="mine")
    with pytest.raises(ValueError, match="there must already be an existing adapter"):
        model.load_adapter(first[0], adapter_name="other", hotswap=True)
    with pytest.raises(RuntimeError, match="size"):
        model.load_adapter(updates("wider", rank=4)[0], adapter_name="mine", hotswap=True)
    torch.testing.assert_close(answer(model), second[1])
    with pytest.raises(
        NotImplementedError, match="updates must have one rank .* got target_rank=8 and check_compiled="
    ):
        lively_model().enable_peft_hotswap(target_rank=8, check_compiled="warn")


def test_low_rank_updates_are_whole_and_never_pickled(model, updates):
    folder, _ = updates("one")
    with pytest.raises(ValueError, match="got use_safetensors=False"):
        model.load_adapter(folder, use_safetensors=False)
    weights = load_file(folder / UPDATES)
    name, _ = weights.popitem()
    save_file(weights, folder / UPDATES)
    with pytest.raises(ValueError, match="must hold every weight that is read, in its shape, got none for model"):
        lively_model().load_adapter(folder)
    (folder / UPDATES).unlink()
    torch.save(weights, folder / "adapter_model.bin")
    with pytest.raises(OSError, match=f"must have its low-rank updates in {UPDATES}, for pickles"):
        lively_model().load_adapter(folder)


@pytest.mark.parametrize("settings", [LoraConfig(use_dora=True), AdaLoraConfig(total_step=9)], ids=["DoRA", "AdaLoRA"])
def test_low_rank_updates_are_loaded_under_the_names_that_peft_has_written(settings, saved, tmp_path):
    settings = replace(settings, r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    base = HMBAForConditionalGeneration.from_pretrained(saved)
    plain = answer(base)
    learned = get_peft_model(base, settings).eval()
    for name, weight in learned.named_parameters():
        if "magnitude" in name:
            weight.data.mul_(1.5)  # as after learning: it begins as that of the base
    folder = tmp_path / "updates"
    learned.save_pretrained(folder)
    wanted = answer(learned)
    assert not torch.allclose(wanted, plain)
    torch.testing.assert_close(answer(AutoModelForImageTextToText.from_pretrained(folder)), wanted)
    other = HMBAForConditionalGeneration.from_pretrained(saved)
    assert not other.load_adapter(folder, "mine").unexpected_keys
    torch.testing.assert_close(answer(other), wanted)
    weights = load_file(folder / UPDATES)
    weights.popitem()
    save_file(weights, folder / UPDATES)
    with pytest.raises(ValueError, match="must hold every weight that is read, in its shape, got none for model"):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_low_rank_updates_keep_the_names_of_peft_or_those_of_the_model(updates):
    for is_of_peft in (True, False):
        folder, _ = updates(f"peft-{is_of_peft}", save_peft_format=is_of_peft)
        assert all(name.startswith("base_model.model.") == is_of_peft for name in load_file(folder / UPDATES))


def test_plans_to_spread_a_model_name_its_own_modules(model):
    model._tp_plan = None
    model.init_parallel_plans()
    assert model.tp_plan["lm_head"] == "colwise_gather_output"
    assert model.tp_plan["model.language_model.layers.*.mlp.down_proj"] == "rowwise"
    assert model.fsdp_plan["model.language_model.layers.*"] == "free_full_weight"


def test_nothing_is_spread_over_one_process(model, tmp_path):
    spread = HMBAForConditionalGeneration.prepare_distribute_model
    assert spread(None, device_map="cpu") == (None, "cpu", None)
    config, device_map, mesh = spread({"tp_size": 1}, device_map="cpu")
    assert config.tp_size == 1 and device_map == "cpu" and mesh is None
    with pytest.raises(ValueError, match="mutually exclusive"):
        spread({"tp_size": 2}, device_map="cpu")
    assert HMBAForConditionalGeneration.maybe_distribute_model(model, config, mesh_manager=mesh) is model
    weights = model.state_dict()
    for none in (None, config):
        assert model.gather_sharded_state_dict_for_save(model, weights, none, save_on_this_rank=True) is weights
        model.barrier_after_gathered_checkpoint_save(none)
    with pytest.raises(ValueError, match="distributed_checkpoint=True. .* FSDP-"):
        model.save_pretrained(tmp_path, distributed_checkpoint=True)
    with pytest.raises(ValueError, match="push_to_hub must be False for a distributed checkpoint"):
        model.save_distributed_checkpoint(
            model, tmp_path, push_to_hub=True, repo_id="org/tiny", save_on_this_rank=True
        )


def test_a_model_may_be_spread_over_two_processes(saved, tmp_path):
    """Tensors or whole weights in parts: the same answers, saved whole by one process or in parts by all."""
    script = """
import multiprocessing, os, sys
from pathlib import Path
import torch, torch.distributed as dist, transformers
from transformers.distributed import DistributedConfig
from hmba_hf import HMBAForConditionalGeneration
from tiny_models import tiny_inputs

saved, folder = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
saves_tensors_in_parts = not transformers.__version__.startswith(("5.19.", "5.20.", "5.21.", "5.22."))

def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

def work(rank):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
    torch.manual_seed(0)
    inputs = tiny_inputs()
    load = HMBAForConditionalGeneration.from_pretrained
    model = load(saved)
    wanted = model(**inputs).logits
    greedy = {"max_new_tokens": 3, "eos_token_id": None, "do_sample": False}
    assert model.should_save_on_this_rank(True) == (rank == 0)
    assert torch.equal(model.generate(**inputs, **greedy, synced_gpus=True), model.generate(**inputs, **greedy))
    for config in (DistributedConfig(tp_size=2), DistributedConfig(fsdp_size=2)):
        parts = load(saved, distributed_config=config)
        held = [weight for weight in parts.parameters() if hasattr(weight, "to_local")]
        assert any(weight.to_local().numel() < weight.numel() for weight in held)
        torch.testing.assert_close(whole(parts(**inputs).logits), wanted, rtol=1e-4, atol=1e-4)
        for name, in_parts in (("whole", False), ("parts", True)):
            if in_parts and (config.tp_size or 1) > 1 and not saves_tensors_in_parts:
                continue
            place = folder / f"{name}-{config.tp_size}"
            parts.save_pretrained(place, distributed_checkpoint=in_parts)
            again = load(place, distributed_config=config if in_parts else None)
            assert (place / "model.safetensors").exists() != in_parts
            torch.testing.assert_close(whole(again(**inputs).logits), wanted, rtol=1e-4, atol=1e-4)
    dist.barrier()
    dist.destroy_process_group()

processes = [multiprocessing.get_context("fork").Process(target=work, args=(rank,)) for rank in range(2)]
for process in processes:
    process.start()
for process in processes:
    process.join(120)
sys.exit(sum(process.exitcode != 0 for process in processes))
"""
    code = f"import sys; sys.path[:0] = {sys.path!r}\n{script}"
    command = [sys.executable, "-c", code, str(saved), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
