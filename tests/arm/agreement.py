"""Compare the CPU kernels with the reference on the processor that runs this, in float64, outputs and gradients.

`run.py` copies the kernels beside it as the package `kernels`, which needs torch and Numba alone.
"""

import sys

import torch
from kernels import ops_backends, ops_simd_cpu
from kernels.ops_causal_conv1d import causal_conv1d, causal_conv1d_portable
from kernels.ops_scan_inputs import ScanInputs
from kernels.ops_selective_scan import selective_scan, selective_scan_reference
from torch import Tensor

BOUND = 1e-5  # of the largest number


def draw() -> dict[str, Tensor]:
    """Return inputs of a scan, with steps and decays from tiny to extreme."""
    torch.manual_seed(0)
    b, length, d, n = 2, 37, 19, 6
    return {
        "u": torch.randn(b, length, d),
        "delta": torch.randn(b, length, d) * torch.logspace(-2, 4, d),
        "A": -torch.logspace(-8, 3, n).repeat(d, 1),
        "B": torch.randn(b, length, n),
        "C": torch.randn(b, length, n),
        "D": torch.randn(d),
        "z": torch.randn(b, length, d),
        "delta_bias": torch.randn(d),
    }


def compare(name: str, ours: Tensor, exact: Tensor) -> bool:
    """Print by how much a tensor differs; return whether it agrees."""
    difference = float((ours.detach().double() - exact).abs().max() / exact.abs().max())
    print(f"| {name} | {difference:.0e} |", flush=True)
    return difference <= BOUND


def compare_scan() -> bool:
    """Compare a scan and its gradients."""
    ours = {name: x.clone().requires_grad_() for name, x in draw().items()}
    exact = {name: x.double().requires_grad_() for name, x in draw().items()}
    y, _ = selective_scan(**ours)
    wanted, _ = selective_scan_reference(ScanInputs(**exact))
    agrees = compare("scan", y, wanted)
    y.sum().backward()
    wanted.sum().backward()
    for name, x in ours.items():
        assert x.grad is not None
        agrees &= compare(f"scan, gradient of {name}", x.grad, exact[name].grad)
    return agrees


def compare_convolution() -> bool:
    """Compare a convolution and its gradients."""
    x = torch.randn(2, 37, 19)
    weight = torch.randn(19, 4)
    bias = torch.randn(19)
    ours = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
    exact = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    y, _ = causal_conv1d(*ours)
    wanted, _ = causal_conv1d_portable(*exact)
    agrees = compare("convolution", y, wanted)
    y.sum().backward()
    wanted.sum().backward()
    for name, mine, theirs in zip(("x", "weight", "bias"), ours, exact, strict=True):
        assert mine.grad is not None
        agrees &= compare(f"convolution, gradient of {name}", mine.grad, theirs.grad)
    return agrees


def main() -> None:
    """Compare all; the exit status is 1 if anything differs or the fused kernel does not run."""
    print(f"{ops_backends.describe_backends()}\n\n{ops_simd_cpu.LANES} numbers at a time\n")
    print("| what | largest difference, as a share of the largest number |\n|---|---|")
    runs = ops_backends.scan_backends("cpu")[0] == "cpu"
    agrees = [compare_scan(), compare_convolution()]
    sys.exit(0 if runs and all(agrees) else 1)


main()
