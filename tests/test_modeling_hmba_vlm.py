"""H-MBA on a vision-language model: what it is made of, loaded from and saved to, and what it refuses."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, MllamaConfig

from hmba_hf import HMBAVLMConfig, HMBAVLMForConditionalGeneration, HMBAVLMModel
from hmba_hf.families import family_of
from tiny_models import open_adapter
from tiny_vlm_bases import save_vlm, tiny_vlm


@pytest.fixture(scope="module")
def vlm():
    return tiny_vlm("qwen3_vl")


@pytest.fixture(scope="module")
def base(vlm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_vlm("qwen3_vl", folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(base):
    model = HMBAVLMForConditionalGeneration.from_base_pretrained(base, num_frames=3)
    open_adapter(model.model.temporal_adapter)
    return model


@pytest.fixture
def clip(vlm):
    """Inputs about a clip of two earlier frames and the current one."""
    past = {f"past_{name}": value for name, value in vlm.pictures(1, 2).items()}
    return {**vlm.inputs(), **past, "past_lengths": torch.tensor([2])}


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def test_all_auto_classes_load_what_is_saved(model, clip, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded) is HMBAVLMForConditionalGeneration
    torch.testing.assert_close(logits(loaded, clip), logits(model, clip))
    assert loaded.generation_config.to_dict() == model.generation_config.to_dict()
    without_head = AutoModel.from_pretrained(tmp_path)
    assert type(without_head) is HMBAVLMModel
    with torch.no_grad():
        hidden_states = without_head(**clip).last_hidden_state
        wanted = model.model(**clip).last_hidden_state
    torch.testing.assert_close(hidden_states, wanted)


def test_the_weights_of_the_base_keep_their_names_behind_one_prefix(vlm, model):
    names = {name for name in model.state_dict() if not name.startswith("model.temporal_adapter.")}
    assert names == {f"model.base.{name}" for name in vlm.model.state_dict()}


def test_a_base_in_bfloat16_has_an_adapter_in_float32(base, clip, tmp_path):
    model = HMBAVLMForConditionalGeneration.from_base_pretrained(base, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    for one in (model, HMBAVLMForConditionalGeneration.from_pretrained(tmp_path)):
        assert {weight.dtype for weight in one.model.base.parameters()} == {torch.bfloat16}
        assert {weight.dtype for weight in one.model.temporal_adapter.parameters()} == {torch.float32}
        alone = {name: value for name, value in clip.items() if not name.startswith("past_")}
        assert torch.equal(logits(one, clip), logits(one.model.base, alone))


def test_cached_rows_give_what_pixels_give(model, clip):
    past = {name: clip[name] for name in clip if name.startswith("past_")}
    pictures = {"pixel_values": clip["pixel_values"], "image_grid_thw": clip["image_grid_thw"]}
    earlier = {"pixel_values": past["past_pixel_values"], "image_grid_thw": past["past_image_grid_thw"]}
    with torch.no_grad():
        rows = [*model.get_frame_features(**earlier), *model.get_frame_features(**pictures)]
    cached = {name: clip[name] for name in clip if name not in past} | {"frame_features": [torch.stack(rows)]}
    assert torch.equal(logits(model, cached), logits(model, clip))


@pytest.mark.parametrize("adapter", ["none", "mean", "transformer"])
def test_baselines_go_on_a_base_too(base, clip, adapter):
    model = HMBAVLMForConditionalGeneration.from_base_pretrained(base, adapter=adapter, num_frames=3)
    alone = {name: value for name, value in clip.items() if not name.startswith("past_")}
    is_blind = torch.equal(logits(model, clip), logits(model, alone))
    assert is_blind == (adapter != "mean")  # the mean has no gate that starts closed


def test_a_row_of_the_table_names_its_parts(model):
    family = family_of(model)
    parts = {family.part_of(name) for name, _ in model.named_parameters()}
    assert parts == {"adapter", "language_model", "vision"}


def test_an_h_mba_is_no_base(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must be a vision-language model of transformers, got 'hmba_vlm'"):
        HMBAVLMForConditionalGeneration.from_base_pretrained(str(tmp_path))


def test_a_model_of_text_alone_is_no_base(tmp_path):
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the base must be a vision-language model of transformers, got 'llama'"):
        HMBAVLMForConditionalGeneration.from_base_pretrained(str(tmp_path))


def test_the_attention_of_a_base_may_be_chosen(base):
    model = HMBAVLMForConditionalGeneration.from_base_pretrained(base, attn_implementation="eager")
    assert model.model.base.config.get_text_config()._attn_implementation == "eager"


def say_tied_on_top(config):
    config.tie_word_embeddings = True


def say_tied_below(config):
    config.tie_word_embeddings = False
    config.get_text_config().tie_word_embeddings = True


@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen2_5_vl"])
@pytest.mark.parametrize("say", [say_tied_on_top, say_tied_below])
@pytest.mark.parametrize("own_head", [True, False])
def test_a_head_is_tied_where_that_of_the_base_is(name, say, own_head, tmp_path):
    vlm = tiny_vlm(name)
    say(vlm.model.config)
    head = vlm.model.get_output_embeddings()
    if own_head or say is say_tied_below:
        head.weight = torch.nn.Parameter(torch.randn_like(head.weight))
    vlm.model.save_pretrained(tmp_path / "base")
    alone = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    model = HMBAVLMForConditionalGeneration.from_base_pretrained(str(tmp_path / "base"))
    model.save_pretrained(tmp_path / "saved")
    for one in (model, HMBAVLMForConditionalGeneration.from_pretrained(tmp_path / "saved")):
        assert torch.equal(logits(one, vlm.inputs()), logits(alone, vlm.inputs()))


def test_the_vocabulary_may_grow(base, clip):
    model = HMBAVLMForConditionalGeneration.from_base_pretrained(base)
    size = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(size + 3)
    assert logits(model, clip).shape[-1] == size + 3
    assert model.config.get_text_config().vocab_size == size + 3


OFFLOADED = {
    "adapter": {"model.temporal_adapter": "disk", "model.base": "cpu"},
    "base": {"model.temporal_adapter": "cpu", "model.base": "disk"},
}


@pytest.mark.parametrize("device_map", OFFLOADED.values(), ids=OFFLOADED)
def test_a_part_may_lie_on_a_disk(model, clip, device_map, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = HMBAVLMForConditionalGeneration.from_pretrained(
        tmp_path, device_map=device_map, offload_folder=tmp_path / "disk"
    )
    torch.testing.assert_close(logits(loaded, clip), logits(model, clip))
    answer = loaded.generate(**clip, max_new_tokens=4)
    assert torch.equal(answer, model.generate(**clip, max_new_tokens=4))


def test_options_that_nothing_reads_are_refused(base):
    with pytest.raises(ValueError, match=r"options must be those of loading or values of HMBAVLMConfig, got \['gate'"):
        HMBAVLMForConditionalGeneration.from_base_pretrained(base, gate=True)


def test_a_base_without_the_door_is_refused_by_name(tmp_path):
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_global_layers": 1,
        "attention_heads": 2,
        "image_size": 28,
    }
    vision |= {"intermediate_size": 16, "vision_output_dim": 32, "intermediate_layers_indices": [0]}
    text = {"hidden_size": 16, "num_hidden_layers": 2, "cross_attention_layers": [1], "vocab_size": 64}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16, "pad_token_id": 0}
    config = MllamaConfig(vision_config=vision, text_config=text, image_token_index=60)
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="got MllamaForConditionalGeneration, which lacks an argument mm_encoder_outp"
    ):
        HMBAVLMForConditionalGeneration.from_base_pretrained(str(tmp_path))


@pytest.mark.parametrize("config", [LlamaConfig(), CLIPVisionConfig()], ids=lambda config: config.model_type)
def test_a_configuration_without_pictures_in_prompts_is_refused(config):
    with pytest.raises(ValueError, match=f"base_config must have an image_token_id, got '{config.model_type}'"):
        HMBAVLMConfig(base_config=config)


@pytest.mark.parametrize("held", ["Qwen/Qwen3-VL-2B-Instruct", {"text_config": {}}], ids=["name", "no model type"])
def test_the_configuration_of_a_base_names_its_model_type(held):
    with pytest.raises(ValueError, match="base_config must be a configuration or a dict with its model_type, got"):
        HMBAVLMConfig(base_config=held)


def test_the_configuration_of_a_base_alone_is_refused(base):
    with pytest.raises(ValueError, match=r"\['image_token_id'\] must be values of base_config"):
        HMBAVLMConfig.from_pretrained(base)


def test_a_base_that_lacks_weights_is_refused(base, tmp_path):
    save_vlm("qwen3_vl", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"must hold every weight that is read, in its shape, got none for lm_head"):
        HMBAVLMForConditionalGeneration.from_base_pretrained(str(tmp_path))


def test_a_checkpoint_that_lacks_weights_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.temporal_adapter.gate"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"got none for model.temporal_adapter.gate"):
        HMBAVLMForConditionalGeneration.from_pretrained(tmp_path)


def test_a_configuration_holds_no_private_keys(base, tmp_path):
    HMBAVLMForConditionalGeneration.from_base_pretrained(base).config.save_pretrained(tmp_path)
    held = json.loads((tmp_path / "config.json").read_text())
    held["base_config"]["_attn_implementation_internal"] = "x"
    with pytest.raises(ValueError, match="base_config must hold no private keys"):
        HMBAVLMConfig.from_dict(held)


WRONG = {
    "counts": ({"past_lengths": torch.tensor([1])}, "as many as past_lengths tells, 1 of 4 tokens, got 2 of 8"),
    "pictures": ({"past_lengths": torch.tensor([1, 1])}, "picture_tokens must tell the tokens of each picture"),
    "tokens": ({"picture_tokens": torch.tensor([7])}, "picture_tokens must be as many as the rows"),
    "both": ({"mm_encoder_outputs": {"image": "any"}}, "pictures must come as pixels or as mm_encoder_outputs"),
    "no current": ({"pixel_values": None}, "earlier frames must come with the pictures of the current ones"),
    "clips": ({"frame_features": []}, "frame_features must be one for each of 1 pictures, got 0"),
    "NaN": ({"past_pixel_values": torch.full((8, 96), float("nan"))}, "pixel_values must be finite"),
}


@pytest.mark.parametrize("change,message", WRONG.values(), ids=WRONG)
def test_frames_that_do_not_fit_are_refused(model, clip, change, message):
    with pytest.raises(ValueError, match=message):
        model(**clip | change)
    with pytest.raises(ValueError, match=message):
        model.generate(**clip | change, max_new_tokens=1)


def test_frames_of_one_clip_with_unlike_tokens_are_refused(vlm, model, clip):
    grid = clip["past_image_grid_thw"].clone()
    merge = vlm.model.config.vision_config.spatial_merge_size
    patches = int(grid[0].prod())
    grid[0] = torch.tensor([1, merge, patches // merge])
    grid[1] = torch.tensor([1, merge, patches // merge - merge])
    pixels = clip["past_pixel_values"][: int(grid.prod(dim=1).sum())]
    with pytest.raises(ValueError, match="frames of one clip must have the same number of tokens"):
        model(**clip | {"past_image_grid_thw": grid, "past_pixel_values": pixels})
