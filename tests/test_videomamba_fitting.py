"""VideoMamba converted for other clips and other classes, by the rules of the original code."""

import json
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForVideoClassification

from videomamba_files import convert, rebuild, refused, save_layout, weights_of


@pytest.fixture
def original(golden, tmp_path):
    """Rebuild an original file; see `rebuild`."""
    return partial(rebuild, golden, tmp_path)


@pytest.mark.parametrize("tubelet_size", [1, 2, 3])
def test_pictures_become_clips_by_a_kernel_in_the_centre(tubelet_size, original, tmp_path, capsys):
    path, weights, _ = original("videomamba_image_small", "w_image.")
    frames = 2 * tubelet_size
    ours = convert(path, tmp_path / "ours", "--num_frames", frames, "--tubelet_size", tubelet_size)
    model = AutoModelForVideoClassification.from_pretrained(ours)
    kernel = model.videomamba.embeddings.patch_embeddings.projection.weight
    centre = tubelet_size // 2
    assert torch.equal(kernel[:, :, centre], weights["patch_embed.proj.weight"])
    assert kernel.count_nonzero() == weights["patch_embed.proj.weight"].count_nonzero()
    times = model.videomamba.embeddings.temporal_embeddings
    assert times.shape == (1, 2, 32) and not times.any()
    assert torch.equal(model.classifier.weight, weights["head.weight"])
    assert "new and zero: temporal_pos_embedding" in capsys.readouterr().out


def test_a_clip_of_one_picture_is_classified_as_the_picture_where_order_does_not_matter(original, tmp_path):
    path, _, tensors = original("videomamba_image_small", "w_image.")
    model = AutoModelForVideoClassification.from_pretrained(convert(path, tmp_path / "ours", "--num_frames", 4))
    logits = model(tensors["in.image"][:, None]).logits
    assert_close(logits, tensors["out.image_logits"], atol=2e-5, rtol=0)


def test_the_head_of_a_distillation_has_done_its_work_when_pictures_become_clips(original, tmp_path, capsys):
    path, _, _ = original("videomamba_image_small", "w_student.")
    ours = convert(path, tmp_path / "ours", "--num_frames", 2)
    assert "\n  distill_head.0.weight\n" in capsys.readouterr().out
    assert AutoConfig.from_pretrained(ours).distillation_size is None


@pytest.mark.parametrize("sides", [(48,), (24, 64)])
def test_another_size_of_frames_resizes_the_table_of_places(sides, original, tmp_path):
    path, weights, _ = original()
    ours = convert(path, tmp_path / "ours", "--image_size", *sides)
    model = AutoModelForVideoClassification.from_pretrained(ours)
    height, width = sides[0], sides[-1]
    assert model.config.frame_size == (height, width)
    table = weights["pos_embed"]
    places = table[:, 1:].reshape(1, 4, 4, 48).permute(0, 3, 1, 2)
    wanted = nn.functional.interpolate(places, size=(height // 8, width // 8), mode="bicubic", align_corners=False)
    got = model.videomamba.embeddings.position_embeddings
    assert torch.equal(got[:, :1], table[:, :1])
    assert_close(got[:, 1:], wanted.flatten(2).transpose(1, 2), atol=1e-6, rtol=0)
    model(torch.randn(1, 4, 3, height, width))


def test_another_number_of_frames_resizes_the_table_of_times(original, tmp_path):
    path, weights, tensors = original()
    ours = convert(path, tmp_path / "ours", "--num_frames", 6)
    model = AutoModelForVideoClassification.from_pretrained(ours)
    times = weights["temporal_pos_embedding"].transpose(1, 2)
    wanted = nn.functional.interpolate(times, size=6, mode="linear", align_corners=False).transpose(1, 2)
    assert_close(model.videomamba.embeddings.temporal_embeddings, wanted, atol=1e-6, rtol=0)
    original_model = AutoModelForVideoClassification.from_pretrained(convert(path, tmp_path / "same"))
    clips = torch.randn(1, 6, 3, 32, 32)
    assert_close(model(clips).logits, original_model(clips, interpolate_pos_encoding=True).logits, atol=1e-5, rtol=0)


def test_a_missing_table_of_times_starts_at_zero_when_frames_are_named(golden, tmp_path, capsys):
    weights = weights_of(golden("videomamba_small")[0], "w.")
    del weights["temporal_pos_embedding"]
    path = save_layout(tmp_path / "original.pth", weights)
    refused(path, match="must hold temporal_pos_embedding, got none: --num_frames N starts one at zero")
    model = AutoModelForVideoClassification.from_pretrained(convert(path, tmp_path / "ours", "--num_frames", 4))
    assert not model.videomamba.embeddings.temporal_embeddings.any()
    assert "new and zero: temporal_pos_embedding" in capsys.readouterr().out


def head_of(folder):
    model = AutoModelForVideoClassification.from_pretrained(folder)
    return model.classifier.weight, model.classifier.bias


@pytest.fixture
def of_kinetics_710(original):
    """A file of 710 classes, and its head."""
    head = {"head.weight": torch.randn(710, 48), "head.bias": torch.randn(710)}
    path, _, _ = original(**head)
    return path, head["head.weight"], head["head.bias"]


def test_the_first_400_of_710_classes_are_kinetics_400(of_kinetics_710, tmp_path):
    path, weight, bias = of_kinetics_710
    got = head_of(convert(path, tmp_path / "ours", "--num_labels", 400))
    assert_close(got, (weight[:400], bias[:400]), atol=0, rtol=0)


@pytest.mark.parametrize("count", [600, 700])
def test_600_or_700_of_710_classes_need_a_label_map(count, of_kinetics_710, tmp_path):
    path, weight, bias = of_kinetics_710
    rows = torch.randperm(710)[:count].tolist()
    label_map = tmp_path / "map.json"
    label_map.write_text(json.dumps(rows))
    refused(
        path, "--num_labels", count, match=f"--label_map must name the {count} classes among the head's 710, got n"
    )
    got = head_of(convert(path, tmp_path / "ours", "--num_labels", count, "--label_map", label_map))
    assert_close(got, (weight[rows], bias[rows]), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ([0, 710], [], "--label_map must be of the 710 classes of the head, got class 710"),
        ([0, -1], [], "must be a JSON list of the numbers of classes, got -1 in it"),
        ({"0": 1}, [], "must be a JSON list of the numbers of classes, got dict"),
        ([0, 1], ["--num_labels", 3], "--label_map must hold 3 classes, got 2"),
        ([0, 1], ["--new_head"], "--label_map must be for a head that is kept, got none"),
    ],
)
def test_a_label_map_that_does_not_fit_is_refused(content, options, message, of_kinetics_710, tmp_path):
    (tmp_path / "map.json").write_text(json.dumps(content))
    refused(of_kinetics_710[0], "--label_map", tmp_path / "map.json", *options, match=message)


def test_a_head_of_other_classes_is_drawn_anew_by_its_seed(original, tmp_path, capsys):
    path, weights, _ = original()
    words = ["--num_labels", 174]
    weight, bias = head_of(convert(path, tmp_path / "first", *words))
    assert "new and not trained: a classifier of 174 classes" in capsys.readouterr().out
    assert weight.shape == (174, 48) and not bias.any()
    assert 0.015 < weight.std() < 0.025
    again, _ = head_of(convert(path, tmp_path / "again", *words))
    other, _ = head_of(convert(path, tmp_path / "other", *words, "--seed", 1))
    assert torch.equal(weight, again) and not torch.equal(weight, other)
    fresh, _ = head_of(convert(path, tmp_path / "fresh", "--new_head"))
    assert fresh.shape == weights["head.weight"].shape and not torch.equal(fresh, weights["head.weight"])


def test_fine_tuning_starts_from_masked_pre_training_with_its_norm(original, tmp_path, capsys):
    path, weights, _ = original("videomamba_pretrain_small", "w_pt.")
    ours = convert(path, tmp_path / "ours", "--num_labels", 5)
    told = capsys.readouterr().out
    assert "\n  clip_decoder.0.head.weight\n" in told and "new and not trained: a classifier of 5 classes" in told
    model = AutoModelForVideoClassification.from_pretrained(ours)
    assert torch.equal(model.videomamba.norm.weight, weights["norm.weight"])
    assert model.classifier.weight.shape == (5, 48)


def test_a_file_without_a_head_is_refused_unless_classes_are_asked_for(golden, tmp_path):
    weights = weights_of(golden("videomamba_small")[0], "w.")
    bare = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
    path = save_layout(tmp_path / "original.pth", bare)
    refused(path, match="must hold head.weight or, of pre-training, clip_decoder.0.head.weight, got neither")
    assert head_of(convert(path, tmp_path / "ours", "--num_labels", 3))[0].shape == (3, 48)


LABELS = {
    "labels.json": json.dumps([f"action {number}" for number in range(10)]),
    "by_number.json": json.dumps({str(number): f"action {number}" for number in range(10)}),
    "by_name.json": json.dumps({f"action {number}": str(number) for number in reversed(range(10))}),
    "labels.csv": "id,name\n" + "".join(f"{number},action {number}\n" for number in range(10)),
    "labels.txt": "".join(f"action {number}\n" for number in range(10)),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_any_form_become_those_of_the_configuration(name, original, tmp_path):
    path, _, _ = original()
    (tmp_path / name).write_text(LABELS[name])
    config = AutoConfig.from_pretrained(convert(path, tmp_path / "ours", "--labels", tmp_path / name))
    assert config.id2label == {number: f"action {number}" for number in range(10)}
    assert config.label2id["action 7"] == 7


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("two.txt", "a\nb\n", "must name 10 classes, got 2"),
        ("twice.json", '["a", "b", "a"]', "must name each class once, got 'a'"),
        ("shared.json", '{"a": 0, "b": 0}', "must number its 2 classes from 0 on"),
        ("cut.json", '["a", ', "must be a JSON file, got one that cannot be read"),
    ],
)
def test_labels_that_do_not_fit_are_refused(name, content, message, original, tmp_path):
    (tmp_path / name).write_text(content)
    refused(original()[0], "--labels", tmp_path / name, match=message)
