"""The MambaVL with an ORViT-Motionformer by the command line: equal to the original's numbers, there and back."""

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForVideoClassification, AutoProcessor

from hmba_hf import MambaVLConfig, MambaVLForVideoClassification, MambaVLMotionformerModel
from hmba_hf.conversion import mambavl_names
from hmba_hf.conversion.checkpoint_folders import blank_model, wanted_tensors
from hmba_hf.conversion.mambavl_names import fusion_rules, motionformer_rules
from hmba_hf.conversion.mambavl_plans import text_config, vision_config
from hmba_hf.conversion.mambavl_sizes import read_fusion_sizes, read_motionformer_sizes
from hmba_hf.conversion.original_mambavl import original_mambavl
from hmba_hf.conversion.original_motionformer import original_motionformer
from hmba_hf.conversion.rename_keys import TensorSpec, plan_renaming
from mambavl_files import convert, fusion_shapes, motionformer, motionformer_shapes, recorded_fusion, save_pyth
from tiny_motionformer import boxes_of, clips_of
from tiny_questions import tiny_question_tokenizer
from videomamba_files import assert_identical

HEADS = ["--num_attention_heads", 2]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The folder of a tokenizer that fits the files."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_question_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def made(golden, tokenizer, tmp_path):
    """Convert a file of the fusion and a video model, and return the folder and the weights."""

    def made(tower, *options, name="ours"):
        weights = {**recorded_fusion(golden), **tower}
        weights = {name: tensor for name, tensor in weights.items() if tensor is not None}
        path = save_pyth(tmp_path / "checkpoint_epoch_00050.pyth", weights)
        return convert(path, tmp_path / name, "--tokenizer", tokenizer, *options), weights

    return made


def load(folder):
    model, info = AutoModelForVideoClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    return model.eval()


@pytest.mark.parametrize("prefix", ["", "orvit."])
def test_the_whole_model_gives_the_originals_logits(prefix, made, capsys):
    folder, weights = made(motionformer(prefix), *HEADS, "--verify")
    assert "verified: the model reproduces the original's logits" in capsys.readouterr().out
    model = load(folder)
    assert isinstance(model.mambavl.vision_model, MambaVLMotionformerModel)
    tokens = original_motionformer(motionformer(), clips_of(), boxes_of(), num_heads=2)
    found = model.mambavl.get_video_features(clips_of(), boxes=boxes_of()).last_hidden_state
    assert_close(found, tokens, atol=1e-4, rtol=1e-4)
    ids = torch.randint(2, 38, (2, 2, 6), generator=torch.Generator().manual_seed(4))
    wanted = original_mambavl(weights, tokens, {"verb": ids[:, 0], "noun": ids[:, 1]})
    assert_close(model(clips_of(), ids, boxes=boxes_of()).verb_logits, wanted["verb"], atol=1e-3, rtol=1e-3)


def test_sizes_are_the_files_and_clips_are_read_as_motionformer_does(made):
    folder, _ = made(motionformer(), *HEADS)
    vision = load(folder).config.vision_config
    assert (vision.num_frames, vision.tubelet_size, vision.image_size, vision.patch_size) == (4, 2, 16, 8)
    assert (vision.object_layers, vision.num_objects, vision.num_hidden_layers) == ([1, 2], 3, 3)
    assert (vision.intermediate_size, vision.hidden_size, vision.layer_norm_eps) == (40, 32, 1e-6)
    videos = AutoProcessor.from_pretrained(folder).video_processor
    assert (videos.num_frames, videos.sampling, videos.frame_step) == (4, "dense", 4)
    assert list(videos.image_mean) == [0.5, 0.5, 0.5]


def test_the_real_sizes_are_read_off_their_shapes():
    tower = {"layers": 12, "hidden": 3072, "patch": 16, "places": 196, "steps": 8, "seeing": (1, 6, 10), "objects": 4}
    shapes = fusion_shapes(768, heads={"verb": 97, "noun": 300}, words=50265, places=514)
    shapes |= motionformer_shapes(768, **tower)
    specs = {name: TensorSpec(shape, torch.float32) for name, shape in shapes.items()}
    config = MambaVLConfig(
        vision_config=vision_config(read_motionformer_sizes(specs, ""), None),
        text_config=text_config(read_fusion_sizes(specs)),
        heads=read_fusion_sizes(specs).heads,
    )
    vision = config.vision_config
    assert (vision.num_frames, vision.image_size, vision.num_attention_heads) == (16, 224, 12)
    model = blank_model(MambaVLForVideoClassification, config)
    plan_renaming(specs, [*motionformer_rules(), *fusion_rules()], wanted_tensors(model))


@pytest.mark.parametrize("prefix", ["", "orvit."])
def test_back_to_the_original_names_and_forth_again_nothing_is_lost(prefix, made, tokenizer, tmp_path):
    folder, weights = made(motionformer(prefix), *HEADS)
    back = convert(folder, tmp_path / "back", "--to_original", "--verify")
    assert_identical(
        load_file(back / "model.safetensors"), {name.removeprefix("orvit."): weights[name] for name in weights}
    )
    again = convert(back, tmp_path / "again", "--tokenizer", tokenizer, *HEADS)
    for file in ("model.safetensors", "config.json"):
        assert (again / file).read_bytes() == (folder / file).read_bytes()


def test_verify_finds_a_table_that_takes_one_norm_for_the_other(made, monkeypatch, tmp_path):
    for ours, original in (("norm1", "norm2"), ("norm2", "norm1")):
        monkeypatch.setitem(mambavl_names.MOTION_LAYERS, original, ours)
    with pytest.raises(ValueError, match="logits of verb must match the original's"):
        made(motionformer(), *HEADS, "--verify")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("prefix", ["", "orvit."])
def test_the_fusion_may_be_converted_alone(prefix, made):
    folder, _ = made(motionformer(prefix), "--features_only")
    assert load(folder).mambavl.vision_model is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pos_embed": torch.ones(1, 4, 32)}, "pos_embed must have a class token and a square of rows, got 4"),
        ({"patch_embed_3d.proj.weight": None}, "must hold patch_embed_3d.proj.weight, got none"),
        ({"temp_embed": None}, "must hold temp_embed, got none"),
        ({"st_embed": torch.ones(1, 9, 32)}, "must have names in the table, got st_embed"),
        ({"blocks.1.motion_mlp.fc1.bias": None}, r"must hold an origin of .*layers\.1\.motion_mlp\.fc1\.bias"),
        (
            {"blocks.0.patch_to_d.0.weight": torch.ones(16, 32)},
            r"layers\.0\.crop_projection\.fc1\.weight: it has none",
        ),
        ({"blocks.2.box_categories": torch.ones(2, 5, 32)}, r"blocks\.2\.box_categories must be \(2, 3, 32\), got"),
        ({"blocks.4.norm1.bias": torch.ones(32)}, "must be numbered from 0 without gaps"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(changes, message, made, tmp_path):
    with pytest.raises(ValueError, match=message):
        made({**motionformer(), **changes}, *HEADS)
    assert not (tmp_path / "ours").exists()


def test_a_video_model_beside_that_of_the_file_is_refused(made):
    with pytest.raises(ValueError, match="--vision must be absent for a file with a video model, got clip"):
        made(motionformer(), "--vision", "clip")
