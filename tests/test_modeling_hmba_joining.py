"""A pretrained vision tower and a pretrained language model, joined by a fresh adapter."""

import pytest
import torch
from tokenizers import Tokenizer, models
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
)

from hmba_hf import HMBAForConditionalGeneration
from tiny_models import NUM_PATCHES, tiny_config, tiny_inputs

WORDS = 50
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "qwen3": GROUPED,
    "gemma2": {**GROUPED, "final_logit_softcapping": 2.0},
    "granite": {**GROUPED, "logits_scaling": 8.0},
    "cohere": {**GROUPED, "logit_scale": 0.0625},
    "phi": SIZES,  # has a bias in its head
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},  # has its embeddings elsewhere
    "opt": {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 16},  # has narrower ones
    "gpt_neox": SIZES,
}
REFUSED = {
    "mamba": (
        {"hidden_size": 32, "num_hidden_layers": 2},
        r"MambaModel, which does not take \['position_ids'",  # nor a cache, until transformers 5.23
    ),
    "bloom": ({"hidden_size": 32, "n_layer": 2, "n_head": 4}, r"BloomModel, which does not take \['position_ids'\]"),
    "hyperclovax": ({**GROUPED, "logits_scaling": 8.0}, "be linear .* got HyperCLOVAXForCausalLM"),
}
# What each gives before the patches: a class token, nothing, a class token and four registers.
TOWERS = {
    "vit": (SIZES, 1),
    "siglip_vision_model": (SIZES, 0),
    "dinov2_with_registers": ({**SIZES, "mlp_ratio": 2}, 5),
}


@pytest.fixture(params=["vision tower", "vision half"])
def vision(request, tmp_path):
    """A saved vision tower, by itself or in a vision-text model, and its weights."""
    config, folder = tiny_config().vision_config, tmp_path / "vision"
    if request.param == "vision tower":
        tower = CLIPVisionModel(config)
        tower.save_pretrained(folder)
        return folder, tower.state_dict()
    text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": WORDS, "bos_token_id": 1, "eos_token_id": 2}
    dual = CLIPModel(CLIPConfig(vision_config=config.to_dict(), text_config=text))
    dual.save_pretrained(folder)
    return folder, dual.vision_model.state_dict()


def save_language_model(folder, family="llama", dtype=torch.float32, **kwargs):
    """Save a tiny causal language model and a tokenizer of `WORDS` words; return the model."""
    sizes = {**SIZES, "vocab_size": WORDS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**sizes, **kwargs})).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 or name == "lm_head.bias":
                parameter.normal_(std=0.2)
    model.generation_config.update(top_p=0.5, do_sample=True)
    model.save_pretrained(folder)
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"word{i}": i for i in range(3, WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return model


def save_tower(folder, model_type="clip_vision_model", sizes=SIZES, image_size=28, patch_size=14):
    """Save a tiny vision tower and return the folder."""
    config = AutoConfig.for_model(model_type, **sizes, image_size=image_size, patch_size=patch_size)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def join(vision, text, **kwargs):
    return HMBAForConditionalGeneration.from_vision_text_pretrained(vision, text, adapter_num_heads=4, **kwargs)


def prompt(model):
    """Build a prompt with one video for a model whose words end where the video token begins."""
    inputs = tiny_inputs()
    inputs["input_ids"] = torch.tensor([[1, 10, *[model.config.video_token_id] * NUM_PATCHES, 11]])
    return {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}


@pytest.mark.parametrize("tied", [False, True])
def test_the_joined_model_holds_both_models(vision, tied, tmp_path):
    folder, tower = vision
    causal = save_language_model(tmp_path / "text", tie_word_embeddings=tied)
    model = join(folder, tmp_path / "text")
    assert_close(model.model.vision_tower.state_dict(), tower, atol=0, rtol=0)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied == model.config.tie_word_embeddings
    ids = torch.tensor([[1, 5, 6, 7]])
    assert_close(model(ids).logits[..., :WORDS], causal(ids).logits, atol=1e-6, rtol=1e-6)


def test_a_head_of_its_own_stays_also_where_the_configuration_says_that_it_is_tied(vision, tmp_path):
    folder, _ = vision
    causal = save_language_model(tmp_path / "text")
    causal.config.tie_word_embeddings = True
    causal.save_pretrained(tmp_path / "text")
    model = join(folder, tmp_path / "text")
    model.save_pretrained(tmp_path / "joined")
    for one in (model, HMBAForConditionalGeneration.from_pretrained(tmp_path / "joined")):
        size = causal.lm_head.weight.shape[0]
        assert torch.equal(one.lm_head.weight[:size], causal.lm_head.weight)
        assert not torch.equal(one.lm_head.weight, one.get_input_embeddings().weight)


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_grow_by_the_video_token(vision, tied, tmp_path):
    save_language_model(tmp_path / "text", tie_word_embeddings=tied)
    model = join(vision[0], tmp_path / "text")
    assert model.config.video_token_id == WORDS
    assert model.config.text_config.vocab_size == WORDS + 1
    assert model.get_input_embeddings().weight.shape[0] == model.lm_head.weight.shape[0] == WORDS + 1
    assert model(**prompt(model), labels=prompt(model)["input_ids"]).loss.isfinite()


def test_spare_embeddings_are_used_for_the_video_token(vision, tmp_path):
    save_language_model(tmp_path / "text", vocab_size=64)
    model = join(vision[0], tmp_path / "text")
    assert (model.config.video_token_id, model.config.text_config.vocab_size) == (WORDS, 64)


def test_the_adapter_starts_as_the_identity_and_learns(vision, tmp_path):
    save_language_model(tmp_path / "text")
    model = join(vision[0], tmp_path / "text").train()
    frames = torch.randn(1, 5, NUM_PATCHES, 32)
    adapter = model.model.temporal_adapter
    assert torch.equal(adapter(frames)[0], frames[:, -1])
    assert_close(torch.exp(adapter.query.latent_mixer.A_log[0]), torch.arange(1.0, 17))
    model(**prompt(model), labels=prompt(model)["input_ids"]).loss.backward()
    assert adapter.gate.grad.any() and model.model.multi_modal_projector.weight.grad.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_every_family_answers_text_as_its_own_class_does(family, tmp_path):
    causal = save_language_model(tmp_path / "text", family, **FAMILIES[family])
    model = join(save_tower(tmp_path / "vision"), tmp_path / "text")
    model.save_pretrained(tmp_path / "joined")
    loaded, info = HMBAForConditionalGeneration.from_pretrained(tmp_path / "joined", output_loading_info=True)
    assert not any(info.values())
    ids = torch.tensor([[1, 5, 6, 7]])
    for joined in (model, loaded):
        assert_close(joined(ids).logits[..., :WORDS], causal(ids).logits, atol=1e-5, rtol=1e-5)
    inputs, greedy = prompt(loaded), {"do_sample": False, "max_new_tokens": 4}
    assert torch.equal(loaded.generate(**inputs, **greedy), loaded.generate(**inputs, **greedy, use_cache=False))


@pytest.mark.parametrize("family", REFUSED)
def test_a_language_model_that_would_answer_otherwise_is_refused(family, tmp_path):
    sizes, message = REFUSED[family]
    save_language_model(tmp_path / "text", family, **sizes)
    with pytest.raises(ValueError, match=f"^(a|the) language model.* must .*{message}"):
        join(save_tower(tmp_path / "vision"), tmp_path / "text")


@pytest.mark.parametrize("size", [28, 30])
@pytest.mark.parametrize("model_type", TOWERS)
def test_every_tower_gives_its_patches_and_nothing_else(model_type, size, tmp_path):
    sizes, others = TOWERS[model_type]
    folder = save_tower(tmp_path / "vision", model_type, sizes, image_size=size)
    save_language_model(tmp_path / "text")
    model, seen = join(folder, tmp_path / "text"), []
    model.model.temporal_adapter.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    inputs = prompt(model)
    assert model(**inputs).logits.isfinite().all()
    hidden = model.get_video_features(inputs["pixel_values_videos"], output_hidden_states=True).hidden_states[-2]
    assert hidden.shape[1] == others + NUM_PATCHES
    assert_close(seen[0][0], hidden[:, others:], atol=1e-5, rtol=1e-5)
    new = model.generate(**inputs, max_new_tokens=2, eos_token_id=None)
    assert new.shape[1] == inputs["input_ids"].shape[1] + 2


def test_a_tower_that_merges_patches_is_refused(tmp_path):
    sizes = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
    save_language_model(tmp_path / "text")
    with pytest.raises(ValueError, match=r"got SwinModel: .* 16 patches or more, channels\), got \(2, 4, 32\)"):
        join(save_tower(tmp_path / "vision", "swin", sizes, patch_size=7), tmp_path / "text")


@pytest.mark.parametrize(
    ("model_type", "complaint"),
    [
        ("yolos", "whose patches come last, got YolosConfig"),
        ("videomae", "got VideoMAEModel: "),
        ("pixtral", "got PixtralVisionModel: "),  # makes one sequence of several pictures
    ],
)
def test_a_tower_of_another_kind_is_refused(model_type, complaint, tmp_path):
    save_language_model(tmp_path / "text")
    config = AutoConfig.for_model(
        model_type, **SIZES, image_size=[28, 28] if model_type == "yolos" else 28, patch_size=14
    )
    AutoModel.from_config(config).save_pretrained(tmp_path / "vision")
    with pytest.raises(ValueError, match=complaint):
        join(tmp_path / "vision", tmp_path / "text")


def test_a_value_that_the_config_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"or values of HMBAConfig, got \['temporal_stride'\]"):
        join("vision", "text", temporal_stride=(1,))


def test_values_of_the_config_may_be_given(vision, tmp_path):
    save_language_model(tmp_path / "text")
    model = join(vision[0], tmp_path / "text", adapter="mean", video_token="word7")
    assert model.config.adapter == "mean"
    assert model.config.video_token_id == 7
    assert model.config.text_config.vocab_size == WORDS


def test_the_language_models_generation_settings_stay(tmp_path):
    causal = save_language_model(tmp_path / "text")
    causal.generation_config.update(suppress_tokens=[7])
    causal.generation_config.save_pretrained(tmp_path / "text")
    model = join(save_tower(tmp_path / "vision"), tmp_path / "text")
    settings = model.generation_config
    assert (settings.top_p, settings.do_sample, settings.suppress_tokens) == (0.5, True, [7])
    inputs, loud = prompt(model), torch.tensor([7, WORDS])
    model.lm_head.register_forward_hook(lambda m, args, out: out.index_fill(-1, loud, 1e4))
    new = model.generate(**inputs, max_new_tokens=4)[:, inputs["input_ids"].shape[1] :]
    assert not torch.isin(new, loud).any()


def test_there_is_always_a_token_to_pad_with(tmp_path):
    vision, text = save_tower(tmp_path / "vision"), tmp_path / "text"
    causal = save_language_model(text)
    assert join(vision, text).generation_config.pad_token_id == causal.config.eos_token_id
    AutoTokenizer.from_pretrained(text, pad_token="word9").save_pretrained(text)
    assert join(vision, text).generation_config.pad_token_id == 9
    save_language_model(text, pad_token_id=8)
    assert join(vision, text).generation_config.pad_token_id == 8


@pytest.mark.parametrize("dtype", ["auto", torch.float16, torch.float32])
def test_a_joined_model_has_one_dtype_also_when_loaded(vision, dtype, tmp_path):
    save_language_model(tmp_path / "text", dtype=torch.bfloat16)
    model = join(vision[0], tmp_path / "text", dtype=dtype)
    model.save_pretrained(tmp_path / "joined")
    loaded = HMBAForConditionalGeneration.from_pretrained(tmp_path / "joined")
    own = torch.bfloat16 if dtype == "auto" else dtype
    for one in (model, loaded):
        dtypes = {name: parameter.dtype for name, parameter in one.named_parameters()}
        decays = {name for name in dtypes if name.endswith("A_log")}
        assert {dtypes[name] for name in decays} == {torch.float32}
        assert {dtypes[name] for name in dtypes.keys() - decays} == {own}
        assert_close(torch.exp(one.get_parameter(min(decays))[0]), torch.arange(1.0, 17))
        assert one(**prompt(one)).logits.dtype == own
    assert_close(loaded.state_dict(), model.state_dict(), atol=0, rtol=0)


def test_a_joined_model_survives_saving(vision, tmp_path):
    save_language_model(tmp_path / "text", tie_word_embeddings=True)
    model = join(vision[0], tmp_path / "text")
    model.save_pretrained(tmp_path / "joined")
    loaded, info = HMBAForConditionalGeneration.from_pretrained(tmp_path / "joined", output_loading_info=True)
    assert not any(info.values())
    inputs = prompt(model)
    assert_close(loaded(**inputs).logits, model(**inputs).logits, atol=1e-6, rtol=1e-6)
