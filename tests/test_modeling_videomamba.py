import weakref

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import BertConfig, BertModel, BitsAndBytesConfig

from hmba_hf import HMBAForConditionalGeneration
from hmba_hf.models.configuration_videomamba import SCAN_TYPES, VideoMambaConfig
from hmba_hf.models.layers_mamba import DropPath
from hmba_hf.models.layers_video_embeddings import interpolate_places, interpolate_times
from hmba_hf.models.modeling_videomamba import (
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaModel,
)
from tiny_models import tiny_config as hmba_config


def tiny_config(**options):
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "state_size": 4,
        "image_size": 16,
        "patch_size": 8,
        "num_frames": 4,
        "num_labels": 3,
        "alignment_size": 6,
    }
    return VideoMambaConfig(**{**sizes, **options})


def tiny_clips(batch=2, frames=4, side=16):
    return torch.rand(batch, frames, 3, side, side)


def learned_tables(model):
    """Give a model tables that differ in each place and time."""
    for table in (model.embeddings.position_embeddings, model.embeddings.temporal_embeddings):
        nn.init.normal_(table)
    return model


@pytest.mark.parametrize("scan_type", SCAN_TYPES)
def test_every_scan_order_classifies_learns_and_hides_patches(scan_type):
    config = tiny_config(scan_type=scan_type)
    model = VideoMambaForVideoClassification(config)
    model(tiny_clips(), labels=torch.tensor([0, 2])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[:, ::2] = True
    seen = model.videomamba(tiny_clips(), bool_masked_pos=mask)
    assert seen.last_hidden_state.shape == (2, 9, 16)


@pytest.mark.parametrize("scan_type", SCAN_TYPES)
def test_hidden_patches_change_nothing(scan_type):
    model = VideoMambaModel(tiny_config(scan_type=scan_type)).eval()
    mask = torch.rand(2, 16).argsort(dim=1) < 10
    clips = tiny_clips()
    patches = clips.unflatten(3, (2, 8)).unflatten(5, (2, 8))  # (b, t, c, rows, 8, columns, 8)
    hidden = mask.unflatten(1, (4, 2, 2))[:, :, None, :, None, :, None]
    other = torch.where(hidden, torch.rand_like(patches), patches).flatten(5, 6).flatten(3, 4)
    seen = model(clips, bool_masked_pos=mask).last_hidden_state
    assert not torch.equal(other, clips)
    assert_close(model(other, bool_masked_pos=mask).last_hidden_state, seen, atol=0, rtol=0)


def test_a_picture_is_a_clip_of_one_frame_without_a_time():
    model = learned_tables(VideoMambaModel(tiny_config())).eval()
    pictures = tiny_clips()[:, 0]
    seen = model(pixel_values=pictures).last_hidden_state
    assert torch.equal(model(pictures).last_hidden_state, seen)
    assert torch.equal(model(pictures[:, None]).last_hidden_state, seen)
    with torch.no_grad():
        model.embeddings.temporal_embeddings.add_(1)
    assert torch.equal(model(pictures).last_hidden_state, seen)


def test_tables_are_interpolated_for_other_lengths_and_sizes_when_asked():
    model = learned_tables(VideoMambaModel(tiny_config())).eval()
    same = tiny_clips()
    assert torch.equal(model(same, interpolate_pos_encoding=True)[0], model(same)[0])
    assert model(tiny_clips(frames=8, side=32), interpolate_pos_encoding=True)[0].shape == (2, 1 + 8 * 16, 16)
    table = model.embeddings.temporal_embeddings
    halves = interpolate_times(table, 8)
    # Twice as many times lie a quarter of a step around each old one; the first and the last have no other neighbour.
    assert_close(halves[:, 1], 0.75 * table[:, 0] + 0.25 * table[:, 1])
    assert_close(halves[:, 0], table[:, 0])
    places = interpolate_places(model.embeddings.position_embeddings, (2, 2), (4, 4))
    assert torch.equal(places[:, 0], model.embeddings.position_embeddings[:, 0])


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (torch.rand(2, 3, 3, 16, 16), "pixel_values_videos must have 4 frames, got 3"),
        (torch.rand(2, 4, 3, 20, 16), "height in multiples of patch_size=8, got 20"),
        (torch.rand(2, 4, 3, 16, 12), "width in multiples of patch_size=8, got 12"),
        (torch.rand(2, 4, 3, 24, 16), "2 x 2 patches, got 3 x 2"),
        (torch.rand(2, 4, 1, 16, 16), "3, height, width"),
        (torch.rand(0, 4, 3, 16, 16), "got \\(0, 4"),
        (torch.rand(3, 16, 16), "must be \\(batch, frames"),
    ],
)
def test_clips_of_another_shape_are_refused(clips, message):
    with pytest.raises(ValueError, match=message):
        VideoMambaModel(tiny_config())(clips)


def test_a_tubelet_that_does_not_divide_the_frames_is_refused():
    with pytest.raises(ValueError, match="num_frames must be a multiple of tubelet_size=3, got 4"):
        tiny_config(tubelet_size=3)
    model = VideoMambaModel(tiny_config(tubelet_size=2))
    with pytest.raises(ValueError, match="frames in multiples of tubelet_size=2, got 3"):
        model(tiny_clips(frames=3), interpolate_pos_encoding=True)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 16, dtype=torch.bool), "leave a patch visible in each clip, got all hidden"),
        (torch.arange(32).reshape(2, 16) < 20, "as many patches in each clip"),
        (torch.zeros(2, 17, dtype=torch.bool), "must be \\(2, 16\\) in bool, got \\(2, 17\\)"),
        (torch.zeros(2, 16), "in torch.float32"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        VideoMambaForPreTraining(tiny_config())(tiny_clips(), mask)


def test_features_of_another_teacher_are_refused():
    mask = torch.arange(16).expand(2, -1) % 2 == 0
    model = VideoMambaForPreTraining(tiny_config())
    assert model(tiny_clips(), mask, torch.randn(1, 2, 9, 6)).loss.isfinite()
    with pytest.raises(ValueError, match="9 visible tokens or all 17, 6\\), got \\(1, 2, 17, 7\\)"):
        model(tiny_clips(), mask, torch.randn(1, 2, 17, 7))
    for hidden in (mask, None):  # more tokens than the clip has: of a finer grid, or of more frames
        with pytest.raises(ValueError, match="tokens or all 17, 6\\), got \\(1, 2, 37, 6\\)"):
            model(tiny_clips(), hidden, torch.randn(1, 2, 37, 6))
    with pytest.raises(ValueError, match="tokens or all 17, 6\\), got \\(1, 2, 16, 6\\)"):  # no class token
        model(tiny_clips(), mask, torch.randn(1, 2, 16, 6))
    student = VideoMambaForVideoClassification(tiny_config(distillation_size=5))
    with pytest.raises(ValueError, match="teacher_features must be \\(2, 17, 5\\), got \\(2, 17, 6\\)"):
        student(tiny_clips(), teacher_features=torch.randn(2, 17, 6))
    with pytest.raises(ValueError, match="distillation_size must be the width of teacher_features, got None"):
        VideoMambaForVideoClassification(tiny_config())(tiny_clips(), teacher_features=torch.randn(2, 17, 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scan_type": "diagonal"}, "scan_type must be one of"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"image_size": 20}, "image_size must be a multiple of patch_size=8, got 20"),
        ({"image_size": [16, 16, 16]}, "image_size must be one number or height and width"),
        ({"layer_norm_eps": -1e-5}, "layer_norm_eps must be greater than zero, got -1e-05"),
        ({"drop_path_rate": 1.0}, "drop_path_rate must be from 0 up to but without 1"),
        ({"num_alignment_layers": 3}, "must stay within 2 layers, got 3 and 1"),
        ({"_name": 1}, "no private keys"),
    ],
)
def test_unknown_values_of_a_configuration_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**options)
    with pytest.raises(ValueError, match="size must be one of"):
        VideoMambaConfig.of_size("huge")


def test_stochastic_depth_drops_whole_samples_and_more_of_later_blocks():
    model = VideoMambaModel(tiny_config(num_hidden_layers=5, drop_path_rate=0.4))
    rates = [layer.drop_path.rate for layer in model.encoder.layers]
    assert_close(torch.tensor([*rates, model.encoder.drop_path.rate]), torch.tensor([0, 0, 0.1, 0.2, 0.3, 0.4]))
    dropped = DropPath(0.25).train()(torch.ones(4000, 2, 3))
    assert_close(dropped.unique(), torch.tensor([0, 1 / 0.75]))
    assert torch.equal(dropped.amax(dim=(1, 2)), dropped.amin(dim=(1, 2)))
    assert 0.2 < (dropped[:, 0, 0] == 0).float().mean() < 0.3
    x = torch.ones(3, 2)
    assert torch.equal(DropPath(0.25).eval()(x), x)


def test_new_weights_are_those_of_the_released_code_or_mambas_steps():
    released = VideoMambaModel(tiny_config(hidden_size=32))
    state_space = released.encoder.layers[0].mixer.forward_ssm
    assert not state_space.dt_proj.bias.any()
    assert 0.01 < state_space.dt_proj.weight.std() < 0.03
    out_proj = released.encoder.layers[1].mixer.out_proj.weight
    bound = (64 * 2) ** -0.5
    assert 0.9 * bound < out_proj.abs().max() <= bound
    assert not released.embeddings.cls_token.any()
    assert not released.embeddings.temporal_embeddings.any()
    assert released.embeddings.position_embeddings.any()
    spread = VideoMambaModel(tiny_config(hidden_size=32, step_initialization="mamba"))
    steps = nn.functional.softplus(spread.encoder.layers[0].mixer.reverse_ssm.dt_proj.bias)
    assert 0.0009 < steps.min() < steps.max() < 0.11


def test_the_residual_stays_wide_under_half_precision():
    model = VideoMambaModel(tiny_config()).bfloat16()
    outputs = model(tiny_clips().bfloat16(), output_hidden_states=True)
    assert {states.dtype for states in outputs.hidden_states[:-1]} == {torch.float32}
    assert outputs.last_hidden_state.dtype == torch.bfloat16
    assert all(states.isfinite().all() for states in outputs.hidden_states)


def test_probabilities_of_classes_are_labels_too():
    model = VideoMambaForVideoClassification(tiny_config()).eval()
    clips = tiny_clips()
    hard = model(clips, labels=torch.tensor([2, 0])).loss
    soft = model(clips, labels=torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])).loss
    assert_close(soft, hard)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_refused_by_name(value):
    clips = tiny_clips()
    clips[1, 2, 0, 3, 4] = value
    for model_class in (VideoMambaModel, VideoMambaForVideoClassification, VideoMambaForPreTraining):
        with pytest.raises(ValueError, match="pixel_values_videos must be finite, got NaN or infinity"):
            model_class(tiny_config())(clips)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (torch.tensor([0, 5]), {}, "labels must be classes from 0 to 4, or -100, got others"),
        (torch.tensor([-1, 0]), {}, "labels must be classes from 0 to 4, or -100, got others"),
        (torch.tensor([0, 1, 2]), {}, "labels must be \\(2,\\) for classes, got \\(3,\\)"),
        (torch.ones(2, 5, dtype=torch.long), {}, "labels must be \\(2,\\) for classes, got \\(2, 5\\)"),
        (torch.tensor([0.0, 1.0]), {}, "labels must be \\(2, 5\\) for values, got \\(2,\\)"),
        (torch.rand(2, 4), {}, "labels must be \\(2, 5\\) for values, got \\(2, 4\\)"),
        (torch.rand(2), {"problem_type": "regression"}, "labels must be \\(2, 5\\) for values, got \\(2,\\)"),
        (torch.rand(2, 2), {"num_labels": 1}, "labels must be \\(2, 1\\) for values, got \\(2, 2\\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, options, message):
    model = VideoMambaForVideoClassification(tiny_config(**{"num_labels": 5, **options}))
    with pytest.raises(ValueError, match=message):
        model(tiny_clips(), labels=labels)


def test_values_and_several_classes_are_labels_too():
    clips = tiny_clips()
    model = VideoMambaForVideoClassification(tiny_config(num_labels=1)).eval()
    values = torch.tensor([[0.5], [2.0]])
    squared = (model(clips).logits - values).square().mean()
    assert_close(model(clips, labels=values).loss, squared)
    assert_close(model(clips, labels=values[:, 0]).loss, squared)
    model = VideoMambaForVideoClassification(tiny_config(num_labels=3, problem_type="multi_label_classification"))
    several = torch.tensor([[1, 0, 1], [0, 0, 1]])
    wanted = nn.functional.binary_cross_entropy_with_logits(model(clips).logits, several.float())
    assert_close(model(clips, labels=several).loss, wanted)


def test_a_classifier_without_classes_is_refused():
    with pytest.raises(ValueError, match="num_labels must be at least 1, got 0"):
        VideoMambaForVideoClassification(tiny_config(num_labels=0))


def test_a_compiled_model_gives_the_same_logits():
    model = VideoMambaForVideoClassification(tiny_config(scan_type="alternating")).eval()
    clips = tiny_clips()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_close(compiled(clips).logits, model(clips).logits)


def test_a_classifier_starts_from_pretraining_and_from_a_student(tmp_path):
    pretrained = VideoMambaForPreTraining(tiny_config())
    pretrained.save_pretrained(tmp_path / "pretrained")
    _, report = VideoMambaForVideoClassification.from_pretrained(tmp_path / "pretrained", output_loading_info=True)
    assert report["missing_keys"] == {"classifier.weight", "classifier.bias"}
    student = VideoMambaForVideoClassification(tiny_config(distillation_size=5)).eval()
    student.save_pretrained(tmp_path / "student")
    alone = VideoMambaForVideoClassification.from_pretrained(tmp_path / "student", distillation_size=None)
    clips = tiny_clips()
    assert torch.equal(alone(clips).logits, student(clips).logits)
    assert not [name for name, _ in alone.named_parameters() if "distillation" in name]


def test_a_checkpoint_of_another_family_depth_or_scan_is_refused(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=9, **sizes)).save_pretrained(tmp_path / "bert")
    VideoMambaForVideoClassification(tiny_config()).save_pretrained(tmp_path / "clips")
    for model_class in (VideoMambaModel, VideoMambaForVideoClassification, VideoMambaForPreTraining):
        with pytest.raises(ValueError, match="must be a checkpoint of videomamba, got one of bert"):
            model_class.from_pretrained(tmp_path / "bert")
        with pytest.raises(ValueError, match=r"layers\.2\.mixer"):
            model_class.from_pretrained(tmp_path / "clips", num_hidden_layers=3)
        with pytest.raises(ValueError, match=r"as many blocks and scans .* got others: .*layers\.1\.mixer"):
            model_class.from_pretrained(tmp_path / "clips", num_hidden_layers=1)
        with pytest.raises(ValueError, match="temporal_forward_ssm"):
            model_class.from_pretrained(tmp_path / "clips", scan_type="spatiotemporal_v2")


def test_scans_that_the_configuration_lacks_are_never_dropped(tmp_path):
    VideoMambaModel(tiny_config(scan_type="spatiotemporal_v2")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="got others: .*temporal_forward_ssm"):
        VideoMambaModel.from_pretrained(tmp_path, scan_type="spatial_first")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"hidden_size": 32}, r"cls_token of \(1, 1, 16\) instead of \(1, 1, 32\)"),
        ({"image_size": 32}, r"position_embeddings of .*; .* resize_clips"),
        ({"num_frames": 8}, r"temporal_embeddings of .* instead of .* resize_clips"),
        ({"num_labels": 5}, r"classifier.weight of \(\d+, 16\) instead of \(5, 16\); ignore_mismatched_sizes=True"),
    ],
)
@pytest.mark.parametrize("wants_report", [False, True])
def test_a_checkpoint_of_another_size_is_refused_in_one_sentence(changed, told, wants_report, tmp_path):
    VideoMambaForVideoClassification(tiny_config()).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=f"must hold weights of the sizes .* says, got .*{told}"):
        VideoMambaForVideoClassification.from_pretrained(tmp_path, output_loading_info=wants_report, **changed)


def test_other_classes_and_clips_for_pictures_get_new_weights(tmp_path):
    VideoMambaForVideoClassification(tiny_config(num_frames=1)).save_pretrained(tmp_path)
    options = {"num_labels": 5, "num_frames": 4, "ignore_mismatched_sizes": True}
    model = VideoMambaForVideoClassification.from_pretrained(tmp_path, **options)
    assert model.classifier.weight.shape == (5, 16)
    assert not model.videomamba.embeddings.temporal_embeddings.any()


def test_pickled_weights_are_refused(tmp_path):
    VideoMambaModel(tiny_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="weights must be in safetensors"):
        VideoMambaModel.from_pretrained(tmp_path, use_safetensors=False)


@pytest.mark.parametrize("hidden_size", [16, 64])
@pytest.mark.parametrize("has_nested_scales", [False, True])
def test_layers_in_4_bits_are_evaluated_on_a_cpu_whatever_their_width(hidden_size, has_nested_scales, tmp_path):
    torch.manual_seed(0)
    model = VideoMambaForVideoClassification(tiny_config(hidden_size=hidden_size)).eval()
    model.save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=has_nested_scales)
    options = {"quantization_config": config, "device_map": "cpu"}
    quantised = VideoMambaForVideoClassification.from_pretrained(tmp_path, **options).eval()
    with torch.no_grad():
        clips = tiny_clips()
        wanted = model(clips).logits
        found = quantised(clips).logits
    assert 0 < (found - wanted).norm() < 0.3 * wanted.norm()


@pytest.mark.parametrize("layer", [-1, -2])
def test_hmba_sees_through_a_videomamba(layer, tmp_path):
    tower = VideoMambaModel(tiny_config()).eval()
    config = hmba_config(vision_config=tower.config, vision_feature_layer=layer)
    model = HMBAForConditionalGeneration(config).eval()
    model.model.vision_tower.load_state_dict(tower.state_dict())
    clips = tiny_clips(frames=3)
    features = model.get_frame_features(clips)
    wanted = tower(clips.flatten(0, 1), output_hidden_states=True).hidden_states[layer][:, 1:]
    assert_close(features.flatten(0, 1), wanted)
    model.save_pretrained(tmp_path)
    again = HMBAForConditionalGeneration.from_pretrained(tmp_path)
    assert_close(again.get_frame_features(clips), features)


def test_residuals_are_freed_unless_they_are_wanted():
    model = VideoMambaModel(tiny_config(num_hidden_layers=4)).eval()
    alive = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda module, args, output: alive.append(weakref.ref(output[1])))
    with torch.no_grad():
        model(tiny_clips())
        assert not any(residual() is not None for residual in alive)
        alive.clear()
        kept = model(tiny_clips(), output_hidden_states=True)
    assert all(residual() is not None for residual in alive)
    assert len(kept.hidden_states) == 5
