"""The selective scan as Triton kernels, forward and backward, equal to the plain reference in `ops_selective_scan`.

A program owns one row of the batch and a block of channels. It walks through time in chunks with the state in
registers. In a chunk it computes all decays at once, and an associative scan joins the steps. The backward pass walks
the other way, and starts every chunk from the state kept there.
"""

# mypy: allow-untyped-defs
# Triton compiles a kernel from its source, in which `tl.constexpr` is the only annotation of an argument.

from torch import Tensor

from .ops_launch_triton import device_of, sigmoid, strides_of
from .ops_scan_inputs import ScanInputs, count_starts, empty_for, sum_parts

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("the Triton kernel needs `pip install triton`") from error

# With 16 states, a thread holds the 32 steps of a chunk for one channel and state. So threads exchange nothing in a
# scan, and the tiles of the backward pass nearly fit the registers. Code compiled for an H100 showed this; no GPU was
# measured.
FEW_STEPS = 32
TILE_ELEMENTS = 2**13
CHANNELS_FORWARD = 16  # at b=1 and d=2048, one program for each multiprocessor
CHANNELS_BACKWARD = 32
# log(1 + x) = 2 (s + s^3 / 3 + s^5 / 5 + ...) with s = x / (2 + x); for x of at most 1 this many terms are double.
LOG_TERMS = tl.constexpr(17)


def scan_forward(scan: ScanInputs, return_last_state: bool, chunk: int) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Scan; see `selective_scan`, and `ops_selective_scan_cpu` for the results. `C` must cover every step."""
    u = scan.u
    A = scan.A
    b, length, d = u.shape
    n = A.shape[1]
    assert scan.C is None or scan.num_reads == length
    tile = _tile(length, d, n, chunk=chunk or max(FEW_STEPS, 2 * n), channels=CHANNELS_FORWARD)
    y = empty_for(scan.C, u, (b, length, d))
    last = A.new_empty(b, n, d) if return_last_state else None
    starts = A.new_empty(b, count_starts(length, chunk), n, d)
    with device_of(u):
        _forward[(b, triton.cdiv(d, tile["CHANNELS"]))](
            *scan[:-1],
            *(y, last, starts if chunk else None),
            *strides_of(scan.u, scan.delta, scan.B, scan.C, scan.z, scan.mask),
            *(length, d, n),
            REVERSE=scan.reverse,
            **tile,
        )
    return y, last, starts


def scan_backward(
    scan: ScanInputs, grad_y: Tensor | None, grad_end: Tensor | None, starts: Tensor, chunk: int
) -> tuple[Tensor | None, ...]:
    """Return the gradients of `u, delta, A, B, C, D, z, delta_bias, state`; see `ops_selective_scan_cpu`."""
    u = scan.u
    A = scan.A
    b, length, d = u.shape
    n = A.shape[1]
    tile = _tile(length, d, n, chunk=chunk, channels=max(CHANNELS_BACKWARD, 2 * triton.next_power_of_2(n)))
    blocks = triton.cdiv(d, tile["CHANNELS"])
    grad_u = u.new_empty(b, length, d)
    grad_delta = u.new_empty(b, length, d)
    grad_z = empty_for(scan.z, u, (b, length, d))
    # Torch sums over other programs' channels, rows or steps: no bit depends on which program ends first.
    grad_B = A.new_empty(blocks, b, length, n)
    grad_C = empty_for(scan.C, A, (blocks, b, length, n))
    grad_A = A.new_empty(b, n, d)
    grad_state = empty_for(scan.state, A, (b, n, d))
    grad_D = empty_for(scan.D, A, (b, d))
    grad_bias = empty_for(scan.delta_bias, A, (b, d))
    with device_of(u):
        _backward[(b, blocks)](
            *(grad_y, grad_end),
            *scan[:-1],
            *(starts, grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, grad_state),
            *strides_of(grad_y, scan.u, scan.delta, scan.B, scan.C, scan.z, scan.mask),
            *(length, d, n),
            REVERSE=scan.reverse,
            **tile,
        )
    return (
        grad_u,
        grad_delta,
        grad_A.sum(0).T.contiguous(),
        grad_B.sum(0),
        sum_parts(grad_C),
        sum_parts(grad_D),
        grad_z,
        sum_parts(grad_bias),
        grad_state,
    )


def _tile(length: int, d: int, n: int, chunk: int, channels: int) -> dict[str, int]:
    """Choose a tile of `TIMES` steps, `CHANNELS` channels and `STATES` states, of which a program has `BLOCKS`.

    With `2 n` channels or more in a program, the partial sums of the gradient of `B`, or of `C`, are at most half of
    `b*l*d` numbers.
    """
    states = triton.next_power_of_2(n)
    times = min(triton.next_power_of_2(length), triton.next_power_of_2(chunk))
    # Shared memory, which is smaller, joins more steps than a thread holds.
    elements = TILE_ELEMENTS if times <= FEW_STEPS else TILE_ELEMENTS // 2
    channels = min(triton.next_power_of_2(d), channels, max(1, elements // times))
    together = min(states, max(1, elements // (times * channels)))
    blocks = states // together
    warps = 8 if times * channels * together >= TILE_ELEMENTS // 2 else 4
    tile = {"TIMES": times, "CHANNELS": channels, "STATES": together, "BLOCKS": blocks}
    return {**tile, "num_warps": warps, "enable_fp_fusion": True}


@triton.jit
def _softplus(x):
    """Compute `log(1 + exp(x))` without the digits that the logarithm of a number close to 1 loses."""
    small = tl.exp(-tl.abs(x))
    s = small / (2.0 + small)
    series = tl.zeros_like(x)
    for i in tl.static_range(LOG_TERMS):
        series = series * s * s + 1.0 / (2 * (LOG_TERMS - i) - 1)
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def _join(decay, update, next_decay, next_update):
    """Join two stretches of time, each a map `state -> decay state + update`."""
    return decay * next_decay, next_decay * update + next_update


@triton.jit
def _join_exclusive(decay, update, decay_0, update_0, next_decay, next_update, next_decay_0, next_update_0):
    """Join two stretches of time, each with its map as a whole and its map up to, but without, the last step."""
    whole_decay, whole_update = _join(decay, update, next_decay, next_update)
    part_decay, part_update = _join(decay, update, next_decay_0, next_update_0)
    return whole_decay, whole_update, part_decay, part_update


@triton.jit
def _load_rows(x, time, stride, column, there, columns, dtype: tl.constexpr):
    """Load `(steps, columns)`, zero where a step is not `there`."""
    where = there[:, None] & (column < columns)[None, :]
    return tl.load(x + time[:, None] * stride + column[None, :], mask=where, other=0.0).to(dtype)


@triton.jit
def _take(x, k, BLOCKS: tl.constexpr):
    """Take block `k` of `(channels, blocks, states)`."""
    return tl.sum(tl.where(tl.arange(0, BLOCKS)[None, :, None] == k, x, 0.0), 1)


@triton.jit
def _put(x, k, block, BLOCKS: tl.constexpr):
    """Put block `k` into `(channels, blocks, states)`."""
    return tl.where(tl.arange(0, BLOCKS)[None, :, None] == k, block[:, None, :], x)


@triton.jit
def _times(start, length, mask, mask_row, mask_time, REVERSE: tl.constexpr, TIMES: tl.constexpr):
    """Return where in the sequence the steps from `start` on are, which of them exist, and which are not masked."""
    time = tl.arange(0, TIMES).to(tl.int64) + start
    exists = time < length
    real = exists
    if REVERSE:
        time = length - 1 - time
    if mask is not None:
        real = exists & (tl.load(mask + mask_row + time * mask_time, mask=exists, other=0) != 0)
    return time, exists, real


@triton.jit
def _steps(delta, delta_bias, time, stride, channel, real, channels, dtype: tl.constexpr):
    """Return the argument of softplus and the step sizes, `(steps, channels)`."""
    raw = _load_rows(delta, time, stride, channel, real, channels, dtype)
    if delta_bias is not None:
        raw += tl.load(delta_bias + channel, mask=channel < channels, other=0.0)[None, :]
    return raw, tl.where(real[:, None], _softplus(raw), 0.0)


@triton.jit
def _forward(
    u, delta, A, B, C, D, z, delta_bias, state, mask, y, last, starts,
    u_batch, u_time, delta_batch, delta_time, B_batch, B_time, C_batch, C_time, z_batch, z_time, mask_batch, mask_time,
    length, channels, states,
    REVERSE: tl.constexpr, TIMES: tl.constexpr, CHANNELS: tl.constexpr, STATES: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    wide: tl.constexpr = A.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    delta_row, mask_row = delta + row * delta_batch, row * mask_batch
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    present = channel < channels
    of_all = tl.arange(0, BLOCKS)[None, :, None] * STATES + tl.arange(0, STATES)[None, None, :]
    place = of_all * channels + channel[:, None, None]  # of (channels, blocks, states) in `(n, d)`
    inside = present[:, None, None] & (of_all < states)
    first = (tl.arange(0, TIMES) == 0)[:, None, None]
    carry = tl.zeros((CHANNELS, BLOCKS, STATES), wide)
    if state is not None:
        carry = tl.load(state + row * channels * states + place, mask=inside, other=0.0)
    chunks = tl.cdiv(length, TIMES)
    for chunk in range(chunks):
        if starts is not None:
            if chunk > 0:
                kept = starts + (row * (chunks - 1) + chunk - 1) * channels * states
                tl.store(kept + place, carry, mask=inside)
        time, exists, real = _times(chunk * TIMES, length, mask, mask_row, mask_time, REVERSE, TIMES)
        u_tile = _load_rows(u + row * u_batch, time, u_time, channel, real, channels, wide)  # (steps, channels)
        raw, step = _steps(delta_row, delta_bias, time, delta_time, channel, real, channels, wide)
        step_u = step * u_tile
        read = tl.zeros((TIMES, CHANNELS), wide)
        for k in range(BLOCKS):
            n = k * STATES + tl.arange(0, STATES)
            near = present[:, None] & (n < states)[None, :]
            A_k = tl.load(A + channel[:, None] * states + n[None, :], mask=near, other=0.0)
            B_k = _load_rows(B + row * B_batch, time, B_time, n, real, states, wide)  # (steps, states)
            decay = tl.exp(step[:, :, None] * A_k[None, :, :])  # (steps, channels, states)
            update = step_u[:, :, None] * B_k[:, None, :]
            update += tl.where(first, decay * _take(carry, k, BLOCKS)[None, :, :], 0.0)
            _, tile = tl.associative_scan((decay, update), 0, _join)
            # Steps beyond the end leave the state as it was: the tile's last is the state after the chunk.
            end = tl.sum(tl.where((tl.arange(0, TIMES) == TIMES - 1)[:, None, None], tile, 0.0), 0)
            carry = _put(carry, k, end, BLOCKS)
            if C is not None:
                C_k = _load_rows(C + row * C_batch, time, C_time, n, real, states, wide)
                read += tl.sum(tile * C_k[:, None, :], 2)
        if C is not None:
            if D is not None:
                read += tl.load(D + channel, mask=present, other=0.0)[None, :] * u_tile
            if z is not None:
                gate = _load_rows(z + row * z_batch, time, z_time, channel, real, channels, wide)
                read *= gate * sigmoid(gate)
            out = (row * length + time[:, None]) * channels + channel[None, :]
            tl.store(y + out, read.to(y.dtype.element_ty), mask=exists[:, None] & present[None, :])
    if last is not None:
        tl.store(last + row * channels * states + place, carry, mask=inside)


# In one piece: a block of states reads and adds to a dozen tiles of its chunk, which a helper would take and return.
@triton.jit
def _backward(
    grad_y, grad_end, u, delta, A, B, C, D, z, delta_bias, state, mask, starts,
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, grad_state,
    grad_y_batch, grad_y_time, u_batch, u_time, delta_batch, delta_time, B_batch, B_time, C_batch, C_time,
    z_batch, z_time, mask_batch, mask_time,
    length, channels, states,
    REVERSE: tl.constexpr, TIMES: tl.constexpr, CHANNELS: tl.constexpr, STATES: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    wide: tl.constexpr = A.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    delta_row, mask_row = delta + row * delta_batch, row * mask_batch
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    present = channel < channels
    of_all = tl.arange(0, BLOCKS)[None, :, None] * STATES + tl.arange(0, STATES)[None, None, :]
    place = of_all * channels + channel[:, None, None]  # of (channels, blocks, states) in `(n, d)`
    inside = present[:, None, None] & (of_all < states)
    first = (tl.arange(0, TIMES) == 0)[:, None, None]
    final = (tl.arange(0, TIMES) == TIMES - 1)[:, None, None]
    carry = tl.zeros((CHANNELS, BLOCKS, STATES), wide)
    if grad_end is not None:
        carry = tl.load(grad_end + row * channels * states + place, mask=inside, other=0.0)
    sum_A = tl.zeros((CHANNELS, BLOCKS, STATES), wide)
    sum_D = tl.zeros((CHANNELS,), wide)
    sum_bias = tl.zeros((CHANNELS,), wide)
    chunks = tl.cdiv(length, TIMES)
    for later in range(chunks):
        chunk = chunks - 1 - later
        start = tl.zeros((CHANNELS, BLOCKS, STATES), wide)
        if chunk > 0:
            kept = starts + (row * (chunks - 1) + chunk - 1) * channels * states
            start = tl.load(kept + place, mask=inside, other=0.0)
        else:
            if state is not None:
                start = tl.load(state + row * channels * states + place, mask=inside, other=0.0)
        time, exists, real = _times(chunk * TIMES, length, mask, mask_row, mask_time, REVERSE, TIMES)
        out = (row * length + time[:, None]) * channels + channel[None, :]
        stored = exists[:, None] & present[None, :]
        u_tile = _load_rows(u + row * u_batch, time, u_time, channel, real, channels, wide)  # (steps, channels)
        raw, step = _steps(delta_row, delta_bias, time, delta_time, channel, real, channels, wide)
        # A gradient comes from the step after, of which only the decay is needed: the same tile, one step on.
        time_after, there, real_after = _times(chunk * TIMES + 1, length, mask, mask_row, mask_time, REVERSE, TIMES)
        raw_after, step_after = _steps(
            delta_row, delta_bias, time_after, delta_time, channel, real_after, channels, wide
        )
        step_u = step * u_tile
        gu = tl.zeros((TIMES, CHANNELS), wide)
        gstep = tl.zeros((TIMES, CHANNELS), wide)
        read = tl.zeros((TIMES, CHANNELS), wide)
        gread = tl.zeros((TIMES, CHANNELS), wide)  # in `C state + D u`
        if C is not None:
            gy = _load_rows(grad_y + row * grad_y_batch, time, grad_y_time, channel, real, channels, wide)
            gread = gy
            if z is not None:
                gate = _load_rows(z + row * z_batch, time, z_time, channel, real, channels, wide)
                gread = gy * gate * sigmoid(gate)
            if D is not None:
                skip = tl.load(D + channel, mask=present, other=0.0)[None, :]
                read = skip * u_tile
                gu = skip * gread
                sum_D += tl.sum(gread * u_tile, 0)
        for k in range(BLOCKS):
            n = k * STATES + tl.arange(0, STATES)
            near = present[:, None] & (n < states)[None, :]
            A_k = tl.load(A + channel[:, None] * states + n[None, :], mask=near, other=0.0)[None, :, :]
            B_k = _load_rows(B + row * B_batch, time, B_time, n, real, states, wide)[:, None, :]
            partial = ((tl.program_id(1) * tl.num_programs(0) + row) * length + time[:, None]) * states + n[None, :]
            partial_stored = exists[:, None] & (n < states)[None, :]
            decay = tl.exp(step[:, :, None] * A_k)  # (steps, channels, states)
            zeros = tl.zeros((TIMES, CHANNELS, STATES), wide)
            # The state before each step comes from the same scan: it cannot be had from the state after it.
            start_k = _take(start, k, BLOCKS)[None, :, :]
            update = step_u[:, :, None] * B_k + tl.where(first, decay * start_k, 0.0)
            initial = (decay, update, tl.where(first, zeros, 1.0), tl.where(first, start_k, zeros))
            _, tile, _, before = tl.associative_scan(initial, 0, _join_exclusive)
            # The gradient in the state of a step comes from its own output and from the step after it.
            gtile = tl.where(final, _take(carry, k, BLOCKS)[None, :, :], zeros)
            if C is not None:
                C_k = _load_rows(C + row * C_batch, time, C_time, n, real, states, wide)[:, None, :]
                gtile += gread[:, :, None] * C_k
                read += tl.sum(tile * C_k, 2)
                tl.store(grad_C + partial, tl.sum(gread[:, :, None] * tile, 1), mask=partial_stored)
            decay_after = tl.exp(step_after[:, :, None] * A_k)
            _, gtile = tl.associative_scan((decay_after, gtile), 0, _join, reverse=True)
            gbefore = decay * gtile  # in the state before a step
            carry = _put(carry, k, tl.sum(tl.where(first, gbefore, 0.0), 0), BLOCKS)
            gproduct = gbefore * before  # in `step A`
            gupdate = tl.sum(gtile * B_k, 2)  # in `step u`
            gu += gupdate * step
            gstep += gupdate * u_tile + tl.sum(gproduct * A_k, 2)
            sum_A = _put(sum_A, k, _take(sum_A, k, BLOCKS) + tl.sum(gproduct * step[:, :, None], 0), BLOCKS)
            tl.store(grad_B + partial, tl.sum(gtile * step_u[:, :, None], 1), mask=partial_stored)
        graw = tl.where(real[:, None], gstep * sigmoid(raw), 0.0)
        sum_bias += tl.sum(graw, 0)
        tl.store(grad_u + out, gu.to(grad_u.dtype.element_ty), mask=stored)
        tl.store(grad_delta + out, graw.to(grad_delta.dtype.element_ty), mask=stored)
        if z is not None:
            gz = gy * read * sigmoid(gate) * (1.0 + gate * (1.0 - sigmoid(gate)))
            tl.store(grad_z + out, gz.to(grad_z.dtype.element_ty), mask=stored)
    tl.store(grad_A + row * channels * states + place, sum_A, mask=inside)
    if grad_state is not None:
        tl.store(grad_state + row * channels * states + place, carry, mask=inside)
    if D is not None:
        tl.store(grad_D + row * channels + channel, sum_D, mask=present)
    if delta_bias is not None:
        tl.store(grad_bias + row * channels + channel, sum_bias, mask=present)
