"""Several numbers at a time: a vector type for Numba, with the few functions that the CPU kernels need.

LLVM turns one `Lanes` into one register of AVX-512 or AVX2, or two of NEON. Kernels written in vectors do not depend
on what the auto-vectoriser makes of their memory accesses.

Arrays are one-dimensional and contiguous; a 16-bit integer array holds bfloat16. Arithmetic is in float32, or in
float64 for float64 arrays.
"""

import math
import operator
from collections.abc import Callable
from typing import Any

from .ops_launch_cpu import inlined

try:
    import numpy as np
    from llvmlite import binding, ir
    from numba import types
    from numba.core import cgutils
    from numba.core.registry import cpu_target
    from numba.core.typing.templates import AbstractTemplate, infer_global, signature
    from numba.extending import intrinsic, lower_builtin, models, register_model
except ImportError as error:
    raise ImportError("the CPU kernels need Numba: pip install numba") from error

# Of the processor to compile for: this one, or another one that NUMBA_CPU_FEATURES describes.
FEATURES = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
AVX512 = "+avx512dq" in FEATURES
AVX2 = "+avx2" in FEATURES and not AVX512
LANES = 16 if AVX512 else 8  # AVX2 has 16 registers: four states, their inputs and a polynomial must fit
SPREAD = LANES if AVX2 else 1  # copies of a number in a row: AVX2 alone cannot multiply by one number in memory
CACHE_LINE = 64  # bytes
_vector_function: Any = intrinsic  # kernels call a decorated function without its first argument

# Polynomials of 2^f on [-1/2, 1/2] and 2 artanh(s) / s on [0, 1/3], highest power first: minimax to 2e-9 and 4e-9 in
# single precision, Taylor in double.
EXP2 = {
    32: (0.0001535336192, 0.001339887446, 0.009618437358, 0.05550332471, 0.2402264791, 0.6931472029, 1.0),
    64: tuple(math.log(2) ** k / math.factorial(k) for k in reversed(range(14))),
}
LOG1P = {
    32: (0.2801198746, 0.2800180519, 0.4002152724, 0.6666641629, 2.0),
    64: tuple(2 / (2 * k + 1) for k in reversed(range(17))),
}
# 2^f - 1 on [-1/16, 1/16] by powers of f, for AVX2: minimax to 3e-8, exact at 0, as states that hardly decay need it.
EXP2_OF_EIGHTHS = (0.05549625158, 0.2402576305, 0.6931472141, 1.0)
FASTEST = 1e19  # rate of decay: with a step of at most 127e17, x stays finite
LOG2_E = 1.4426950408889634
LN_2 = math.log(2)
# LLVM may contract to fused multiply-adds, but may not assume that NaN and infinity do not occur.
FLAGS = ("contract", "nsz", "arcp")


class Lanes(types.Type):
    """The Numba type of a vector of `LANES` floats."""

    def __init__(self, dtype: types.Float):
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes):
        super().__init__(manager, lanes, ir.VectorType(_float(lanes.dtype.bitwidth), LANES))


def _float(bits: int) -> ir.Type:
    return ir.FloatType() if bits == 32 else ir.DoubleType()


def _lanes_of(array: types.Array) -> Lanes:
    if array.dtype == types.float64:
        return Lanes(types.float64)
    return Lanes(types.float32)


class _Vector:
    """Emit arithmetic on vectors of one type; a Python number stands for a vector full of it."""

    def __init__(self, builder: ir.IRBuilder, bits: int):
        self.builder = builder
        self.bits = bits
        self.largest_exponent = 127 if bits == 32 else 1023
        self.type = ir.VectorType(_float(bits), LANES)
        self.integers = ir.VectorType(ir.IntType(bits), LANES)

    def splat(self, value: Any, type: ir.Type | None = None) -> ir.Value:
        type = type or self.type
        if not isinstance(value, ir.Value):
            return ir.Constant(type, [value] * LANES)
        if isinstance(value.type, ir.VectorType):
            return value
        undefined = ir.Constant(type, ir.Undefined)
        positions = ir.VectorType(ir.IntType(32), LANES)
        first = self.builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(positions, [0] * LANES))

    def __call__(self, operation: str, x: Any, y: Any) -> ir.Value:
        return getattr(self.builder, operation)(self.splat(x), self.splat(y), flags=FLAGS)

    def largest(self, x: Any, y: ir.Value) -> ir.Value:
        """Take the larger of two; NaN where `y` is."""
        return self.builder.select(self.builder.fcmp_ordered(">", self.splat(x), y), self.splat(x), y)

    def smallest(self, x: Any, y: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.fcmp_ordered("<", self.splat(x), y), self.splat(x), y)

    def polynomial(self, x: ir.Value, coefficients: tuple[float, ...]) -> ir.Value:
        value = self.splat(coefficients[0])
        for coefficient in coefficients[1:]:
            value = self("fadd", self("fmul", value, x), coefficient)
        return value

    def exp2(self, x: ir.Value) -> ir.Value:
        """Compute 2^x, with `x` clamped to the range of exponents: at most 2^127 (2^1023 in double)."""
        return self.decay(self.smallest(float(self.largest_exponent), self._above_lowest(x)))

    def _above_lowest(self, x: ir.Value) -> ir.Value:
        return self.largest(float(1 - self.largest_exponent), x)

    def decay(self, x: ir.Value) -> ir.Value:
        """Compute 2^x of a finite `x` that is not above the largest exponent.

        Adding 1.5 * 2^(mantissa bits) plus the bias of exponents rounds `x` to an integer in the lowest bits. Shifted
        up, these bits are the power of two.
        """
        if AVX512 and self.bits == 32:
            return self._decay_avx512(x)
        if AVX2 and self.bits == 32:
            return self._decay_avx2(x)
        mantissa = 23 if self.bits == 32 else 52
        magic = 1.5 * 2**mantissa + self.largest_exponent
        x = self._above_lowest(x)
        rounded = self("fadd", x, magic)
        fraction = self("fsub", x, self("fsub", rounded, magic))
        shift = ir.Constant(self.integers, [mantissa] * LANES)
        power = self.builder.shl(self.builder.bitcast(rounded, self.integers), shift)
        return self("fmul", self.polynomial(fraction, EXP2[self.bits]), self.builder.bitcast(power, self.type))

    def _decay_avx512(self, x: ir.Value) -> ir.Value:
        """Compute 2^x: one instruction subtracts the nearest integer, another multiplies by a power of two."""
        fraction = self._instruct("reduce", x, ir.Constant(ir.IntType(32), 0))
        return self._instruct("scalef", self.polynomial(fraction, EXP2[32]), self("fsub", x, fraction))

    def _decay_avx2(self, x: ir.Value) -> ir.Value:
        """Compute 2^x: one instruction looks up a power of 2^(1/8), so that a polynomial of three terms does the rest.

        Adding 1.5 * 2^20 rounds `x` to eighths, whose number stands in the lowest bits. Shifted up, all but the last
        three of these bits are the power of two; the table takes back what those three add.
        """
        builder = self.builder
        magic = np.float32(1.5 * 2**20)
        eighths = np.arange(LANES)
        table = np.float32(2 ** (eighths / 8)).view(np.int32) - (eighths << 20)
        lowest = int(magic.view(np.int32)) - 8 * 127  # its power is 0
        rounded = self("fadd", x, float(magic))
        fraction = self("fsub", x, self("fsub", rounded, float(magic)))
        bits = builder.bitcast(rounded, self.integers)
        bits = builder.select(builder.icmp_signed(">", bits, self._integer(lowest)), bits, self._integer(lowest))
        function = ir.FunctionType(self.integers, [self.integers, self.integers])
        look_up = cgutils.get_or_insert_function(builder.module, function, "llvm.x86.avx2.permd")
        found = builder.call(look_up, [ir.Constant(self.integers, table.tolist()), bits])
        power = builder.add(found, builder.shl(bits, self._integer(20)))
        return self("fmul", self.polynomial(fraction, EXP2_OF_EIGHTHS), builder.bitcast(power, self.type))

    def _integer(self, number: int) -> ir.Constant:
        return ir.Constant(self.integers, [number] * LANES)

    def within_range(self, rate: ir.Value) -> ir.Value:
        """Bound a rate of decay, so that its product with a step is finite."""
        return self.largest(-FASTEST, rate)

    def longest_step(self, rate: ir.Value) -> ir.Value:
        """Return the step in which a state that grows at a rate leaves the range of exponents; a long one if none."""
        return self("fdiv", float(self.largest_exponent), self.largest(1e-17, rate))

    def _instruct(self, name: str, *args: ir.Value) -> ir.Value:
        undefined = ir.Constant(self.type, ir.Undefined)
        all_lanes = ir.Constant(ir.IntType(16), -1)
        usual_rounding = ir.Constant(ir.IntType(32), 4)
        args = (*args, undefined, all_lanes, usual_rounding)
        function = ir.FunctionType(self.type, [x.type for x in args])
        name = f"llvm.x86.avx512.mask.{name}.ps.512"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, function, name), args)

    def sigmoid(self, x: ir.Value) -> ir.Value:
        return self("fdiv", 1.0, self("fadd", 1.0, self.exp2(self("fmul", x, -LOG2_E))))

    def softplus(self, x: ir.Value) -> ir.Value:
        """Compute log(1 + e^x) as max(x, 0) + log(1 + v), v = e^-|x|, and log(1 + v) as 2 artanh(v / (2 + v))."""
        positive = self.largest(0.0, x)
        minus_magnitude = self("fsub", x, self("fadd", positive, positive))
        v = self.decay(self._above_lowest(self("fmul", minus_magnitude, LOG2_E)))
        s = self("fdiv", v, self("fadd", v, 2.0))
        return self("fadd", positive, self("fmul", s, self.polynomial(self("fmul", s, s), LOG1P[self.bits])))


def _declare_operator(function: Callable, operation: str) -> None:
    """Declare to Numba an operator between lanes, and between lanes and a number."""

    @infer_global(function)
    class _Operator(AbstractTemplate):
        def generic(self, args: tuple, kws: dict) -> Any:
            lanes = next((x for x in args if isinstance(x, Lanes)), None)
            if lanes is None or not all(x == lanes or isinstance(x, types.Float) for x in args):
                return None
            return signature(lanes, *(x if x == lanes else lanes.dtype for x in args))

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
        return _Vector(builder, sig.return_type.dtype.bitwidth)(operation, *args)

    for kinds in ((Lanes, Lanes), (Lanes, types.Float), (types.Float, Lanes)):
        lower_builtin(function, *kinds)(lower)


_declare_operator(operator.add, "fadd")
_declare_operator(operator.iadd, "fadd")
_declare_operator(operator.sub, "fsub")
_declare_operator(operator.mul, "fmul")
_declare_operator(operator.imul, "fmul")


def _declare_function(name: str) -> Callable:
    @_vector_function
    def function(typing: Any, x: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
            return getattr(_Vector(builder, x.dtype.bitwidth), name)(args[0])

        return x(x), emit

    return function


def _declare_choice(name: str) -> Callable:
    @_vector_function
    def function(typing: Any, x: Any, y: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
            return getattr(_Vector(builder, x.dtype.bitwidth), name)(*args)

        return x(x, y), emit

    return function


largest = _declare_choice("largest")
smallest = _declare_choice("smallest")
decay = _declare_function("decay")
within_range = _declare_function("within_range")
longest_step = _declare_function("longest_step")
sigmoid = _declare_function("sigmoid")
softplus = _declare_function("softplus")


def _pointer(context: Any, builder: ir.IRBuilder, array_type: types.Array, array: ir.Value, index: ir.Value) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _first_lanes(builder: ir.IRBuilder, count: ir.Value) -> ir.Value:
    """Mark the lanes before `count`."""
    vector = _Vector(builder, 32)
    positions = ir.Constant(vector.integers, list(range(LANES)))
    return builder.icmp_signed("<", positions, vector.splat(builder.trunc(count, ir.IntType(32)), vector.integers))


def _masked(builder: ir.IRBuilder, kind: str, result: ir.Type, args: list[ir.Value], vector: ir.Type) -> Any:
    """Call LLVM's masked load or store, whose alignment is one byte."""
    if binding.llvm_version_info[0] < 22:  # until Numba 0.66 is the oldest
        behind_pointer = 1 if kind == "load" else 2
        args.insert(behind_pointer, ir.Constant(ir.IntType(32), 1))
    suffix = {"half": "f16", "float": "f32", "double": "f64"}.get(str(vector.element), str(vector.element))
    function = ir.FunctionType(result, [x.type for x in args])
    name = f"llvm.masked.{kind}.v{LANES}{suffix}.p0"
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), args)


@_vector_function
def load(typing: Any, array: Any, index: Any, count: Any) -> Any:
    """Read the lanes that start at `index`, or the first `count` of them if that is fewer; zeros beyond."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
        element = context.get_data_type(array.dtype)
        vector = ir.VectorType(element, LANES)
        size = array.dtype.bitwidth // 8
        pointer = builder.bitcast(_pointer(context, builder, array, args[0], args[1]), ir.PointerType(vector))
        whole = builder.icmp_signed(">=", args[2], ir.Constant(args[2].type, LANES))
        with builder.if_else(whole, likely=True) as (then, otherwise):
            with then:
                full = builder.load(pointer, align=size)
                full_block = builder.block
            with otherwise:
                zero = 0 if isinstance(element, ir.IntType) else 0.0
                zeros = ir.Constant(vector, [zero] * LANES)
                mask = _first_lanes(builder, args[2])
                part = _masked(builder, "load", vector, [pointer, mask, zeros], vector)
                part_block = builder.block
        value = builder.phi(vector)
        value.add_incoming(full, full_block)
        value.add_incoming(part, part_block)
        return _widen(builder, value)

    return _lanes_of(array)(array, types.intp, types.intp), emit


@_vector_function
def store(typing: Any, array: Any, index: Any, count: Any, lanes: Any) -> Any:
    """Write the lanes to where `load` would read them, rounding to nearest even for bfloat16."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> Any:
        element = context.get_data_type(array.dtype)
        vector = ir.VectorType(element, LANES)
        size = array.dtype.bitwidth // 8
        pointer = builder.bitcast(_pointer(context, builder, array, args[0], args[1]), ir.PointerType(vector))
        value = _narrow(builder, args[3]) if isinstance(element, ir.IntType) else args[3]
        whole = builder.icmp_signed(">=", args[2], ir.Constant(args[2].type, LANES))
        with builder.if_else(whole, likely=True) as (then, otherwise):
            with then:
                builder.store(value, pointer, align=size)
            with otherwise:
                _masked(builder, "store", ir.VoidType(), [value, pointer, _first_lanes(builder, args[2])], vector)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, lanes), emit


@_vector_function
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Prefetch the cache line of an element; an index out of range does no harm."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> Any:
        number = ir.IntType(32)
        pointer = builder.bitcast(_pointer(context, builder, array, *args), ir.PointerType(ir.IntType(8)))
        function = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        name = "llvm.prefetch.p0"
        flags = [ir.Constant(number, flag) for flag in (0, 3, 1)]  # to read, into the first cache, data
        builder.call(cgutils.get_or_insert_function(builder.module, function, name), [pointer, *flags])
        return context.get_dummy_value()

    return types.void(array, types.intp), emit


@_vector_function
def read(typing: Any, array: Any, index: Any) -> Any:
    """Read one number, widened from bfloat16 if need be."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
        value = builder.load(_pointer(context, builder, array, args[0], args[1]))
        return _widen(builder, value)

    return _lanes_of(array).dtype(array, types.intp), emit


def _widen(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Turn bfloat16 bits into float32, one or many; return floats as they are."""
    integer: Any = ir.IntType(32)
    float_type: Any = ir.FloatType()
    sixteen: Any = 16
    element = value.type
    if isinstance(value.type, ir.VectorType):
        element = value.type.element
        integer = ir.VectorType(integer, LANES)
        float_type = ir.VectorType(float_type, LANES)
        sixteen = [16] * LANES
    if not isinstance(element, ir.IntType):
        return value
    return builder.bitcast(builder.shl(builder.zext(value, integer), ir.Constant(integer, sixteen)), float_type)


def _narrow(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Turn lanes of float32 into bfloat16 bits: to nearest, ties to even, NaN kept."""
    integers = ir.VectorType(ir.IntType(32), LANES)

    def constant(number: int) -> ir.Constant:
        return ir.Constant(integers, [number] * LANES)

    bits = builder.bitcast(value, integers)
    odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
    rounded = builder.add(builder.add(bits, constant(0x7FFF)), odd)
    quiet = builder.or_(bits, constant(0x400000))
    kept = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    return builder.trunc(builder.lshr(kept, constant(16)), ir.VectorType(ir.IntType(16), LANES))


@_vector_function
def multiply_add(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """Compute x * y + z, rounded once where the processor can: in every loop alike, however it is compiled."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
        vector = args[2].type
        name = f"llvm.fmuladd.v{LANES}f{z.dtype.bitwidth}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
        splat = _Vector(builder, z.dtype.bitwidth).splat
        return builder.call(function, [splat(args[0]), splat(args[1]), args[2]])

    return z(x, y, z), emit


@_vector_function
def splat(typing: Any, number: Any) -> Any:
    """Fill all lanes with one number."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
        return _Vector(builder, number.bitwidth).splat(args[0])

    return Lanes(number)(number), emit


@_vector_function
def lane_sum(typing: Any, lanes: Any) -> Any:
    """Sum all lanes, always in the same order."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
        vector = args[0].type
        name = f"llvm.vector.reduce.fadd.v{LANES}f{lanes.dtype.bitwidth}"
        function = ir.FunctionType(vector.element, [vector.element, vector])
        reduce = cgutils.get_or_insert_function(builder.module, function, name)
        return builder.call(reduce, [ir.Constant(vector.element, 0.0), args[0]], fastmath=("reassoc",))

    return lanes.dtype(lanes), emit


@inlined
def zeros(size: int, like: Any) -> Any:
    """Return zeros of the dtype of an array, aligned to a cache line: lanes that lie across two take twice as long."""
    x = np.zeros(size + CACHE_LINE // like.itemsize, like.dtype)
    skip = -x.ctypes.data % CACHE_LINE // like.itemsize
    return x[skip : skip + size]
