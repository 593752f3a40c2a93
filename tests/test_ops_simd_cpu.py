"""The CPU kernels agree with the reference with AVX-512 and without it, at the ends of the exponents too."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from llvmlite import binding
from torch.testing import assert_close

from hmba_hf.models.ops_scan_inputs import ScanInputs
from hmba_hf.models.ops_selective_scan import selective_scan, selective_scan_reference


def draw():
    """Inputs with short and very long steps, and with states that decay at all rates and grow slowly."""
    torch.manual_seed(0)
    b, length, d, n = 2, 37, 19, 6
    inputs = {
        "u": torch.randn(b, length, d),
        "delta": torch.randn(b, length, d) * torch.logspace(-2, 4, d),
        "A": -torch.logspace(-8, 3, n).repeat(d, 1),
        "B": torch.randn(b, length, n),
        "C": torch.randn(b, length, n),
        "D": torch.randn(d),
        "z": torch.randn(b, length, d),
        "delta_bias": torch.randn(d),
    }
    inputs["A"][0, 0] = 1e-3  # grows, in short steps
    return inputs


def check_agreement():
    """Compare outputs and gradients with those of the reference in float64."""
    ours = {name: x.clone().requires_grad_() for name, x in draw().items()}
    exact = {name: x.double().requires_grad_() for name, x in draw().items()}
    y, _ = selective_scan(**ours)
    wanted, _ = selective_scan_reference(ScanInputs(**exact))
    assert_close(y.double(), wanted, atol=1e-5 * wanted.abs().max().item(), rtol=1e-4)
    y.sum().backward()
    wanted.sum().backward()
    for name, x in ours.items():
        scale = exact[name].grad.abs().max().item()
        assert_close(
            x.grad.double(), exact[name].grad, atol=1e-5 * scale, rtol=1e-3, msg=partial("{}: {}".format, name)
        )


def test_kernels_agree_with_the_reference_on_this_processor():
    check_agreement()


def test_kernels_agree_with_the_reference_on_a_processor_without_avx512():
    """On one that has none, these are the kernels of the other test."""
    features = binding.get_host_cpu_features()
    kept = [f"{'-' if name.startswith('avx512') or not has else '+'}{name}" for name, has in features.items()]
    command = "import test_ops_simd_cpu as tests; tests.check_agreement(); print(tests.lanes())"
    environment = {
        **os.environ,
        "NUMBA_CPU_FEATURES": ",".join(kept),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["8"]


def lanes():
    """Tell how many numbers the kernels of this process take at a time."""
    from hmba_hf.models.ops_simd_cpu import LANES

    return LANES


@pytest.mark.parametrize("rate", [-float("inf"), -1e30, 1e3])
def test_a_state_beyond_the_range_of_exponents_leaves_its_neighbours_alone(rate):
    """A first step carries nothing over, however a state would decay or grow in it."""
    inputs = {name: x[:, :1] if x.ndim == 3 else x for name, x in draw().items()}
    wanted, _ = selective_scan(**inputs)
    inputs["A"][:, 2] = rate
    y, _ = selective_scan(**inputs)
    assert_close(y, wanted)
    assert y.isfinite().all()
