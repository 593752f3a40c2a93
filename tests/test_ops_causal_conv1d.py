import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hmba_hf.models.ops_causal_conv1d import causal_conv1d


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


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"got \(2, 9, 5\) and \(4, 4\)"):
        causal_conv1d(torch.ones(2, 9, 5), torch.ones(4, 4))
    with pytest.raises(ValueError, match=r"x must be \(b, l, d\).*got \(9, 5\)"):
        causal_conv1d(torch.ones(9, 5), torch.ones(5, 4))
