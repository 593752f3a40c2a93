import json
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import BertConfig, BertModel, BitsAndBytesConfig

from hmba_hf import HMBAForConditionalGeneration
from hmba_hf.conversion.rename_keys import rename_tensors
from hmba_hf.conversion.videomamba_names import videomamba_rules
from hmba_hf.models.configuration_videomamba import SCAN_TYPES, SIZES, VideoMambaConfig
from hmba_hf.models.layers_mamba import DropPath
from hmba_hf.models.layers_video_embeddings import interpolate_places, interpolate_times
from hmba_hf.models.modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaModel,
)
from tiny_models import tiny_config as hmba_config

GOLDEN = Path(__file__).parent / "golden"


def config_of(facts, **options):
    """The configuration here of an original one."""
    names = {
        "image_size": "img_size",
        "patch_size": "patch_size",
        "hidden_size": "embed_dim",
        "num_hidden_layers": "depth",
        "num_frames": "num_frames",
        "num_labels": "num_classes",
        "tubelet_size": "tubelet_size",
        "alignment_size": "clip_output_dim",
    }
    known = {ours: facts[original] for ours, original in names.items() if original in facts}
    return VideoMambaConfig(**{**known, **options})


def load_original(model, tensors, prefix, base="videomamba."):
    """Put original weights into a model; 2-D patch embeddings become 3-D."""
    originals = {name.removeprefix(prefix): weight for name, weight in tensors.items() if name.startswith(prefix)}
    patches = originals["patch_embed.proj.weight"]
    if patches.ndim == 4:
        originals["patch_embed.proj.weight"] = patches[:, :, None]
    model.load_state_dict(rename_tensors(originals, videomamba_rules(base), model.state_dict()))
    return model.eval()


@pytest.fixture
def classifier(golden):
    """The tiny original classifier in ours, its clips, `(b, t, c, h, w)`, and its numbers."""
    tensors, facts = golden("videomamba_small")
    model = VideoMambaForVideoClassification(config_of(facts["config"]))
    return load_original(model, tensors, "w."), tensors["in.video"].transpose(1, 2), tensors


def our_gradient(model, original):
    rules = videomamba_rules()
    ours = next(names for rule in rules if (names := rule.match(original)))
    return model.get_parameter(ours[0]).grad


def test_a_classifier_equals_the_original_block_by_block(classifier):
    model, clips, tensors = classifier
    outputs = model.videomamba(clips, output_hidden_states=True)
    assert_close(outputs.hidden_states[0], tensors["out.embeddings"], atol=1e-5, rtol=0)
    for layer in range(3):
        assert_close(outputs.hidden_states[layer], tensors[f"out.layer{layer}.residual"], atol=1e-5, rtol=0)
    assert_close(outputs.last_hidden_state, tensors["out.last_hidden_state"], atol=1e-5, rtol=0)
    assert_close(outputs.hidden_states[-1], outputs.last_hidden_state, atol=0, rtol=0)
    assert_close(outputs.pooler_output, tensors["out.features"], atol=1e-5, rtol=0)


def test_each_block_gives_the_originals_output(classifier):
    model, clips, tensors = classifier
    outputs = []
    for layer in model.videomamba.encoder.layers:
        layer.register_forward_hook(lambda module, args, output: outputs.append(output))
    model(clips)
    for layer, (hidden, residual) in enumerate(outputs):
        assert_close(hidden, tensors[f"out.layer{layer}.hidden"], atol=1e-5, rtol=0)
        assert_close(residual, tensors[f"out.layer{layer}.residual"], atol=1e-5, rtol=0)


def test_a_classifier_gives_the_originals_logits_and_loss(classifier):
    model, clips, tensors = classifier
    output = model(clips, labels=tensors["in.labels"])
    assert_close(output.logits, tensors["out.logits"], atol=2e-5, rtol=0)
    assert_close(output.loss, tensors["out.loss"][0], atol=2e-5, rtol=0)


def test_a_classifier_equals_the_original_in_double(classifier):
    model, clips, tensors = classifier
    model = model.double()
    output = model(clips.double())
    assert_close(output.logits, tensors["out.logits_f64"], atol=1e-12, rtol=0)
    features = model.videomamba(clips.double()).pooler_output
    assert_close(features, tensors["out.features_f64"], atol=1e-12, rtol=0)


def test_a_classifier_has_the_originals_gradients(classifier):
    model, clips, tensors = classifier
    clips = clips.clone().requires_grad_()
    model(clips, labels=tensors["in.labels"]).loss.backward()
    wanted = {name.removeprefix("grad."): tensor for name, tensor in tensors.items() if name.startswith("grad.")}
    pixels = wanted.pop("video").transpose(1, 2)
    assert_close(clips.grad, pixels, atol=1e-4 * pixels.abs().max().item(), rtol=0)
    for name, gradient in wanted.items():
        got = our_gradient(model, name)
        assert_close(got, gradient, atol=1e-4 * gradient.abs().max().item(), rtol=0, msg=name)


def test_tubelets_of_two_frames_equal_the_originals(golden):
    tensors, facts = golden("videomamba_small")
    model = VideoMambaForVideoClassification(config_of(facts["config"]["tubelet2"]))
    load_original(model, tensors, "w_tubelet2.")
    logits = model(tensors["in.video"].transpose(1, 2)).logits
    assert_close(logits, tensors["out_tubelet2.logits"], atol=2e-5, rtol=0)


def image_model(golden, part, **options):
    tensors, facts = golden("videomamba_image_small")
    config = config_of({**facts["config"], **facts["config"][part]}, num_frames=1, **options)
    model = VideoMambaForImageClassification(config)
    return load_original(model, tensors, f"w_{part}."), tensors


def test_pictures_are_classified_as_by_the_original(golden):
    model, tensors = image_model(golden, "image")
    assert_close(model(tensors["in.image"]).logits, tensors["out.image_logits"], atol=2e-5, rtol=0)


def test_a_student_learns_from_its_teacher_as_the_original_does(golden):
    student, tensors = image_model(golden, "student", distillation_size=20)
    teacher, _ = image_model(golden, "teacher")
    seen = teacher.videomamba(tensors["in.image"]).last_hidden_state
    wanted = tensors["out.teacher_feats"]
    assert_close(nn.functional.normalize(seen, dim=-1), wanted, atol=1e-5, rtol=0)
    output = student(tensors["in.image"], teacher_features=seen)
    assert_close(output.distillation_features, tensors["out.student_feats"], atol=1e-5, rtol=0)
    assert_close(output.logits, tensors["out.student_logits"], atol=2e-5, rtol=0)
    assert_close(output.loss, tensors["out.distill_loss"][0], atol=2e-5, rtol=0)


@pytest.fixture
def pretraining(golden):
    """The tiny original student of masked pre-training, by number of aligned layers."""
    tensors, facts = golden("videomamba_pretrain_small")

    def make(layers):
        config = config_of(facts["config"], num_alignment_layers=layers)
        prefix = "w_pt." if layers == 1 else "w_pt2."
        return load_original(VideoMambaForPreTraining(config), tensors, prefix)

    return make, tensors, facts


@pytest.mark.parametrize(("layers", "case"), [(1, "out_pt"), (2, "out_pt2")])
def test_a_masked_student_gives_the_originals_features(pretraining, layers, case):
    make, tensors, _ = pretraining
    output = make(layers)(tensors["in.video"].transpose(1, 2), tensors["in.mask"][:, 1:])
    assert_close(output.aligned_features, tensors[f"{case}.clip"], atol=1e-5, rtol=0)


def test_a_masked_student_has_the_originals_loss_and_idle_parameters(pretraining):
    make, tensors, facts = pretraining
    model = make(1)
    output = model(tensors["in.video"].transpose(1, 2), tensors["in.mask"][:, 1:], tensors["in.teacher"])
    assert_close(output.loss, tensors["out_pt.uta_loss"][0], atol=2e-5, rtol=0)
    output.loss.backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    rules = videomamba_rules()
    wanted = set()
    for original in facts["no_grad_params"]:
        wanted.update(next(names for rule in rules if (names := rule.match(original))))
    assert idle == wanted


def test_the_corrected_alignment_trains_the_last_block_and_norm(pretraining):
    make, tensors, _ = pretraining
    model = make(1)
    model.config.align_last_output = True
    output = model(tensors["in.video"].transpose(1, 2), tensors["in.mask"][:, 1:], tensors["in.teacher"])
    output.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_the_real_sizes_have_the_originals_shapes(size):
    facts = json.loads((GOLDEN / "videomamba_full_shapes.json").read_text())[size]
    with torch.device("meta"):
        model = VideoMambaForVideoClassification(VideoMambaConfig.of_size(size, num_labels=400))
    depth = model.config.num_hidden_layers
    originals = dict(facts["top"])
    for layer in range(depth):
        originals.update({f"layers.{layer}.{name}": shape for name, shape in facts["per_layer"].items()})
    rules = videomamba_rules()
    wanted = {}
    for name, shape in originals.items():
        ours = next(names for rule in rules if (names := rule.match(name)))
        wanted[ours[0]] = shape
    assert {name: list(weight.shape) for name, weight in model.state_dict().items()} == wanted
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["params"]


def test_the_bare_model_loads_from_the_classifier(tmp_path, classifier):
    model, clips, _ = classifier
    model.save_pretrained(tmp_path)
    bare = VideoMambaModel.from_pretrained(tmp_path)
    assert_close(bare(clips).pooler_output, model.videomamba(clips).pooler_output, atol=0, rtol=0)


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
