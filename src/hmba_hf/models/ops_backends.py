"""Which implementation runs the scan and the convolution where, and why."""

import importlib.util
import logging
import math
import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from .ops_linear import describe_linear_backend
from .ops_scan_inputs import ScanInputs

logger = logging.getLogger(__name__)

VARIABLE = "HMBA_SCAN_BACKEND"
# Best first; "hub" downloads and runs foreign code, so only the variable chooses it.
CHOICES = {"cpu": ("cpu",), "cuda": ("mamba_ssm", "triton")}
FUSED = ("cpu", "triton")  # those with kernels of this package
BACKENDS = {
    "cpu": "fused kernel for CPUs, compiled by Numba",
    "triton": "fused kernel for GPUs, compiled by Triton",
    "mamba_ssm": "CUDA kernel of the package mamba_ssm, for scans from a zero state whose every step is read",
    "hub": "the same kernel from the Hub (kernels-community/mamba-ssm); only on request",
    "portable": "plain torch, on any device",
    "reference": "one step at a time; only on request",
}
INSTALL = {
    "numba": "pip install numba",
    "triton": "pip install triton",
    "mamba_ssm": "pip install mamba-ssm",
    "kernels": "pip install kernels",
}
PACKAGES = {"cpu": "numba", "triton": "triton"}
ARM = ("aarch64", "arm64")  # as Linux and macOS name it


class FusedKernels(NamedTuple):
    """The kernels of one backend, with the same signatures and results in each.

    See `ops_selective_scan_cpu` and `ops_causal_conv1d_cpu`. Triton's scan reads every step or none.
    """

    scan_forward: Callable
    scan_backward: Callable
    conv_forward: Callable
    conv_backward: Callable


class Unavailable(str):
    """Why a backend cannot be used."""


_loaded: dict[str, FusedKernels | Callable | Unavailable] = {}
_loading = Lock()


@torch.compiler.assume_constant_result
def scan_backends(device: str, dtype: torch.dtype = torch.float32) -> tuple[str, ...]:
    """Return the usable backends for a type of device, best first; the last can run every call.

    A backend is tried once, on a CPU in the dtype of the first call: a kernel for another one would take as long to
    compile again.

    Raises:
        RuntimeError: if `HMBA_SCAN_BACKEND` names a backend that does not exist or does not work here.
    """
    if device == "meta":  # the operator of a fused kernel computes shapes without the kernel
        return ("cpu", "portable")
    forced = os.environ.get(VARIABLE)
    if forced and (reason := _reason_against(forced, device, dtype)):
        raise RuntimeError(f"{VARIABLE} must name a backend that runs on {device}, got {forced}: {reason}")
    if forced in (*FUSED, "portable", "reference"):
        return (forced,)
    choices = tuple(name for name in CHOICES.get(device, ()) if _why_not(name, dtype) is None)
    if forced:
        return (forced, *(name for name in choices if name != "mamba_ssm"), "portable")
    return (*choices, "portable")


def _reason_against(forced: str, device: str, dtype: torch.dtype) -> str | None:
    """Return why a backend named in the variable cannot be used, if so."""
    if forced not in BACKENDS:
        return f"there is no such backend; choose from {', '.join(BACKENDS)}"
    if forced in ("portable", "reference"):
        return None
    if (reason := _why_not(forced, dtype)) is not None:
        return str(reason)
    wanted = "cpu" if forced == "cpu" else "cuda"
    if device == wanted or _is_interpreted(forced):
        return None
    return f"it runs on {wanted}"


def _is_interpreted(name: str) -> bool:
    """Whether Triton runs its kernels in Python, on any device."""
    return name == "triton" and os.environ.get("TRITON_INTERPRET") == "1"


def _why_not(name: str, dtype: torch.dtype) -> Unavailable | None:
    """Return what keeps a backend from being used, if anything."""
    if torch.compiler.is_exporting():
        # An exported graph names its kernel and runs none. While it exports, torch replaces functions of Python's own
        # modules, such as `math.pow`, which no compiler may see.
        if name in FUSED and importlib.util.find_spec(PACKAGES[name]) is not None:
            return None
        return Unavailable("it has no operator that can be exported, or is not installed")
    loaded = _load(name, dtype)
    return loaded if isinstance(loaded, Unavailable) else None


def load_here(name: str, dtype: torch.dtype) -> FusedKernels | Callable | Unavailable:
    """Import a backend and try it on this thread, which must have been started for it."""
    return _load(name, dtype, apart=False)


def _load(name: str, dtype: torch.dtype = torch.float32, apart: bool = True) -> FusedKernels | Callable | Unavailable:
    """Import a backend and try it once, whichever thread wants it first."""
    if name not in _loaded:
        with _loading:
            if name not in _loaded:
                _loaded[name] = _load_and_try(name, dtype, apart)
    return _loaded[name]


def _load_and_try(name: str, dtype: torch.dtype, apart: bool) -> FusedKernels | Callable | Unavailable:
    """Import a backend and try it; whatever is wrong with an optional package means the next one."""
    if name != "cpu" and not (torch.cuda.is_available() or _is_interpreted(name)):
        return Unavailable("there is no CUDA device")
    try:
        loaded = _import(name)
        device = "cpu" if name == "cpu" or not torch.cuda.is_available() else "cuda"
        if not apart:
            _try(loaded, device, dtype)
            return loaded
        # A thread of its own has none of the caller's modes: autocast, inference, fake tensors, a default device.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(_try, loaded, device, dtype).result()
        return loaded
    except Exception as error:  # an optional package may fail in any way, and another backend then serves
        for cause in (error, error.__cause__):
            if isinstance(cause, ModuleNotFoundError) and cause.name in INSTALL:
                return Unavailable(f"not installed: {INSTALL[cause.name]}")
        reason = Unavailable(f"{type(error).__name__}: {error}".splitlines()[0])
        logger.warning("the %s backend of the scan does not work here and is left out (%s)", name, reason)
        return reason


def _import(name: str) -> FusedKernels | Callable:
    if name == "cpu":
        from .ops_causal_conv1d_cpu import conv_backward, conv_forward
        from .ops_selective_scan_cpu import scan_backward, scan_forward

        return FusedKernels(scan_forward, scan_backward, conv_forward, conv_backward)
    if name == "triton":
        from .ops_causal_conv1d_triton import conv_backward, conv_forward
        from .ops_selective_scan_triton import scan_backward, scan_forward

        return FusedKernels(scan_forward, scan_backward, conv_forward, conv_backward)
    if name == "hub":
        return importlib.import_module("kernels").get_kernel("kernels-community/mamba-ssm").selective_scan_fn
    function = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    importlib.import_module("selective_scan_cuda")  # the extension, which mamba_ssm may come without
    return function


def _try(loaded: FusedKernels | Callable, device: str, dtype: torch.dtype) -> None:
    """Scan one step whose result is known: softplus(0) = log 2."""
    if device != "cpu" or dtype not in (torch.bfloat16, torch.float64):
        dtype = torch.float32
    one = torch.ones(1, 1, 1, device=device, dtype=dtype)
    zero = torch.zeros_like(one)
    rate = -torch.ones(1, 1, device=device, dtype=torch.promote_types(dtype, torch.float32))
    if isinstance(loaded, FusedKernels):
        y, _, _ = loaded.scan_forward(ScanInputs(one, zero, rate, one, one), False, 0)
    else:
        y = loaded(one, zero, rate, one, one, delta_softplus=True)
    if not math.isclose(float(y), math.log(2), rel_tol=1e-2):  # as near as bfloat16 comes
        raise RuntimeError(f"expected {math.log(2):.4f} of one step, got {float(y):.4f}")


def check_storage(first: Tensor, **others: Tensor | None) -> None:
    """Raise a `ValueError` that names the first tensor that is not dense, or on another device.

    No operator refuses one on `meta`.
    """
    device = first.device
    for name, tensor in {"the sequence": first, **others}.items():
        if tensor is None:
            continue
        if tensor.layout != torch.strided:
            raise ValueError(f"{name} must be dense, got a tensor in {tensor.layout}")
        if tensor.device != device:
            raise ValueError(f"{name} must be on {device} as the sequence is, got a tensor on {tensor.device}")


def fused_kernels(backend: str) -> FusedKernels:
    """Return the kernels of a backend of `scan_backends` that has them.

    Raises:
        RuntimeError: if they do not work here, though a graph that was exported elsewhere names them.
    """
    loaded = _load(backend)
    if not isinstance(loaded, FusedKernels):
        raise RuntimeError(f"the {backend} kernels of a graph must work where it runs, got {loaded}")
    return loaded


def scan_function(backend: str) -> Callable:
    """Return the function of mamba_ssm that a backend of `scan_backends` stands for."""
    loaded = _load(backend)
    assert callable(loaded), "a backend of `scan_backends` works here"
    return loaded


def show_backends() -> None:
    """Print which implementation of scan, convolution and linear layers runs where, and why not another."""
    print(describe_backends())


def describe_backends() -> str:
    """Return what `show_backends` prints."""
    forced = os.environ.get(VARIABLE)
    value = repr(forced) if forced else "not set"
    lines = [f"{VARIABLE} is {value}; it may force one of {', '.join(BACKENDS)}."]
    for device in ("cpu", "cuda"):
        try:
            lines.append(f"Tensors on {device}: {', then '.join(scan_backends(device))}")
        except RuntimeError as error:
            lines.append(f"Tensors on {device}: {error}")
    for name, description in BACKENDS.items():
        line = f"  {name:10} {description}."
        needs_loading = name not in ("portable", "reference", "hub") or name == "hub" == forced
        if needs_loading and isinstance(_load(name), Unavailable):
            line += f" Not usable: {_load(name)}."
        elif name == "cpu" and platform.machine() in ARM:
            line += " On Arm it has been tested under emulation, and its speed is not known."
        lines.append(line)
    return "\n".join([*lines, describe_linear_backend()])
