"""Records that the CPU kernels of the selective scan pass on: Numba takes each as one argument.

A column is `LANES` neighbouring channels. Arrays are flat; the shapes beside them name what lies in them.
"""

from typing import Any, NamedTuple


class Inputs(NamedTuple):
    """What a kernel reads, empty where absent: in the dtype of `u`, from `rates` on in the dtype of `A`."""

    u: Any
    delta: Any
    B: Any
    C: Any
    z: Any
    grad_y: Any
    rates: Any  # of decay in powers of two, `(n, d)`
    D: Any
    bias: Any
    state: Any
    starts: Any
    grad_end: Any


class Outputs(NamedTuple):
    """What the forward kernel writes."""

    y: Any
    end: Any
    starts: Any


class Gradients(NamedTuple):
    """What the backward kernel writes; torch sums over groups and blocks."""

    u: Any
    delta: Any
    z: Any
    rates: Any  # `(groups, n, d)`
    B: Any  # `(blocks, b, l, n)`
    C: Any  # `(blocks, b, reads, n)`
    D: Any  # `(groups, d)`
    bias: Any  # `(groups, d)`
    state: Any


class Strides(NamedTuple):
    """How far rows of the batch (`_b`) and steps (`_l`) lie apart in memory."""

    u_b: int
    u_l: int
    delta_b: int
    delta_l: int
    B_b: int
    B_l: int
    C_b: int
    C_l: int
    z_b: int
    z_l: int
    grad_y_b: int
    grad_y_l: int


class Sizes(NamedTuple):
    """How large the scan is, and how it is cut."""

    b: int
    length: int
    reads: int  # how many of the last steps are read
    d: int
    n: int
    groups: int  # of batch rows
    chunk: int  # steps read at once
    tile: int  # channels of a task, at most
    block: int  # channels of a partial sum, at most


class Call(NamedTuple):
    """What all tasks share."""

    inputs: Any
    mask: Any
    strides: Any
    sizes: Any
    reverse: bool


class Place(NamedTuple):
    """Where a task is: a batch row, a tile of channels, and a chunk of steps."""

    row: int
    tile: int
    width: int
    past: int
    steps: int


class Block(NamedTuple):
    """Which partial sum of the maps' gradients a task adds to: of a block of channels, for four states."""

    channel: int
    k: int


class Given(NamedTuple):
    """What a task has read of its tile in a chunk, `(columns, chunk)`."""

    steps: Any
    updates: Any
    outs: Any
    grads: Any  # in the read-out, before the gate


class Maps(NamedTuple):
    """Maps that all channels share in a chunk, `(chunk, padded n)`, or their gradients, `(chunk, FOUR)`."""

    B: Any
    C: Any


class Kept(NamedTuple):
    """Four states of a column, at the start of a chunk and after each step, and their decays."""

    states: Any
    decays: Any


class Found(NamedTuple):
    """Gradients of a tile in a chunk, `(columns, chunk)`."""

    updates: Any
    steps: Any


class Backward(NamedTuple):
    """Gradients that a task takes along: through its chunks those of states, through all its rows the sums."""

    states: Any
    rates: Any
    D: Any
    bias: Any
    maps: Any
    found: Any


class Four(NamedTuple):
    """Four states of a column in a chunk: where they lie, and which steps are read."""

    states: int  # in what `read_states` has read
    chunk: int  # in what `read_chunk` has read
    steps: int
    unread: int  # steps at the start of the chunk
    n: int  # padded
    k: int  # the first of the four
