"""A pretrained vision tower and a pretrained language model, joined by a fresh adapter."""

import pytest
import torch
from tokenizers import Tokenizer, models
from torch.testing import assert_close
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hmba_hf import HMBAForConditionalGeneration
from tiny_models import NUM_PATCHES, tiny_config, tiny_inputs

WORDS = 50


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


def save_language_model(folder, vocab_size=WORDS, dtype=torch.float32, **kwargs):
    """Save a tiny Llama and a tokenizer of `WORDS` words; return the model."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=vocab_size, **kwargs)).to(dtype).eval()
    model.generation_config.update(top_p=0.5, do_sample=True)
    model.save_pretrained(folder)
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"word{i}": i for i in range(3, WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return model


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


def test_values_of_the_config_may_be_given(vision, tmp_path):
    save_language_model(tmp_path / "text")
    model = join(vision[0], tmp_path / "text", adapter="mean", video_token="word7")
    assert model.config.adapter == "mean"
    assert model.config.video_token_id == 7
    assert model.config.text_config.vocab_size == WORDS


def test_the_language_models_generation_settings_stay(vision, tmp_path):
    save_language_model(tmp_path / "text")
    model = join(vision[0], tmp_path / "text")
    assert (model.generation_config.top_p, model.generation_config.do_sample) == (0.5, True)
    assert model.generation_config.suppress_tokens == [WORDS]
    inputs = prompt(model)
    assert not (model.generate(**inputs, max_new_tokens=4)[:, inputs["input_ids"].shape[1] :] == WORDS).any()


@pytest.mark.parametrize("dtype", ["auto", torch.float16, torch.bfloat16])
def test_towers_of_two_precisions_work_together(vision, dtype, tmp_path):
    save_language_model(tmp_path / "text", dtype=torch.bfloat16)
    model = join(vision[0], tmp_path / "text", dtype=dtype)
    own = torch.bfloat16 if dtype == "auto" else dtype
    assert model.model.vision_tower.dtype == (torch.float32 if dtype == "auto" else dtype)
    assert model.lm_head.weight.dtype == model.model.temporal_adapter.gate.dtype == own
    decays = [p for name, p in model.named_parameters() if name.endswith("A_log")]
    assert {decay.dtype for decay in decays} == {torch.float32}
    assert_close(torch.exp(decays[0][0]), torch.arange(1.0, 17))
    assert model(**prompt(model)).logits.dtype == own


def test_a_joined_model_survives_saving(vision, tmp_path):
    save_language_model(tmp_path / "text", tie_word_embeddings=True)
    model = join(vision[0], tmp_path / "text")
    model.save_pretrained(tmp_path / "joined")
    loaded, info = HMBAForConditionalGeneration.from_pretrained(tmp_path / "joined", output_loading_info=True)
    assert not any(info.values())
    inputs = prompt(model)
    assert_close(loaded(**inputs).logits, model(**inputs).logits, atol=1e-6, rtol=1e-6)
    assert loaded.generation_config.suppress_tokens == [WORDS]
