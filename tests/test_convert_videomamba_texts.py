"""The multi-modal stage of VideoMamba by the command line: both halves, or the vision half alone."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor

from hmba_hf.conversion.verification import recompute_videomamba
from hmba_hf.models.retrieving_videomamba import VideoMambaForVideoTextRetrieval
from tiny_pairs import tiny_pair_tokenizer
from videomamba_files import (
    assert_identical,
    both_halves,
    convert,
    multi_modal,
    rebuild,
    refused,
    save_layout,
    weights_of,
)


@pytest.fixture(scope="module")
def retrieval():
    """A tiny model of the multi-modal stage in ours."""
    torch.manual_seed(0)
    return both_halves()


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Options that the shapes of a tiny file do not tell."""
    folder = tmp_path_factory.mktemp("bert")
    tiny_pair_tokenizer().save_pretrained(folder)
    return ["--num_attention_heads", 4, "--tokenizer", folder]


@pytest.fixture
def of_both_halves(retrieval, golden, tmp_path):
    """A file of the multi-modal stage, its weights, and the recorded numbers of its vision half."""
    tensors, _ = golden("videomamba_mm_small")
    weights = multi_modal(retrieval, weights_of(tensors, "w."))
    return save_layout(tmp_path / "original.pth", weights, "module"), weights, tensors


def test_the_multi_modal_stage_becomes_a_model_of_videos_and_texts(
    of_both_halves, retrieval, options, tmp_path, capsys
):
    path, _, tensors = of_both_halves
    save_file(tensors, tmp_path / "recorded.safetensors")
    ours = convert(path, tmp_path / "ours", *options, "--verify", tmp_path / "recorded.safetensors")
    told = capsys.readouterr().out
    for name in ("clip", "uta_loss", "vis", "pool", "pool_temporal", "vis_masked", "pool_masked"):
        assert f"verified: out.{name} of the original to" in told
    assert "verified: the backbone reproduces the original's tokens to" in told
    model, info = AutoModel.from_pretrained(ours, output_loading_info=True)
    assert type(model) is VideoMambaForVideoTextRetrieval and not any(info.values())
    ids = torch.randint(1, 40, (2, 7))
    for asked in ("get_text_features", "match"):
        wanted = text_outputs(retrieval, ids)[asked]
        assert_close(text_outputs(model, ids)[asked], wanted, atol=1e-6, rtol=0)
    assert model.temperature.item() == pytest.approx(0.2)
    masked = model.text_model.cls(text_outputs(model, ids)["fuse"])
    assert_close(masked, retrieval.text_model.cls(text_outputs(retrieval, ids)["fuse"]), atol=1e-6, rtol=0)
    processor = AutoProcessor.from_pretrained(ours)
    pairs = processor(videos=np.zeros((4, 40, 50, 3), dtype=np.uint8), text="the square moves left")
    assert model(**pairs).logits_per_video.shape == (1, 1)
    assert "Made of `original.pth` by" in (ours / "README.md").read_text()


def test_recomputing_leaves_the_recorded_numbers_as_they_were(of_both_halves, options, tmp_path):
    path, _, tensors = of_both_halves
    numbers = {name: tensor.clone() for name, tensor in tensors.items()}
    with torch.no_grad():
        recompute_videomamba(convert(path, tmp_path / "ours", *options), numbers)
    assert_close(numbers, tensors, atol=0, rtol=0)


def text_outputs(model, ids):
    """What a model makes of texts, alone and beside the same patches."""
    text = model.get_text_features(ids)
    patches = torch.linspace(-1, 1, 2 * 5 * 48).reshape(2, 5, 48)
    return {
        "get_text_features": text.text_embeds,
        "fuse": model.fuse(text.last_hidden_state, patches),
        "match": model.match(text.last_hidden_state, patches),
    }


def test_the_multi_modal_stage_goes_back_to_the_original_names_without_loss(of_both_halves, options, tmp_path, capsys):
    path, weights, _ = of_both_halves
    ours = convert(path, tmp_path / "ours", *options, "--keep_unused")
    assert "not used and kept: 2 tensors" in capsys.readouterr().out
    back = convert(ours, tmp_path / "back", "--to_original", "--verify")
    assert_identical(load_file(back / "model.safetensors"), weights)
    again = convert(back, tmp_path / "again", *options, "--keep_unused")
    for file in ("model.safetensors", "unused_tensors.safetensors", "config.json"):
        assert (again / file).read_bytes() == (ours / file).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("temp"), "must hold an origin of logit_temperature"),
        (
            lambda w: w.pop("text_encoder.bert.embeddings.LayerNorm.bias"),
            r"must hold an origin of text_model\.bert\.emb",
        ),
        (lambda w: w.update({"text_encoder.bert.pooler.dense.bias": torch.ones(24)}), "it has none such"),
        (lambda w: w["text_encoder.cls.predictions.decoder.weight"].add_(1), "must equal its alias .*word_embeddings"),
        (
            lambda w: w.update({"text_encoder.bert.encoder.layer.0.crossattention.self.key.bias": torch.ones(24)}),
            r"the last of 4 layers must have crossattention, got it in \[0, 2, 3\]",
        ),
        (
            lambda w: [w.pop(name) for name in list(w) if "layer.3.crossattention" in name],
            r"the last of 4 layers must have crossattention, got it in \[2\]",
        ),
        (
            lambda w: w.update({"itm_head.weight": torch.ones(3, 24)}),
            r"itm_head.weight must be \(2, 24\), got \(3, 24\)",
        ),
    ],
)
def test_a_text_half_that_is_not_as_the_table_says_is_named(change, message, of_both_halves, options):
    path, weights, _ = of_both_halves
    change(weights)
    refused(save_layout(path, weights), *options, match=message)


def test_attention_heads_of_the_text_half_must_divide_its_width(of_both_halves, golden, tmp_path):
    refused(of_both_halves[0], match="--num_attention_heads must divide the text half's width 24, got 0")
    refused(of_both_halves[0], "--num_attention_heads", 7, match="must divide the text half's width 24, got 7")
    path, _, _ = rebuild(golden, tmp_path)
    refused(path, "--num_attention_heads", 4, match="--num_attention_heads must be absent without a text half")
    refused(path, "--tokenizer", "bert", match="--tokenizer must be absent without a text half, got bert")
    refused(path, "--vision_half", match="--vision_half must be for a checkpoint of the multi-modal stage")


def test_a_tokenizer_must_fit_the_text_half(of_both_halves, tmp_path):
    path, weights, _ = of_both_halves
    tokenizer = tiny_pair_tokenizer()
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path / "bert")
    words = ["--num_attention_heads", 4, "--tokenizer", tmp_path / "bert"]
    refused(path, *words, match="must have a mask, such as BERT's tokenizer, got one without")
    tokenizer.add_tokens([f"word{number}" for number in range(40)])
    tokenizer.save_pretrained(tmp_path / "bert")
    refused(path, *words, match="must have at most 40 tokens, the rows of the text half, got ")


def test_the_vision_half_of_the_multi_modal_stage_gives_the_originals_features(of_both_halves, tmp_path, capsys):
    path, weights, tensors = of_both_halves
    convert(path, tmp_path / "ours", "--vision_half", "--keep_unused")
    told = capsys.readouterr().out
    assert (
        "only the vision half is converted, without text, fusion and pooling" in told and "not used and kept" in told
    )
    for name in ("temp", "vision_encoder.pool_norm.weight", "clip_teacher.visual_projection"):
        assert f"\n  {name}\n" in told
    model, info = AutoModelForPreTraining.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    clips = tensors["in.video"].transpose(1, 2)
    output = model(clips, tensors["in.mask"][:, 1:], tensors["in.teacher"])
    wanted = nn.functional.normalize(tensors["out.clip"], dim=-1)  # there the loss does it
    assert_close(output.aligned_features, wanted, atol=1e-5, rtol=0)
    assert_close(output.loss, tensors["out.uta_loss"][0], atol=2e-5, rtol=0)
    assert_close(model.videomamba(clips).last_hidden_state[:, 1:], tensors["out.vis"], atol=1e-5, rtol=0)
    back = convert(tmp_path / "ours", tmp_path / "back", "--to_original")
    written = {}
    for file in back.glob("*.safetensors"):
        written |= load_file(file)
    assert_identical(written, weights)
