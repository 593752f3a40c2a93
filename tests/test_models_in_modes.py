"""Modes of torch through whole models of each family: tangents, gradients for each sample, graphs of any size."""

import pytest
import torch
from torch import nn
from torch.export import Dim, export
from torch.func import functional_call, grad, jvp, vmap
from torch.testing import assert_close

import tiny_mambavl
from hmba_hf import VideoMambaConfig, VideoMambaForVideoClassification
from hmba_hf.models.layers_conditions import CHECKS_COMPILE
from hmba_hf.models.layers_question_fusion import FUSIONS
from tiny_hmba_vlm import KINDS, model_on
from tiny_pairs import tiny_retrieval
from tiny_vlm_bases import tiny_vlm

LABELS = torch.tensor([[0, 1], [2, 3]])


def tiny_classifier(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "image_size": 16, "patch_size": 8, "num_frames": 4}
    config = VideoMambaConfig(**sizes, num_labels=3, scan_type="spatiotemporal_v2", **options)
    return VideoMambaForVideoClassification(config).eval()


def asked_clips(batch=2, **sizes):
    inputs = tiny_mambavl.tiny_batch(batch, **sizes)
    return inputs["pixel_values_videos"], inputs["input_ids"], inputs["attention_mask"]


def assert_tangent(function, x, step=1e-4, **tolerance):
    """A tangent is the finite difference along it."""
    direction = torch.randn_like(x)
    with torch.no_grad():
        difference = (function(x + step * direction) - function(x - step * direction)) / (2 * step)
    assert difference.abs().max() > 1e-3
    assert_close(jvp(function, (x,), (direction,))[1], difference, **tolerance)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_mambavl_has_tangents(fusion):
    model = tiny_mambavl.tiny_model(fusion=fusion, text_features="contextual").double()
    clips, ids, mask = asked_clips()
    assert_tangent(lambda pixels: model(pixels, ids, mask).head_features, clips.double(), atol=1e-5, rtol=1e-4)


def test_a_videomamba_beside_a_bert_has_tangents():
    torch.manual_seed(0)
    model = tiny_retrieval().double()
    clips = torch.rand(2, 3, 3, 16, 16).double()
    ids = torch.randint(5, 18, (2, 6))
    mask = torch.ones_like(ids)

    def matches(pixels):
        text = model.get_text_features(ids, mask)
        return model.match(text.last_hidden_state, model.get_video_features(pixels).last_hidden_state, mask)

    nn.init.normal_(model.matching_head.weight)
    assert_tangent(matches, clips, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vision_language_model_with_an_adapter_has_tangents(kind):
    vlm = tiny_vlm(kind)
    model = model_on(vlm).double()
    inputs = vlm.encode([0, 1]) | {f"past_{name}": value for name, value in vlm.pictures(2, 3).items()}
    inputs["past_lengths"] = torch.tensor([1, 1])
    adapter = model.model.temporal_adapter
    weights = {name: weight.detach() for name, weight in adapter.named_parameters(prefix="model.temporal_adapter")}
    name = next(name for name in weights if name.endswith("in_proj.weight"))

    def features(weight):
        return functional_call(model, weights | {name: weight}, (), inputs).logits

    assert_tangent(features, weights[name], step=1e-3, atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_mambavls_gradients_for_each_clip_are_those_of_the_clip_alone(fusion):
    model = tiny_mambavl.tiny_model(fusion=fusion).double()
    clips, ids, mask = asked_clips()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def loss(weights, clip, question, read, label):
        inputs = (clip[None], question[None], read[None])
        return functional_call(model, weights, inputs, {"labels": label[None]}).loss

    found = vmap(grad(loss), (None, 0, 0, 0, 0))(weights, clips.double(), ids, mask, LABELS)
    for i in range(2):
        model.zero_grad()
        model(clips[i : i + 1].double(), ids[i : i + 1], mask[i : i + 1], labels=LABELS[i : i + 1]).loss.backward()
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                assert_close(found[name][i], weight.grad)


def test_masks_that_vmap_maps_hide_the_patches_of_their_own_clip():
    model = tiny_classifier().videomamba
    clips = torch.rand(2, 4, 3, 16, 16)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, ::2] = True
    mask[1, 1::2] = True

    def encode(clip, hidden):
        return model(clip[None], bool_masked_pos=hidden[None]).last_hidden_state[0]

    with torch.no_grad():
        assert_close(vmap(encode)(clips, mask), model(clips, bool_masked_pos=mask).last_hidden_state)
        mask[1, 3] = False
        with pytest.raises(ValueError, match="must hide as many patches in each clip"):
            vmap(encode)(clips, mask)


class Logits(nn.Module):
    """A model that takes its inputs by place and returns its logits alone."""

    def __init__(self, model, **options):
        super().__init__()
        self.model = model
        self.options = options

    def forward(self, *inputs):
        return self.model(*inputs, **self.options).logits


@pytest.mark.skipif(not CHECKS_COMPILE, reason="torch before 2.13 binds the length of questions in an exported graph")
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_mambavl_is_exported_for_batches_and_questions_of_any_size(fusion):
    model = Logits(tiny_mambavl.tiny_model(fusion=fusion, text_features="contextual"))
    batch = Dim("batch")
    length = Dim("length", min=2, max=40)
    frames = {} if fusion == "transformer" else {1: Dim("frames", min=2, max=40)}
    of_text = {0: batch, 2: length}
    sizes = (({0: batch, **frames}, of_text, of_text),)
    exported = export(model, asked_clips(3), dynamic_shapes=sizes).module()
    inputs = asked_clips(5, length=7, frames=4 if frames else 3)
    assert_close(exported(*inputs), model(*inputs))


def test_a_videomamba_is_exported_for_clips_of_any_length():
    model = Logits(tiny_classifier(), interpolate_pos_encoding=True)
    nn.init.normal_(model.model.videomamba.embeddings.temporal_embeddings)
    sizes = (({0: Dim("batch"), 1: Dim("frames", min=2, max=64)},),)
    exported = export(model, (torch.rand(3, 6, 3, 16, 16),), dynamic_shapes=sizes).module()
    for frames in (3, 4, 9):
        clips = torch.rand(2, frames, 3, 16, 16)
        assert_close(exported(clips), model(clips))
