"""What a join takes of a checkpoint: the tower and the language model that are in it, to the bit, or nothing."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    ViTConfig,
    ViTForImageClassification,
)

from hmba_hf import (
    HMBAForConditionalGeneration,
    HMBAProcessor,
    VideoMambaForVideoClassification,
    VideoMambaForVideoTextRetrieval,
)
from hmba_hf.models.loading_options import split_options
from test_modeling_hmba_joining import join, prompt, save_language_model
from tiny_gguf import VOCABULARY, write_gguf
from tiny_models import assert_equal_weights, tiny_model

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {**SIZES, "image_size": 28, "patch_size": 14}
TOKENS = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
TEXT = {**SIZES, **TOKENS, "num_key_value_heads": 2, "head_dim": 8}
CLIP = {**VISION, "model_type": "clip_vision_model"}
SIGLIP = {**VISION, "model_type": "siglip_vision_model"}
LLAMA = {**TEXT, "model_type": "llama"}


def parts(vision, text, **others):
    return {"vision_config": vision, "text_config": text, **others}


# A checkpoint's model type, the values of its configuration, and where its whole model has the tower.
TAKEN = {
    "clip": ("clip", parts(VISION, {**SIZES, **TOKENS}), "vision_model"),
    "siglip": ("siglip", parts(VISION, {**SIZES, **TOKENS}), "vision_model"),
    "dinov2": ("dinov2", {**VISION, "mlp_ratio": 2}, ""),
    "dinov3": ("dinov3_vit", VISION, ""),
    "vit": ("vit", VISION, ""),
    "llava on clip": ("llava", parts(CLIP, LLAMA), "model.vision_tower"),
    "llava on siglip": ("llava", parts(SIGLIP, LLAMA), "model.vision_tower"),
    "llava_next": ("llava_next", parts(CLIP, LLAMA), "model.vision_tower"),
    "llava_onevision": ("llava_onevision", parts(SIGLIP, {**TEXT, "model_type": "qwen2"}), "model.vision_tower"),
    "paligemma": ("paligemma", parts(SIGLIP, {**TEXT, "model_type": "gemma"}), "model.vision_tower"),
    "gemma3": ("gemma3", parts(SIGLIP, {**TEXT, "model_type": "gemma3_text"}), "model.vision_tower"),
    "smolvlm": ("smolvlm", parts(VISION, LLAMA), "model.vision_model"),
    "idefics3": ("idefics3", parts(VISION, LLAMA), "model.vision_model"),
    "internvl": ("internvl", parts(VISION, {**TEXT, "model_type": "qwen2"}), "model.vision_tower"),
}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
QWEN_VISION = {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "depth": 1, "num_heads": 4}
REFUSED = {
    "siglip2": ("siglip2", parts({**SIZES, "patch_size": 14, "num_patches": 4}, {**SIZES, **TOKENS}), "Siglip2Vision"),
    "qwen2_5_vl": ("qwen2_5_vl", parts(QWEN_VISION, {**TEXT, **ROPE}), "Qwen2_5_VLVisionConfig"),
    "git": (
        "git",
        {**SIZES, **TOKENS, "vision_config": VISION},
        "must have a vision tower of its own, got GitModel",
    ),
    "llama": ("llama", TEXT, "LlamaConfig"),
}


def save_checkpoint(folder, model_type, values):
    """Save a random checkpoint of a family and return its model."""
    config = AutoConfig.for_model(model_type, **values)
    is_answering = type(config) in AutoModelForImageTextToText._model_mapping
    model = (AutoModelForImageTextToText if is_answering else AutoModel).from_config(config)
    model.save_pretrained(folder)
    return model


def drop(folder, part):
    """Delete the weights of a checkpoint that have `part` in their names."""
    path = folder / "model.safetensors"
    weights = {name: weight for name, weight in load_file(path).items() if part not in name}
    assert len(weights) < len(load_file(path))
    save_file(weights, path, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    save_language_model(folder)
    return folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    save_checkpoint(folder, "llava", parts(CLIP, LLAMA))
    return folder


@pytest.mark.parametrize("family", TAKEN)
def test_the_tower_of_a_checkpoint_is_taken_tensor_by_tensor(family, text, tmp_path):
    model_type, values, tower = TAKEN[family]
    own = save_checkpoint(tmp_path, model_type, values).get_submodule(tower)
    model = join(tmp_path, text)
    assert type(model.model.vision_tower) is type(own)
    assert_close(model.model.vision_tower.state_dict(), own.state_dict(), atol=0, rtol=0)


def test_the_tower_of_an_h_mba_is_taken_tensor_by_tensor(text, tmp_path):
    own = tiny_model()
    own.save_pretrained(tmp_path)
    taken = join(tmp_path, text).model.vision_tower
    assert_close(taken.state_dict(), own.model.vision_tower.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("family", REFUSED)
def test_a_checkpoint_without_a_fitting_tower_is_refused_by_name(family, text, tmp_path):
    model_type, values, name = REFUSED[family]
    save_checkpoint(tmp_path, model_type, values)
    with pytest.raises(ValueError, match=name):
        join(tmp_path, text)


def test_what_cannot_be_joined_is_refused_before_weights_are_loaded(text, tmp_path):
    AutoConfig.for_model("qwen2_5_vl", **parts(QWEN_VISION, {**TEXT, **ROPE})).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must have a image_size, got Qwen2_5_VLVisionConfig without one"):
        join(tmp_path, text)


def test_two_joins_of_a_vision_text_model_see_the_same(llava, text):
    frames = torch.randn(1, 2, 3, 28, 28)
    first, second = (join(llava, text).get_frame_features(frames) for _ in range(2))
    assert torch.equal(first, second)


def test_the_tower_of_a_vision_text_model_takes_the_dtype_of_the_language_model(llava, tmp_path):
    save_language_model(tmp_path, dtype=torch.bfloat16)
    assert {weight.dtype for weight in join(llava, tmp_path).model.vision_tower.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("weight", ["encoder.layers.0.self_attn.q_proj", "patch_embedding"])
def test_a_tower_that_lacks_weights_that_are_read_is_refused_with_their_names(weight, text, tmp_path):
    save_checkpoint(tmp_path, "llava", parts(CLIP, LLAMA))
    with pytest.raises(ValueError, match=rf"{tmp_path.name}.* must hold every weight that is read, .*{weight}"):
        join(drop(tmp_path, weight), text)


def test_weights_of_another_shape_are_refused_with_their_names(text, tmp_path):
    AutoModel.from_config(AutoConfig.for_model("vit", **VISION)).save_pretrained(tmp_path)
    ViTConfig(**{**VISION, "image_size": 42}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"in its shape, got none for embeddings\.position_embeddings$"):
        join(tmp_path, text)


def test_a_pooler_that_no_feature_depends_on_may_be_missing(text, tmp_path):
    own = ViTForImageClassification(ViTConfig(**VISION))
    own.save_pretrained(tmp_path)
    taken = join(tmp_path, text).model.vision_tower.state_dict()
    assert all(torch.equal(taken[name], weight) for name, weight in own.vit.state_dict().items())


@pytest.mark.parametrize("lacking", ["lm_head", "layers.1.mlp.up_proj"])
def test_a_language_model_that_lacks_weights_is_refused_with_their_names(lacking, llava, tmp_path):
    save_language_model(tmp_path)
    with pytest.raises(
        ValueError, match=rf"{tmp_path.name} must hold every weight.* got none for .*{lacking}\.weight"
    ):
        join(llava, drop(tmp_path, lacking))


@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_that_was_saved_without_its_head_is_joined_if_its_head_is_tied(tied, llava, tmp_path):
    causal = save_language_model(tmp_path, tie_word_embeddings=tied)
    causal.model.save_pretrained(tmp_path)
    if not tied:
        with pytest.raises(ValueError, match="lm_head.weight"):
            join(llava, tmp_path)
        return
    ids = torch.tensor([[1, 5, 6, 7]])
    assert_close(join(llava, tmp_path)(ids).logits[..., :50], causal(ids).logits)


@pytest.mark.parametrize("family", ["llava on clip", "paligemma", "gemma3", "smolvlm", "clip", "hmba"])
def test_a_vision_text_model_is_no_language_model(family, llava, tmp_path):
    if family == "hmba":
        tiny_model().save_pretrained(tmp_path)
    else:
        save_checkpoint(tmp_path, *TAKEN[family][:2])
    with pytest.raises(ValueError, match=r"must be a language model of text alone, got \w+Config"):
        join(llava, tmp_path)


@pytest.mark.parametrize("quantization", [None, "Q8_0"])
def test_a_language_model_in_a_gguf_file_is_joined_with_plain_weights(quantization, tmp_path):
    write_gguf(tmp_path / "text.gguf", quantization)
    save_checkpoint(tmp_path / "vision", "clip_vision_model", VISION)
    sources, file = (tmp_path / "vision", tmp_path), {"gguf_file": "text.gguf"}
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, **file)
    model = HMBAForConditionalGeneration.from_vision_text_pretrained(*sources, **file, adapter="none")
    processor = HMBAProcessor.from_vision_text_pretrained(*sources, **file, do_normalize=False)
    assert processor.video_token_id == model.config.video_token_id == len(processor.tokenizer) - 1
    assert processor.apply_chat_template([{"role": "user", "content": "a c"}]) == "<user>a c"
    model.save_pretrained(tmp_path / "joined")
    processor.save_pretrained(tmp_path / "joined")
    assert "quantization_config" not in (tmp_path / "joined" / "config.json").read_text()
    loaded = HMBAForConditionalGeneration.from_pretrained(tmp_path / "joined")
    input_ids = torch.tensor([[1, 3, 9, 30]])
    for made in (model, loaded):
        assert_close(made(input_ids).logits[..., : len(VOCABULARY)], plain(input_ids).logits, atol=0, rtol=0)
    assert HMBAProcessor.from_pretrained(tmp_path / "joined").tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    packed = {"text_quantization_config": BitsAndBytesConfig(load_in_4bit=True)}
    with pytest.raises(ValueError, match="quantization_config must be absent with a GGUF file"):
        HMBAForConditionalGeneration.from_vision_text_pretrained(*sources, **file, **packed)


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.99])
def test_a_gguf_file_that_is_cut_short_is_refused_by_name(share, llava, tmp_path):
    write_gguf(tmp_path / "text.gguf")
    whole = (tmp_path / "text.gguf").read_bytes()
    (tmp_path / "text.gguf").write_bytes(whole[: int(share * len(whole))])
    for joined in (HMBAForConditionalGeneration, HMBAProcessor):
        with pytest.raises(ValueError, match="gguf_file must be a whole GGUF file .*, got text.gguf in .*: "):
            joined.from_vision_text_pretrained(llava, tmp_path, text_gguf_file="text.gguf")


def test_a_gguf_file_is_named_as_an_option_of_a_join_and_of_nothing_else(llava, tmp_path):
    write_gguf(tmp_path / "text.gguf")
    for joined in (HMBAForConditionalGeneration, HMBAProcessor):
        with pytest.raises(ValueError, match="got the file .*text.gguf: name it as gguf_file, and its folder"):
            joined.from_vision_text_pretrained(llava, tmp_path / "text.gguf")
    for model_class in (HMBAForConditionalGeneration, VideoMambaForVideoClassification):
        with pytest.raises(ValueError, match="must be in safetensors, got gguf_file='text.gguf'"):
            model_class.from_pretrained(tmp_path, gguf_file="text.gguf")
    with pytest.raises(ValueError, match=r"or those of the halves' files, got \['gguf_file'\]"):
        VideoMambaForVideoTextRetrieval.from_vision_text_pretrained(llava, tmp_path, gguf_file="text.gguf")


def save_updates(base, folder):
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2)).save_pretrained(folder)


@pytest.mark.parametrize("lie", ["alone", "beside their model"])
@pytest.mark.parametrize("part", ["vision", "text"])
def test_low_rank_updates_are_no_part(part, lie, text, llava, tmp_path):
    folder = tmp_path / "updates"
    if lie == "beside their model":
        shutil.copytree(text if part == "text" else llava, folder)
    save_updates(text, folder)
    sources = {"vision": llava, "text": text, part: folder}
    with pytest.raises(ValueError, match=f"must be a whole model, got low-rank updates in {folder}: merge them first"):
        join(**sources)


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_a_learned_prompt_is_no_part_and_is_never_told_to_be_merged(kind, text, llava, tmp_path):
    settings = kind(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(AutoModelForCausalLM.from_pretrained(text), settings).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"got a learned prompt .*, which cannot be merged .*: name its base, {text}"):
        join(llava, tmp_path)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ("4 bits", "quantization_config of .* must be an object of settings, got '4 bits'"),
        ([4], r"quantization_config of .* must be an object of settings, got \[4\]"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            "must hold weights as its .*, got plain ones of .*proj",
        ),
        ({"load_in_8bit": True}, "must hold weights as its .*, got plain ones of .*proj"),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["vision", "text", "joined"])
def test_plain_weights_that_claim_to_be_quantised_are_refused(place, claim, message, text, llava, tmp_path):
    sources = {"vision": llava, "text": text}
    if place == "joined":
        tiny_model().save_pretrained(tmp_path / place)
    else:
        shutil.copytree(sources[place], tmp_path / place)
    file = tmp_path / place / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": claim}))
    with pytest.raises(ValueError, match=message):
        if place == "joined":
            HMBAForConditionalGeneration.from_pretrained(tmp_path / place)
        else:
            join(**{**sources, place: tmp_path / place})


@pytest.mark.parametrize("make", [HMBAForConditionalGeneration, HMBAProcessor], ids=lambda made: made.__name__)
@pytest.mark.parametrize("part", ["vision", "text"])
def test_a_model_in_memory_is_no_part(part, make, text, llava):
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(text), LoraConfig(r=2))
    sources = {"vision": llava, "text": text, part: wrapped}
    with pytest.raises(ValueError, match="must be a folder or a Hub id, got PeftModel: save it whole first"):
        make.from_vision_text_pretrained(**sources)


@pytest.mark.parametrize("settings", [{"load_in_4bit": True}, {"load_in_8bit": True}], ids=str)
@pytest.mark.parametrize("parts", ["text_", ""], ids=["text", "both"])
def test_a_quantised_join_is_saved_and_loaded_as_it_is(parts, settings, llava, tmp_path):
    save_language_model(tmp_path / "text", hidden_size=64, intermediate_size=128)
    model = join(llava, tmp_path / "text", **{f"{parts}quantization_config": BitsAndBytesConfig(**settings)})
    kinds = {name: weight.is_floating_point() for name, weight in model.named_parameters() if ".self_attn." in name}
    assert {is_whole for name, is_whole in kinds.items() if "language_model" in name and "weight" in name} == {False}
    assert all(kinds[name] for name in kinds if "vision_tower" in name) == bool(parts)
    model.save_pretrained(tmp_path / "joined")
    loaded = HMBAForConditionalGeneration.from_pretrained(tmp_path / "joined")
    assert_equal_weights(loaded, model)
    inputs = prompt(model)
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(model.dtype)
    with torch.no_grad():
        assert_close(loaded(**inputs).logits, model(**inputs).logits)
    model.save_pretrained(tmp_path / "again")
    weights = (load_file(tmp_path / folder / "model.safetensors") for folder in ("joined", "again"))
    assert_close(*weights, atol=0, rtol=0)


def test_a_part_that_lies_on_the_disk_is_joined_and_saved(llava, text, tmp_path):
    layers = ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head")
    places = {**dict.fromkeys(layers, "cpu"), "model.layers.1": "disk"}
    model = join(llava, text, text_device_map=places)
    assert set(model.hf_device_map.values()) == {"cpu", "disk"}
    model.save_pretrained(tmp_path)
    loaded, inputs = HMBAForConditionalGeneration.from_pretrained(tmp_path), prompt(model)
    assert_close(loaded(**inputs).logits, model(**inputs).logits)


def test_each_part_is_of_its_own_revision(text, tmp_path):
    towers = {}
    for revision in ("1" * 40, "2" * 40):
        folder = tmp_path / "models--org--tower" / "snapshots" / revision
        towers[revision] = save_checkpoint(folder, "vit", VISION).state_dict()
    for revision, own in towers.items():
        model = join("org/tower", text, vision_revision=revision, vision_cache_dir=tmp_path, token=False)
        assert_close(model.model.vision_tower.state_dict(), own, atol=0, rtol=0)


def test_options_are_of_one_part_or_of_both():
    given = {"token": "t", "text_revision": "b", "vision_token": "v", "num_frames": 3, "vision_feature_layer": -1}
    vision, text, others = split_options(given)
    assert (vision, text) == ({"token": "v"}, {"token": "t", "revision": "b"})
    assert others == {"num_frames": 3, "vision_feature_layer": -1}


@pytest.mark.parametrize("name", ["vision_revison", "text_config", "video_token_id", "lm_head_bias"])
def test_an_option_that_no_part_has_is_refused(name):
    with pytest.raises(ValueError, match=rf"or values of HMBAConfig, got \['{name}'\]"):
        join("vision", "text", **{name: 1})


def test_a_language_model_that_has_its_layers_elsewhere_is_refused(llava, tmp_path):
    experts = {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2}
    save_language_model(tmp_path, "llama4_text", moe_layers=[1], **experts)
    with pytest.raises(ValueError, match="must be the Llama4TextModel of its configuration, got Llama4ForCausalLM"):
        join(llava, tmp_path)


@pytest.mark.parametrize("size", [{"new_num_tokens": 50}, {"new_num_tokens": 30, "pad_to_multiple_of": 16}])
def test_a_vocabulary_keeps_the_video_token(size, llava, text):
    model = join(llava, text)
    assert model.config.video_token_id == 50
    for resized in (model, model.model):
        with pytest.raises(ValueError, match="must keep the video token 50, got (50|32) tokens"):
            resized.resize_token_embeddings(**size)
    assert model.resize_token_embeddings(49, pad_to_multiple_of=8).num_embeddings == 56
    assert model.config.text_config.vocab_size == 56


@pytest.mark.parametrize("given", ["input_ids", "inputs_embeds"])
def test_a_language_model_that_has_lost_the_video_token_is_refused_by_the_first_call(given, llava, text):
    model = join(llava, text)
    inputs = {"input_ids": torch.tensor([[1, 2]])}
    if given == "inputs_embeds":
        inputs = {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}
    model(**inputs)
    model.model.language_model.resize_token_embeddings(50)
    with pytest.raises(ValueError, match="must keep the video token 50, got 50 tokens"):
        model(**inputs)
    with pytest.raises(ValueError, match="must keep the video token 50"):
        model.generate(**inputs, max_new_tokens=1)
