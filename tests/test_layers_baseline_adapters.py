"""Adapters whose linear layers are wrapped, quantised or brought in for each call, and the baseline that attends."""

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.func import jvp
from torch.testing import assert_close
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hmba_hf.models.layers_baseline_adapters import TransformerAdapter, eager_attention_forward
from test_layers_temporal_adapter import FRAMES, D, build_adapter, frame_features, randomize
from tiny_models import tiny_inputs, tiny_model

HEADS = 2
MASK = torch.tensor([[False, False, True, True, True], [True] * 5])
ADAPTERS = {
    "transformer": lambda: TransformerAdapter(D, FRAMES, HEADS),
    "query": build_adapter,
    "cosine": lambda: build_adapter("released"),
    "concat": lambda: build_adapter(fusion="concat"),
}


@pytest.fixture(params=ADAPTERS)
def adapter(request):
    return randomize(ADAPTERS[request.param]()).double().eval()


def version_0_1():
    """The layer that version 0.1 had, whose checkpoints have its names."""
    return nn.TransformerEncoderLayer(D, HEADS, 2 * D, dropout=0.0, batch_first=True, norm_first=True).double()


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
@pytest.mark.parametrize("training", [True, False])
def test_a_checkpoint_of_version_0_1_keeps_its_names_and_its_numbers(training, mask):
    adapter, frames = randomize(TransformerAdapter(D, FRAMES, HEADS)).double().train(training), frame_features(5)
    layer = randomize(version_0_1()).train(training)
    adapter.layer.load_state_dict(layer.state_dict())
    assert list(adapter.state_dict()) == [
        "temporal_position_embedding",
        "gate",
        *(f"layer.{name}" for name in layer.state_dict()),
    ]
    real = torch.ones(2, 5, dtype=torch.bool) if mask is None else mask
    positions = (real.cumsum(1) - 1).clamp(min=0)
    seen = frames.masked_fill(~real[..., None, None], 0.0) + adapter.temporal_position_embedding[positions][:, :, None]
    tracks, padding = seen.transpose(1, 2).flatten(0, 1), ~real.repeat_interleave(seen.shape[2], dim=0)
    read = layer(tracks, src_key_padding_mask=padding)[:, -1].unflatten(0, (2, -1))
    wanted = frames[:, -1] + adapter.gate * read
    for with_gradients in (True, False):
        with torch.set_grad_enabled(with_gradients):
            assert_close(adapter(frames, frame_mask=mask).features, wanted, atol=1e-12, rtol=1e-12)


def test_a_fresh_transformer_draws_as_version_0_1_did():
    torch.manual_seed(0)
    layer = TransformerAdapter(64, FRAMES, HEADS).layer
    bound = (6 / (4 * 64)) ** 0.5
    assert 0.98 * bound < layer.self_attn.in_proj_weight.abs().max() <= bound
    assert not layer.self_attn.in_proj_bias.any() and not layer.self_attn.out_proj.bias.any()
    model = tiny_model(adapter="transformer")
    attention = model.model.temporal_adapter.layer.self_attn
    assert 0.95 * (6 / (4 * 32)) ** 0.5 < attention.in_proj_weight.abs().max() <= (6 / (4 * 32)) ** 0.5


def linear_layers(module):
    return {name for name, part in module.named_modules() if isinstance(part, nn.Linear)}


def test_low_rank_updates_of_every_linear_layer_act_as_if_merged(adapter):
    frames, layers = frame_features(5), linear_layers(adapter)
    plain = adapter(frames, frame_mask=MASK).features.detach()
    adapted = get_peft_model(adapter, LoraConfig(r=2, target_modules=list(layers), init_lora_weights=False))
    features = adapted(frames, frame_mask=MASK).features
    lora = {name: parameter for name, parameter in adapted.named_parameters() if "lora_" in name}
    assert len(lora) == 2 * len(layers)
    gradients = torch.autograd.grad(features.square().sum(), list(lora.values()))
    idle = {name for name, gradient in zip(lora, gradients, strict=True) if not gradient.any()}
    assert not idle
    assert (features - plain).abs().max() > 1e-3
    assert_close(adapted.merge_and_unload()(frames, frame_mask=MASK).features, features, atol=1e-9, rtol=1e-9)


def test_weights_brought_in_for_each_call_give_the_same(adapter):
    frames = frame_features(5).detach()
    wanted = adapter(frames, frame_mask=MASK).features
    cpu_offload(adapter)  # outside of a call the weights are on no device
    assert {parameter.device.type for parameter in adapter.parameters()} == {"meta"}
    assert_close(adapter(frames, frame_mask=MASK).features, wanted, atol=0, rtol=0)


class QuantizedLinear(nn.Module):
    """A linear layer in 8 bits, as quantisers put it in a layer's place: its weight is no matrix to multiply with."""

    def __init__(self, layer):
        super().__init__()
        self.scale = layer.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((layer.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = layer.bias

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


@torch.no_grad()
def test_linear_layers_in_8_bits_give_what_their_rounded_weights_give(adapter):
    frames = frame_features(5)
    for name in linear_layers(adapter):
        layer = adapter.get_submodule(name)
        layer.weight.copy_(QuantizedLinear(layer).weight * QuantizedLinear(layer).scale)
    wanted = adapter(frames, frame_mask=MASK).features
    for name in linear_layers(adapter):
        parent, _, child = name.rpartition(".")
        setattr(adapter.get_submodule(parent), child, QuantizedLinear(adapter.get_submodule(name)))
    assert not linear_layers(adapter)
    assert_close(adapter(frames, frame_mask=MASK).features, wanted, atol=1e-12, rtol=1e-12)


def test_a_whole_model_with_low_rank_updates_answers_as_the_merged_one():
    model, inputs = tiny_model(adapter="transformer"), tiny_inputs()
    randomize(model.model.temporal_adapter)
    layers = [name for name in linear_layers(model) if "temporal_adapter" in name]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=layers, init_lora_weights=False)).eval()
    logits = adapted(**inputs).logits
    assert_close(adapted.merge_and_unload()(**inputs).logits, logits, atol=1e-4, rtol=1e-4)


def test_tangents_and_second_derivatives_of_the_transformer_are_finite_differences():
    adapter, frames = randomize(TransformerAdapter(D, FRAMES, HEADS)).double(), frame_features(5).detach()
    tangent, step = torch.randn_like(frames), 1e-6

    def features(frames):
        return adapter(frames, frame_mask=MASK).features

    with torch.no_grad():
        wanted = (features(frames + step * tangent) - features(frames - step * tangent)) / (2 * step)
    assert_close(jvp(features, (frames,), (tangent,))[1], wanted, atol=1e-6, rtol=1e-6)
    assert torch.autograd.gradgradcheck(features, frames.requires_grad_(), fast_mode=True)


def test_the_adapter_attends_as_the_model_is_told_to(monkeypatch, tmp_path):
    calls = []

    def attend(module, *args, **kwargs):
        calls.append(module)
        return eager_attention_forward(module, *args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "of_this_test", attend)
    model = tiny_model(adapter="transformer").eval()
    attention = model.model.temporal_adapter.layer.self_attn
    features = model.get_frame_features(tiny_inputs()["pixel_values_videos"]).detach()
    with torch.no_grad():
        wanted = model.adapt_frame_features(features).pooler_output
        for told in ("eager", "of_this_test", "sdpa", {"": "of_this_test", "text_config": "sdpa"}, "eager"):
            calls.clear()
            model.set_attn_implementation(told)
            assert_close(model.adapt_frame_features(features).pooler_output, wanted)
            assert (attention in calls) == ("of_this_test" in str(told))
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, attn_implementation="of_this_test")
    calls.clear()
    loaded.adapt_frame_features(features)
    assert loaded.model.temporal_adapter.layer.self_attn in calls
