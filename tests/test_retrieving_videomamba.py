from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoModel, BertConfig, BertForMaskedLM, BitsAndBytesConfig
from transformers.models.bert.modeling_bert import BertLayer

from hmba_hf import VideoMambaConfig
from hmba_hf.conversion.rename_keys import rename_tensors
from hmba_hf.conversion.videomamba_names import videomamba_rules
from hmba_hf.models.layers_alignment import alignment_distance
from hmba_hf.models.layers_contrast import contrastive_loss, hard_negatives, similarities
from hmba_hf.models.modeling_videomamba import VideoMambaForPreTraining, visible_features, visible_tokens
from hmba_hf.models.retrieving_videomamba import VideoMambaForVideoTextRetrieval
from tiny_pairs import TEXT, VISION, tiny_pair_config, tiny_retrieval


def tiny_pairs(batch=3):
    mask = torch.ones(batch, 7, dtype=torch.long)
    mask[1, 4:] = 0
    return {
        "pixel_values_videos": torch.rand(batch, 3, 3, 16, 16),
        "input_ids": torch.randint(5, 40, (batch, 7)),
        "attention_mask": mask,
    }


@pytest.fixture
def released(golden):
    """The tiny original vision encoder of the multi-modal stage in ours, and its numbers."""
    tensors, facts = golden("videomamba_mm_small")
    size = facts["config"]
    vision = VideoMambaConfig(
        image_size=size["img_size"],
        patch_size=size["patch_size"],
        hidden_size=size["embed_dim"],
        num_hidden_layers=size["depth"],
        num_frames=size["num_frames"],
        alignment_size=size["clip_output_dim"],
    )
    model = tiny_retrieval(vision_config=vision)
    originals = {name.removeprefix("w."): weight for name, weight in tensors.items() if name.startswith("w.")}
    pooler = {name: originals.pop(f"pool_{name}") for name in ("norm.weight", "norm.bias")}
    vision_model = model.vision_model
    vision_model.load_state_dict(rename_tensors(originals, videomamba_rules(), vision_model.state_dict()))
    model.pooler.load_state_dict(pooler)
    return model, tensors


def test_visible_patches_are_encoded_pooled_and_aligned_as_by_the_original(released):
    model, tensors = released
    clips = tensors["in.video"].transpose(1, 2)
    mask = tensors["in.mask"][:, 1:]
    features = model.get_video_features(clips, mask)
    assert_close(features.last_hidden_state, tensors["out.vis_masked"], atol=1e-5, rtol=0)
    assert_close(features.pooler_output, tensors["out.pool_masked"], atol=1e-5, rtol=0)
    # The original brings them to length one in its loss.
    wanted = nn.functional.normalize(tensors["out.clip"], dim=-1)
    assert_close(features.aligned_features, wanted, atol=1e-5, rtol=0)
    tokens = visible_tokens(mask, tuple(mask.shape))
    wanted = visible_features(features.aligned_features, tensors["in.teacher"], tokens, 1 + mask.shape[1])
    distance = alignment_distance(features.aligned_features, wanted)
    assert_close(distance, tensors["out.uta_loss"][0], atol=2e-5, rtol=0)


def test_whole_clips_and_pictures_are_pooled_as_by_the_original(released):
    model, tensors = released
    clips = tensors["in.video"].transpose(1, 2)
    by_frame = model.get_video_features(clips)
    assert_close(by_frame.last_hidden_state, tensors["out.vis"], atol=1e-5, rtol=0)
    assert_close(by_frame.pooler_output, tensors["out.pool_temporal"], atol=1e-5, rtol=0)
    whole = model.get_video_features(clips, per_frame=False)
    assert_close(whole.pooler_output, tensors["out.pool"], atol=1e-5, rtol=0)
    picture = model.get_video_features(clips[:, :1])
    assert_close(picture.last_hidden_state, tensors["out.image_vis"], atol=1e-5, rtol=0)
    assert_close(picture.pooler_output, tensors["out.image_pool"], atol=1e-5, rtol=0)


def test_the_contrast_is_the_originals_also_with_equal_pairs(golden):
    tensors, facts = golden("videomamba_mm_small")
    temperature = facts["config"]["temperature"]
    scaled = similarities(tensors["vtc.vision_proj"], tensors["vtc.text_proj"]) / temperature
    assert_close(scaled, tensors["vtc.sim_v2t"], atol=1e-5, rtol=0)
    assert_close(scaled.T, tensors["vtc.sim_t2v"], atol=1e-5, rtol=0)
    ids = tensors["vtc.idx"]
    loss = contrastive_loss(scaled, ids[:, None] == ids[None])
    assert_close(loss, tensors["vtc.loss"][0], atol=2e-5, rtol=0)


def test_fusion_layers_are_berts_decoder_layers_that_see_both_ways():
    model = tiny_retrieval(vision_config={**VISION, "hidden_size": 24})
    pairs = tiny_pairs()
    text = model.get_text_features(pairs["input_ids"], pairs["attention_mask"])
    patches = torch.randn(3, 5, 24)
    wanted = text.last_hidden_state
    hidden = (1.0 - pairs["attention_mask"][:, None, None]) * torch.finfo(torch.float32).min
    config = BertConfig(**TEXT, is_decoder=True, add_cross_attention=True, attn_implementation="eager")
    layers = model.text_model.bert.encoder.layer[2:]
    for layer, cross_attention in zip(layers, model.cross_attentions, strict=True):
        plain = BertLayer(config).eval()
        plain.load_state_dict(layer.state_dict(), strict=False)
        plain.crossattention.load_state_dict(cross_attention.state_dict())
        output = plain(wanted, hidden, encoder_hidden_states=patches)
        wanted = output[0] if isinstance(output, tuple) else output
    fused = model.fuse(text.last_hidden_state, patches, pairs["attention_mask"])
    assert_close(fused, wanted)


def test_texts_are_encoded_by_the_first_layers_of_bert():
    model = tiny_retrieval()
    pairs = tiny_pairs()
    short = BertForMaskedLM(BertConfig(**{**TEXT, "num_hidden_layers": 2})).eval()
    short.load_state_dict(model.text_model.state_dict(), strict=False)
    wanted = short.bert(pairs["input_ids"], pairs["attention_mask"]).last_hidden_state
    text = model.get_text_features(pairs["input_ids"], pairs["attention_mask"])
    assert_close(text.last_hidden_state, wanted)
    assert_close(text.text_embeds, model.text_projection(wanted[:, 0]))


def test_padding_changes_no_text():
    model = tiny_retrieval()
    pairs = tiny_pairs()
    patches = model.get_video_features(pairs["pixel_values_videos"]).last_hidden_state
    padded = model.get_text_features(pairs["input_ids"], pairs["attention_mask"])
    alone = model.get_text_features(pairs["input_ids"][1:2, :4])
    assert_close(padded.text_embeds[1:2], alone.text_embeds)
    scores = model.match(padded.last_hidden_state, patches, pairs["attention_mask"])
    assert_close(scores[1:2], model.match(alone.last_hidden_state, patches[1:2]))


def test_all_losses_are_summed_and_reach_every_weight():
    model = tiny_retrieval(vision_config={**VISION, "align_last_output": True}).train()
    pairs = tiny_pairs()
    masked = pairs["input_ids"].clone()
    masked[:, 2] = 4
    labels = torch.full_like(masked, -100)
    labels[:, 2] = pairs["input_ids"][:, 2]
    hidden = torch.arange(12).expand(3, -1) % 3 == 0
    output = model(
        **pairs,
        bool_masked_pos=hidden,
        teacher_features=torch.randn(1, 3, 13, 6),
        masked_input_ids=masked,
        labels=labels,
        return_loss=True,
    )
    losses = ("contrastive_loss", "matching_loss", "masked_language_loss", "alignment_loss")
    assert_close(output.loss, sum(output[name] for name in losses))
    assert output.logits_per_video.shape == (3, 3)
    output.loss.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_equal_pairs_are_no_negatives_of_one_another():
    scaled = torch.zeros(3, 3)
    is_match = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    drawn = torch.stack([hard_negatives(scaled, is_match) for _ in range(50)])
    assert set(drawn[:, 0].tolist()) == set(drawn[:, 1].tolist()) == {2}
    assert set(drawn[:, 2].tolist()) == {0, 1}
    with pytest.raises(ValueError, match="a column that does not match"):
        hard_negatives(scaled, torch.ones(3, 3).bool())


@pytest.mark.parametrize("pair_ids", [[5, 5, 5], [5, 5, 6]])
def test_a_batch_of_equal_pairs_is_learned_from(pair_ids):
    model = tiny_retrieval().train()
    output = model(**tiny_pairs(), pair_ids=torch.tensor(pair_ids), return_loss=True)
    output.loss.backward()
    assert output.matching_loss.isfinite() and output.contrastive_loss.isfinite()


def test_texts_without_hidden_tokens_add_no_loss():
    pairs = tiny_pairs()
    labels = torch.full_like(pairs["input_ids"], -100)
    output = tiny_retrieval()(**pairs, masked_input_ids=pairs["input_ids"], labels=labels)
    assert output.masked_language_loss.item() == output.loss.item() == 0


def test_similar_texts_are_drawn_more_often():
    scaled = torch.tensor([[9.0, 2.0, 0.0]])
    is_match = torch.tensor([[True, False, False]])
    drawn = torch.cat([hard_negatives(scaled, is_match) for _ in range(200)])
    assert (drawn == 1).sum() > (drawn == 2).sum()


def test_the_temperature_stays_within_its_bounds():
    model = tiny_retrieval()
    nn.init.constant_(model.logit_temperature, 7.0)
    assert model.temperature.item() == 0.5
    nn.init.constant_(model.logit_temperature, -1.0)
    assert model.temperature.item() == pytest.approx(0.001)


def test_pretrained_halves_are_joined_whole(tmp_path):
    vision = VideoMambaForPreTraining(VideoMambaConfig(**VISION))
    text = BertForMaskedLM(BertConfig(**TEXT))
    vision.save_pretrained(tmp_path / "vision")
    text.save_pretrained(tmp_path / "text")
    model = VideoMambaForVideoTextRetrieval.from_vision_text_pretrained(
        tmp_path / "vision", tmp_path / "text", num_fusion_layers=2, projection_size=10
    )
    for half, wanted in ((model.vision_model, vision), (model.text_model, text)):
        for name, weight in wanted.state_dict().items():
            assert torch.equal(half.state_dict()[name], weight), name
    text.bert.save_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match="must hold every weight that is read"):
        VideoMambaForVideoTextRetrieval.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "headless")


def test_options_of_a_join_work_or_are_refused_by_name(tmp_path):
    VideoMambaForPreTraining(VideoMambaConfig(**VISION)).save_pretrained(tmp_path / "vision")
    BertForMaskedLM(BertConfig(**TEXT)).save_pretrained(tmp_path / "text")
    join = partial(VideoMambaForVideoTextRetrieval.from_vision_text_pretrained, tmp_path / "vision", tmp_path / "text")
    narrow = join(dtype="bfloat16", text_revision="main", token=False)
    kinds = {name.rpartition(".")[2] == "A_log": parameter.dtype for name, parameter in narrow.named_parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    assert join().dtype == torch.float32
    for name in ("device_map", "projektion_size"):
        with pytest.raises(ValueError, match=f"must be dtype or those of the halves' files, got \\['{name}'\\]"):
            join(**{name: "cpu"})
    with pytest.raises(ValueError, match="must have plain weights, got a quantization_config for"):
        join(quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    (tmp_path / "text" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ValueError, match="must be a whole model, got low-rank updates in"):
        join()


def test_a_text_model_keeps_a_head_of_its_own_where_its_configuration_says_that_it_is_tied(tmp_path):
    VideoMambaForPreTraining(VideoMambaConfig(**VISION)).save_pretrained(tmp_path / "vision")
    text = BertForMaskedLM(BertConfig(**TEXT, tie_word_embeddings=False))
    text.config.tie_word_embeddings = True
    text.save_pretrained(tmp_path / "text")
    model = VideoMambaForVideoTextRetrieval.from_vision_text_pretrained(tmp_path / "vision", tmp_path / "text")
    model.save_pretrained(tmp_path / "joined")
    for one in (model, VideoMambaForVideoTextRetrieval.from_pretrained(tmp_path / "joined")):
        for name, weight in text.state_dict().items():
            assert torch.equal(one.text_model.state_dict()[name], weight), name


def test_a_saved_model_comes_back_with_its_tied_table(tmp_path):
    model = tiny_retrieval()
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is VideoMambaForVideoTextRetrieval
    pairs = tiny_pairs()
    assert_close(again(**pairs).logits_per_video, model(**pairs).logits_per_video)
    assert again.text_model.cls.predictions.decoder.weight is again.text_model.get_input_embeddings().weight
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": torch.ones(2, 7, dtype=torch.long)}, "a text for each of 3 videos, got 2"),
        ({"labels": torch.zeros(3, 7, dtype=torch.long)}, "must be given together"),
        ({"teacher_features": torch.zeros(1, 3, 13, 6)}, "bool_masked_pos must say"),
        ({"attention_mask": torch.ones(3, 5)}, "attention_mask must be \\(3, 7\\), as input_ids are, got \\(3, 5\\)"),
        ({"attention_mask": torch.full((3, 7), -1e9)}, "attention_mask must be 1 for tokens that are read and 0"),
        ({"pair_ids": torch.arange(2)}, "pair_ids must be \\(3,\\), as input_ids are, got \\(2,\\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_retrieval()(**{**tiny_pairs(), **changes})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_fusion_layers": 4}, "num_fusion_layers must be from 1 up to but without 4"),
        ({"temperature": 0.0}, "temperature must be greater than zero"),
        ({"projection_size": 0}, "projection_size must be at least 1"),
    ],
)
def test_unknown_values_of_a_configuration_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_pair_config(**options)


def test_a_checkpoint_of_videos_alone_is_refused(tmp_path):
    tiny_retrieval().vision_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must be a checkpoint of videomamba_retrieval, got one of videomamba"):
        VideoMambaForVideoTextRetrieval.from_pretrained(tmp_path, config=tiny_retrieval().config)
