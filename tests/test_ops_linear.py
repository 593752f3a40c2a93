"""The product of a linear layer by oneDNN: torch's numbers in every mode, and which calls are left to torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize, grad, hessian, jvp, vmap
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import hmba_hf
from hmba_hf.models import ops_linear
from hmba_hf.models.ops_linear import linear

VARIABLE = "HMBA_LINEAR_BACKEND"


@pytest.fixture(autouse=True)
def products(monkeypatch):
    """Let oneDNN serve products of any size, and return a list of the shapes it has multiplied."""
    shapes = []
    multiply = ops_linear._product

    def counted(x, weight, bias=None):
        shapes.append((tuple(x.shape), tuple(weight.shape)))
        return multiply(x, weight, bias)

    monkeypatch.setattr(ops_linear, "_product", counted)
    monkeypatch.setattr(ops_linear, "FEWEST_PRODUCTS", 0)
    monkeypatch.setenv(VARIABLE, "onednn")
    return shapes


def drawn(*rows, channels=6, out=5, bias=True):
    """An input, a weight and a bias, each with gradients."""
    shapes = [(*rows, channels), (out, channels)] + [(out,)] * bias
    return [torch.randn(shape).requires_grad_() for shape in shapes]


def value_and_gradients(function, inputs):
    y = function(*inputs)
    weights = torch.ones_like(y).flatten().cumsum(0).cos().view_as(y)
    return [y, *torch.autograd.grad((y * weights).sum(), inputs)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(1,), (7,), (3, 7), (2, 1, 65)], ids=str)
def test_values_and_gradients_are_torchs(rows, bias, products):
    inputs = drawn(*rows, channels=130, out=70, bias=bias)
    got = value_and_gradients(linear, inputs)
    assert len(products) == 3
    for mine, torchs in zip(got, value_and_gradients(F.linear, inputs), strict=True):
        assert_close(mine, torchs, rtol=1e-5, atol=1e-5 * float(torchs.detach().abs().max()))
        assert mine.stride() == torchs.stride()


def test_inputs_that_lie_apart_in_memory_are_multiplied_alike(products):
    x, weight, bias = drawn(4, 9, channels=8, out=12)
    views = [x[:, 2:7].transpose(0, 1), weight[3:10], bias[3:10]]
    assert_close(linear(*views), F.linear(*views))
    assert_close(linear(x[:, -1:], weight[:, ::2].repeat(1, 2)), F.linear(x[:, -1:], weight[:, ::2].repeat(1, 2)))
    assert len(products) == 2


def test_the_rows_of_a_matrix_reach_onednn_without_gaps_of_which_it_makes_hundreds_of_times_the_work(monkeypatch):
    multiply = torch.ops.mkldnn._linear_pointwise
    weights = []

    def noted(x, weight, *others):
        weights.append(weight)
        return multiply(x, weight, *others)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", noted)
    wide = torch.randn(2, 9, 12)
    weight = torch.randn(5, 6, requires_grad=True)
    linear(wide[..., :6], weight).sum().backward()  # the gradient multiplies by the input
    assert_close(weight.grad, wide[..., :6].sum((0, 1)).expand(5, 6))
    linear(torch.randn(3, 6), torch.randn(5, 12)[:, :6])
    assert len(weights) == 3
    assert all(given.is_contiguous() or given.t().is_contiguous() for given in weights)


def number(function):
    return lambda *inputs: function(*inputs).sin().sum()


def second_gradients(function, inputs):
    found = torch.autograd.grad(number(function)(*inputs), inputs, create_graph=True)
    return torch.autograd.grad(sum(x.square().sum() for x in found), inputs)


def many_gradients(function, inputs):
    y = function(*inputs)
    return torch.autograd.grad(y, inputs, torch.eye(y.numel()).view(-1, *y.shape), is_grads_batched=True)


def of_fakes(function, inputs):
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(x).requires_grad_() for x in inputs]
        return [tuple(x.shape) for x in value_and_gradients(function, fakes)]


def of_meta(function, inputs):
    found = value_and_gradients(function, [x.to("meta").detach().requires_grad_() for x in inputs])
    return [(x.is_meta, tuple(x.shape)) for x in found]


def operations(function, inputs):
    with FlopCounterMode(display=False) as counter:
        value_and_gradients(function, inputs)
    return counter.get_total_flops()


def under_autocast(function, inputs):
    with torch.autocast("cpu", torch.bfloat16):
        return function(*inputs)


def exported(function, inputs):
    class Module(nn.Module):
        def forward(self, *given):
            return function(*given)

    rows = torch.export.Dim("rows", max=64)
    graph = torch.export.export(Module(), tuple(inputs), dynamic_shapes=(({0: rows}, {}, {}),)).module()
    return graph(torch.cat([inputs[0], inputs[0]]), *inputs[1:])


def traced(function, inputs):
    graph = torch.jit.trace(function, tuple(inputs))
    return graph(torch.cat([inputs[0], inputs[0]]), *inputs[1:])


def checkpointed(function, inputs):
    return value_and_gradients(lambda *given: checkpoint(function, *given, use_reentrant=False), inputs)


def mapped(function, inputs):
    several = [torch.stack([x, 0.9 * x]) for x in inputs]
    return vmap(function)(*several)


def less_precise(function, inputs):
    torch.set_float32_matmul_precision("medium")
    try:
        return function(*inputs)
    finally:
        torch.set_float32_matmul_precision("highest")


ARGUMENTS = (0, 1, 2)
MODES = {
    "jvp": lambda function, inputs: jvp(function, tuple(inputs), tuple(x.detach().cos() for x in inputs))[1],
    "grad": lambda function, inputs: grad(number(function), ARGUMENTS)(*inputs),
    "vmap": mapped,
    "per sample": lambda function, inputs: vmap(grad(number(function), ARGUMENTS), (0, None, None))(*inputs),
    "hessian": lambda function, inputs: hessian(number(function))(*inputs),
    "double backward": second_gradients,
    "batched gradients": many_gradients,
    "functionalize": lambda function, inputs: functionalize(function)(*inputs),
    "inference": torch.inference_mode()(lambda function, inputs: function(*inputs)),
    "fake": of_fakes,
    "meta": of_meta,
    "count of operations": operations,
    "autocast": under_autocast,
    "compile": lambda function, inputs: value_and_gradients(
        torch.compile(function, backend="aot_eager", fullgraph=True), inputs
    ),
    "export": exported,
    "trace": traced,
    "checkpoint": checkpointed,
    "less precise": less_precise,
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_what_torch_gives(mode):
    inputs = drawn(3, 4)
    assert_close(MODES[mode](linear, inputs), MODES[mode](F.linear, inputs), rtol=1e-5, atol=1e-5)


class Scaled(torch.Tensor):
    """A weight of another library, whose products are its own matter."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        plain = [x.as_subclass(torch.Tensor) if isinstance(x, Scaled) else x for x in args]
        return 2 * function(*plain, **(kwargs or {}))


def test_weights_of_other_libraries_multiply_as_they_say(products):
    x, weight, bias = (t.detach() for t in drawn(3))
    assert_close(linear(x, weight.as_subclass(Scaled), bias), 2 * F.linear(x, weight, bias))
    assert products == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_torchs_to_the_bit(dtype, products):
    inputs = [x.detach().to(dtype) for x in drawn(3, 4)]
    assert_close(linear(*inputs), F.linear(*inputs), rtol=0, atol=0)
    assert products == []


def test_a_default_device_and_small_products_are_left_to_torch(products, monkeypatch):
    inputs = drawn(3, 4)
    with torch.device("meta"):
        assert_close(linear(*inputs), F.linear(*inputs))
    monkeypatch.setattr(ops_linear, "FEWEST_PRODUCTS", 3 * 4 * 6 * 5 + 1)
    assert_close(linear(*inputs), F.linear(*inputs), rtol=0, atol=0)
    assert products == []


@pytest.mark.parametrize(
    "shapes", [((3, 4), (5, 6), (5,)), ((3, 6), (5, 6), (4,)), ((3, 6), (2, 5, 6), (5,))], ids=str
)
def test_shapes_that_do_not_fit_have_torchs_error(shapes):
    inputs = [torch.ones(shape) for shape in shapes]
    errors = []
    for function in (linear, F.linear):
        with pytest.raises(RuntimeError) as caught:
            function(*inputs)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_no_gradient_needs_is_not_kept(frozen):
    inputs = drawn(3, 4)
    inputs[frozen].requires_grad_(False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        y = linear(*inputs)
    assert kept == [inputs[frozen].shape]
    y.sum().backward()
    assert inputs[frozen].grad is None and inputs[1 - frozen].grad is not None


def test_a_call_leaves_its_inputs_as_they_were():
    inputs = drawn(3, 4)
    before = [x.detach().clone() for x in inputs]
    y = linear(*inputs)
    y.sum().backward()
    for x, old in zip(inputs, before, strict=True):
        assert_close(x.detach(), old, rtol=0, atol=0)
        assert x._version == 0
    for x in (*inputs, y, *(x.grad for x in inputs)):
        assert x.untyped_storage().resizable()  # FSDP resizes them to nothing and back


def test_an_unknown_backend_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "mkl")
    with pytest.raises(RuntimeError, match="HMBA_LINEAR_BACKEND must be one of onednn, torch, got mkl"):
        linear(*drawn(3))


def test_a_backend_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(ops_linear, "_has_onednn", lambda: False)
    with pytest.raises(RuntimeError, match="HMBA_LINEAR_BACKEND must be torch where torch is built without oneDNN"):
        linear(*drawn(3))


@pytest.fixture
def processor(monkeypatch):
    """Choose by the rule for a processor: `processor(maker, instructions)`."""
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)

    def install(maker, instructions):
        monkeypatch.setattr(ops_linear, "_maker", lambda: maker)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
        ops_linear._why_torch.cache_clear()

    yield install
    ops_linear._why_torch.cache_clear()


def test_onednn_multiplies_on_amds_processors_with_avx_512(processor, products):
    processor("AuthenticAMD", "AVX512")
    linear(*drawn(3))
    assert len(products) == 1


@pytest.mark.parametrize("of", [("GenuineIntel", "AVX512"), ("AuthenticAMD", "AVX2"), ("", "DEFAULT")], ids=str)
def test_torch_chooses_on_other_processors(processor, products, of):
    processor(*of)
    linear(*drawn(3))
    assert products == []


def test_the_choice_is_shown_with_its_reason(processor, monkeypatch, capsys):
    def shown():
        hmba_hf.show_backends()
        return capsys.readouterr().out.splitlines()[-1]

    processor("AuthenticAMD", "AVX512")
    assert "cpu: onednn, for it is faster than MKL on this processor" in shown()
    processor("GenuineIntel", "AVX512")
    assert "cpu: torch, for the processor is not AMD's" in shown()
    monkeypatch.setenv(VARIABLE, "onednn")
    assert "cpu: onednn, as HMBA_LINEAR_BACKEND says" in shown()
    monkeypatch.setenv(VARIABLE, "mkl")
    assert "must be one of onednn, torch, got mkl" in shown()
