"""The Triton kernels, run on the CPU by Triton's interpreter, against the plain references and their gradients."""

import subprocess
import sys

import pytest
import torch

if sys.platform != "linux":
    pytest.skip("Triton exists for Linux only", allow_module_level=True)

from hmba_hf.models import ops_causal_conv1d_triton, ops_selective_scan_triton
from hmba_hf.models.ops_scan_inputs import ScanInputs
from hmba_hf.models.ops_selective_scan import selective_scan
from test_ops_causal_conv1d import assert_convolutions_equal
from test_ops_selective_scan import (
    assert_scans_equal,
    assert_the_last_state_may_be_left_out,
    outputs_and_gradients,
    read_last,
    scan_inputs,
)

pytestmark = pytest.mark.usefixtures("poisoned_memory")
OPTIONS = ("D", "z", "delta_bias", "mask", "state")
SHAPES = [(2, 1, 1, 1), (2, 37, 3, 1), (1, 70, 3, 3), (1, 35, 3, 16), (3, 3, 5, 2), (1, 130, 1, 64)]


@pytest.fixture(autouse=True)
def triton_backend(monkeypatch):
    monkeypatch.setenv("HMBA_SCAN_BACKEND", "triton")


def as_layers_give_them(inputs):
    """Cut the inputs from wider tensors, as projections are, with NaN wherever the mask hides a step."""
    strided = dict(inputs)
    for name in {"u", "delta", "B", "C", "z"} & inputs.keys():
        values = inputs[name].detach()
        if "mask" in inputs:
            values = values.masked_fill(~inputs["mask"][..., None], torch.nan)
        wide = torch.cat([values, values], dim=-1).transpose(0, 1).contiguous().transpose(0, 1)
        strided[name] = wide[..., : values.shape[-1]].requires_grad_()
    return strided


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_scan_kernel_equals_the_reference(shape, reverse):
    assert_scans_equal(as_layers_give_them(scan_inputs(*shape, reverse=reverse)), 1e-12)


@pytest.mark.long
def test_a_long_sequence_equals_the_reference():
    assert_scans_equal(scan_inputs(1, 8192, 1, 1), 1e-11)


def test_the_same_inputs_give_the_same_bits():
    inputs = scan_inputs(length=40, d=2, n=3, dtype=torch.float32)
    first, second = (outputs_and_gradients(selective_scan, inputs) for _ in range(2))
    torch.testing.assert_close(first, second, atol=0, rtol=0)


@pytest.mark.parametrize("elements", [64, 256])
@pytest.mark.parametrize("reverse", [False, True])
def test_blocks_of_channels_and_of_states_change_nothing(monkeypatch, elements, reverse):
    monkeypatch.setattr(ops_selective_scan_triton, "TILE_ELEMENTS", elements)
    assert_scans_equal(scan_inputs(length=33, d=3, n=3, reverse=reverse), 1e-12)


@pytest.mark.parametrize("without", [*((option,) for option in OPTIONS), OPTIONS, ("C", "D", "z")], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_every_option_of_the_scan_may_be_left_out(without, reverse):
    assert_scans_equal(scan_inputs(d=3, n=2, without=without, reverse=reverse), 1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)]
)
def test_narrow_inputs_lose_only_what_rounding_takes(dtype, tolerance):
    assert_scans_equal(scan_inputs(length=40, d=2, n=3, dtype=dtype), tolerance)


@pytest.mark.parametrize("decay_rate", [-1e6, -1.0, -1e-9])
@pytest.mark.parametrize("raw_step", [1e4, -1e4, -20.0])
def test_extreme_steps_and_decays_give_numbers(raw_step, decay_rate):
    inputs = scan_inputs(length=40, d=2, n=1, dtype=torch.float32, without=("delta_bias", "mask"))
    inputs |= {k: torch.full_like(inputs[k], v).requires_grad_() for k, v in (("delta", raw_step), ("A", decay_rate))}
    assert_scans_equal(inputs, 1e-5)


@pytest.mark.parametrize("reads", [0, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_only_the_last_steps_may_be_read(reads, reverse):
    assert_scans_equal(read_last(scan_inputs(length=9, d=3, n=2, reverse=reverse), reads)[0], 1e-12)


@pytest.mark.parametrize("reads", [2, 9])
def test_the_last_state_may_be_left_out(reads):
    assert_the_last_state_may_be_left_out(read_last(scan_inputs(length=9, d=3, n=2), reads)[0])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 23, 32, 39])
def test_two_parts_with_the_state_carried_equal_one_scan(cut, reverse):
    inputs = scan_inputs(length=40, d=2, n=2, reverse=reverse)
    whole, end = selective_scan(**inputs)
    cut = {k: v.split((cut, 40 - cut), dim=1) for k, v in inputs.items() if k in ("u", "delta", "B", "C", "z", "mask")}
    state, parts = inputs["state"], []
    for part in (1, 0) if reverse else (0, 1):
        y, state = selective_scan(**{**inputs, **{k: v[part] for k, v in cut.items()}, "state": state})
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts[::-1] if reverse else parts, dim=1), whole, atol=1e-12, rtol=0)
    torch.testing.assert_close(state, end, atol=1e-12, rtol=0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (2, 2, 3, 4), (2, 65, 5, 4), (3, 33, 70, 3), (2, 9, 3, 2)], ids=str)
def test_the_convolution_kernel_equals_the_reference(shape, reverse):
    assert_convolutions_equal(*shape, reverse=reverse)


@pytest.mark.parametrize("without", [("bias",), ("state",), ("mask",), ("bias", "state", "mask")], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_every_option_of_the_convolution_may_be_left_out(without, reverse):
    assert_convolutions_equal(without=without, reverse=reverse)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
def test_a_narrow_convolution_loses_only_what_rounding_takes(dtype, tolerance):
    assert_convolutions_equal(dtype=dtype, tolerance=tolerance)


class Launches:
    """Stands in for a kernel and notes the programs that it is asked for."""

    def __init__(self):
        self.grids = []

    def __getitem__(self, grid):
        self.grids.append(grid)
        return lambda *args, **kwargs: None


@pytest.mark.parametrize(("b", "length"), [(1, 2**20 + 1), (70_000, 1)], ids=["many steps", "many rows"])
def test_no_size_exceeds_the_programs_that_a_gpu_can_count(b, length, monkeypatch):
    launches = Launches()
    for module in (ops_causal_conv1d_triton, ops_selective_scan_triton):
        for kernel in ("_forward", "_backward"):
            monkeypatch.setattr(module, kernel, launches)
    with torch.device("meta"):
        x, weight, bias = torch.empty(b, length, 8), torch.empty(8, 4), torch.empty(8)
        A, maps = torch.empty(8, 4), torch.empty(b, length, 4)
    ops_causal_conv1d_triton.conv_forward(x, weight, bias, None, None, False)
    ops_causal_conv1d_triton.conv_backward(x, x, weight, bias, None, None, False)
    scan = ScanInputs(x, x, A, maps, maps)
    _, end, starts = ops_selective_scan_triton.scan_forward(scan, return_last_state=True, chunk=32)
    ops_selective_scan_triton.scan_backward(scan, x, end, starts, chunk=32)
    assert len(launches.grids) == 4
    for first, *others in launches.grids:
        assert first < 2**31 and max(others) < 2**16


LOWER = """
import importlib, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

NARROW = {"u", "delta", "B", "C", "z", "x", "y", "grad_y"}
WIDE = {"A", "D", "delta_bias", "state", "starts", "last", "weight", "bias"}
WIDE |= {"grad_end", "grad_A", "grad_B", "grad_C", "grad_D", "grad_bias", "grad_start", "grad_state", "grad_weight"}
NARROW |= {"grad_u", "grad_delta", "grad_z", "grad_x"}
module, name, dtype = sys.argv[1:]
module = importlib.import_module(f"hmba_hf.models.{module}")
kernel = getattr(module, name)
if hasattr(module, "_tile"):
    constants = module._tile(1280, 2048, 16, 32, 16 if name == "_forward" else 32)
else:
    constants = {**module.TILE, "TAPS": 4}
options = {k: constants.pop(k) for k in ("num_warps", "enable_fp_fusion") if k in constants}
constants["REVERSE"] = True
signature = {}
for argument in kernel.arg_names:
    if argument in constants:
        signature[argument] = "constexpr"
    else:
        pointer = {**dict.fromkeys(NARROW, f"*{dtype}"), **dict.fromkeys(WIDE, "*fp32"), "mask": "*i1"}
        signature[argument] = pointer.get(argument, "i32")
source = ASTSource(kernel, signature, constexprs=constants)
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
assert ".entry" in compiled.asm["ptx"]
"""


@pytest.mark.parametrize("module", ["ops_selective_scan_triton", "ops_causal_conv1d_triton"])
@pytest.mark.parametrize(("kernel", "dtype"), [("_forward", "bf16"), ("_backward", "fp32")])
def test_the_kernels_compile_for_a_gpu_that_is_not_here(module, kernel, dtype, monkeypatch, tmp_path):
    """The interpreter takes more than the compiler does."""
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    command = [sys.executable, "-c", LOWER, module, kernel, dtype]
    run = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
