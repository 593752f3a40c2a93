"""VideoMamba by the command line: equal to the original's numbers, there and back without loss."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    pipeline,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from hmba_hf.conversion.checkpoint_folders import blank_model, wanted_tensors
from hmba_hf.conversion.original_videomamba import original_videomamba
from hmba_hf.conversion.rename_keys import TensorSpec, plan_renaming
from hmba_hf.conversion.videomamba_names import videomamba_rules
from hmba_hf.conversion.videomamba_sizes import read_sizes
from hmba_hf.models.configuration_videomamba import SIZES, VideoMambaConfig
from hmba_hf.models.modeling_videomamba import VideoMambaForVideoClassification
from numbered_videos import numbered_video
from videomamba_files import assert_identical, convert, rebuild, refused, save_layout, weights_of

GOLDEN = Path(__file__).parent / "golden"

NAMES = "".join(f"action {number}\n" for number in range(10))
LAYOUTS = ["bare", "model", "module", "backbone.", "encoder.", "module.", "before torch 1.6", "safetensors"]


@pytest.fixture
def original(golden, tmp_path):
    """Rebuild an original file; see `rebuild`."""
    return partial(rebuild, golden, tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_classifier_in_any_layout_gives_the_originals_logits(layout, original, tmp_path):
    path, _, tensors = original(layout=layout)
    convert(path, tmp_path / "ours")
    model, info = AutoModelForVideoClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    output = model(tensors["in.video"].transpose(1, 2), labels=tensors["in.labels"])
    assert_close(output.logits, tensors["out.logits"], atol=2e-5, rtol=0)
    assert_close(output.loss, tensors["out.loss"][0], atol=2e-5, rtol=0)


def test_tubelets_of_two_frames_are_read_off_the_shapes(original, tmp_path):
    path, _, tensors = original(prefix="w_tubelet2.")
    convert(path, tmp_path / "ours")
    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "ours")
    logits = model(tensors["in.video"].transpose(1, 2)).logits
    assert_close(logits, tensors["out_tubelet2.logits"], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("part", "prefix"), [("image", "w_image."), ("student", "w_student."), ("teacher", "w_teacher.")]
)
def test_a_classifier_of_pictures_gives_the_originals_logits(part, prefix, original, tmp_path):
    path, _, tensors = original("videomamba_image_small", prefix)
    convert(path, tmp_path / "ours")
    model, info = AutoModelForImageClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    output = model(tensors["in.image"])
    assert_close(output.logits, tensors[f"out.{part}_logits"], atol=2e-5, rtol=0)
    if part == "student":
        assert_close(output.distillation_features, tensors["out.student_feats"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("prefix", "case"), [("w_pt.", "out_pt"), ("w_pt2.", "out_pt2")])
def test_masked_pre_training_gives_the_originals_features(prefix, case, original, tmp_path):
    path, _, tensors = original("videomamba_pretrain_small", prefix)
    convert(path, tmp_path / "ours")
    model, info = AutoModelForPreTraining.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    output = model(tensors["in.video"].transpose(1, 2), tensors["in.mask"][:, 1:])
    assert_close(output.aligned_features, tensors[f"{case}.clip"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("videomamba_small", "w."),
        ("videomamba_small", "w_tubelet2."),
        ("videomamba_image_small", "w_image."),
        ("videomamba_image_small", "w_student."),
        ("videomamba_pretrain_small", "w_pt."),
        ("videomamba_pretrain_small", "w_pt2."),
    ],
)
def test_back_to_the_original_names_and_forth_again_nothing_is_lost(name, prefix, original, tmp_path):
    path, weights, _ = original(name, prefix)
    ours = convert(path, tmp_path / "ours")
    back = convert(ours, tmp_path / "back", "--to_original", "--verify")
    assert_identical(load_file(back / "model.safetensors"), weights)
    again = convert(back, tmp_path / "again")
    for file in ("model.safetensors", "config.json"):
        assert (again / file).read_bytes() == (ours / file).read_bytes()


def test_what_a_training_of_ours_saves_goes_back_to_the_original_names(tmp_path):
    config = VideoMambaConfig(
        hidden_size=32, num_hidden_layers=2, image_size=16, patch_size=8, num_frames=2, num_labels=3
    )
    model = VideoMambaForVideoClassification(config)
    model.save_pretrained(tmp_path / "ours")
    back = convert(tmp_path / "ours", tmp_path / "back", "--to_original")
    convert(back, tmp_path / "again")
    again = AutoModelForVideoClassification.from_pretrained(tmp_path / "again")
    assert_close(again.state_dict(), model.state_dict(), atol=0, rtol=0)
    AutoModel.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "bare")
    names = load_file(convert(tmp_path / "bare", tmp_path / "bare_back", "--to_original") / "model.safetensors").keys()
    assert names == {name for name in load_file(back / "model.safetensors") if not name.startswith("head.")}


def test_the_card_names_the_file_and_says_whether_the_classifier_is_new(original, tmp_path):
    path, _, _ = original()
    card = (convert(path, tmp_path / "ours", "--license", "apache-2.0") / "README.md").read_text()
    assert "Made of `original.pth` by `hmba convert videomamba`" in card and "license: apache-2.0" in card
    assert "Its classifier is new" not in card and str(tmp_path) not in card
    assert "Its classifier is new" in (convert(path, tmp_path / "new", "--new_head") / "README.md").read_text()


def test_the_configuration_is_that_of_the_original(original, tmp_path):
    path, _, _ = original()
    config = AutoConfig.from_pretrained(convert(path, tmp_path / "ours"))
    assert (config.hidden_size, config.num_hidden_layers, config.num_labels) == (48, 3, 10)
    assert (config.image_size, config.patch_size, config.num_frames, config.tubelet_size) == (32, 8, 4, 1)
    assert config.architectures == ["VideoMambaForVideoClassification"]


def test_the_stock_pipeline_names_the_class_of_a_file(original, tmp_path):
    path, _, _ = original()
    (tmp_path / "labels.txt").write_text(NAMES)
    ours = convert(path, tmp_path / "ours", "--labels", tmp_path / "labels.txt")
    (tmp_path / "clip.mp4").write_bytes(numbered_video(12))
    found = pipeline("video-classification", model=str(ours))(str(tmp_path / "clip.mp4"), top_k=10)
    assert {one["label"] for one in found} == set(NAMES.splitlines())
    clips = AutoVideoProcessor.from_pretrained(ours)(tmp_path / "clip.mp4", return_tensors="pt")
    logits = AutoModelForVideoClassification.from_pretrained(ours)(**clips).logits[0]
    assert found[0]["label"] == f"action {logits.argmax().item()}"


def test_the_stock_pipeline_names_the_class_of_a_picture(original, tmp_path):
    path, _, _ = original("videomamba_image_small", "w_image.")
    ours = convert(path, tmp_path / "ours")
    picture = Image.new("RGB", (50, 40), (200, 30, 90))
    found = pipeline("image-classification", model=str(ours))(picture, top_k=7)
    pixels = AutoImageProcessor.from_pretrained(ours)(picture, return_tensors="pt")
    assert pixels["pixel_values"].shape == (1, 3, 32, 32)
    logits = AutoModelForImageClassification.from_pretrained(ours)(**pixels).logits[0]
    assert found[0]["label"] == f"LABEL_{logits.argmax().item()}"


def test_frames_that_are_no_squares_are_cut_out_of_larger_ones(original, tmp_path):
    frames = np.zeros((2, 20, 30, 3), dtype=np.uint8)
    path, _, _ = original()
    ours = convert(path, tmp_path / "clips", "--image_size", 16, 40, "--num_frames", 2)
    pixels = AutoVideoProcessor.from_pretrained(ours)(frames, return_tensors="pt")["pixel_values_videos"]
    assert AutoModelForVideoClassification.from_pretrained(ours)(pixels).logits.shape == (1, 10)
    path, _, _ = original("videomamba_image_small", "w_image.")
    ours = convert(path, tmp_path / "pictures", "--image_size", 16, 40)
    pixels = AutoImageProcessor.from_pretrained(ours)(frames[0], return_tensors="pt")["pixel_values"]
    assert AutoModelForImageClassification.from_pretrained(ours)(pixels).logits.shape == (1, 7)


@pytest.mark.parametrize("size", SIZES)
def test_the_real_sizes_are_read_off_their_shapes(size):
    facts = json.loads((GOLDEN / "videomamba_full_shapes.json").read_text())[size]
    shapes = dict(facts["top"])
    depth = SIZES[size][1]
    for layer in range(depth):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in facts["per_layer"].items()}
    specs = {name: TensorSpec(tuple(shape), torch.float32) for name, shape in shapes.items()}
    sizes = read_sizes(specs)
    config = VideoMambaConfig.of_size(size, num_labels=400)
    for name in (
        "hidden_size",
        "num_hidden_layers",
        "state_size",
        "conv_kernel",
        "expand",
        "tubelet_size",
        "num_labels",
    ):
        assert getattr(sizes, name) == getattr(config, name), name
    assert (sizes.patch_size, sizes.grid(), sizes.num_times) == ((16, 16), (14, 14), 8)
    model = blank_model(VideoMambaForVideoClassification, config)
    plan_renaming(specs, videomamba_rules(), wanted_tensors(model))


def test_the_checkpoint_carries_its_code(original, tmp_path):
    path, _, _ = original()
    ours = convert(path, tmp_path / "ours")
    saved = tmp_path / "saved"
    AutoModelForVideoClassification.from_pretrained(ours).save_pretrained(saved)
    AutoVideoProcessor.from_pretrained(ours).save_pretrained(saved)
    code = {file.name: file.read_bytes() for file in saved.glob("*.py")}
    assert code and {file.name: file.read_bytes() for file in ours.glob("*.py")} == code
    assert json.loads((ours / "config.json").read_text()) == json.loads((saved / "config.json").read_text())


class Malicious:
    """Something that runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {Path(os.environ['HF_HOME']) / 'was_run_too'}",)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("layout", ["bare", "model"])
def test_a_pickle_that_runs_something_is_refused_and_not_run(layout, is_zip, golden, tmp_path):
    weights = {**weights_of(golden("videomamba_small")[0], "w."), "norm_f.weight": Malicious()}
    content = weights if layout == "bare" else {layout: weights}
    torch.save(content, tmp_path / "original.pth", _use_new_zipfile_serialization=is_zip)
    refused(tmp_path / "original.pth", match=r"must hold only tensors, got one that would run .*\.system")
    assert not (Path(os.environ["HF_HOME"]) / "was_run_too").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({"strange.weight": torch.ones(1)}), "must have names in the table, got strange.weight"),
        (lambda w: w.update({"pool_norm.weight": torch.ones(48)}), "must have names in the table, got pool_norm.weig"),
        (lambda w: w.pop("layers.1.mixer.A_b_log"), r"must hold an origin of .*layers\.1\.mixer\.reverse_ssm\.A_log"),
        (lambda w: w.pop("head.bias"), r"must hold an origin of classifier\.bias"),
        (lambda w: w.pop("norm_f.weight"), r"must hold an origin of videomamba\.norm\.weight"),
        (lambda w: w.update({"norm.weight": torch.ones(48)}), r"must come from one tensor, got \['norm_f.weight', 'n"),
        (lambda w: w.update({"backbone.cls_token": torch.ones(1, 1, 48)}), "cls_token must be one tensor, got "),
        (lambda w: w.update({"norm_f.weight": torch.ones(47)}), r"norm_f.weight must be \(48,\), got \(47,\)"),
        (lambda w: w.update({"layers.4.norm.weight": torch.ones(48)}), r"layers\.\d\.\* must be .* got none of 3"),
        (lambda w: w.update({"cls_token": torch.ones(48)}), r"cls_token must be \(1, 1, 48\), got \(48,\)"),
        (lambda w: w.update({"pos_embed": torch.ones(17, 48)}), r"pos_embed must have 3 axes, got \(17, 48\)"),
        (lambda w: w.update({"pos_embed": torch.ones(1, 16, 48)}), "--image_size must be height and width of frames"),
        (lambda w: w.update({"head.weight": w["head.weight"].half()}), "must be torch.float32 as most tensors are"),
        (lambda w: w["cls_token"].fill_(float("nan")), "cls_token must be finite, got NaN"),
    ],
)
def test_a_tensor_that_is_not_as_the_table_says_is_named(change, message, golden, tmp_path):
    weights = {name: tensor.clone() for name, tensor in weights_of(golden("videomamba_small")[0], "w.").items()}
    change(weights)
    refused(save_layout(tmp_path / "original.pth", weights), match=message)


def test_the_teacher_of_masked_pre_training_is_dropped_by_name(original, tmp_path, capsys):
    teacher = {"clip_teacher.class_embedding": torch.randn(8)}
    path, _, tensors = original("videomamba_pretrain_small", "w_pt.", **teacher)
    ours = convert(path, tmp_path / "ours")
    assert "not used and dropped: 1 tensors\n  clip_teacher.class_embedding\n" in capsys.readouterr().out
    assert not any("teacher" in name for name in load_file(ours / "model.safetensors"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "tiny"], "must be of the size 'tiny', 24 blocks of width 192, got 3 of width 48"),
        (["--tubelet_size", 2], "--tubelet_size must be the checkpoint's, 1, got 2"),
        (["--num_frames", 1], "--num_frames must be at least 2 for a checkpoint of clips"),
        (["--num_frames", 0], "num_frames must be at least 1, got 0"),
        (["--image_size", 30], "image_size must be a multiple of patch_size=8, got 30"),
        (["--image_size", 32, 32, 32], "--image_size must be one number or height and width"),
        (["--num_labels", 0], "--num_labels must be at least 1, got 0"),
        (["--alignment_interval", 2], "--alignment_interval must be absent for a classifier, got 2"),
    ],
)
def test_an_option_that_does_not_fit_the_checkpoint_is_refused(options, message, original):
    refused(original()[0], *options, match=message)


def test_frames_that_are_no_squares_need_their_size(golden, tmp_path):
    weights = weights_of(golden("videomamba_small")[0], "w.")
    weights["pos_embed"] = torch.randn(1, 1 + 8, 48)
    path = save_layout(tmp_path / "original.pth", weights)
    refused(path, "--image_size", 32, match="must be height and width of frames of 8 patches, .* got .32, 32.")
    ours = convert(path, tmp_path / "ours", "--image_size", 16, 32)
    assert AutoConfig.from_pretrained(ours).frame_size == (16, 32)
    assert torch.equal(
        load_file(ours / "model.safetensors")["videomamba.embeddings.position_embeddings"], weights["pos_embed"]
    )


@pytest.mark.parametrize(
    "weights",
    [
        {
            "encoder.patch_embed.proj.weight": torch.ones(4, 3, 2, 8, 8),
            "encoder.blocks.0.attn.qkv.weight": torch.ones(12, 4),
        },
        {"model.embed_tokens.weight": torch.ones(7, 4), "model.layers.0.mlp.up_proj.weight": torch.ones(8, 4)},
    ],
)
def test_a_checkpoint_of_another_family_is_refused(weights, tmp_path):
    path = save_layout(tmp_path / "original.pth", weights)
    refused(path, match="the checkpoint must be of a VideoMamba, which has .*layers.0.mixer.A_b_log, got ")


def test_verification_compares_tensors_and_recorded_numbers(original, tmp_path, capsys):
    path, weights, tensors = original()
    save_file(tensors, tmp_path / "recorded.safetensors")
    convert(path, tmp_path / "ours", "--verify", tmp_path / "recorded.safetensors")
    told = capsys.readouterr().out
    assert f"verified: {len(weights)} tensors equal their origins" in told
    assert "verified: the backbone reproduces the original's tokens to" in told
    for name in ("out.last_hidden_state", "out.features", "out.logits", "out.loss"):
        assert f"verified: {name} of the original to" in told


def test_the_plain_restatement_gives_the_originals_tokens(golden):
    tensors, _ = golden("videomamba_small")
    weights = weights_of(tensors, "w.")
    tokens = original_videomamba(weights, tensors["in.video"], (4, 4))
    assert_close(tokens, tensors["out.last_hidden_state"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "prefix", "options"),
    [
        ("videomamba_small", "w.", ["--image_size", 24, 40, "--num_frames", 3]),
        ("videomamba_small", "w_tubelet2.", ["--new_head"]),
        ("videomamba_image_small", "w_student.", []),
        ("videomamba_image_small", "w_image.", ["--num_frames", 4, "--tubelet_size", 2, "--dtype", "bfloat16"]),
        ("videomamba_pretrain_small", "w_pt2.", []),
    ],
)
def test_every_kind_of_file_is_verified_by_the_restatement(name, prefix, options, original, tmp_path, capsys):
    path, _, _ = original(name, prefix)
    convert(path, tmp_path / "ours", "--verify", *options)
    assert "verified: the backbone reproduces the original's tokens to" in capsys.readouterr().out


def test_a_model_that_computes_something_else_fails_its_verification(original, monkeypatch, tmp_path):
    def swapped(weights, clips, grid):
        turned = {name: weights[name.replace("x_proj.", "x_proj_b.")] for name in weights}
        return original_videomamba(turned, clips, grid)

    monkeypatch.setattr("hmba_hf.conversion.verification.original_videomamba", swapped)
    refused(
        original()[0], "--verify", match="last_hidden_state must match the original's to 1e-09, got a difference of"
    )


def test_verification_of_pictures_and_of_pre_training_reads_their_numbers(original, tmp_path, capsys):
    path, _, tensors = original("videomamba_image_small", "w_image.")
    recorded = {"in.image": tensors["in.image"], "out.logits": tensors["out.image_logits"]}
    save_file(recorded, tmp_path / "pictures.safetensors")
    convert(path, tmp_path / "pictures", "--verify", tmp_path / "pictures.safetensors")
    path, _, tensors = original("videomamba_pretrain_small", "w_pt.")
    recorded = {name: tensor for name, tensor in tensors.items() if name.startswith("in.")}
    recorded |= {"out.clip": tensors["out_pt.clip"], "out.uta_loss": tensors["out_pt.uta_loss"]}
    save_file(recorded, tmp_path / "masked.safetensors")
    convert(path, tmp_path / "masked", "--verify", tmp_path / "masked.safetensors")
    told = capsys.readouterr().out
    for name in ("out.logits", "out.clip", "out.uta_loss"):
        assert f"verified: {name} of the original to" in told


def test_a_model_whose_numbers_are_not_the_recorded_ones_is_not_left_behind(original, tmp_path):
    path, weights, tensors = original()
    save_layout(path, {**weights, "norm_f.weight": weights["norm_f.weight"] * 1.01})
    save_file(tensors, tmp_path / "recorded.safetensors")
    recorded = tmp_path / "recorded.safetensors"
    refused(path, "--verify", recorded, match=r"out\.\w+ must match the original's to 2e-05, got a difference")
    save_file({"strange": torch.ones(1)}, recorded)
    refused(path, "--verify", recorded, match="must hold inputs and outputs of the original, got")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_another_dtype_may_be_asked_for(dtype, original, tmp_path):
    path, weights, _ = original()
    ours = convert(path, tmp_path / "ours", "--dtype", dtype)
    written = load_file(ours / "model.safetensors")
    dtypes = {tensor.dtype for name, tensor in written.items() if not name.endswith("A_log")}
    assert dtypes == {getattr(torch, dtype)}
    assert json.loads((ours / "config.json").read_text())["dtype"] == dtype
    decay = written["videomamba.encoder.layers.0.mixer.reverse_ssm.A_log"]
    assert torch.equal(decay, weights["layers.0.mixer.A_b_log"])


def test_half_precision_with_wide_decay_rates_is_one_dtype(golden, tmp_path):
    wide = ("A_log", "A_b_log", ".D", ".D_b")
    weights = {}
    for name, tensor in weights_of(golden("videomamba_small")[0], "w.").items():
        weights[name] = tensor if name.endswith(wide) else tensor.half()
    ours = convert(save_layout(tmp_path / "original.pth", weights), tmp_path / "ours")
    assert json.loads((ours / "config.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"scan_type": "temporal_first"},
            "scan_type must be 'spatial_first', as in the original code, got 'temporal_f",
        ),
        (
            {"architectures": ["VideoMambaOfTomorrow"]},
            "architectures must be of .*, which the original code has, got V",
        ),
        ({"model_type": "hmba"}, "must be of a VideoMamba, got one of 'hmba'"),
    ],
)
def test_a_model_that_the_original_code_cannot_hold_is_not_exported(change, message, original, tmp_path):
    path, _, _ = original()
    ours = convert(path, tmp_path / "ours")
    settings = json.loads((ours / "config.json").read_text())
    (ours / "config.json").write_text(json.dumps({**settings, **change}))
    with pytest.raises(ValueError, match=message):
        convert(ours, tmp_path / "back", "--to_original")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("words", [["--num_labels", "3"], ["--new_head"], ["--keep_unused"], ["--verify", "file"]])
def test_the_way_back_takes_no_option_that_would_do_nothing(words, capsys):
    with pytest.raises(SystemExit):
        convert("ours", "back", "--to_original", *words)
    assert f"--to_original must be without {words[0]}" in capsys.readouterr().err


def test_a_file_of_a_repository_may_be_named(original, tmp_path, monkeypatch):
    path, _, _ = original()
    asked = []

    def download(repo, file, revision):
        asked.append((repo, file, revision))
        return str(path)

    monkeypatch.setattr("hmba_hf.conversion.tensor_files.hf_hub_download", download)
    ours = convert("OpenGVLab/VideoMamba/videomamba_t16_k400_f8_res224.pth", tmp_path / "ours")
    convert("OpenGVLab/VideoMamba@0123abc/videomamba_t16_k400_f8_res224.pth", tmp_path / "pinned")
    file = "videomamba_t16_k400_f8_res224.pth"
    assert asked == [("OpenGVLab/VideoMamba", file, None), ("OpenGVLab/VideoMamba", file, "0123abc")]
    assert "base_model:\n- OpenGVLab/VideoMamba\n" in (ours / "README.md").read_text()


def test_two_files_of_a_folder_are_not_taken_for_one_checkpoint(original, tmp_path):
    path, weights, _ = original()
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("videomamba_t16.pth", "videomamba_s16.pth"):
        torch.save(weights, folder / name)
    refused(folder, match="a folder must hold the files of one checkpoint, got .*: name one of them")
