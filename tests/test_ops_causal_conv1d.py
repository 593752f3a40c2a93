"""The convolution, by each backend that a CPU has."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hmba_hf.models.ops_causal_conv1d import causal_conv1d, causal_conv1d_portable

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(params=["cpu", "portable"], autouse=True)
def backend(request, monkeypatch):
    monkeypatch.setenv("HMBA_SCAN_BACKEND", request.param)


def conv_inputs(b=2, length=9, d=5, kernel=4):
    draw = torch.randn(b, length, d), torch.randn(d, kernel), torch.randn(d)
    return [x.double().requires_grad_() for x in draw]


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("kernel", [1, 2, 4])
def test_it_equals_a_left_padded_depthwise_convolution(length, kernel):
    x, weight, bias = conv_inputs(length=length, kernel=kernel)
    padded = F.pad(x.transpose(1, 2), (kernel - 1, 0))
    wanted = F.silu(F.conv1d(padded, weight[:, None], bias, groups=5)).transpose(1, 2)
    assert_close(causal_conv1d(x, weight, bias)[0], wanted)


def test_it_passes_gradcheck():
    x, weight, bias = conv_inputs(length=5, d=2)
    state = torch.randn(2, 3, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: causal_conv1d(*a), (x, weight, bias, state))


def test_reverse_is_the_convolution_of_the_flipped_sequence():
    x, weight, bias = conv_inputs()
    state = torch.randn(2, 3, 5).double()
    y, tail = causal_conv1d(x.flip(1), weight, bias, state.flip(1))
    got, got_tail = causal_conv1d(x, weight, bias, state, reverse=True)
    assert_close(got, y.flip(1))
    assert_close(got_tail, tail.flip(1))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cut", range(1, 9))
def test_two_parts_with_the_tail_carried_equal_one_call(cut, reverse):
    x, weight, bias = conv_inputs()
    whole, end = causal_conv1d(x, weight, bias, reverse=reverse)
    parts = [x[:, :cut], x[:, cut:]]
    first, second = reversed(parts) if reverse else parts
    y_first, state = causal_conv1d(first, weight, bias, reverse=reverse)
    y_second, last = causal_conv1d(second, weight, bias, state, reverse=reverse)
    assert_close(torch.cat([y_second, y_first] if reverse else [y_first, y_second], dim=1), whole)
    assert_close(last, end)


def test_step_by_step_equals_one_call():
    x, weight, bias = conv_inputs()
    state, y = None, []
    for t in range(9):
        step, state = causal_conv1d(x[:, t : t + 1], weight, bias, state)
        y.append(step)
    assert_close(torch.cat(y, dim=1), causal_conv1d(x, weight, bias)[0])


def test_a_masked_prefix_equals_the_sequence_alone():
    x, weight, bias = conv_inputs()
    mask = torch.arange(9).expand(2, 9) >= 4
    poisoned = x.masked_fill(~mask[..., None], float("nan"))
    y, tail = causal_conv1d(poisoned, weight, bias, mask=mask)
    alone, tail_alone = causal_conv1d(x[:, 4:], weight, bias)
    assert_close(y[:, 4:], alone)
    assert_close(tail, tail_alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_output_has_the_dtype_of_the_input(dtype):
    x, weight, bias = conv_inputs()
    y, tail = causal_conv1d(x.to(dtype), weight, bias)
    assert y.dtype == tail.dtype == dtype
    assert_close(y.double(), causal_conv1d(x, weight, bias)[0], atol=0.1, rtol=0.1)


def convolved(function, inputs, reverse):
    y, tail = function(**inputs, reverse=reverse)
    present = [x for x in inputs.values() if x is not None and x.requires_grad and x.numel()]
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y, tail, *torch.autograd.grad((y * weights).sum() + tail.sum(), present)]


def assert_convolutions_equal(
    b=2, length=5, d=3, k=4, dtype=torch.float64, without=(), reverse=False, tolerance=1e-12
):
    wide = torch.promote_types(dtype, torch.float32)
    inputs = {
        "x": torch.randn(length, b, 2 * d, dtype=dtype).transpose(0, 1)[..., d:],
        "weight": torch.randn(d, k, dtype=wide),
        "bias": torch.randn(d, dtype=wide),
        "state": torch.randn(b, k - 1, d, dtype=dtype),
        "mask": torch.arange(length) >= torch.arange(b)[:, None] % length,
    }
    inputs = {
        k: None if k in without else v if v.dtype == torch.bool else v.requires_grad_() for k, v in inputs.items()
    }
    exact = {
        k: v if v is None or v.dtype == torch.bool else v.detach().double().requires_grad_() for k, v in inputs.items()
    }
    for got, wanted in zip(
        convolved(causal_conv1d, inputs, reverse), convolved(causal_conv1d_portable, exact, reverse), strict=True
    ):
        assert not wanted.numel() or (got.double() - wanted).abs().amax() <= tolerance * wanted.abs().amax().clamp(
            min=1
        )


SHAPES = [(1, 1, 1, 4), (2, 65, 5, 4), (3, 33, 300, 4), (1, 97, 17, 2), (70, 3, 130, 3), (2, 40, 16, 1)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_equals_the_portable_form_beyond_a_tile_and_a_window(shape, reverse):
    assert_convolutions_equal(*shape, reverse=reverse)


@pytest.mark.parametrize("without", [("bias",), ("state",), ("mask",), ("bias", "state", "mask")], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_every_option_may_be_left_out(without, reverse):
    assert_convolutions_equal(length=40, without=without, reverse=reverse)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_narrow_inputs_lose_only_what_rounding_takes(dtype, tolerance):
    assert_convolutions_equal(2, 65, 130, 4, dtype=dtype, tolerance=tolerance)


def test_autocast_does_not_change_the_dtype():
    x, weight, bias = (x.float() for x in conv_inputs())
    with torch.autocast("cpu", torch.bfloat16):
        y, tail = causal_conv1d(x, weight, bias)
    assert y.dtype == tail.dtype == torch.float32
    assert_close(y, causal_conv1d(x, weight, bias)[0], atol=0.05, rtol=0.05)


def test_the_tail_keeps_no_input_alive():
    x, weight, bias = conv_inputs()
    tail = causal_conv1d(x, weight, bias)[1]
    assert tail.untyped_storage().nbytes() == tail.nbytes


@pytest.mark.parametrize("name", ["bias", "state", "mask"])
def test_a_wrong_shape_is_named(name):
    x, weight, _ = conv_inputs()
    with pytest.raises(ValueError, match=rf"{name} must be \(.*got \(7, 7\)"):
        causal_conv1d(x, weight, **{name: torch.ones(7, 7)})
    with pytest.raises(ValueError, match=r"state must be \(2, 3, 5\), got \(2, 4, 5\)"):
        causal_conv1d(x, weight, state=torch.ones(2, 4, 5).double())


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"got \(2, 9, 5\) and \(4, 4\)"):
        causal_conv1d(torch.ones(2, 9, 5), torch.ones(4, 4))
    with pytest.raises(ValueError, match=r"x must be \(b, l, d\).*got \(9, 5\)"):
        causal_conv1d(torch.ones(9, 5), torch.ones(5, 4))
