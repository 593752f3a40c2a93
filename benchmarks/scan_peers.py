"""Everyone who can run a selective scan, behind one signature; `selective_scan.py` compares them.

    python benchmarks/scan_peers.py      # who is here, and how to get the others

All compute `y = (scan + D u) silu(z)` with step `softplus(delta + delta_bias)`. Tensors are `(b, l, d)`; a peer whose
own users hold `(b, d, l)` is given that layout and pays for no transposition.
"""

import argparse
import ctypes
import functools
import importlib.util
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hmba_hf import selective_scan
from hmba_hf.models.ops_scan_inputs import ScanInputs
from hmba_hf.models.ops_selective_scan import selective_scan_portable

LIMIT_SOURCE = Path(__file__).with_name("scan_limit.cpp")
Run = Callable[..., Any]


class Inputs(NamedTuple):
    """What a scan takes, in the order of `selective_scan`."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor
    delta_bias: Tensor

    def channels_first(self) -> "Inputs":
        """Return the same with time last, `(b, d, l)` and `(b, n, l)`."""
        return Inputs(*(x.transpose(1, 2).contiguous() if x.ndim == 3 else x for x in self))


class Unavailable(Exception):
    """A peer that cannot run here; the message says why."""


class Peer(NamedTuple):
    """One way to run a scan.

    Attributes:
        load: return the function `(u, delta, A, B, C, D, z, delta_bias) -> y`, or raise `Unavailable`.
        about: what it is, for the table.
        channels_first: it is given `(b, d, l)`, as its own users have it.
        loops: its backward pass may take time in proportion to the square of the length.
        devices: where it runs.
    """

    load: Callable[[], Run]
    about: str
    channels_first: bool = False
    loops: bool = False
    devices: tuple[str, ...] = ("cpu", "cuda")


def draw_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> Inputs:
    """Draw inputs of shape `(b, l, d, n)` as a fresh Mamba layer would have them: steps in `[1e-3, 1e-1]`."""
    (b, length, d, n), generator = shape, torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    step = 1e-3 * 100 ** torch.rand(d, generator=generator)
    inputs = Inputs(
        u=normal(b, length, d).to(dtype),
        delta=(0.5 * normal(b, length, d)).to(dtype),
        A=-torch.arange(1.0, n + 1).repeat(d, 1),
        B=normal(b, length, n).to(dtype),
        C=normal(b, length, n).to(dtype),
        D=1 + 0.1 * normal(d),
        z=normal(b, length, d).to(dtype),
        delta_bias=step + torch.log(-torch.expm1(-step)),
    )
    return Inputs(*(x.to(device) for x in inputs))


def load_ours(backend: str, package: str | None = None) -> Run:
    """Return our op with one backend forced."""
    if package is not None and importlib.util.find_spec(package) is None:
        raise Unavailable(f"not installed: pip install {package}")

    def run(*inputs: Any) -> Any:
        os.environ["HMBA_SCAN_BACKEND"] = backend
        return selective_scan(**Inputs(*inputs)._asdict(), return_last_state=False)[0]

    return run


def load_compiled() -> Run:
    """Return the portable form under `torch.compile`."""
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise Unavailable("torch.compile needs a C++ compiler")
    compiled = torch.compile(selective_scan_portable, dynamic=False)
    return lambda *inputs: compiled(ScanInputs(*inputs))[0]


def load_transformers() -> Run:
    """Return the plain torch path of transformers' Mamba, even where it found a kernel to use in its place."""
    try:
        from transformers.models.mamba.modeling_mamba import mamba_selective_scan
    except ImportError as error:
        raise Unavailable(f"no mamba_selective_scan in this transformers: {error}") from error
    return functools.partial(inspect.unwrap(mamba_selective_scan), delta_softplus=True)


def load_mamba_ssm(name: str) -> Run:
    """Return a function of mamba_ssm; its plain reference also where its CUDA extension is missing.

    The interface module imports the extension unconditionally, though the reference does not use it.
    """
    load_transformers()  # first: it would take mamba_ssm's kernel for its own once that can be imported
    if importlib.util.find_spec("mamba_ssm") is None:
        raise Unavailable("not installed: pip install --no-build-isolation mamba-ssm")
    stand_in = name == "selective_scan_ref"
    if stand_in and importlib.util.find_spec("selective_scan_cuda") is None:
        sys.modules["selective_scan_cuda"] = types.ModuleType("selective_scan_cuda")
    try:
        from mamba_ssm.ops import selective_scan_interface
    except (ImportError, OSError) as error:
        raise Unavailable(f"cannot be imported: {error}") from error
    if not stand_in and not hasattr(selective_scan_interface.selective_scan_cuda, "fwd"):
        raise Unavailable("installed without its CUDA extension")
    return functools.partial(getattr(selective_scan_interface, name), delta_softplus=True)


def scan_all_states(scan: Callable[[Tensor, Tensor], Tensor], inputs: Inputs) -> Tensor:
    """Run a scan that wants every decay and every update at once, `(b, l, d, n)`, and gives every state back."""
    u, delta, A, B, C, D, z, delta_bias = inputs
    step = F.softplus(delta.float() + delta_bias)[..., None]
    states = scan(torch.exp(step * A), step * B.float()[:, :, None] * u.float()[..., None])
    read = (states @ C.float()[..., None]).squeeze(-1) + D * u.float()
    return (read * F.silu(z.float())).to(u.dtype)


def load_mambapy() -> Run:
    """Return mambapy's parallel scan with what mambapy's own block puts around it."""
    try:
        from mambapy.pscan import pscan
    except ImportError as error:
        raise Unavailable("not installed: pip install mambapy") from error
    return lambda *inputs: scan_all_states(pscan, Inputs(*inputs))


def load_associative_scan() -> Run:
    """Return torch's `associative_scan` over all decays and updates."""
    try:
        from torch._higher_order_ops.associative_scan import associative_scan
    except ImportError as error:
        raise Unavailable(f"not in torch {torch.__version__}") from error

    def combine(left: Any, right: Any) -> Any:
        return left[0] * right[0], right[0] * left[1] + right[1]

    def scan(decay: Tensor, update: Tensor) -> Tensor:
        return associative_scan(combine, (decay, update), dim=1, combine_mode="generic")[1]

    return lambda *inputs: scan_all_states(scan, Inputs(*inputs))


class LimitScan(ctypes.Structure):
    """The `Scan` of `scan_limit.cpp`."""

    pointers = (
        "u delta B C z A D delta_bias starts y end grad_y "
        "grad_u grad_delta grad_z grad_A grad_B grad_C grad_D grad_delta_bias"
    ).split()
    _fields_ = [(name, ctypes.c_void_p) for name in pointers] + [(size, ctypes.c_long) for size in "bldn"]


class PlainLoop(torch.autograd.Function):
    """The plain C++ loop of `scan_limit.cpp`."""

    library: ctypes.CDLL

    @classmethod
    def call(cls, name: str, inputs: Inputs, **others: Tensor | None) -> None:
        """Call one of the library's functions for the dtype of the inputs."""
        named = {**inputs._asdict(), **others}
        pointers = {k: x.data_ptr() for k, x in named.items() if x is not None}
        sizes = dict(zip("bldn", (*inputs.u.shape, inputs.A.shape[1]), strict=True))
        function = getattr(cls.library, f"{name}_{str(inputs.u.dtype).removeprefix('torch.')}")
        function(ctypes.byref(LimitScan(**pointers, **sizes)), torch.get_num_threads())

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        inputs = Inputs(*(x.contiguous() for x in tensors))
        y, starts = torch.empty_like(inputs.u), None
        if any(ctx.needs_input_grad):
            starts = torch.empty(PlainLoop.library.starts_size(*inputs.u.shape, inputs.A.shape[1]))
            ctx.save_for_backward(*inputs, starts)
        PlainLoop.call("forward", inputs, y=y, starts=starts)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        *tensors, starts = ctx.saved_tensors
        inputs = Inputs(*tensors)
        found = {
            f"grad_{name}": torch.empty_like(x) if name in ("u", "delta", "z") else torch.zeros_like(x).float()
            for name, x in inputs._asdict().items()
        }
        PlainLoop.call("backward", inputs, starts=starts, grad_y=grads[0].contiguous(), **found)
        return tuple(grad.to(x.dtype) for grad, x in zip(found.values(), inputs, strict=True))


def load_limit() -> Run:
    """Build the C++ loop for this very processor in a temporary folder."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise Unavailable("needs g++ or clang++")
    flags = "-O3 -march=native -ffast-math -std=c++17 -shared -fPIC -pthread".split()
    if "AVX512" in torch.backends.cpu.get_cpu_capability():
        flags.append("-mprefer-vector-width=512")
    elif "AVX2" in torch.backends.cpu.get_cpu_capability():  # perhaps not all that the processor has
        flags.append("-mno-avx512f")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "scan_limit.so"
        done = subprocess.run([compiler, *flags, LIMIT_SOURCE, "-o", built], capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"{compiler} failed: {done.stderr.strip().splitlines()[-1]}")
        PlainLoop.library = ctypes.CDLL(str(built))
    PlainLoop.library.starts_size.restype = ctypes.c_long
    PlainLoop.library.starts_size.argtypes = [ctypes.c_long] * 4
    return lambda *inputs: PlainLoop.apply(*inputs)


PEERS = {
    "cpu": Peer(lambda: load_ours("cpu", "numba"), "ours, fused (Numba)", devices=("cpu",)),
    "triton": Peer(lambda: load_ours("triton", "triton"), "ours, Triton kernel", devices=("cuda",)),
    "portable": Peer(lambda: load_ours("portable"), "ours, plain torch in chunks"),
    "compiled": Peer(load_compiled, "ours, plain torch, torch.compile"),
    "limit": Peer(load_limit, "plain C++ loop: the limit", devices=("cpu",)),
    "transformers": Peer(load_transformers, "transformers, torch path", channels_first=True, loops=True),
    "mamba_ssm": Peer(
        lambda: load_mamba_ssm("selective_scan_fn"), "mamba_ssm, CUDA kernel", channels_first=True, devices=("cuda",)
    ),
    "mamba_ssm_reference": Peer(
        lambda: load_mamba_ssm("selective_scan_ref"), "mamba_ssm, reference", channels_first=True, loops=True
    ),
    "mambapy": Peer(load_mambapy, "mambapy, parallel scan"),
    "associative_scan": Peer(load_associative_scan, "torch associative_scan"),
}


def main() -> None:
    """Print who is here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    for name, peer in PEERS.items():
        try:
            peer.load()
            print(f"{name:20} here: {peer.about}")
        except Unavailable as reason:
            print(f"{name:20} {reason}")


if __name__ == "__main__":
    main()
