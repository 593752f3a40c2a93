"""What the fused operators promise beyond their numbers: threads, graphs, checkpoints, long sequences, odd callers."""

import importlib
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from hmba_hf.models import ops_fused
from hmba_hf.models.ops_causal_conv1d import causal_conv1d, causal_conv1d_portable
from hmba_hf.models.ops_launch_cpu import flat
from hmba_hf.models.ops_selective_scan import selective_scan
from test_ops_selective_scan import outputs_and_gradients, portable, scan_inputs

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(autouse=True)
def cpu_backend(monkeypatch):
    monkeypatch.setenv("HMBA_SCAN_BACKEND", "cpu")


@pytest.fixture
def threads():
    """Set torch's threads for a test: `threads(n)`."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def large_inputs(**kwargs):
    """Enough work for several threads, several tiles of channels and several groups of rows."""
    return scan_inputs(**{"b": 3, "length": 50, "d": 300, "n": 16, "dtype": torch.float32, **kwargs})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [{}, {"b": 1, "d": 1100}], ids=["several rows", "one row"])
def test_the_number_of_threads_changes_no_bit(threads, sizes, dtype):
    results = []
    for count in (1, 2, 5, 5):
        threads(count)
        torch.manual_seed(1)
        results.append(outputs_and_gradients(selective_scan, large_inputs(dtype=dtype, **sizes)))
    for other in results[1:]:
        assert_close(other, results[0], atol=0, rtol=0)


def test_callers_in_several_threads_do_not_disturb_each_other(threads):
    threads(2)
    cases = [large_inputs() for _ in range(4)]
    wanted = [outputs_and_gradients(selective_scan, case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            got = list(pool.map(lambda case: outputs_and_gradients(selective_scan, case), cases))
            assert_close(got, wanted, atol=0, rtol=0)


@pytest.mark.parametrize("length", [1280, 16384])
@pytest.mark.parametrize("rate", [None, -1e-6], ids=["usual decay", "near integrator"])
def test_long_sequences_stay_near_double_precision(length, rate):
    inputs = scan_inputs(1, length, 8, 16, dtype=torch.float32, without=("mask",))
    if rate is not None:
        inputs["A"] = torch.full_like(inputs["A"], rate).requires_grad_()
    exact = {k: v.detach().double().requires_grad_() if torch.is_tensor(v) else v for k, v in inputs.items()}
    wanted, wanted_gradients = outputs_and_gradients(portable, exact)
    got, gradients = outputs_and_gradients(selective_scan, inputs)
    for name, result, exact_result in [
        *((f"result {i}", x, wanted[i]) for i, x in enumerate(got)),
        *((name, x, wanted_gradients[name]) for name, x in gradients.items()),
    ]:
        error = (result.double() - exact_result).abs().max() / exact_result.abs().max().clamp(min=1)
        # The reference in single precision strays as far over 16,384 steps that forget nothing.
        assert error < (1e-5 if rate is None else 1e-4), f"{name}: {error:.1e}"


@pytest.mark.parametrize("without", [(), ("mask", "state", "D"), ("C", "D", "z")], ids=str)
def test_the_scan_is_a_proper_operator(without):
    inputs = scan_inputs(length=40, without=without)
    u, delta, A, B, C, D, z, bias, state, mask = (
        inputs.get(k) for k in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "state", "mask")
    )
    state = None if state is None else state.detach().transpose(1, 2).contiguous().requires_grad_()
    inputs_ = (u, delta, A, B, C, D, z, bias, state, mask)
    for return_last_state in (True, False):
        torch.library.opcheck(ops_fused._scan, (*inputs_, True, return_last_state, 32, "cpu"))


@pytest.mark.parametrize("with_state", [True, False])
def test_the_convolution_is_a_proper_operator(with_state):
    x, weight, bias = (torch.randn(*shape).double().requires_grad_() for shape in ((2, 9, 5), (5, 4), (5,)))
    state = torch.randn(2, 3, 5).double().requires_grad_() if with_state else None
    torch.library.opcheck(ops_fused._conv, (x, weight, bias, state, None, False, "cpu"))


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_gradients_lie_in_memory_as_a_compiler_is_told(backend, monkeypatch):
    monkeypatch.setenv("HMBA_SCAN_BACKEND", backend)
    inputs = scan_inputs(length=9, d=6, n=3, dtype=torch.float32, without=("mask",))
    asked = [x for name, x in inputs.items() if torch.is_tensor(x) and name != "state"]  # that one comes transposed
    for gradient, x in zip(torch.autograd.grad(selective_scan(**inputs)[0].sum(), asked), asked, strict=True):
        assert gradient.stride() == torch.empty_like(x).stride()
    asked = [torch.randn(shape, requires_grad=True) for shape in ((2, 9, 6), (6, 4), (6,))]
    for gradient, x in zip(torch.autograd.grad(causal_conv1d(*asked)[0].sum(), asked), asked, strict=True):
        assert gradient.stride() == torch.empty_like(x).stride()


def test_kernels_on_disk_are_those_of_these_very_files(tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in Path(ops_fused.__file__).parent.glob("ops_*.py"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "__init__.py").touch()
    code = """
import logging, torch
logging.basicConfig(format="%(message)s")
from copy_of import ops_launch_cpu
from copy_of.ops_causal_conv1d_cpu import conv_forward
print(conv_forward(torch.ones(1, 1, 16), torch.ones(16, 1), torch.zeros(16), None, None, False)[0, 0, 0].item())
"""
    folder = folder.rename(tmp_path / "copy_of")

    def run():
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=True,
        )
        return float(done.stdout), "compiled" in done.stderr

    assert run() == (pytest.approx(0.731, abs=1e-3), True)
    assert run() == (pytest.approx(0.731, abs=1e-3), False)
    simd = folder / "ops_simd_cpu.py"
    simd.write_text(simd.read_text().replace("LOG2_E = 1.44", "LOG2_E = 0.0 * 1.44"))
    assert run() == (pytest.approx(0.5, abs=1e-3), True)


def test_the_numbers_hold_on_a_processor_without_wide_instructions():
    single = "test_ops_selective_scan.py::test_it_equals_the_reference_in_single"
    extreme = "test_ops_selective_scan.py::test_extreme_steps_and_decays_stay_finite"
    long = "test_ops_fused.py::test_long_sequences_stay_near_double_precision"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "not portable", "-p", "no:cacheprovider", single, extreme, long],
        cwd=Path(__file__).parent,
        env={**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("n", [16, 3])
def test_nan_in_one_row_stays_there(n):
    inputs = large_inputs(b=130, length=5, d=133, n=n, without=("mask", "reverse"))
    leaves = {k: v.detach() for k, v in inputs.items() if torch.is_tensor(v)}
    leaves["u"][64, 2:] = torch.nan
    for leaf in leaves.values():
        leaf.requires_grad_()
    y, state = selective_scan(**leaves)
    others = torch.arange(130) != 64
    assert y[others].isfinite().all() and state[others].isfinite().all()
    (y.nan_to_num().sum() + state[others].sum() + 0 * state[64].nan_to_num().sum()).backward()
    for name in ("u", "delta", "B", "C", "z", "state"):
        assert leaves[name].grad[others].isfinite().all(), name


def test_a_compiled_graph_holds_it_whole_and_gives_the_same():
    inputs = scan_inputs(length=40, d=9, n=16, dtype=torch.float32)

    def layer(**inputs):
        y, state = selective_scan(**inputs)
        y, tail = causal_conv1d(y, inputs["A"][:, :4])
        return y + tail.sum(), state

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    wanted, wanted_gradients = outputs_and_gradients(layer, inputs)
    got, gradients = outputs_and_gradients(compiled, inputs)
    assert_close(got, wanted)
    assert_close(gradients, wanted_gradients)


def test_a_checkpointed_scan_gives_the_same_gradients():
    inputs = large_inputs()
    wanted = outputs_and_gradients(selective_scan, inputs)

    def scan(**inputs):
        return checkpoint(lambda: selective_scan(**inputs), use_reentrant=False)

    assert_close(outputs_and_gradients(scan, inputs), wanted, atol=0, rtol=0)


@pytest.mark.parametrize("unused", [0, 1])
def test_either_result_alone_has_its_gradient(unused):
    inputs = scan_inputs(length=40)
    wanted_inputs = {k: v for k, v in inputs.items() if torch.is_tensor(v) and v.requires_grad}
    got, wanted = (
        torch.autograd.grad(scan(**inputs)[1 - unused].square().sum(), list(wanted_inputs.values()), allow_unused=True)
        for scan in (selective_scan, portable)
    )
    for name, x, y in zip(wanted_inputs, got, wanted, strict=True):
        x, y = (torch.zeros_like(inputs[name]) if gradient is None else gradient for gradient in (x, y))
        assert_close(x, y, atol=1e-11, rtol=1e-11, msg=lambda m, k=name: f"{k}: {m}")


def test_dtypes_that_differ_are_brought_to_the_widest():
    inputs = scan_inputs(length=20, dtype=torch.bfloat16)
    inputs["delta"] = inputs["delta"].detach().float().requires_grad_()
    wide = {k: v.detach().float() if torch.is_tensor(v) and k != "mask" else v for k, v in inputs.items()}
    y, state = selective_scan(**inputs)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert_close(y, selective_scan(**wide)[0].to(torch.bfloat16), atol=0, rtol=0)


def test_rounding_to_bfloat16_is_torchs():
    x = torch.randn(1, 7, 40)
    y, _ = causal_conv1d(x.bfloat16(), torch.ones(40, 1))
    wanted, _ = causal_conv1d_portable(x.bfloat16().float(), torch.ones(40, 1))
    assert_close(y, wanted.bfloat16(), atol=0, rtol=1e-2)
    assert (y == wanted.bfloat16()).float().mean() > 0.98  # the rest are ties of two exponentials


def test_nan_is_not_hidden():
    for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "state"):
        inputs = {k: v.detach() if torch.is_tensor(v) else v for k, v in scan_inputs(without=("mask",)).items()}
        inputs[name] = torch.full_like(inputs[name], float("nan"))
        assert selective_scan(**inputs)[0].isnan().any(), name


def test_another_default_device_and_inference_mode_change_nothing():
    inputs = {k: v.detach() if torch.is_tensor(v) else v for k, v in large_inputs(b=1).items()}
    wanted = selective_scan(**inputs)
    with torch.device("meta"), torch.inference_mode():
        assert_close(selective_scan(**inputs), wanted, atol=0, rtol=0)


def test_meta_tensors_are_scanned_without_a_kernel(monkeypatch):
    monkeypatch.delenv("HMBA_SCAN_BACKEND")
    with torch.device("meta"):
        y, state = selective_scan(
            torch.ones(2, 5, 3), torch.ones(2, 5, 3), torch.ones(3, 4), *[torch.ones(2, 5, 4)] * 2
        )
    assert (y.shape, state.shape) == ((2, 5, 3), (2, 3, 4))


def test_no_storage_is_pinned_by_a_call():
    """FSDP resizes parameters' storages to nothing and back."""
    inputs = large_inputs(b=1, length=5)
    weight, bias = torch.randn(300, 4, requires_grad=True), torch.randn(300, requires_grad=True)
    tail = torch.randn(1, 3, 300)
    y, state = selective_scan(**inputs)
    convolved, _ = causal_conv1d(inputs["u"], weight, bias, tail, inputs["mask"])
    (y.sum() + state.sum() + convolved.sum()).backward()
    tensors = [x for x in inputs.values() if torch.is_tensor(x)]
    gradients = [x.grad for x in (*tensors, weight, bias) if x.grad is not None]
    for tensor in (*tensors, weight, bias, tail, *gradients, y, state, convolved):
        assert tensor.untyped_storage().resizable()


def test_a_tensor_on_another_device_is_refused_before_its_memory_is_read():
    with pytest.raises(ValueError, match="must be on cpu, got one on meta"):
        flat(torch.float32, torch.empty(3, device="meta"))


def test_parameters_may_be_sharded_over_processes(tmp_path):
    code = """
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from hmba_hf.models.layers_mamba import MambaMixer
torch.manual_seed(0)
mixer, x = MambaMixer(8, 4), torch.randn(2, 6, 8)
wanted = mixer(x)[0].detach()
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
fully_shard(mixer, mesh=init_device_mesh("cpu", (1,)), reshard_after_forward=True)
for _ in range(2):
    y = mixer(x)[0]
    y.sum().backward()
    torch.testing.assert_close(y, wanted, atol=0, rtol=0)
assert all(parameter.grad is not None for parameter in mixer.parameters())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_copy_of_the_code_lives_beside_the_package(tmp_path, monkeypatch):
    """A checkpoint brings its own files: both must scan, one after the other, each with operators of its own."""
    folder = tmp_path / "carried"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for path in Path(ops_fused.__file__).parent.glob("ops_*.py"):
        (folder / path.name).write_text(path.read_text())
    monkeypatch.syspath_prepend(tmp_path)
    carried = importlib.import_module("carried.ops_selective_scan")
    inputs = large_inputs()
    wanted = outputs_and_gradients(selective_scan, inputs)
    assert_close(outputs_and_gradients(carried.selective_scan, inputs), wanted, atol=0, rtol=0)
    assert_close(outputs_and_gradients(selective_scan, inputs), wanted, atol=0, rtol=0)
    assert sys.modules["carried.ops_fused"].NAMESPACE != ops_fused.NAMESPACE


def test_a_copy_in_a_folder_with_letters_beyond_ascii_has_operators_of_its_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    names = ["pr\u00fcfung", "pr\u00f6fung", "pr\u6a21fung"]
    for name in names:
        (tmp_path / name).mkdir()
        for path in Path(ops_fused.__file__).parent.glob("ops_*.py"):
            (tmp_path / name / path.name).write_text(path.read_text())
    found = {importlib.import_module(f"{name}.ops_fused").NAMESPACE for name in names}
    assert len(found) == len(names) and all(name.isascii() for name in found)
    assert all(hasattr(getattr(torch.ops, name), "selective_scan") for name in found)


def test_a_forked_process_scans_too(threads):
    threads(2)
    # Enough for our threads, and too little for torch's own, which do not survive a fork.
    inputs = {k: v.detach() if torch.is_tensor(v) else v for k, v in large_inputs(b=1, d=400).items()}
    wanted = selective_scan(**inputs)[1]
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(selective_scan(**inputs)[1].flatten()[:5].tolist()), daemon=True)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert queue.get() == wanted.flatten()[:5].tolist()
