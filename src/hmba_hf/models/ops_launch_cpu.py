"""How the CPU kernels are compiled, how they see tensors, and how their work is spread over threads."""

import ctypes
import functools
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from .ops_cache_cpu import folder_of, kept_on_disk

try:
    import numpy as np
    from numba import config, njit
except ImportError as error:
    raise ImportError("the CPU kernels need Numba: pip install numba") from error
if config.DISABLE_JIT:  # type: ignore[attr-defined]  # Numba sets its options from the environment, unseen by mypy
    raise ImportError("NUMBA_DISABLE_JIT=1 turns off the compiler that the CPU kernels need; unset it to have them")

logger = logging.getLogger(__name__)
_compiled: set[tuple] = set()  # kernels with the dtypes of their inputs
_compiling = Lock()  # who needs a kernel that another thread compiles waits for it

# Numpy lacks bfloat16: kernels read its bits as integers.
NUMPY_DTYPES = {
    torch.float32: np.dtype(np.float32).str,
    torch.float64: np.dtype(np.float64).str,
    torch.bfloat16: np.dtype(np.int16).str,
    torch.bool: np.dtype(np.bool_).str,
}

# One thread ends fewer multiply-adds than this before a second one has woken up.
WORTH_A_THREAD = 2**18
# Tasks: enough for the threads of a large machine, few enough that sums across them stay small.
TASKS = 64
# More shares than threads even out a core that is busy with something else.
SHARES_PER_THREAD = 8


def compiled(function: Callable, inline: str = "never") -> Any:
    """Compile a kernel at its first call, without the GIL, and keep it on disk where that can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "inline": inline}
    return kept_on_disk(njit(**options)(function))


def inlined(function: Callable) -> Any:
    """Make a part of a kernel that is compiled within it, since a call with many arguments costs time."""
    return compiled(function, "always")


class _Memory:
    """The memory of a tensor with elements, as numpy takes it in; the tensor lives for as long as the array."""

    __slots__ = ("__array_interface__", "tensor")

    def __init__(self, tensor: Tensor, dtype: str):
        # FSDP resizes the storage of parameters, which `Tensor.numpy()` would forbid from then on.
        last = 0
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
            last += (size - 1) * stride
        self.tensor = tensor
        self.__array_interface__ = {
            "data": (tensor.data_ptr(), False),
            "shape": (last + 1,),
            "typestr": dtype,
            "version": 3,
        }


def flat(dtype: torch.dtype, *tensors: Tensor | None) -> list[np.ndarray]:
    """View the memory that each tensor spans as one contiguous array; an absent tensor as an empty one of this dtype.

    Numba then knows at compile time that neighbours are adjacent, whatever the strides of the other dimensions. Arrays
    of bfloat16 hold its bits as 16-bit integers, since numpy lacks the dtype. No tensor's storage is changed.

    Raises:
        ValueError: if a tensor is not in the memory of the CPU.
    """
    arrays = []
    for x in tensors:
        if x is None:
            arrays.append(np.empty(0, NUMPY_DTYPES[dtype]))
            continue
        if not x.is_cpu:
            raise ValueError(f"tensors of the CPU kernels must be on cpu, got one on {x.device}")
        assert x.dtype == dtype
        if x.numel() == 0:  # torch has no address for it, which older releases of numpy refuse
            arrays.append(np.empty(0, NUMPY_DTYPES[dtype]))
            continue
        assert x.shape[-1] == 1 or x.stride(-1) == 1
        arrays.append(np.asarray(_Memory(x, NUMPY_DTYPES[dtype])))
    return arrays


def strides(*tensors: Tensor | None) -> tuple[int, ...]:
    """Return the batch and time strides of each tensor, one after the other; zeros for an absent one."""
    found: list[int] = []
    for x in tensors:
        if x is None:
            found += (0, 0)
        else:
            found += x.stride()[:2]
    return tuple(found)


def split(b: int, d: int, tile: int) -> tuple[int, int]:
    """Return the numbers of groups of batch rows and of tiles of channels, which no number of threads may change."""
    tiles = -(-d // tile)
    return min(b, max(1, TASKS // tiles)), tiles


def launch(kernel: Any, args: tuple, tasks: int, work: int) -> None:
    """Run `kernel(first, last, *args)` over all tasks, on torch's number of threads if the work is worth it.

    Args:
        kernel: of `compiled`.
        args: what the kernel takes; the arrays that it reads come first.
        tasks: how many there are; a thread takes a range of them.
        work: multiply-adds of all tasks.
    """
    call = (kernel, *(array.dtype for array in args[0]))
    if call not in _compiled:
        with _compiling:
            if call not in _compiled:
                _compile(kernel, args)
                _compiled.add(call)
    threads = min(torch.get_num_threads(), tasks)
    if threads == 1 or work < WORTH_A_THREAD or _is_forked:
        kernel(0, tasks, *args)
        return
    shares = min(tasks, threads * SHARES_PER_THREAD)
    bounds = [tasks * i // shares for i in range(shares + 1)]
    # Threads start far apart: neighbours would meet in the same fresh pages of memory and wait for each other.
    far_apart = sorted(range(shares), key=lambda i: i % -(-shares // threads))
    remaining = iter(far_apart)
    errors: list[BaseException] = []

    def work_on(_: Any = None) -> None:
        try:
            for i in remaining:
                kernel(bounds[i], bounds[i + 1], *args)
        except BaseException as error:  # raised by the calling thread; one of several is enough
            errors.append(error)

    _run_on_threads(work_on, threads)
    if errors:
        raise errors[0]


def _run_on_threads(function: Callable, threads: int) -> None:
    """Call `function` once on each of so many threads.

    Where torch's own OpenMP library can be reached, its threads are used: they spin for a while after their work, and
    would keep other threads off their cores.
    """
    if _gomp_parallel is not None:
        _gomp_parallel(_Callback(function), None, threads, 0)
    else:
        for _ in _pool(threads).map(function, range(threads)):
            pass


def _compile(kernel: Any, args: tuple) -> None:
    """Compile without running, and log it unless the compiled kernel was on disk."""
    start = time.perf_counter()
    known = _compiled_here(kernel)
    kernel(0, 0, *args)
    if _compiled_here(kernel) == known:
        return
    spent = time.perf_counter() - start
    name = kernel.__module__.split(".")[-1]
    dtype = args[0][0].dtype
    if dtype == np.int16:
        dtype = "bfloat16"
    folder = folder_of(kernel)
    kept = f"kept in {folder}" if folder else "for this process alone"
    logger.warning("compiled %s%s for %s in %.1f s, %s", name, kernel.__name__, dtype, spent, kept)


def _compiled_here(kernel: Any) -> int:
    """Count the signatures that this process compiled, which did not come from disk."""
    return len(kernel.signatures) - sum(kernel.stats.cache_hits.values())


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="hmba_hf")


_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
try:
    _gomp_parallel: Any = ctypes.CDLL(None).GOMP_parallel
    _gomp_parallel.argtypes = (_Callback, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    _gomp_parallel.restype = None
except (AttributeError, OSError, TypeError):  # torch has another OpenMP library, or none
    _gomp_parallel = None


# A forked process inherits its parent's pools without the threads in them, and would wait for these forever.
_is_forked = False


def _after_fork() -> None:
    global _is_forked
    _is_forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
