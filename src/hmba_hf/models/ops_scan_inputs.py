"""What a selective scan is given, as one record for every form of it."""

from typing import NamedTuple

from torch import Tensor


class ScanInputs(NamedTuple):
    """The arguments of a scan, as `selective_scan` describes them; every form of the scan takes them so.

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
