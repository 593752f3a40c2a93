"""A checkpoint is loaded whole or not at all, and what is saved is what loading looks for."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, FalconH1Config

from hmba_hf import HMBAForConditionalGeneration, HMBAModel
from hmba_hf.hub import save_checkpoint
from hmba_hf.training.parts import quantization_config
from tiny_models import FAMILY, assert_equal_weights, tiny_inputs, tiny_model, tiny_text

WEIGHTS = "model.safetensors"
UPDATES = "adapter_model.safetensors"


def change(path, rename):
    """Rename the weights of a file; those that get no name are left out."""
    weights = {rename(name): weight for name, weight in load_file(path).items()}
    save_file({name: weight for name, weight in weights.items() if name}, path, metadata={"format": "pt"})


def drop(path, part):
    change(path, lambda name: None if part in name else name)


def save_updates(base, folder):
    """Save low-rank updates of a base that change its answers; return what the updated model answers."""
    settings = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["temporal_adapter"])
    model = get_peft_model(HMBAForConditionalGeneration.from_pretrained(base), settings)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    model.save_pretrained(folder)
    return answer(model.eval())


@torch.no_grad()
def answer(model):
    torch.manual_seed(0)
    return model(**tiny_inputs()).logits


@pytest.fixture
def base(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def updates(base, tmp_path):
    """Low-rank updates in a folder, and the answers of the model with them."""
    return tmp_path / "updates", save_updates(base, tmp_path / "updates")


@pytest.mark.parametrize("part", ["vision_tower.encoder.layers.1", "temporal_adapter", "multi_modal", "lm_head"])
def test_a_checkpoint_that_lacks_weights_is_refused_with_their_names(part, base):
    drop(base / WEIGHTS, part)
    with pytest.raises(ValueError, match=rf"{base} must hold every weight that is read, .* got none for .*{part}"):
        AutoModelForImageTextToText.from_pretrained(base)
    report = AutoModelForImageTextToText.from_pretrained(base, output_loading_info=True)[1]
    assert report["missing_keys"] and all(part in name for name in report["missing_keys"])


def test_a_model_without_a_head_needs_none(base):
    drop(base / WEIGHTS, "lm_head")
    assert isinstance(AutoModel.from_pretrained(base), HMBAModel)


def test_an_adapter_that_is_asked_for_beside_a_base_without_one_is_new(tmp_path):
    tiny_model(adapter="none").save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, adapter="mamba")
    assert not model.model.temporal_adapter.gate.any()
    drop(tmp_path / WEIGHTS, "layers.1.mlp.up_proj")
    with pytest.raises(ValueError, match=r"got none for model\.language_model\.layers\.1\.mlp\.up_proj\.weight$"):
        AutoModelForImageTextToText.from_pretrained(tmp_path, adapter="mamba")


@pytest.mark.parametrize("lacking", ["base", "updates"])
def test_updates_and_their_base_are_whole_or_refused(lacking, base, updates):
    folder = updates[0]
    path, part = (base / WEIGHTS, "mlp.up_proj") if lacking == "base" else (folder / UPDATES, "lora_B")
    drop(path, part)
    with pytest.raises(ValueError, match=rf"{path.parent} must hold every weight .*{part}"):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_updates_that_are_loaded_and_saved_again_are_put_in_once(updates, tmp_path):
    folder, wanted = updates
    for again in (tmp_path / "again", tmp_path / "once more"):
        AutoModelForImageTextToText.from_pretrained(folder).save_pretrained(again)
        folder = again
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    assert loaded.state_dict().keys() == AutoModelForImageTextToText.from_pretrained(updates[0]).state_dict().keys()
    assert_close(answer(loaded), wanted, atol=0, rtol=0)
    assert loaded.active_adapters() == ["default"]
    with pytest.raises(ValueError, match="the model must have low-rank updates in it, got one without"):
        tiny_model().active_adapters()


@pytest.mark.parametrize("start", ["base", "updates"])
@pytest.mark.parametrize("save", [lambda model, folder: model.save_pretrained(folder), None], ids=["plain", "card"])
def test_merged_updates_are_saved_as_a_whole_model(start, save, base, updates, tmp_path):
    folder, wanted = updates
    model = AutoModelForImageTextToText.from_pretrained(base if start == "base" else folder)
    merged = PeftModel.from_pretrained(model, folder).merge_and_unload()
    if save:
        save(merged, tmp_path / "merged")
    else:
        save_checkpoint(tmp_path / "merged", merged, None)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert_close(answer(loaded), wanted, atol=1e-4, rtol=1e-4)
    assert loaded.state_dict().keys() == tiny_model().state_dict().keys()


def test_a_whole_model_is_not_saved_beside_updates(base, updates):
    folder = updates[0]
    merged = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), folder).merge_and_unload()
    with pytest.raises(
        ValueError, match=f"the folder of a whole model must be without low-rank updates, got {folder}: loading"
    ):
        merged.save_pretrained(folder)
    assert not (folder / WEIGHTS).exists()


def wrap_layers(model):
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))


def resize_behind_its_back(model):
    model.model.multi_modal_projector = nn.Linear(32, 48)


def quantise_behind_its_back(model):
    weight = model.lm_head.weight
    model.lm_head.weight = nn.Parameter(weight.data.to(torch.int8), requires_grad=False)


class Packed(torch.Tensor):
    """What a quantiser keeps in the place of a weight."""


def pack_behind_its_back(model):
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.data.as_subclass(Packed))


def forget_a_layer(model):
    del model.model.language_model.layers[1]


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (wrap_layers, r"q_proj\.base_layer\.weight \(no weight of it\).* merge low-rank updates"),
        (
            resize_behind_its_back,
            r"multi_modal_projector\.weight \(Tensor \(48, 32\) in torch\.float32 instead of \(32, 32\)",
        ),
        (quantise_behind_its_back, r"lm_head\.weight \(Tensor \(104, 32\) in torch\.int8 instead of"),
        (pack_behind_its_back, r"lm_head\.weight \(Packed \(104, 32\) in torch\.float32 instead of"),
        (forget_a_layer, r"language_model\.layers\.1\.input_layernorm\.weight \(missing\)"),
    ],
)
def test_what_would_not_load_back_is_not_saved(harm, named, tmp_path):
    model = tiny_model()
    harm(model)
    with pytest.raises(
        ValueError, match=f"weights must be those of a new HMBAForConditionalGeneration .* got .*{named}"
    ):
        model.save_pretrained(tmp_path)
    assert not (tmp_path / WEIGHTS).exists()


def test_a_part_of_the_weights_may_be_saved_but_no_foreign_ones(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path, state_dict={"lm_head.weight": model.lm_head.weight})
    assert [*load_file(tmp_path / WEIGHTS)] == ["lm_head.weight"]
    with pytest.raises(ValueError, match=r"got head\.weight \(no weight of it\)"):
        model.save_pretrained(tmp_path, state_dict={"head.weight": model.lm_head.weight})


def test_a_model_in_4_bits_is_saved_and_loaded_as_it_is(tmp_path):
    text = tiny_text(hidden_size=64, intermediate_size=128)  # whole blocks of 64 weights
    tiny_model(text_config=text).save_pretrained(tmp_path / "whole")
    settings = quantization_config(FAMILY)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole", quantization_config=settings)
    model.save_pretrained(tmp_path / "small")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "small")
    assert_equal_weights(loaded, model)
    assert_close(answer(loaded), answer(model))


def test_weights_that_are_handed_over_may_be_a_part(base):
    head = {"lm_head.weight": torch.ones(104, 32)}
    config = AutoConfig.from_pretrained(base)
    model = HMBAForConditionalGeneration.from_pretrained(None, config=config, state_dict=head)
    assert bool((model.lm_head.weight == 1).all()) and model.get_input_embeddings().weight.isfinite().all()


def test_names_that_a_key_mapping_has_renamed_are_saved_as_ours(base, tmp_path):
    change(base / WEIGHTS, lambda name: name.replace("model.language_model", "llm"))
    mapping = {"^llm": "model.language_model"}
    model = HMBAForConditionalGeneration.from_pretrained(base, key_mapping=mapping)
    model.save_pretrained(tmp_path / "saved")
    assert_equal_weights(HMBAForConditionalGeneration.from_pretrained(tmp_path / "saved"), model)


def test_a_head_that_is_tied_by_hand_is_saved_with_a_weight_of_its_own(tmp_path):
    model = tiny_model(text_config=tiny_text(tie_word_embeddings=False))
    model.lm_head.weight = model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert_equal_weights(model, HMBAForConditionalGeneration.from_pretrained(tmp_path))


def test_buffers_that_a_part_sets_in_its_layers_are_set_when_a_model_is_loaded(tmp_path):
    mixer = {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = FalconH1Config(**sizes, **mixer, vocab_size=104, num_key_value_heads=2, ssm_multipliers=[0.5] * 5)
    model = tiny_model(text_config=text)
    model.save_pretrained(tmp_path)
    loaded = HMBAForConditionalGeneration.from_pretrained(tmp_path)
    buffers = dict(loaded.named_buffers())
    for name, buffer in model.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    assert_close(answer(loaded), answer(model))


@pytest.mark.parametrize("offload", ["cpu", "disk"])
def test_a_model_that_accelerate_has_offloaded_is_saved_whole(offload, base, tmp_path):
    model = HMBAForConditionalGeneration.from_pretrained(base)
    if offload == "cpu":
        cpu_offload(model, torch.device("cpu"))
    else:
        disk_offload(model, str(tmp_path / "offloaded"), torch.device("cpu"))
    model.save_pretrained(tmp_path / "saved")
    wanted = load_file(base / WEIGHTS)
    saved = load_file(tmp_path / "saved" / WEIGHTS)
    assert wanted.keys() == saved.keys() and all(torch.equal(saved[name], wanted[name]) for name in wanted)


def test_a_model_without_values_is_not_saved(tmp_path):
    with torch.device("meta"):
        model = tiny_model()
    with pytest.raises(ValueError, match="must have values to be saved, got .* without, such as "):
        model.save_pretrained(tmp_path)
