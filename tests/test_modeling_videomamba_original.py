"""Our VideoMambas give the numbers of the original ones."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hmba_hf.conversion.rename_keys import rename_tensors
from hmba_hf.conversion.videomamba_names import videomamba_rules
from hmba_hf.models.configuration_videomamba import SIZES, VideoMambaConfig
from hmba_hf.models.modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaModel,
)

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
