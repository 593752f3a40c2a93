"""Every mode in which torch may run an operator, for every backend: right, or refused by name."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, functionalize, grad, hessian, jvp, vjp, vmap
from torch.testing import assert_close

from hmba_hf.models import ops_selective_scan
from hmba_hf.models.layers_baseline_adapters import MeanFrameAdapter, TransformerAdapter
from hmba_hf.models.layers_conditions import CHECKS_COMPILE
from hmba_hf.models.ops_causal_conv1d import causal_conv1d, causal_conv1d_portable
from hmba_hf.models.ops_selective_scan import selective_scan
from test_layers_temporal_adapter import FRAMES, D, build_adapter, frame_features, randomize
from test_ops_backends import original_scan
from test_ops_selective_scan import reference

STEP = 1e-6  # of finite differences
BACKENDS = {
    "scan": ["reference", "portable", "cpu", "triton", "mamba_ssm"],
    "convolution": ["portable", "cpu", "triton"],
}
CASES = [(operator, backend) for operator, backends in BACKENDS.items() for backend in backends]


class OpaqueScan(torch.autograd.Function):
    """Stands in for mamba_ssm's kernel: a gradient of which torch sees nothing."""

    @staticmethod
    def forward(ctx, *inputs):
        ctx.save_for_backward(*inputs)
        return original_scan(*inputs, delta_softplus=True)

    @staticmethod
    def backward(ctx, grad_y):
        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            y = original_scan(*inputs, delta_softplus=True)
        return torch.autograd.grad(y, inputs, grad_y.detach())


@pytest.fixture
def backend(request, monkeypatch):
    if request.param == "mamba_ssm":

        def scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state):
            return OpaqueScan.apply(u, delta, A, B, C, D, z, delta_bias)

        monkeypatch.setattr(ops_selective_scan, "scan_backends", lambda device, dtype: ("mamba_ssm", "portable"))
        monkeypatch.setattr(ops_selective_scan, "scan_function", lambda name: scan)
    else:
        monkeypatch.setenv("HMBA_SCAN_BACKEND", request.param)
    return request.param


class Case:
    """An operator, its reference, and inputs for both: functions of tensors that return one tensor."""

    def __init__(self, operator, backend):
        b, length, d, n = 2, 4, 2, 2
        # mamba_ssm takes neither a state nor double precision.
        self.dtype = torch.float32 if backend == "mamba_ssm" else torch.float64
        self.tolerance = 1e-4 if backend == "mamba_ssm" else 1e-7
        mask = torch.arange(length) >= torch.tensor([[0], [2]])
        sequence, maps, channels = (b, length, d), (b, length, n), (d,)
        if operator == "scan":
            shapes = [sequence, sequence, (d, n), maps, maps, channels, sequence, channels, (b, d, n)]
            shapes = shapes[:-1] if backend == "mamba_ssm" else shapes
            run, exact = selective_scan, reference
        else:
            shapes = [sequence, (d, 4), channels, (b, 3, d)]
            run, exact = causal_conv1d, causal_conv1d_portable
        self.inputs = [torch.randn(shape, dtype=self.dtype) for shape in shapes]
        if operator == "scan":
            self.inputs[2] = -self.inputs[2].abs() - 0.1
        # The last state is left out, as without it mamba_ssm's own gradient runs.
        options = {"return_last_state": False} if operator == "scan" and backend == "mamba_ssm" else {}

        def flat(results):
            return torch.cat([x.flatten() for x in results if x is not None])

        self.run = lambda *inputs: flat(run(*inputs, mask=mask.to(inputs[0].device), **options))
        whole = lambda *inputs: exact(*inputs, mask=mask)  # noqa: E731
        self.reference = lambda *inputs: flat(whole(*inputs)[:1] if options else whole(*inputs))

    def leaves(self):
        return [x.clone().requires_grad_() for x in self.inputs]

    def tangents(self):
        return [torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x) for x in self.inputs]

    def difference(self):
        """How the reference changes along the tangents."""
        wide, tangents = [x.double() for x in self.inputs], [x.double() for x in self.tangents()]
        later, earlier = (
            self.reference(*(x + step * v for x, v in zip(wide, tangents, strict=True))) for step in (STEP, -STEP)
        )
        return ((later - earlier) / (2 * STEP)).to(self.dtype)

    def close(self, got, wanted):
        assert_close(got, wanted, atol=self.tolerance, rtol=self.tolerance)


def loss(function):
    """A number whose gradient depends on the inputs."""

    def number(*inputs):
        y = function(*inputs)
        return (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype)).sum().square()

    return number


def of_both(compute):
    """Make a mode of what must be the same for the operator and its reference."""
    return lambda case: case.close(compute(case, case.run), compute(case, case.reference))


def tangent_of_duals(case):
    for wants_gradient in (False, True):
        with forward_ad.dual_level():
            pairs = zip(case.inputs, case.tangents(), strict=True)
            duals = [forward_ad.make_dual(x.clone().requires_grad_(wants_gradient), v) for x, v in pairs]
            case.close(forward_ad.unpack_dual(case.run(*duals)).tangent, case.difference())


def gradients_for_each_sample(case, function):
    samples = torch.stack([case.inputs[0], 2 * case.inputs[0]])
    every = tuple(range(len(case.inputs)))
    if function is case.run:
        return vmap(grad(loss(function), every), (0, *[None] * (len(every) - 1)))(samples, *case.inputs[1:])
    found = [grad(loss(function), every)(sample, *case.inputs[1:]) for sample in samples]
    return tuple(torch.stack(gradients) for gradients in zip(*found, strict=True))


def mapped(case, function):
    several = [torch.stack([x, 0.9 * x]) for x in case.inputs]
    if function is case.run:
        return vmap(function)(*several)
    return torch.stack([function(*(x[i] for x in several)) for i in range(2)])


def gradients_of_gradients(case, function):
    leaves = case.leaves()
    gradients = torch.autograd.grad(loss(function)(*leaves), leaves, create_graph=True)
    return torch.autograd.grad(sum(x.square().sum() for x in gradients), leaves)


def gradients_of_one_tensor_used_twice(case, function):
    leaves = case.leaves()
    leaves[1 if len(leaves) > 4 else 3] = leaves[0] if len(leaves) > 4 else leaves[0][:, :3]
    (gradient,) = torch.autograd.grad(loss(function)(*leaves), leaves[:1], create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), leaves[0])


def many_gradients_at_once(case, function):
    leaves = case.leaves()
    y = function(*leaves)
    return torch.autograd.grad(y, leaves, torch.eye(y.numel(), dtype=y.dtype), is_grads_batched=True)


def fake(case):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        leaves = [mode.from_tensor(x).requires_grad_() for x in case.inputs]
        y = case.run(*leaves)
        gradients = torch.autograd.grad(y.sum(), leaves)
    assert y.shape == case.reference(*case.inputs).shape
    assert [x.shape for x in gradients] == [x.shape for x in case.inputs]


def meta(case):
    leaves = [x.to("meta").requires_grad_() for x in case.inputs]
    y = case.run(*leaves)
    assert y.is_meta and y.shape == case.reference(*case.inputs).shape
    assert all(x.is_meta for x in torch.autograd.grad(y.sum(), leaves))


def sparse(case):
    for i in range(len(case.inputs)):
        inputs = list(case.inputs)
        inputs[i] = inputs[i].detach().to_sparse()
        with pytest.raises(ValueError, match="must be dense, got a tensor in torch.sparse_coo"):
            case.run(*inputs)


def several_devices(case):
    for i in range(len(case.inputs)):
        inputs = list(case.inputs)
        inputs[i] = inputs[i].to("meta")
        with pytest.raises(ValueError, match=r"must be on (cpu|meta)( |$)"):
            case.run(*inputs)
    assert_close(case.run(*case.inputs), case.reference(*case.inputs), atol=1e-5, rtol=1e-5)


MODES = {
    "jvp": lambda case: case.close(jvp(case.run, tuple(case.inputs), tuple(case.tangents()))[1], case.difference()),
    "dual tensors": tangent_of_duals,
    "vjp": of_both(lambda case, function: vjp(loss(function), *case.inputs)[1](torch.ones((), dtype=case.dtype))),
    "grad": of_both(lambda case, function: grad(loss(function), tuple(range(len(case.inputs))))(*case.inputs)),
    "vmap": of_both(mapped),
    "per sample": of_both(gradients_for_each_sample),
    "hessian": of_both(lambda case, function: hessian(lambda x: loss(function)(x, *case.inputs[1:]))(case.inputs[0])),
    "double backward": of_both(gradients_of_gradients),
    "one tensor twice": of_both(gradients_of_one_tensor_used_twice),
    "batched gradients": of_both(many_gradients_at_once),
    "functionalize": lambda case: case.close(functionalize(case.run)(*case.inputs), case.reference(*case.inputs)),
    "inference": torch.inference_mode()(lambda case: case.close(case.run(*case.inputs), case.reference(*case.inputs))),
    "fake": fake,
    "meta": meta,
    "several devices": several_devices,
    "sparse": sparse,
}
REFUSED = {
    ("scan", "mamba_ssm", mode): "HMBA_SCAN_BACKEND=portable has them"
    for mode in ("double backward", "one tensor twice", "batched gradients")
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("operator", "backend"), CASES, indirect=["backend"])
def test_every_mode_is_right_or_refused_by_name(operator, mode, backend):
    case = Case(operator, backend)
    if (operator, backend, mode) in REFUSED:
        with pytest.raises(RuntimeError, match=REFUSED[operator, backend, mode]):
            MODES[mode](case)
    else:
        MODES[mode](case)


@pytest.fixture(params=["paper", "released"])
def adapter(request, monkeypatch):
    monkeypatch.delenv("HMBA_SCAN_BACKEND", raising=False)
    return randomize(build_adapter(request.param)).double()


def test_a_tangent_of_the_adapter_is_the_finite_difference(adapter):
    frames = frame_features(5).detach()
    weights = {name: parameter.detach() for name, parameter in adapter.named_parameters()}
    tangents = {name: torch.randn_like(x) for name, x in weights.items()}, torch.randn_like(frames)

    def features(weights, frames):
        return functional_call(adapter, weights, (frames,)).features

    def moved(step):
        return features({k: x + step * tangents[0][k] for k, x in weights.items()}, frames + step * tangents[1])

    with torch.no_grad():
        wanted = (moved(STEP) - moved(-STEP)) / (2 * STEP)
    assert_close(jvp(features, (weights, frames), tangents)[1], wanted, atol=1e-6, rtol=1e-6)


def test_gradients_of_the_adapter_for_each_clip_are_those_of_the_clip_alone(adapter):
    frames = frame_features(3).detach()
    mask = torch.tensor([[False, True, True], [True, True, True]])
    weights = dict(adapter.named_parameters())

    def number(weights, frames, mask):
        return functional_call(adapter, weights, (frames[None], None, mask[None])).features.square().sum()

    got = vmap(grad(number), (None, 0, 0))({name: x.detach() for name, x in weights.items()}, frames, mask)
    for i in range(2):
        alone = torch.autograd.grad(
            number(weights, frames[i], mask[i]), list(weights.values()), materialize_grads=True
        )
        for name, gradient in zip(weights, alone, strict=True):
            assert_close(got[name][i], gradient, atol=1e-9, rtol=1e-9, msg=lambda m, k=name: f"{k}: {m}")


@pytest.mark.parametrize("build", [build_adapter, MeanFrameAdapter, lambda: TransformerAdapter(D, FRAMES, 2)])
def test_a_mask_that_vmap_maps_is_checked(build):
    adapter, frames = build(), frame_features(3, dtype=torch.float32)
    mask = torch.tensor([[True, True, True], [True, False, True]])
    with pytest.raises(ValueError, match="frame_mask must be false for padding in front"):
        vmap(lambda x, m: adapter(x[None], frame_mask=m[None]).features)(frames, mask)


class Features(torch.nn.Module):
    """An adapter that returns one tensor."""

    def __init__(self, adapter):
        super().__init__()
        self.adapter = adapter

    def forward(self, frames, mask):
        return self.adapter(frames, frame_mask=mask).features


@pytest.mark.skipif(not CHECKS_COMPILE, reason="torch before 2.13 binds the number of frames in an exported graph")
def test_an_adapter_is_exported_for_clips_of_any_number_and_length(monkeypatch):
    monkeypatch.delenv("HMBA_SCAN_BACKEND", raising=False)
    adapter = randomize(build_adapter("released")).double()

    def clips(b, t):
        return frame_features(t, b=b).detach(), torch.arange(t) >= torch.arange(b)[:, None] % t

    sizes = {0: torch.export.Dim("clips", max=64), 1: torch.export.Dim("frames", min=3, max=128)}
    exported = torch.export.export(Features(adapter), clips(3, 7), dynamic_shapes=(sizes, sizes)).module()
    for b, t in ((2, 3), (5, 4), (2, 5), (3, 40)):
        frames, mask = clips(b, t)
        assert_close(exported(frames, mask), adapter(frames, frame_mask=mask).features, atol=1e-12, rtol=1e-12)
    frames, mask = clips(2, 5)
    weight = next(iter(exported.parameters()))
    (gradient,) = torch.autograd.grad(exported(frames, mask).sum(), weight)
    name = next(name for name, _ in exported.named_parameters())
    wanted = dict(Features(adapter).named_parameters())[name]
    assert_close(gradient, torch.autograd.grad(adapter(frames, frame_mask=mask).features.sum(), wanted)[0])


@pytest.mark.parametrize("kind", ["paper", "released"])
def test_a_trace_of_an_adapter_is_right_for_clips_of_any_number_and_length(kind, monkeypatch):
    monkeypatch.delenv("HMBA_SCAN_BACKEND", raising=False)
    adapter = randomize(build_adapter(kind)).double()
    mask = torch.ones(2, 5, dtype=torch.bool)
    inputs = (frame_features(5, b=2).detach(), mask)
    traced = torch.jit.trace(Features(adapter), inputs)  # compares values and graphs with a second call
    for b, t in ((2, 3), (3, 7), (1, 40)):
        frames = frame_features(t, b=b).detach()
        mask = torch.ones(b, t, dtype=torch.bool)
        assert_close(traced(frames, mask), adapter(frames, frame_mask=mask).features, atol=1e-12, rtol=1e-12)
        weights = list(adapter.parameters())
        got = torch.autograd.grad(traced(frames, mask).sum(), weights, materialize_grads=True, allow_unused=True)
        features = adapter(frames, frame_mask=mask).features
        wanted = torch.autograd.grad(features.sum(), weights, materialize_grads=True, allow_unused=True)
        for gradient, right in zip(got, wanted, strict=True):
            assert_close(gradient, right, atol=1e-9, rtol=1e-9)


def test_the_first_call_of_a_process_may_be_an_export():
    """Exporting replaces functions of Python's own modules, at which a compiler that is imported then stumbles."""
    code = """
import torch
from hmba_hf.models.ops_causal_conv1d import causal_conv1d
class Layer(torch.nn.Module):
    def forward(self, x, weight):
        return causal_conv1d(x, weight)[0]
inputs = torch.randn(2, 5, 16), torch.randn(16, 4)
exported = torch.export.export(Layer(), inputs)
assert "ops_fused" in str(exported.graph)
torch.testing.assert_close(exported.module()(*inputs), Layer()(*inputs))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "left out" not in done.stderr
