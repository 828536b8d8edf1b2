"""Eight float32 as one value in code that numba compiles: LLVM's `<8 x float>`, which fits AVX's registers.

A loop over single pixels leaves it to LLVM whether and how it is vectorised. With values of eight, a kernel says it:
a sum over rows stays eight sums, which a factor that is the same in all rows needs to meet only once.

They are added, subtracted, multiplied and divided like numbers, also with a float32. (numba's caches don't know this
file: whoever changes it deletes them.)
"""

# Types are what numba infers.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

LANES = 8

_intrinsic: Any = intrinsic
_FAST = ("fast",)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_PIXELS = ir.VectorType(ir.FloatType(), 3 * LANES)


class Lanes(types.Type):  # type: ignore[misc]
    """The type of eight float32."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


lanes = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def _spread(builder, value):
    """A vector of one number in all lanes, or what is a vector already."""
    if value.type == _VECTOR:
        return value
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return _shuffled(builder, first, first, [0] * LANES)


_OPERANDS = ((lanes, lanes), (lanes, types.float32), (types.float32, lanes))


def _define(operation, instruction: str) -> None:
    @infer_global(operation)
    class _Typing(ConcreteTemplate):  # type: ignore[misc]
        cases = [signature(lanes, *operands) for operands in _OPERANDS]

    def lower(context, builder, sig, args):
        return getattr(builder, instruction)(*(_spread(builder, each) for each in args), flags=_FAST)

    for operands in _OPERANDS:
        lower_builtin(operation, *operands)(lower)


for _operation, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define(_operation, _instruction)


def _place(context, builder, array_type, array, at):
    """Where eight values of a contiguous array begin, as a pointer to a vector."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), _VECTOR.as_pointer())


@_intrinsic
def load(typing_context, array, at):
    """Eight values of a one-dimensional contiguous float32 array, from `at` on."""

    def generate(context, builder, sig, args):
        vector = builder.load(_place(context, builder, sig.args[0], *args))
        vector.align = 4
        return vector

    return lanes(array, types.intp), generate


@_intrinsic
def store(typing_context, array, at, value):
    """Write eight values into a one-dimensional contiguous float32 array, from `at` on."""

    def generate(context, builder, sig, args):
        builder.store(args[2], _place(context, builder, sig.args[0], *args[:2])).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), generate


@_intrinsic
def numbered(typing_context):
    """0, 1, 2, ... 7."""
    numbers = ir.Constant(_VECTOR, [float(lane) for lane in range(LANES)])
    return lanes(), lambda context, builder, sig, args: numbers


@_intrinsic
def spread(typing_context, value):
    """One number in all eight."""
    return lanes(types.float32), lambda context, builder, sig, args: _spread(builder, args[0])


@_intrinsic
def smaller(typing_context, one, other):
    """The smaller of two, lane by lane."""

    def generate(context, builder, sig, args):
        first, second = args
        return builder.select(builder.fcmp_ordered("<", first, second, flags=_FAST), first, second)

    return lanes(lanes, lanes), generate


@_intrinsic
def where_at_most(typing_context, one, other, value):
    """`value` in the lanes in which `one` is at most `other`, elsewhere 0."""

    def generate(context, builder, sig, args):
        one, other, value = args
        return builder.select(
            builder.fcmp_ordered("<=", one, other, flags=_FAST), value, ir.Constant(_VECTOR, [0.0] * LANES)
        )

    return lanes(lanes, lanes, lanes), generate


def _shuffled(builder, one, other, order):
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))


@_intrinsic
def load_colours(typing_context, array, at):
    """Red, green and blue of eight pixels that stand one after the other, from `at` on."""

    def generate(context, builder, sig, args):
        pixels = builder.bitcast(_place(context, builder, sig.args[0], *args), _PIXELS.as_pointer())
        values = builder.load(pixels)
        values.align = 4
        colours = [
            _shuffled(builder, values, ir.Constant(_PIXELS, ir.Undefined), list(range(colour, 3 * LANES, 3)))
            for colour in range(3)
        ]
        return context.make_tuple(builder, sig.return_type, colours)

    return types.UniTuple(lanes, 3)(array, types.intp), generate


@_intrinsic
def store_colours(typing_context, array, at, red, green, blue):
    """Write eight pixels one after the other, from `at` on."""

    def generate(context, builder, sig, args):
        red, green, blue = args[2:]
        both = list(range(2 * LANES))
        first = _shuffled(builder, red, green, both)
        second = _shuffled(builder, blue, ir.Constant(_VECTOR, ir.Undefined), both)
        pixels = _shuffled(
            builder, first, second, [lane + LANES * colour for lane in range(LANES) for colour in range(3)]
        )
        place = builder.bitcast(_place(context, builder, sig.args[0], *args[:2]), _PIXELS.as_pointer())
        builder.store(pixels, place).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes, lanes, lanes), generate


def _call(builder, name: str, result, arguments):
    kinds = [argument.type for argument in arguments]
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, kinds), name)
    return builder.call(function, arguments, fastmath=_FAST)


@_intrinsic
def magnitude(typing_context, value):
    """The absolute values."""

    def generate(context, builder, sig, args):
        return _call(builder, f"llvm.fabs.v{LANES}f32", _VECTOR, args)

    return lanes(lanes), generate


@_intrinsic
def total(typing_context, value):
    """The sum of the eight."""

    def generate(context, builder, sig, args):
        nothing = ir.Constant(ir.FloatType(), -0.0)
        return _call(builder, f"llvm.vector.reduce.fadd.v{LANES}f32", ir.FloatType(), [nothing, *args])

    return types.float32(lanes), generate


@_intrinsic
def prefetch(typing_context, array, row):
    """Ask for a row of a two-dimensional contiguous array before it is needed."""

    def generate(context, builder, sig, args):
        array_type = sig.args[0]
        array = context.make_array(array_type)(context, builder, args[0])
        width = builder.extract_value(array.shape, 1)
        first = builder.gep(array.data, [builder.mul(args[1], width)])
        last = builder.gep(first, [builder.sub(width, ir.Constant(width.type, 1))])
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kinds = [byte, number, number, number]
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.prefetch.p0"
        )
        for place in (first, last):
            builder.call(function, [builder.bitcast(place, byte), *(ir.Constant(number, each) for each in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate
