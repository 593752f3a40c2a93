"""The CPU kernels that a model will run, compiled on a thread of their own while its weights are read."""

import logging
import os
from collections.abc import Iterable
from threading import Thread, current_thread

import torch

from .ops_backends import VARIABLE, FusedKernels, load_here
from .ops_fused import narrow_dtype
from .ops_scan_inputs import ScanInputs

logger = logging.getLogger(__name__)
_threads: dict[torch.dtype, Thread] = {}  # by the dtype of sequences


def compile_ahead(dtypes: Iterable[torch.dtype]) -> None:
    """Begin to compile the forward kernels for sequences of some dtypes, if this machine has nothing but its CPU.

    Whoever calls a kernel before it is ready waits for it; one that was kept on disk is read instead. The backward
    kernels are compiled at their first use.
    """
    if torch.accelerator.is_available():
        return
    for dtype in {_kernel_dtype(dtype) for dtype in dtypes} - _threads.keys():
        thread = Thread(target=_compile, args=(dtype,), name="hmba_hf compiles")
        _threads[dtype] = thread
        thread.start()


def _kernel_dtype(dtype: torch.dtype) -> torch.dtype:
    wide = torch.promote_types(dtype, torch.float32)
    return narrow_dtype("cpu", wide, torch.empty(0, dtype=dtype, device="cpu"))


def _compile(dtype: torch.dtype) -> None:
    """Run each kernel once, on one step."""
    if os.environ.get(VARIABLE, "cpu") != "cpu":
        return
    kernels = load_here("cpu", dtype)
    if not isinstance(kernels, FusedKernels):  # of which one warning has told, if it is no matter of installation
        return
    try:
        one = torch.ones(1, 1, 1, dtype=dtype)
        rate = -torch.ones(1, 1, dtype=torch.promote_types(dtype, torch.float32))
        kernels.conv_forward(one, rate, rate[0], None, None, False)
        kernels.scan_forward(ScanInputs(one, one, rate, one, one), True, 0)
    except Exception as error:  # on this thread nobody could catch it, and the first call will meet it again
        logger.warning("the kernels for %s were not compiled ahead (%s)", dtype, error)


def _wait_for_all() -> None:
    """Wait until nothing is being compiled: a process forked meanwhile would find the compiler locked forever."""
    for thread in _threads.values():
        if thread is not current_thread() and thread.ident is not None:
            thread.join()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_all)
