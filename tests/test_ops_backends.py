"""Which backend runs, what is said of those that do not, and mamba_ssm's function where it serves."""

import logging
import sys
import types

import pytest
import torch
from torch.testing import assert_close

import hmba_hf
from hmba_hf.models import ops_backends
from hmba_hf.models.ops_backends import scan_backends
from hmba_hf.models.ops_scan_inputs import ScanInputs
from hmba_hf.models.ops_selective_scan import selective_scan, selective_scan_portable
from hmba_hf.models.ops_selective_scan_mamba_ssm import can_serve, selective_scan_mamba_ssm
from test_ops_selective_scan import outputs_and_gradients, reference, scan_inputs

VARIABLE = "HMBA_SCAN_BACKEND"


@pytest.fixture(autouse=True)
def untried(monkeypatch):
    """Let each test load backends anew, and none keep what another broke."""
    monkeypatch.delenv(VARIABLE, raising=False)
    ops_backends._loaded.clear()
    yield
    ops_backends._loaded.clear()


@pytest.fixture
def imported(monkeypatch):
    """Replace what a backend imports: `imported(name, function)`."""

    def replace(backend, function):
        real = ops_backends._import
        monkeypatch.setattr(ops_backends, "_import", lambda name: function() if name == backend else real(name))

    return replace


def fail(error):
    def function(*args, **kwargs):
        raise error

    return function


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_fused_kernel_runs_on_a_cpu():
    assert scan_backends("cpu") == ("cpu", "portable")


def test_other_devices_run_the_portable_form():
    assert scan_backends("mps") == ("portable",)


def test_shapes_are_told_on_the_meta_device_without_any_kernel(imported):
    imported("cpu", fail(AssertionError("no kernel is wanted")))
    inputs = {name: torch.as_tensor(x).to("meta") for name, x in scan_inputs(b=2, length=7, d=5, n=4).items()}
    y, state = selective_scan(**{**inputs, "reverse": False})
    assert y.is_meta and y.shape == (2, 7, 5) and state.shape == (2, 5, 4)


def test_a_package_that_is_not_installed_is_passed_over_in_silence(imported, caplog):
    imported("cpu", fail(ModuleNotFoundError("No module named 'numba'", name="numba")))
    assert scan_backends("cpu") == ("portable",)
    assert warnings_of(caplog) == []
    assert selective_scan(**scan_inputs())[0].isfinite().all()


@pytest.mark.parametrize(
    "error",
    [ImportError("undefined symbol: _ZN3c10"), OSError("libcudart.so.12: cannot open"), AttributeError("no njit")],
    ids=repr,
)
def test_a_broken_package_costs_one_warning(imported, caplog, error):
    imported("cpu", fail(error))
    for _ in range(3):
        assert selective_scan(**scan_inputs())[0].isfinite().all()
    (warning,) = warnings_of(caplog)
    assert "cpu backend" in warning and str(error) in warning


def test_a_part_of_a_package_that_is_missing_is_a_broken_package(imported, caplog):
    imported("cpu", fail(ModuleNotFoundError("No module named 'numba.core.typing'", name="numba.core.typing")))
    assert scan_backends("cpu") == ("portable",)
    assert len(warnings_of(caplog)) == 1


def test_a_kernel_that_computes_nonsense_is_left_out(imported, caplog):
    wrong = ops_backends.FusedKernels(lambda *args: (torch.zeros(1), None, None), *[fail(AssertionError())] * 3)
    imported("cpu", lambda: wrong)
    assert scan_backends("cpu") == ("portable",)
    assert "expected 0.6931 of one step, got 0.0000" in warnings_of(caplog)[0]


def test_a_kernel_is_tried_outside_of_the_callers_modes():
    with torch.device("meta"), torch.inference_mode(), torch.autocast("cpu"):
        assert scan_backends("cpu")[0] == "cpu"


@pytest.mark.parametrize("name", ["cpu", "portable", "reference", "triton"])
def test_the_variable_forces_a_backend(monkeypatch, name):
    monkeypatch.setenv(VARIABLE, name)
    assert scan_backends("cpu") == (name,)
    inputs = scan_inputs(length=3, d=2, n=2)
    assert_close(selective_scan(**inputs), reference(**inputs), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["portable", "reference"])
def test_a_forced_form_without_kernels_imports_none(name, monkeypatch, imported):
    imported("cpu", lambda: pytest.fail("nobody asked for it"))
    monkeypatch.setenv(VARIABLE, name)
    assert scan_backends("cpu") == (name,)


def test_an_unknown_backend_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "gpu")
    with pytest.raises(
        RuntimeError, match="HMBA_SCAN_BACKEND must name .*got gpu: .*choose from cpu, triton, mamba_ssm"
    ):
        selective_scan(**scan_inputs())


def test_a_backend_that_is_asked_for_and_cannot_be_had_says_what_to_install(monkeypatch, imported):
    monkeypatch.setenv(VARIABLE, "cpu")
    imported("cpu", fail(ModuleNotFoundError("No module named 'numba'", name="numba")))
    with pytest.raises(RuntimeError, match="pip install numba"):
        selective_scan(**scan_inputs())


def test_a_backend_for_another_device_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "cpu")
    with pytest.raises(RuntimeError, match="it runs on cpu"):
        scan_backends("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU these backends may well be there")
def test_without_a_gpu_its_backends_are_not_even_imported(monkeypatch, imported):
    monkeypatch.delenv("TRITON_INTERPRET")
    for name in ("mamba_ssm", "hub", "triton"):
        imported(name, fail(AssertionError("was imported")))
    assert scan_backends("cuda") == ("portable",)
    for name in ("mamba_ssm", "hub", "triton"):
        monkeypatch.setenv(VARIABLE, name)
        with pytest.raises(RuntimeError, match="there is no CUDA device"):
            scan_backends("cuda")


def test_all_backends_are_shown_with_the_reason_for_those_left_out(imported, monkeypatch, capsys):
    imported("cpu", fail(ImportError("undefined symbol: x")))
    hmba_hf.show_backends()
    shown = capsys.readouterr().out
    assert "Tensors on cpu: portable" in shown and "ImportError: undefined symbol: x" in shown
    assert all(name in shown for name in ops_backends.BACKENDS)
    monkeypatch.setenv(VARIABLE, "nothing")
    hmba_hf.show_backends()
    assert "there is no such backend" in capsys.readouterr().out


@pytest.mark.parametrize("machine, is_arm", [("arm64", True), ("aarch64", True), ("x86_64", False)])
def test_users_of_arm_read_that_its_kernel_was_emulated_or_why_it_is_not_usable(
    imported, monkeypatch, machine, is_arm
):
    monkeypatch.setattr(ops_backends.platform, "machine", lambda: machine)
    monkeypatch.setattr(ops_backends, "_try", lambda loaded, device, dtype: None)
    imported("cpu", object)
    assert ("tested under emulation" in ops_backends.describe_backends()) == is_arm
    ops_backends._loaded.clear()
    imported("cpu", fail(ImportError("no Numba for this processor")))
    shown = ops_backends.describe_backends()
    assert "Not usable: ImportError: no Numba for this processor." in shown and "emulation" not in shown


@pytest.fixture
def a_cuda_device(monkeypatch):
    """Let the choice believe in a GPU, and run what it chooses on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ops_backends, "_try", lambda loaded, device, dtype: None)


def original_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    """Stand in for mamba_ssm's function: its layout, and a last state that passes no gradient on."""
    assert delta_softplus and u.dtype == delta.dtype == B.dtype == C.dtype
    assert all(x is None or x.dtype == torch.float32 for x in (A, D, delta_bias))
    swap = [x if x is None else x.transpose(1, 2) for x in (u, delta, B, C, z)]
    y, state = reference(swap[0], swap[1], A, swap[2], swap[3], D, swap[4], delta_bias)
    y = y.transpose(1, 2)
    return (y, state.detach()) if return_last_state else y


@pytest.fixture
def mamba_ssm(monkeypatch):
    """Let mamba_ssm be installed: `mamba_ssm(extension)`."""

    def install(extension):
        interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
        interface.selective_scan_fn = original_scan
        monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", interface)
        monkeypatch.setitem(sys.modules, "selective_scan_cuda", extension)

    return install


def test_mamba_ssm_comes_first_where_it_works(a_cuda_device, mamba_ssm):
    mamba_ssm(types.ModuleType("selective_scan_cuda"))
    assert scan_backends("cuda") == ("mamba_ssm", "triton", "portable")
    assert ops_backends.scan_function("mamba_ssm") is original_scan


def test_mamba_ssm_without_its_extension_costs_one_warning(a_cuda_device, mamba_ssm, caplog):
    mamba_ssm(None)
    assert scan_backends("cuda") == ("triton", "portable")
    assert len(warnings_of(caplog)) == 1


def test_mamba_ssm_that_is_not_installed_costs_none(a_cuda_device, imported, caplog):
    imported("mamba_ssm", fail(ModuleNotFoundError("No module named 'mamba_ssm'", name="mamba_ssm")))
    assert scan_backends("cuda") == ("triton", "portable")
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("without", [(), ("mask",), ("D", "z", "delta_bias")], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_mamba_ssm_serves_with_the_contract(without, reverse):
    inputs = scan_inputs(dtype=torch.float32, without=("state", *without), reverse=reverse)

    def through_mamba_ssm(u, delta, A, B, C, D=None, z=None, delta_bias=None, mask=None, reverse=False, last=True):
        scan = ScanInputs(u, delta, A, B, C, D, z, delta_bias, None, mask, reverse)
        return selective_scan_mamba_ssm(original_scan, selective_scan_portable, scan, last)

    got, wanted = (outputs_and_gradients(scan, inputs) for scan in (through_mamba_ssm, reference))
    assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    y, state = through_mamba_ssm(**inputs, last=False)
    assert state is None
    assert_close(y, wanted[0][0], atol=1e-5, rtol=1e-5)


def test_mamba_ssm_is_not_asked_for_what_it_cannot_do():
    u, C, state = torch.ones(1, 2, 3), torch.ones(1, 2, 4), torch.ones(1, 3, 4)
    A, halves = torch.ones(3, 4), (u.bfloat16(), C.bfloat16())
    assert can_serve(ScanInputs(u, u, A, C, C))
    assert can_serve(ScanInputs(halves[0], halves[0], A, halves[1], halves[1]))
    assert not can_serve(ScanInputs(u, u, A, C, C, state=state))
    assert not can_serve(ScanInputs(u, u, A, C, C[:, 1:]))
    assert not can_serve(ScanInputs(u.double(), u.double(), A, C.double(), C.double()))
    assert not can_serve(ScanInputs(u, u, A.double(), C, C))
    assert not can_serve(ScanInputs(halves[0], u, A, halves[1], halves[1]))
    assert not can_serve(ScanInputs(u[:0], u[:0], A, C[:0], C[:0]))
