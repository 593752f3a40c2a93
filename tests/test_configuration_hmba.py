import re

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig, Qwen2Config, ResNetConfig, SiglipVisionConfig

from hmba_hf import HMBAConfig, HMBAForConditionalGeneration, HMBAModel
from tiny_models import tiny_config, tiny_model

BRANCHES = ["temporal", "divided_space_time", "joint_space_time"]


def tower(**kwargs):
    return CLIPVisionConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, patch_size=14, **kwargs)


def test_the_defaults_are_the_papers():
    config = HMBAConfig()
    assert config.model_type == "hmba"
    assert (config.adapter, config.fusion, config.gated, config.latent_mamba) == ("mamba", "query", True, True)
    assert (config.num_frames, config.temporal_strides, config.branches) == (5, [1, 2], BRANCHES)
    assert (config.bidirectional_time, config.share_mixers, config.fusion_weights) == (True, False, None)
    assert (config.state_size, config.conv_kernel, config.expand, config.adapter_num_heads) == (16, 4, 2, 8)


def test_the_default_towers_are_clip_and_a_7b_llama():
    config = HMBAConfig()
    vision, text = config.vision_config, config.text_config
    assert isinstance(vision, CLIPVisionConfig) and isinstance(text, LlamaConfig)
    assert (vision.hidden_size, vision.num_hidden_layers, vision.image_size, vision.patch_size) == (1024, 24, 224, 14)
    assert (text.hidden_size, text.num_hidden_layers, text.vocab_size) == (4096, 32, 32003)
    assert (config.vision_feature_layer, config.video_token_id, config.num_patches) == (-2, 32000, 256)
    assert config.get_text_config() is text


def test_released_is_the_released_codes_configuration():
    config = HMBAConfig.released(num_frames=8)
    assert (config.num_frames, config.temporal_strides, config.branches) == (8, [1], BRANCHES[1:])
    assert (config.bidirectional_time, config.share_mixers) == (False, True)
    assert (config.fusion, config.latent_mamba, config.gated) == ("cosine", False, False)
    assert config.fusion_weights == {"divided_space_time": 0.005, "joint_space_time": 0.11}
    assert HMBAConfig.released(gated=True).gated
    assert HMBAConfig.released(fusion="add").fusion_weights is None


@pytest.mark.parametrize("build", [tiny_config, HMBAConfig, HMBAConfig.released])
def test_a_saved_config_loads_as_it_was(build, tmp_path):
    config = build(num_frames=7, video_token_id=42)
    config.save_pretrained(tmp_path)
    for loaded in (HMBAConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is HMBAConfig
        assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
        assert type(loaded.vision_config) is type(config.vision_config)


def test_a_config_is_rebuilt_from_its_dict():
    config = tiny_config(temporal_strides=(1, 3), branches=("temporal",))
    assert HMBAConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert HMBAConfig(**config.to_dict()).to_dict() == config.to_dict()


def test_a_saved_config_names_the_code_that_travels_with_it():
    saved = tiny_config().to_dict()
    assert saved["auto_map"]["AutoModelForImageTextToText"] == "modeling_hmba.HMBAForConditionalGeneration"
    assert saved["custom_pipelines"]["video-text-to-text"]["impl"] == "pipeline_hmba.VideoTextToTextPipeline"
    assert not hasattr(HMBAConfig(**saved), "custom_pipelines")  # the installed pipeline needs no trust


def test_two_configs_share_nothing():
    first, second = HMBAConfig(), HMBAConfig()
    first.branches.append("x")
    first.temporal_strides.append(9)
    first.text_config.vocab_size = 7
    first.to_dict()["custom_pipelines"].clear()
    assert (second.branches, second.temporal_strides, second.text_config.vocab_size) == (BRANCHES, [1, 2], 32003)
    assert second.to_dict()["custom_pipelines"]


def test_tied_embeddings_follow_the_language_model():
    assert not tiny_config().tie_word_embeddings
    tied = tiny_config(text_config=LlamaConfig(tie_word_embeddings=True))
    assert tied.tie_word_embeddings
    assert not tiny_config(text_config=tied.text_config, tie_word_embeddings=False).tie_word_embeddings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"adapter": "lstm"}, r"adapter must be one of \['mamba', .*\], got 'lstm'"),
        ({"fusion": "sum"}, r"fusion must be one of \['query', .*\], got 'sum'"),
        ({"branches": ()}, r"branches must be one or more of .*, got \[\]"),
        ({"branches": ("temporal", "spatial")}, "branches must be one or more of .*'spatial'"),
        ({"branches": ("temporal", "temporal")}, "each once"),
        (
            {"fusion": "cosine", "fusion_weights": {"temporal": 1.0}},
            r"fusion_weights must name each of .*, got \['temporal'\]",
        ),
        (
            {"fusion_weights": dict.fromkeys(BRANCHES, 1.0)},
            "fusion_weights must be absent unless fusion is 'cosine', got fusion='query'",
        ),
        ({"temporal_strides": ()}, r"temporal_strides must be .* at least 1, got \[\]"),
        ({"temporal_strides": (0, 1)}, r"temporal_strides must be .* at least 1, got \[0, 1\]"),
        ({"temporal_strides": (2, 2)}, r"temporal_strides must be different .*, got \[2, 2\]"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"state_size": -1}, "state_size must be at least 1, got -1"),
        ({"conv_kernel": 0}, "conv_kernel must be at least 1, got 0"),
        ({"expand": 0}, "expand must be at least 1, got 0"),
        ({"adapter_num_heads": 0}, "adapter_num_heads must be at least 1, got 0"),
        ({"adapter_num_heads": 5}, "hidden_size must be a multiple of adapter_num_heads=5, got 32"),
        ({"adapter_num_heads": 5, "adapter": "transformer"}, "multiple of adapter_num_heads=5, got 32"),
        ({"vision_feature_layer": 4}, "vision_feature_layer must be between 1 and 3, or -3 and -1, got 4"),
        ({"vision_feature_layer": 0}, "vision_feature_layer must be .*, got 0"),
        ({"vision_feature_layer": -4}, "vision_feature_layer must be .*, got -4"),
        ({"vision_config": tower(image_size=30)}, "image_size must be a multiple of its patch_size=14, got 30"),
        ({"vision_config": tower(image_size=[28, 20])}, "multiple of its patch_size=14, got 20"),
        ({"vision_config": tower(image_size=0)}, "multiple of its patch_size=14, got 0"),
        ({"vision_config": ResNetConfig()}, "vision_config must have a hidden_size, got ResNetConfig"),
        ({"video_token_id": 104}, "video_token_id must be one of the language model's 104 tokens, got 104"),
        ({"video_token_id": -1}, "video_token_id must be one of .*, got -1"),
        ({"text_config": {"model_type": "no_such_model"}}, "no_such_model"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"num_frames": "five"}, {"temporal_strides": 1}, {"temporal_strides": (1.5,)}, {"gated": "yes"}], ids=str
)
def test_a_value_of_the_wrong_type_is_refused_by_name(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(StrictDataclassFieldValidationError, match=rf"(?s){name}.*{re.escape(repr(value))}"):
        tiny_config(**wrong)


def test_a_frame_may_be_oblong():
    assert tiny_config(vision_config=tower(image_size=[28, 42])).num_patches == 6


def test_heads_do_not_matter_where_nothing_attends():
    assert tiny_config(adapter_num_heads=5, fusion="add").adapter_num_heads == 5
    assert tiny_config(adapter_num_heads=5, adapter="mean").adapter_num_heads == 5


def test_other_towers_and_language_models_fit():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = SiglipVisionConfig(**sizes, image_size=28, patch_size=14)
    text = Qwen2Config(**sizes, num_key_value_heads=1, vocab_size=50)
    config = HMBAConfig(vision_config=vision, text_config=text, video_token_id=49)
    assert type(HMBAModel(config).language_model).__name__ == "Qwen2Model"
    rebuilt = HMBAConfig(**config.to_dict())
    assert isinstance(rebuilt.vision_config, SiglipVisionConfig) and isinstance(rebuilt.text_config, Qwen2Config)


def test_a_wrong_value_given_to_from_pretrained_is_refused_too(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="adapter must be one of .*'lstm'"):
        HMBAForConditionalGeneration.from_pretrained(tmp_path, adapter="lstm")
