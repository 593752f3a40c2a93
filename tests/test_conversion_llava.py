"""LLaVA by the command line: with an adapter that is the identity, H-MBA sees a still picture as LLaVA does."""

import inspect
import json

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionModel,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from original_checkpoints import (
    IMAGE_TOKEN_ID,
    LLAVA_TEXT,
    LLAVA_WORDS,
    PICTURES,
    llava_config,
    pretend_hub,
    run_conversion,
    save_llava,
    save_tokenizer,
    save_weights,
)
from tiny_models import tiny_tower


def convert(source, output, *words):
    """Convert, load, and see that every tensor found its place."""
    run_conversion("convert_llava.py", "--checkpoint", source, "--output_dir", output, *words)
    model, info = AutoModelForImageTextToText.from_pretrained(output, output_loading_info=True)
    assert not any(info.values())
    return model


def prompt():
    return torch.tensor([[1, 10, 11, *[IMAGE_TOKEN_ID] * 4, 12, 13, 14]])


def test_a_still_picture_has_llavas_logits_however_often_it_is_repeated(tmp_path):
    llava, picture = save_llava(tmp_path / "llava", llava_config()), torch.randn(1, 3, 28, 28)
    wanted = llava(input_ids=prompt(), pixel_values=picture).logits
    model = convert(tmp_path / "llava", tmp_path / "ours")
    assert (model.config.adapter, model.config.gated, model.config.projector_hidden_act) == ("mamba", True, "gelu")
    for frames in (1, 2, 3, 5, 8):
        clip = picture[:, None].expand(-1, frames, -1, -1, -1)
        assert_close(model(prompt(), pixel_values_videos=clip).logits, wanted, atol=1e-5, rtol=0)
    other = model(prompt(), pixel_values_videos=torch.randn(1, 1, 3, 28, 28)).logits
    assert (other - wanted).abs().max() > 1e-2


@pytest.mark.parametrize(
    "values",
    [
        {"multimodal_projector_bias": False},
        {"projector_hidden_act": "relu"},
        {"vision_feature_layer": 1},
        {"vision_feature_layer": [-1]},
        {"vision": "siglip_vision_model", "vision_feature_select_strategy": "full", "vision_feature_layer": -1},
        {
            "vision": "siglip_vision_model",
            "vision_values": {"image_size": 30},  # no patch covers the last two pixels, as of SigLIP so400m at 384
            "vision_feature_select_strategy": "full",
        },
        {"text": "qwen2", "text_values": {"tie_word_embeddings": True}},
        {"text": "mistral", "text_values": {"num_key_value_heads": 2}},
    ],
    ids=lambda values: "-".join(f"{name}={value}" for name, value in values.items())[:60],
)
def test_towers_projectors_and_language_models_that_fit_are_taken(values, tmp_path):
    llava = save_llava(tmp_path / "llava", llava_config(**values))
    picture = torch.randn(1, 3, *[llava.config.vision_config.image_size] * 2)
    wanted = llava(input_ids=prompt(), pixel_values=picture).logits
    model = convert(tmp_path / "llava", tmp_path / "ours", "--verify")
    seen = picture[:, None, :, :28, :28]
    assert_close(model(prompt(), pixel_values_videos=seen).logits, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_type", ["llava_next", "llava_next_video", "llava_onevision"])
def test_of_llavas_that_read_tiles_the_whole_picture_is_read_as_they_read_it(model_type, tmp_path):
    grid = [[28, 56], [56, 28]]
    values = {"image_grid_pinpoints": grid}
    if model_type == "llava_onevision":
        values |= {"vision": "siglip_vision_model", "vision_feature_select_strategy": "full", "text": "qwen2"}
    llava, picture = save_llava(tmp_path / "llava", llava_config(model_type, **values)), torch.randn(1, 3, 28, 28)
    tiles = torch.cat([picture, torch.randn(2, 3, 28, 28)])[None]  # the whole, then its tiles
    wanted = llava.get_image_features(tiles, image_sizes=torch.tensor([[28, 56]])).pooler_output[0][:4]
    model = convert(tmp_path / "llava", tmp_path / "ours")
    assert_close(model.get_video_features(picture[:, None]).pooler_output[0], wanted, atol=1e-5, rtol=0)
    text = torch.tensor([[1, 10, 11, 12]])
    assert_close(model(text).logits, llava(input_ids=text).logits, atol=1e-5, rtol=0)


def test_video_llava_gives_the_tower_that_sees_pictures(tmp_path, capsys):
    llava, picture = save_llava(tmp_path / "llava", llava_config("video_llava")), torch.randn(1, 3, 28, 28)
    taken = inspect.signature(llava.forward).parameters
    name = "pixel_values" if "pixel_values" in taken else "pixel_values_images"  # until 5.20 is the oldest
    wanted = llava(input_ids=prompt(), **{name: picture}).logits
    model = convert(tmp_path / "llava", tmp_path / "ours")
    assert "video_tower.embeddings.class_embedding\n" in capsys.readouterr().out
    assert_close(model(prompt(), pixel_values_videos=picture[:, None]).logits, wanted, atol=1e-5, rtol=0)


def test_a_tied_head_that_the_file_holds_twice_must_be_the_embeddings(tmp_path):
    values = {"text": "qwen2", "text_values": {"tie_word_embeddings": True}}
    llava, path = save_llava(tmp_path / "llava", llava_config(**values)), tmp_path / "llava" / "model.safetensors"
    head = llava.lm_head.weight.detach().clone()
    save_file({**load_file(path), "lm_head.weight": head}, path, {"format": "pt"})
    assert torch.equal(convert(tmp_path / "llava", tmp_path / "ours").lm_head.weight, head)
    save_file({**load_file(path), "lm_head.weight": head + 1}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="lm_head.weight must equal its alias .*, got other values"):
        convert(tmp_path / "llava", tmp_path / "other")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vision_feature_layer": [-2, -1]}, r"vision_feature_layer must be one layer, got \[-2, -1\]"),
        ({"vision_feature_select_strategy": "full"}, "one feature for each of 4 patches, got 5 of CLIP"),
        ({"vision": "siglip_vision_model"}, "one feature for each of 4 patches, got 3 of Siglip"),
        ({"text": "granite"}, "the language model must be without .*, which LLaVA ignores, got"),
        ({"vision": "pixtral", "vision_feature_select_strategy": "full"}, "got PixtralVisionModel, which joins them"),
        ({"model_type": "vipllava"}, r"model_type must be one of \['llava', .*\], got 'vipllava'"),
    ],
)
def test_what_would_see_otherwise_is_refused(values, message, tmp_path):
    folder = tmp_path / "llava"
    folder.mkdir()
    llava_config(**values).save_pretrained(folder)
    save_tokenizer(folder, LLAVA_WORDS, ["<image>"])
    save_file({"lm_head.weight": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        convert(folder, tmp_path / "ours")


def test_another_tower_for_a_checkpoint_that_has_its_own_is_refused(tmp_path):
    save_llava(tmp_path / "llava", llava_config())
    with pytest.raises(ValueError, match="--vision must be absent for a layout with a tower of its own, got"):
        convert(tmp_path / "llava", tmp_path / "ours", "--vision", "openai/clip-vit-large-patch14")


def old_names(state, tower="vision_tower.vision_model."):
    """Give a state dict the names that transformers wrote before 4.52."""
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix("model.").replace("vision_tower.", tower)
        name = f"language_model.{name}" if name.startswith("lm_head") else name
        renamed[name.replace("language_model.", "language_model.model.", 1) if "lm_head" not in name else name] = (
            tensor
        )
    return renamed


def test_the_names_of_older_transformers_are_known(tmp_path):
    llava = save_llava(tmp_path / "llava", llava_config())
    save_file(old_names(llava.state_dict()), tmp_path / "llava" / "model.safetensors", {"format": "pt"})
    picture = torch.randn(1, 3, 28, 28)
    wanted = llava(input_ids=prompt(), pixel_values=picture).logits
    model = convert(tmp_path / "llava", tmp_path / "ours")
    assert_close(model(prompt(), pixel_values_videos=picture[:, None]).logits, wanted, atol=1e-5, rtol=0)


def save_original_llava(folder, clip, projector="mlp2x_gelu", holds_tower=False, words=LLAVA_WORDS, **settings):
    """Save a LLaVA as its own code does, its tower beside it, and return what transformers' class makes of it."""
    text = {**LLAVA_TEXT, "vocab_size": words}
    config = LlavaConfig(vision_config=tiny_tower(), text_config=AutoConfig.for_model("llama", **text))
    llava = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in llava.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    tower = CLIPVisionModel(tiny_tower())
    tower.load_state_dict(llava.model.vision_tower.state_dict())
    tower.save_pretrained(clip)
    (clip / "preprocessor_config.json").write_text(json.dumps(PICTURES))
    causal = LlamaForCausalLM(config.text_config)
    causal.model.load_state_dict(llava.model.language_model.state_dict())
    causal.lm_head.load_state_dict(llava.lm_head.state_dict())
    weights, layers = dict(causal.state_dict()), llava.model.multi_modal_projector
    if projector == "mlp2x_gelu":
        pairs = {"0": layers.linear_1, "2": layers.linear_2}
        weights |= {f"model.mm_projector.{i}.{k}": v for i, x in pairs.items() for k, v in x.state_dict().items()}
    else:
        weights |= {f"model.mm_projector.{k}": v for k, v in layers.linear_1.state_dict().items()}
        layers.linear_2, layers.act = torch.nn.Identity(), torch.nn.Identity()
    if holds_tower:
        start = "model.vision_tower.vision_tower.vision_model."
        weights |= {f"{start}{name}": tensor.clone() for name, tensor in tower.state_dict().items()}
        with torch.no_grad():
            tower.embeddings.class_embedding.zero_()
        tower.save_pretrained(clip)  # so that the checkpoint's own is told from it
    folder.mkdir()
    save_weights(folder, weights, "sharded bin")
    save_tokenizer(folder, words)
    facts = {"model_type": "llava", "mm_vision_tower": str(clip), "mm_vision_select_layer": -2, **text}
    (folder / "config.json").write_text(json.dumps({**facts, "mm_projector_type": projector, **settings}))
    return llava


@pytest.mark.parametrize("holds_tower", [False, True])
@pytest.mark.parametrize("projector", ["mlp2x_gelu", "linear"])
def test_llavas_own_layout_gives_the_same_logits(projector, holds_tower, tmp_path):
    source = tmp_path / "llava"
    llava = save_original_llava(source, tmp_path / "clip", projector, holds_tower)
    picture, text = torch.randn(1, 3, 28, 28), [torch.tensor([[1, 10]]), torch.tensor([[12, 13]])]
    features = llava.get_image_features(picture).pooler_output[0][None]
    embeddings = llava.get_input_embeddings()
    wanted = llava(inputs_embeds=torch.cat([embeddings(text[0]), features, embeddings(text[1])], dim=1)).logits
    model = convert(source, tmp_path / "ours", "--verify")
    assert model.config.video_token_id == LLAVA_WORDS and model.config.text_config.vocab_size == LLAVA_WORDS + 1
    ids = torch.cat([text[0], torch.full((1, 4), LLAVA_WORDS), text[1]], dim=1)
    logits = model(ids, pixel_values_videos=picture[:, None]).logits
    assert_close(logits[..., :LLAVA_WORDS], wanted, atol=1e-5, rtol=0)
    for matrix in (model.get_input_embeddings().weight, model.lm_head.weight):
        assert_close(matrix[LLAVA_WORDS], matrix[:LLAVA_WORDS].mean(0))


@pytest.mark.parametrize("settings", [{"mm_projector_type": "mlp3x_gelu"}, {"mm_vision_select_feature": "cls_patch"}])
def test_an_original_of_another_form_is_refused(settings, tmp_path):
    save_original_llava(tmp_path / "llava", tmp_path / "clip", **settings)
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got '{settings[name]}'"):
        convert(tmp_path / "llava", tmp_path / "ours")


def ask(folder, picture):
    """Return what a processor makes of a question about a picture."""
    processor = AutoProcessor.from_pretrained(folder)
    chat = [
        {"role": "user", "content": [{"type": "video", "video": [picture]}, {"type": "text", "text": "word5"}]},
        {"role": "assistant", "content": "word6"},
        {"role": "user", "content": "word7"},
    ]
    return processor, processor.apply_chat_template(chat, add_generation_prompt=True)


def test_llava_1_5_is_asked_in_the_words_that_it_was_trained_with(tmp_path):
    save_llava(tmp_path / "llava", llava_config(), template="{{ 'ASSISTANT:' ~ raise_exception('not asked for') }}")
    convert(tmp_path / "llava", tmp_path / "ours")
    processor, text = ask(tmp_path / "ours", Image.new("RGB", (28, 28), (10, 20, 30)))
    assert text.endswith(" USER: <image>\nword5 ASSISTANT: word6</s>USER: word7 ASSISTANT:")
    inputs = processor(text="<image> word5", videos=[[Image.new("RGB", (28, 28))]], return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == [*[IMAGE_TOKEN_ID] * 4, 5]
    mean, std = torch.tensor(PICTURES["image_mean"]), torch.tensor(PICTURES["image_std"])
    assert_close(inputs["pixel_values_videos"][0, 0, :, 0, 0], -mean / std, atol=1e-5, rtol=0)
    assert (processor.tokenizer.pad_token, processor.video_processor.num_frames) == ("</s>", 5)


def test_another_llama_is_asked_in_the_words_of_its_own_template(tmp_path):
    template = (
        "{% for message in messages %}[{{ message['role'] }}]{% for block in message['content'] %}"
        "{% if block['type'] == 'image' %}<image>|{% else %}{{ block['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    save_llava(tmp_path / "llava", llava_config(), template)
    named = tmp_path / "llava" / "additional_chat_templates"
    named.mkdir()
    (named / "brief.jinja").write_text(f"Be brief. {template}")
    convert(tmp_path / "llava", tmp_path / "ours")
    processor, text = ask(tmp_path / "ours", Image.new("RGB", (28, 28)))
    assert text == "[user]<image>|word5[assistant]word6[user]word7"
    picture = {"type": "video", "video": [Image.new("RGB", (28, 28))]}
    question = [{"role": "user", "content": [picture]}]
    assert processor.apply_chat_template(question, "brief") == "Be brief. [user]<image>|"
    convert(tmp_path / "llava", tmp_path / "vicuna", "--chat_template", "vicuna")
    _, text = ask(tmp_path / "vicuna", Image.new("RGB", (28, 28)))
    assert text.endswith("USER: word7 ASSISTANT:")


def test_the_card_names_the_llava_on_the_hub(tmp_path, monkeypatch):
    save_llava(tmp_path / "llava", llava_config())
    pretend_hub(monkeypatch, org__llava=tmp_path / "llava")
    convert("org/llava", tmp_path / "ours", "--license", "llama2")
    card = ModelCard.load(tmp_path / "ours" / "README.md")
    assert (card.data.base_model, card.data.license) == (["org/llava"], "llama2")
    assert "Made of `org/llava` by `hmba convert llava`" in card.text


def test_the_adapter_learns_after_conversion(tmp_path):
    save_llava(tmp_path / "llava", llava_config())
    model = convert(tmp_path / "llava", tmp_path / "ours", "--num_frames", "3", "--seed", "1").train()
    assert model.config.num_frames == 3
    model(prompt(), pixel_values_videos=torch.randn(1, 3, 3, 28, 28), labels=prompt()).loss.backward()
    assert model.model.temporal_adapter.gate.grad.any()
    written = load_file(tmp_path / "ours" / "model.safetensors")
    adapter = {name for name in written if name.startswith("model.temporal_adapter.")}
    run_conversion(
        "convert_llava.py",
        "--checkpoint",
        tmp_path / "llava",
        "--output_dir",
        tmp_path / "again",
        "--num_frames",
        3,
        "--seed",
        1,
    )
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert adapter and all(torch.equal(written[name], again[name]) for name in adapter)
