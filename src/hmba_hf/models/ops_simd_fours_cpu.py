"""Four vectors at a time: as many as stay in registers with their intermediate results."""

from typing import Any

from .ops_launch_cpu import inlined
from .ops_simd_cpu import LANES, SPREAD, decay, load, multiply_add, read, splat, store


@inlined
def load_four(x: Any, o: int) -> Any:
    """Read four neighbouring lanes."""
    return (
        load(x, o, LANES),
        load(x, o + LANES, LANES),
        load(x, o + 2 * LANES, LANES),
        load(x, o + 3 * LANES, LANES),
    )


@inlined
def store_four(x: Any, o: int, four: Any) -> None:
    """Write them back."""
    store(x, o, LANES, four[0])
    store(x, o + LANES, LANES, four[1])
    store(x, o + 2 * LANES, LANES, four[2])
    store(x, o + 3 * LANES, LANES, four[3])


@inlined
def add_four(x: Any, o: int, four: Any) -> None:
    """Add to those in memory."""
    store(x, o, LANES, load(x, o, LANES) + four[0])
    store(x, o + LANES, LANES, load(x, o + LANES, LANES) + four[1])
    store(x, o + 2 * LANES, LANES, load(x, o + 2 * LANES, LANES) + four[2])
    store(x, o + 3 * LANES, LANES, load(x, o + 3 * LANES, LANES) + four[3])


@inlined
def four_numbers(x: Any, j: int) -> Any:
    """Read four neighbouring numbers."""
    return read(x, j), read(x, j + 1), read(x, j + 2), read(x, j + 3)


@inlined
def write_number(x: Any, j: int, number: Any) -> None:
    """Write one number for `four_numbers`."""
    x[j] = number


if SPREAD > 1:

    @inlined
    def four_numbers(x: Any, j: int) -> Any:
        """Read four neighbouring numbers, each in all lanes."""
        return load_four(x, j * LANES)

    @inlined
    def write_number(x: Any, j: int, number: Any) -> None:
        """Write one number for `four_numbers`."""
        store(x, j * LANES, LANES, splat(number))


@inlined
def decay_four(x: Any) -> Any:
    """Compute 2^x of each."""
    return decay(x[0]), decay(x[1]), decay(x[2]), decay(x[3])


@inlined
def scale_four(x: Any, factor: Any) -> Any:
    """Multiply each by one factor."""
    return x[0] * factor, x[1] * factor, x[2] * factor, x[3] * factor


@inlined
def multiply_four(x: Any, y: Any) -> Any:
    """Multiply one by one."""
    return x[0] * y[0], x[1] * y[1], x[2] * y[2], x[3] * y[3]


@inlined
def multiply_add_four(x: Any, y: Any, z: Any) -> Any:
    """Compute x * y + z, one by one."""
    return (
        multiply_add(x[0], y[0], z[0]),
        multiply_add(x[1], y[1], z[1]),
        multiply_add(x[2], y[2], z[2]),
        multiply_add(x[3], y[3], z[3]),
    )


@inlined
def add_scaled(total: Any, x: Any, factor: Any) -> Any:
    """Add four times one factor."""
    return (
        multiply_add(x[0], factor, total[0]),
        multiply_add(x[1], factor, total[1]),
        multiply_add(x[2], factor, total[2]),
        multiply_add(x[3], factor, total[3]),
    )


@inlined
def add_products(total: Any, x: Any, y: Any) -> Any:
    """Add the product of each two, always in the same order."""
    total = multiply_add(x[1], y[1], multiply_add(x[0], y[0], total))
    return multiply_add(x[3], y[3], multiply_add(x[2], y[2], total))
