"""Torch's own attention where forward derivatives are wanted, for towers and language models of any family."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .ops_derivatives import may_want_tangents


def differentiable_attention() -> AbstractContextManager:
    """Return a context in which torch's own attention has tangents, where some may be wanted.

    Its fused forms have no forward mode, so that `jvp` of a tower or a language model would fail in them.
    """
    if torch.compiler.is_compiling() or not may_want_tangents():
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)
