"""The arguments of a selective scan, as one record that every form of it takes, and what the kernels share."""

from typing import NamedTuple

from torch import Tensor


class ScanInputs(NamedTuple):
    """The arguments of a scan, as `selective_scan` describes them.

    Attributes:
        u, delta: input and raw step size, `(b, l, d)`.
        A: decay rates, `(d, n)`.
        B: input map, `(b, l, n)`.
        C: output map of the `m` steps that are read, `(b, m, n)`; absent if none is.
        D: skip connection, `(d,)`.
        z: gate, `(b, m, d)`.
        delta_bias: `(d,)`.
        state: before the first step, `(b, d, n)`.
        mask: `(b, l)`, true for real steps.
        reverse: whether the scan begins at the last step.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor | None = None
    D: Tensor | None = None
    z: Tensor | None = None
    delta_bias: Tensor | None = None
    state: Tensor | None = None
    mask: Tensor | None = None
    reverse: bool = False

    @property
    def num_reads(self) -> int:
        """How many of the last steps scanned are read, `m`."""
        return 0 if self.C is None else self.C.shape[1]

    @property
    def unread(self) -> slice:
        """The steps that only move the state."""
        length = self.u.shape[1]
        if self.reverse:
            return slice(self.num_reads, length)
        return slice(0, length - self.num_reads)

    @property
    def read(self) -> slice:
        """The steps that `C` reads."""
        length = self.u.shape[1]
        if self.reverse:
            return slice(0, self.num_reads)
        return slice(length - self.num_reads, length)


def count_starts(length: int, chunk: int) -> int:
    """Return how many states a forward pass keeps: one before each chunk but the first, none if `chunk` is 0."""
    if chunk == 0:
        return 0
    return -(-length // chunk) - 1


def empty_for(x: Tensor | None, like: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Make room, in the dtype of `like`, for what exists only if `x` does."""
    return None if x is None else like.new_empty(shape)


def sum_parts(parts: Tensor | None) -> Tensor | None:
    """Sum partial results over their first dimension, if there are any."""
    return None if parts is None else parts.sum(0)
