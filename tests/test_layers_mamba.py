import math

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.testing import assert_close
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer as TransformersMambaMixer

from hmba_hf.models.layers_mamba import MambaBlock, MambaMixer
from hmba_hf.models.layers_scan_orders import BidirectionalMambaMixer
from hmba_hf.models.layers_state_space import MambaState


def double_mixer(hidden_size=6, state_size=4, **kwargs):
    """Build a mixer in double precision whose state lasts long enough to matter."""
    mixer = MambaMixer(hidden_size, state_size, **kwargs).double()
    with torch.no_grad():
        mixer.dt_proj.bias.add_(3)
    return mixer


def gradients(output, module, *inputs):
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad((output * weights).sum(), [*module.parameters(), *inputs])


@pytest.fixture
def original(golden):
    """The original mixer's weights in ours, and what it gave."""
    tensors, facts = golden("mamba_block_small")
    size = facts["config"]
    mixer = MambaMixer(size["d_model"], size["d_state"], size["d_conv"], size["expand"])
    weights = {k.removeprefix("w."): v for k, v in tensors.items() if k.startswith("w.")}
    mixer.load_state_dict(weights)
    return mixer, tensors


def test_it_equals_the_original_mixer(original):
    mixer, tensors = original
    y, state = mixer(tensors["in.x"])
    assert_close(y, tensors["out.y"], atol=1e-5, rtol=0)
    assert_close(mixer(tensors["in.x_short"])[0], tensors["out.y_short"], atol=1e-5, rtol=0)
    assert_close(state.conv, tensors["out.final_conv_state"][..., 1:].transpose(1, 2), atol=1e-5, rtol=0)
    assert_close(state.ssm, tensors["out.final_ssm_state"], atol=1e-5, rtol=0)


def test_it_equals_the_original_mixer_in_double(original):
    mixer, tensors = original
    assert_close(mixer.double()(tensors["in.x"].double())[0], tensors["out.y_f64"], atol=1e-12, rtol=0)


def test_it_has_the_original_mixers_gradients(original):
    mixer, tensors = original
    x = tensors["in.x"].requires_grad_()
    (mixer(x)[0] * tensors["in.grad_weight"]).sum().backward()
    got = {"x": x.grad, **{name: parameter.grad for name, parameter in mixer.named_parameters()}}
    wanted = {k.removeprefix("grad."): v for k, v in tensors.items() if k.startswith("grad.")}
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert_close(got[name], gradient, atol=1e-4 * gradient.abs().max().item(), rtol=0)


def test_step_by_step_equals_the_original_steps(original):
    mixer, tensors = original
    state, y = None, []
    for t in range(tensors["in.x"].shape[1]):
        step, state = mixer(tensors["in.x"][:, t : t + 1], state)
        y.append(step)
    assert_close(torch.cat(y, dim=1), tensors["out.y_step"], atol=1e-5, rtol=0)
    assert_close(state.ssm, tensors["out.final_ssm_state"], atol=1e-5, rtol=0)


def test_it_equals_the_mixer_of_transformers():
    config = MambaConfig(hidden_size=32, state_size=8, conv_kernel=3, expand=2, use_bias=False)
    theirs = TransformersMambaMixer(config, layer_idx=0)
    ours = MambaMixer(32, 8, 3, 2)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 9, 32)
    assert_close(ours(x)[0], theirs(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("num_outputs", [0, 1, 3, 8, 9])
def test_the_last_outputs_are_those_of_the_whole(num_outputs, reverse):
    mixer, x = double_mixer(), torch.randn(2, 8, 6).double().requires_grad_()
    whole, end = mixer(x, reverse=reverse)
    last, state = mixer(x, reverse=reverse, num_outputs=num_outputs)
    kept = min(num_outputs, 8)
    wanted = whole[:, :kept] if reverse else whole[:, 8 - kept :]
    assert_close(last, wanted, atol=1e-12, rtol=0)
    assert_close(state, end, atol=1e-12, rtol=0)
    if num_outputs:
        assert_close(gradients(last, mixer, x), gradients(wanted, mixer, x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 5, 7])
def test_two_parts_with_the_state_carried_equal_the_whole(cut, reverse):
    mixer, x = double_mixer(), torch.randn(2, 8, 6).double()
    whole, end = mixer(x, reverse=reverse)
    parts = [x[:, :cut], x[:, cut:]]
    first, second = reversed(parts) if reverse else parts
    y_first, state = mixer(first, reverse=reverse)
    y_second, last = mixer(second, state, reverse=reverse)
    assert_close(torch.cat([y_second, y_first] if reverse else [y_first, y_second], dim=1), whole)
    assert_close(last, end)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_masked_prefix_equals_the_sequence_alone(reverse):
    mixer, x = double_mixer(), torch.randn(2, 8, 6).double()
    mask = torch.arange(8).expand(2, 8) >= 3
    poisoned = x.masked_fill(~mask[..., None], 1e3)
    alone, wanted = mixer(x[:, 3:], reverse=reverse)
    padded, state = mixer(poisoned, mask=mask, reverse=reverse)
    assert_close(padded[:, 3:], alone, atol=1e-12, rtol=0)
    assert_close(state.ssm, wanted.ssm, atol=1e-12, rtol=0)


def test_the_state_does_not_grow_with_the_sequence():
    mixer = double_mixer()
    for length in (1, 2, 50):
        state = mixer(torch.randn(2, length, 6).double())[1]
        assert isinstance(state, MambaState)
        assert (state.conv.shape, state.ssm.shape) == ((2, 3, 12), (2, 12, 4))


def test_it_starts_as_mamba_does():
    mixer = MambaMixer(256)
    step = nn.functional.softplus(mixer.dt_proj.bias)
    assert 1e-3 * 0.99 <= step.min() < 2e-3 and 5e-2 < step.max() <= 1e-1 * 1.01
    assert abs(torch.log(step).mean() - math.log(1e-2)) < 0.2  # log-uniform
    assert_close(torch.exp(mixer.A_log), torch.arange(1.0, 17).expand(512, 16))
    assert torch.equal(mixer.D, torch.ones(512))
    bounds = {mixer.dt_proj.weight: 16**-0.5, mixer.conv1d.weight: 4**-0.5, mixer.conv1d.bias: 4**-0.5}
    bounds |= {mixer.in_proj.weight: 256**-0.5, mixer.x_proj.weight: 512**-0.5, mixer.out_proj.weight: 512**-0.5}
    for weight, bound in bounds.items():
        assert 0.98 * bound < weight.abs().max() <= bound
    sizes = {name: tuple(parameter.shape) for name, parameter in mixer.named_parameters()}
    assert sizes["x_proj.weight"] == (16 + 32, 512) and sizes["in_proj.weight"] == (1024, 256)


def test_the_real_width_has_as_many_parameters_as_the_original():
    with torch.device("meta"):
        mixer = MambaMixer(1024)
    assert sum(parameter.numel() for parameter in mixer.parameters()) == 6_666_240


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_single(dtype):
    mixer, x = MambaMixer(32), torch.randn(2, 20, 32)
    wanted, _ = mixer(x)
    mixer = mixer.to(dtype)
    mixer.A_log.data = mixer.A_log.data.float()  # as a model keeps it
    y, state = mixer(x.to(dtype))
    assert y.dtype == dtype and state.ssm.dtype == torch.float32
    assert_close(y.float(), wanted, atol=0.02, rtol=0.05)
    assert all(gradient.isfinite().all() for gradient in gradients(y, mixer))


def test_autocast_is_near_single():
    mixer, x = MambaMixer(32), torch.randn(2, 20, 32)
    wanted, wanted_state = mixer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = mixer(x)
    assert_close(y.float(), wanted, atol=0.02, rtol=0.05)
    assert state.ssm.dtype == torch.float32
    assert_close(state.ssm, wanted_state.ssm, atol=0.02, rtol=0.05)


def test_gradient_checkpointing_gives_the_same_gradients():
    mixer, x = double_mixer().train(), torch.randn(2, 8, 6).double().requires_grad_()
    plain = gradients(mixer(x, num_outputs=2)[0], mixer, x)
    calls = []

    def checkpoint(function, *args):
        calls.append(function)
        return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False)

    mixer.gradient_checkpointing, mixer._gradient_checkpointing_func = True, checkpoint
    assert_close(gradients(mixer(x, num_outputs=2)[0], mixer, x), plain, atol=0, rtol=0)
    assert calls


@pytest.mark.parametrize("layers", ["all-linear", ["in_proj", "x_proj", "dt_proj", "out_proj"]])
def test_low_rank_updates_act_as_if_merged(layers):
    mixer, x = double_mixer(), torch.randn(2, 8, 6).double()
    plain = mixer(x, num_outputs=3)[0]
    adapted = get_peft_model(mixer, LoraConfig(r=2, target_modules=layers, init_lora_weights=False))
    y = adapted(x, num_outputs=3)[0]
    lora = {name: parameter for name, parameter in adapted.named_parameters() if "lora_" in name}
    assert len({name.split(".lora_")[0] for name in lora}) >= 3
    assert all(gradient.any() for gradient in torch.autograd.grad(y.sum(), list(lora.values())))
    assert (y - plain).abs().max() > 1e-3
    assert_close(adapted.merge_and_unload()(x, num_outputs=3)[0], y, atol=1e-12, rtol=0)


def test_weights_brought_in_for_each_call_give_the_same():
    mixer, x = double_mixer(), torch.randn(2, 8, 6).double()
    wanted = mixer(x, num_outputs=3)
    cpu_offload(mixer)  # outside of a call the weights are on no device
    assert {parameter.device.type for parameter in mixer.parameters()} == {"meta"}
    assert_close(mixer(x, num_outputs=3), wanted, atol=0, rtol=0)


@pytest.fixture
def original_pair(golden):
    """The original mixer of two directions in ours, and what it gave."""
    tensors, facts = golden("bimamba_block_small")
    return load_bidirectional(tensors, facts["config"], "w.mixer."), tensors


def load_bidirectional(tensors, size, prefix):
    mixer = BidirectionalMambaMixer(size["d_model"], size["d_state"], size["d_conv"], size["expand"])
    originals = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    mixer.load_state_dict({our_name(name): weight for name, weight in originals.items()})
    return mixer


def our_name(name):
    """The name that a parameter of the original mixer of two directions has here."""
    if name.startswith(("in_proj", "out_proj")):
        return name
    ssm = "reverse_ssm" if "_b." in name or name.endswith("_b") or "_b_" in name else "forward_ssm"
    return f"{ssm}.{name.replace('_b_log', '_log').replace('_b.', '.').removesuffix('_b')}"


def test_two_directions_equal_the_original_mixer(original_pair):
    mixer, tensors = original_pair
    assert_close(mixer(tensors["in.x"]), tensors["out.mixer"], atol=1e-5, rtol=0)


def test_two_directions_equal_the_original_mixer_in_double(original_pair):
    mixer, tensors = original_pair
    assert_close(mixer.double()(tensors["in.x"].double()), tensors["out.mixer_f64"], atol=1e-12, rtol=0)


def test_two_directions_have_the_original_mixers_gradients(original_pair):
    mixer, tensors = original_pair
    x = tensors["in.x"].requires_grad_()
    (mixer(x) * tensors["in.grad_weight"]).sum().backward()
    got = {"x": x.grad, **{name: parameter.grad for name, parameter in mixer.named_parameters()}}
    prefix = "grad.mixer."
    wanted = {our_name(k.removeprefix(prefix)): v for k, v in tensors.items() if k.startswith(prefix)}
    wanted["x"] = tensors["grad.x"]
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert_close(got[name], gradient, atol=1e-4 * gradient.abs().max().item(), rtol=0)


def test_one_direction_alone_equals_the_original_without_the_other(original_pair):
    mixer, tensors = original_pair
    x, z = mixer.in_proj(tensors["in.x"]).chunk(2, dim=-1)
    read, _ = mixer.forward_ssm(x, z)
    assert_close(mixer.out_proj(read), tensors["out.forward_direction_only"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["block_first", "block"])
def test_a_block_equals_the_original_block(golden, case):
    tensors, facts = golden("bimamba_block_small")
    mixer = load_bidirectional(tensors, facts["config"], "w.block.mixer.")
    block = MambaBlock(nn.RMSNorm(32, eps=1e-5), mixer)
    block.norm.load_state_dict({"weight": tensors["w.block.norm.weight"]})
    residual = tensors["in.residual"] if case == "block" else None
    hidden, stream = block(tensors["in.x"], residual)
    assert_close(hidden, tensors[f"out.{case}.hidden"], atol=1e-5, rtol=0)
    assert_close(stream, tensors[f"out.{case}.residual"], atol=1e-5, rtol=0)


def test_a_masked_prefix_changes_neither_direction():
    mixer = BidirectionalMambaMixer(6, 4).double()
    x = torch.randn(2, 8, 6).double()
    padded = torch.cat([torch.randn(2, 3, 6).double(), x], dim=1)
    mask = torch.arange(11).expand(2, -1) >= 3
    assert_close(mixer(padded, mask)[:, 3:], mixer(x), atol=1e-12, rtol=0)


def test_two_mixers_may_have_one_table_of_decays():
    first = MambaMixer(6, 4)
    second = MambaMixer(6, 4)
    second.A_log = first.A_log
    x = torch.randn(2, 5, 6)
    (first(x)[0] + second(x)[0]).sum().backward()
    together = first.A_log.grad.clone()
    first.A_log.grad = None
    first(x)[0].sum().backward()
    alone = first.A_log.grad.clone()
    first.A_log.grad = None
    second(x)[0].sum().backward()
    assert_close(together, alone + first.A_log.grad)
