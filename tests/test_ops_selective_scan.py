"""One suite for everything that can run the scan on a CPU: each test runs once for each backend."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.testing import assert_close

from hmba_hf.models import ops_selective_scan
from hmba_hf.models.ops_scan_inputs import ScanInputs
from hmba_hf.models.ops_selective_scan import selective_scan, selective_scan_portable, selective_scan_reference

SHAPES = [
    *((1, 1, 1, 1), (2, 13, 6, 16), (3, 7, 5, 1), (9, 5, 3, 8), (1, 301, 7, 16), (2, 64, 33, 8)),
    *((2, 70, 5, 64), (1, 33, 130, 3), (70, 3, 17, 2), (1, 96, 16, 16)),
]
pytestmark = pytest.mark.usefixtures("poisoned_memory")
OPTIONS = ("C", "D", "z", "delta_bias", "state", "mask")


@pytest.fixture(params=["cpu", "portable"], autouse=True)
def backend(request, monkeypatch):
    monkeypatch.setenv("HMBA_SCAN_BACKEND", request.param)
    return request.param


def scan_inputs(b=2, length=7, d=5, n=4, dtype=torch.float64, without=(), reverse=False):
    """Draw all arguments of the scan, some left out, every tensor but the mask asking for its gradient."""
    draw = {
        "u": torch.randn(b, length, d),
        "delta": torch.randn(b, length, d),
        "A": -torch.rand(d, n) * 4 - 0.1,
        "B": torch.randn(b, length, n),
        "C": torch.randn(b, length, n),
        "D": torch.randn(d),
        "z": torch.randn(b, length, d),
        "delta_bias": torch.randn(d),
        "state": torch.randn(b, d, n),
    }
    inputs = {k: v.to(dtype).requires_grad_() for k, v in draw.items() if k not in without}
    if "mask" not in without:
        inputs["mask"] = torch.arange(length) >= torch.arange(b)[:, None] % length
    return {**inputs, "reverse": reverse}


def reference(*arguments, **named):
    """Run the specification with the arguments of `selective_scan`."""
    return selective_scan_reference(ScanInputs(*arguments, **named))


def portable(*arguments, **named):
    """Run the plain torch form with the arguments of `selective_scan`."""
    return selective_scan_portable(ScanInputs(*arguments, **named))


def outputs_and_gradients(scan, inputs):
    """Run a scan and return all it gives: output, last state, and the gradient of every input."""
    y, state = scan(**inputs)
    wanted = {k: v for k, v in inputs.items() if torch.is_tensor(v) and v.requires_grad}
    parts = [state] if y is None else [y, state]
    loss = sum((x * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in parts)
    gradients = torch.autograd.grad(loss, list(wanted.values()), materialize_grads=True)
    return [x.detach() for x in parts], dict(zip(wanted, gradients, strict=True))


def assert_scans_equal(inputs, tolerance):
    """Compare with the reference in double precision, each result relative to its largest number."""
    exact = {
        k: v.detach().double().requires_grad_() if torch.is_tensor(v) and v.is_floating_point() else v
        for k, v in inputs.items()
    }
    wanted, wanted_gradients = outputs_and_gradients(reference, exact)
    got, gradients = outputs_and_gradients(selective_scan, inputs)
    wanted_gradients |= {f"result {i}": x for i, x in enumerate(wanted)}
    for name, result in {**gradients, **{f"result {i}": x for i, x in enumerate(got)}}.items():
        assert result.isfinite().all(), name
        if result.numel() > 0:
            exact_result = wanted_gradients[name]
            error = (result.double() - exact_result).abs().max() / exact_result.abs().max().clamp(min=1)
            assert error <= tolerance, f"{name}: {error:.1e}"


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_equals_the_reference_in_double(shape, reverse):
    assert_scans_equal(scan_inputs(*shape, reverse=reverse), 1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_long_sequence_equals_the_reference(reverse):
    assert_scans_equal(scan_inputs(1, 16384, 2, 1, reverse=reverse), 1e-11)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_equals_the_reference_in_single(shape):
    assert_scans_equal(scan_inputs(*shape, dtype=torch.float32), 2e-6)


@pytest.mark.parametrize("without", [*OPTIONS[1:], *[tuple(OPTIONS[i:]) for i in (1, 3)]], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_every_option_may_be_left_out(without, reverse):
    without = (without,) if isinstance(without, str) else without
    assert_scans_equal(scan_inputs(without=without, reverse=reverse), 1e-12)


def read_last(inputs, reads):
    """Let only the last steps scanned have an output."""
    length = inputs["u"].shape[1]
    last = slice(0, reads) if inputs["reverse"] else slice(length - reads, length)
    cut = {k: inputs[k].detach()[:, last].requires_grad_() for k in ("C", "z") if k in inputs}
    return {**inputs, **cut}, last


@pytest.mark.parametrize("shape", [(2, 13, 6, 16), (1, 70, 130, 3), (9, 5, 3, 8)], ids=str)
@pytest.mark.parametrize("reads", [0, 1, 4])
@pytest.mark.parametrize("reverse", [False, True])
def test_only_the_last_steps_may_be_read(shape, reads, reverse):
    inputs = scan_inputs(*shape, reverse=reverse)
    few, last = read_last(inputs, reads)
    assert_scans_equal(few, 1e-12)
    y, state = selective_scan(**few)
    whole, end = selective_scan(**inputs)
    assert_close(y, whole[:, last], atol=1e-12, rtol=0)
    assert_close(state, end, atol=1e-12, rtol=0)


def test_more_outputs_than_steps_are_refused():
    inputs = scan_inputs(length=3, without=("z",))
    inputs["C"] = torch.ones(2, 4, 4)
    with pytest.raises(ValueError, match=r"C must be \(2, 3, 4\).*got \(2, 4, 4\)"):
        selective_scan(**inputs)


@pytest.mark.parametrize("reverse", [False, True])
def test_without_output_map_only_the_state_is_computed(reverse):
    inputs = scan_inputs(length=11, without=("C", "D", "z"), reverse=reverse)
    assert_scans_equal(inputs, 1e-12)
    y, state = selective_scan(**inputs)
    readable = {**inputs, "C": torch.ones_like(inputs["B"])}
    assert y is None
    assert_close(state, selective_scan(**readable)[1], atol=1e-12, rtol=0)


def assert_the_last_state_may_be_left_out(inputs):
    (y, _), (alone, nothing) = selective_scan(**inputs), selective_scan(**inputs, return_last_state=False)
    wanted = [x for name, x in inputs.items() if torch.is_tensor(x) and x.requires_grad]
    assert nothing is None and torch.equal(alone, y)
    gradients = (torch.autograd.grad(x.sum(), wanted, allow_unused=True, materialize_grads=True) for x in (y, alone))
    assert_close(*gradients, atol=0, rtol=0)


@pytest.mark.parametrize("reads", [0, 2, 40])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_last_state_may_be_left_out(reads, reverse):
    assert_the_last_state_may_be_left_out(read_last(scan_inputs(length=40, reverse=reverse), reads)[0])


@pytest.mark.parametrize("elements", [1, 100, 1000])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_tile_size_changes_nothing(monkeypatch, elements, reverse):
    monkeypatch.setattr(ops_selective_scan, "TILE_ELEMENTS_CPU", elements)
    assert_scans_equal(scan_inputs(b=11, length=23, d=5, n=4, reverse=reverse), 1e-12)


def test_a_batch_beyond_one_tile_equals_the_reference():
    n, d = 16, 64
    b = 3 * ops_selective_scan.TILE_ELEMENTS_CPU // (n * d * 16)
    assert_scans_equal(scan_inputs(b, 3, d, n, dtype=torch.float32), 2e-6)


def test_the_reference_equals_its_formula():
    inputs = scan_inputs(b=1, length=2, d=1, n=1, without=("mask",))
    u, delta, A, B, C, D, z, bias, state = (v.squeeze() for k, v in inputs.items() if k != "reverse")
    for t in range(2):
        step = torch.log1p(torch.exp(delta[t] + bias))
        state = torch.exp(step * A) * state + step * B[t] * u[t]
        y = (C[t] * state + D * u[t]) * z[t] * torch.sigmoid(z[t])
        assert_close(reference(**inputs)[0][0, t, 0], y)
    assert_close(reference(**inputs)[1].squeeze(), state)


@pytest.mark.parametrize("name", ["scan", "reference"])
def test_the_original_scan_gives_the_same_numbers(golden, name):
    tensors, _ = golden("mamba_block_small")
    case = {k.removeprefix("scan."): v for k, v in tensors.items() if k.startswith("scan.")}
    y, last = case.pop("out"), case.pop("last_state")
    case = {k: v.transpose(1, 2) if v.ndim == 3 else v for k, v in case.items()}  # channels last
    scan = selective_scan if name == "scan" else reference
    got, state = scan(**case)
    assert_close(got, y.transpose(1, 2), atol=1e-5, rtol=0)
    assert_close(state, last, atol=1e-5, rtol=0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 31, 32, 50, 69, 70])
def test_two_parts_with_the_state_carried_equal_one_scan(cut, reverse):
    inputs = scan_inputs(length=70, reverse=reverse)
    whole, end = selective_scan(**inputs)
    along_time = ("u", "delta", "B", "C", "z", "mask")
    parts = [
        {k: v[:, steps] if k in along_time else v for k, v in inputs.items()}
        for steps in (slice(cut), slice(cut, None))
    ]
    first, second = reversed(parts) if reverse else parts
    y_first, state = selective_scan(**first)
    y_second, last = selective_scan(**{**second, "state": state})
    joined = [y_second, y_first] if reverse else [y_first, y_second]
    assert_close(torch.cat(joined, dim=1), whole, atol=1e-12, rtol=0)
    assert_close(last, end, atol=1e-12, rtol=0)


def test_reverse_is_the_scan_of_the_flipped_sequence():
    inputs = scan_inputs(reverse=True)
    flipped = {k: v.flip(1) if k in ("u", "delta", "B", "C", "z", "mask") else v for k, v in inputs.items()}
    y, state = selective_scan(**{**flipped, "reverse": False})
    got, last = selective_scan(**inputs)
    assert_close(got, y.flip(1), atol=1e-12, rtol=0)
    assert_close(last, state, atol=1e-12, rtol=0)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_past_does_not_see_the_future(reverse):
    inputs = scan_inputs(length=8, without=("mask",), reverse=reverse)
    changed = {**inputs, "u": inputs["u"].detach().clone()}
    changed["u"][:, 4] += 1
    unseen = slice(5, None) if reverse else slice(4)
    assert torch.equal(selective_scan(**changed)[0][:, unseen], selective_scan(**inputs)[0][:, unseen])


@pytest.mark.parametrize("scan", [selective_scan, reference], ids=["scan", "reference"])
@pytest.mark.parametrize("reverse", [False, True])
def test_nan_in_masked_steps_has_no_effect(scan, reverse):
    inputs = scan_inputs(b=3, length=6, reverse=reverse)
    poisoned = dict(inputs)
    for name in ("u", "delta", "B", "C", "z"):
        hole = inputs[name].detach().masked_fill(~inputs["mask"][..., None], float("nan"))
        poisoned[name] = hole.requires_grad_()
    results = []
    for case in (inputs, poisoned):
        y, state = scan(**case)
        loss = y[case["mask"]].sum() + state.sum()
        results.append((y[case["mask"]], state, *torch.autograd.grad(loss, [case[k] for k in ("A", "D", "state")])))
    assert_close(results[1], results[0], atol=1e-12, rtol=0)


def test_a_masked_prefix_equals_the_sequence_alone():
    inputs = scan_inputs(b=1, length=9, without=("mask",))
    mask = torch.arange(9)[None] >= 4
    alone = {k: v[:, 4:] if k in ("u", "delta", "B", "C", "z") else v for k, v in inputs.items()}
    y, state = selective_scan(**inputs, mask=mask)
    assert_close(y[:, 4:], selective_scan(**alone)[0], atol=1e-12, rtol=0)
    assert_close(state, selective_scan(**alone)[1], atol=1e-12, rtol=0)


def test_a_scan_with_every_step_masked_returns_its_state():
    inputs = {**scan_inputs(), "mask": torch.zeros(2, 7, dtype=torch.bool)}
    assert torch.equal(selective_scan(**inputs)[1], inputs["state"])


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_pass_gradcheck(reverse):
    inputs = scan_inputs(b=2, length=5, d=2, n=3, reverse=reverse)
    names = [k for k, v in inputs.items() if torch.is_tensor(v) and v.requires_grad]

    def scan(*tensors):
        return selective_scan(**{**inputs, **dict(zip(names, tensors, strict=True))})

    assert torch.autograd.gradcheck(scan, [inputs[k] for k in names])


STRIDED = {
    "channels apart": lambda x: x.transpose(0, 2).contiguous().transpose(0, 2),
    "time first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "some channels of a wider tensor": lambda x: torch.cat([x, x], dim=-1)[..., x.shape[-1] :],
    "every second step": lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
    "one row for all": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("layout", STRIDED)
@pytest.mark.parametrize("reverse", [False, True])
def test_strided_inputs_equal_contiguous_ones(layout, reverse):
    inputs = scan_inputs(b=3, length=8, d=6, n=4, reverse=reverse)
    strided, contiguous = dict(inputs), dict(inputs)
    for name in ("u", "delta", "B", "C", "z"):
        strided[name] = STRIDED[layout](inputs[name].detach()).requires_grad_()
        contiguous[name] = strided[name].detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        assert not strided[name].is_contiguous()
    got, wanted = (outputs_and_gradients(selective_scan, case) for case in (strided, contiguous))
    assert_close(got, wanted, atol=1e-12, rtol=0)


def test_the_same_inputs_give_the_same_bits():
    inputs = scan_inputs(b=9, length=70, d=33, n=8, dtype=torch.float32)
    first, second = (outputs_and_gradients(selective_scan, inputs) for _ in range(2))
    assert_close(first, second, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_keep_their_dtype_and_accumulate_in_single(dtype):
    halves = scan_inputs(length=40, d=9, n=16, dtype=dtype)
    halves |= {k: halves[k].detach().float().requires_grad_() for k in ("A", "D", "delta_bias", "state")}
    wide = {
        k: v.detach().float().requires_grad_() if k in ("u", "delta", "B", "C", "z") else v for k, v in halves.items()
    }
    (y, state), gradients = outputs_and_gradients(selective_scan, halves)
    (y_wide, state_wide), _ = outputs_and_gradients(selective_scan, wide)
    assert (y.dtype, state.dtype) == (dtype, torch.float32)
    assert torch.equal(y, y_wide.to(dtype))
    assert torch.equal(state, state_wide)
    assert all(gradient.dtype == halves[name].dtype for name, gradient in gradients.items())
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("scan", [selective_scan, reference], ids=["scan", "reference"])
def test_autocast_changes_nothing(scan):
    inputs = scan_inputs(length=40, d=9, n=16, dtype=torch.float32)
    wanted = outputs_and_gradients(scan, inputs)
    got = outputs_and_gradients(torch.autocast("cpu", torch.bfloat16)(scan), inputs)
    assert_close(got, wanted, atol=0, rtol=0)


@pytest.mark.parametrize(
    "extremes",
    [{"delta": 1e4}, {"delta": -1e4}, {"A": -1e6}, {"A": -1e-9}, {"delta": 80.0, "A": -1e3}, {"delta": 0.0, "A": 0.0}],
    ids=str,
)
def test_extreme_steps_and_decays_stay_finite(extremes):
    inputs = scan_inputs(length=50, dtype=torch.float32)
    inputs |= {k: torch.full_like(inputs[k], v).requires_grad_() for k, v in extremes.items()}
    assert_scans_equal(inputs, 1e-5)


@pytest.mark.parametrize("b", [1, 8])
def test_what_is_kept_for_the_backward_pass_has_no_states_of_every_step(b):
    length, d, n = 128, 512, 64
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    inputs = scan_inputs(b, length, d, n, dtype=torch.float32, without=("mask",))
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        selective_scan(**inputs)
    assert max(kept.values()) < b * length * d * n / 8
    assert sum(kept.values()) < b * length * d * n / 3


@pytest.mark.parametrize("scan", [selective_scan, reference], ids=["scan", "reference"])
def test_an_empty_sequence_returns_its_state(scan):
    inputs = scan_inputs(length=0, without=("mask",))
    y, state = scan(**inputs)
    assert y.shape == (2, 0, 5)
    assert_close(state, inputs["state"])


def test_an_empty_batch_is_scanned():
    y, state = selective_scan(**scan_inputs(b=0))
    assert y.shape == (0, 7, 5) and state.shape == (0, 5, 4)


@pytest.mark.parametrize("name", ["delta", "A", "B", "C", "D", "z", "delta_bias", "state", "mask"])
def test_a_wrong_shape_is_named(name):
    inputs = scan_inputs()
    inputs[name] = torch.ones(3, 3)
    with pytest.raises(ValueError, match=rf"{name} .*\(3, 3\)" if name != "A" else r"\(2, 7, 5\)|\(3, 3\)"):
        selective_scan(**inputs)


def test_input_without_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"u must be \(b, l, d\).*got \(7, 5\)"):
        selective_scan(torch.ones(7, 5), torch.ones(7, 5), -torch.ones(5, 4), torch.ones(7, 4))


@pytest.mark.parametrize("name", ["D", "z"])
def test_a_read_out_without_output_map_is_refused(name):
    inputs = scan_inputs(without={"C", "D", "z"} - {name})
    with pytest.raises(ValueError, match="C must be given with D or z"):
        selective_scan(**inputs)


def test_no_gradient_is_kept_where_none_is_wanted():
    inputs = {k: v.detach() if torch.is_tensor(v) else v for k, v in scan_inputs().items()}
    y, state = portable(**inputs)
    assert not y.requires_grad and not state.requires_grad
