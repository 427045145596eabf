"""Python loops over arrays of float32 compiled to machine code, for a CPU, with numba.

Compiled code is kept on disk, in a folder named after the source of this package: numba itself looks only at the file
a function stands in, not at those of the functions that it calls.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import extending, types

F = TypeVar("F", bound=Callable[..., object])
Scalar = Any
"""A number in compiled code, where its kind follows from the arguments: float32 or int, unless said otherwise."""

# Whose types say less than what is done with them here.
_njit: Any = numba.njit
_intrinsic: Any = extending.intrinsic
_config: Any = numba.config

LANES = 16
"""Numbers that are compared at once."""

_FLOAT = ir.FloatType()
# What no number of the largest sums and products may do: `reassoc` lets a sum go on in several lanes at once.
_EXACT, _IN_LANES = {"contract"}, {"contract", "reassoc", "nsz"}


def compiled(function: F) -> F:
    """To machine code at the first call; without the interpreter's lock."""
    return _compiled(function, _EXACT)


def reduction(function: F) -> F:
    """The same for a sum or a maximum over an array: it may be taken in any order."""
    return _compiled(function, _IN_LANES)


def part_of_a_loop(function: F) -> F:
    """A reduction that is copied to where it is called, so that what it begins with is done once for many calls."""
    return _compiled(function, _IN_LANES, forceinline=True)


def _compiled(function: F, fastmath: set[str], **options: bool) -> F:
    kept = _FOLDER is not None
    return cast(F, _njit(nogil=True, error_model="numpy", fastmath=fastmath, cache=kept, **options)(function))


def _cache_folder() -> str | None:
    """Where compiled code is kept; None where this user cannot write, or others can."""
    if _config.CACHE_DIR:
        return str(_config.CACHE_DIR)
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(home, "xlmstream", f"compiled-{hashlib.sha256(sources).hexdigest()[:16]}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        # What numba keeps are pickles: nobody else may have put them there.
        status = folder.stat()
    except OSError:
        return None
    return str(folder) if status.st_uid == os.getuid() and not status.st_mode & 0o022 else None


_FOLDER = _cache_folder()
_config.CACHE_DIR = _FOLDER or ""


def _any_from(typing_context: Any, values: Any, start: Any, least: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        lanes = ir.VectorType(_FLOAT, LANES)
        pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), lanes.as_pointer())
        first = builder.insert_element(ir.Constant(lanes, ir.Undefined), arguments[2], ir.Constant(ir.IntType(32), 0))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        compared = builder.fcmp_ordered(
            ">=", builder.load(pointer, align=4), builder.shuffle_vector(first, first, everywhere)
        )
        bits = ir.IntType(LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(compared, bits), bits(0))

    return types.boolean(values, types.intp, types.float32), generate


def _larger(typing_context: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_FLOAT, [_FLOAT, _FLOAT])
        function = builder.module.declare_intrinsic("llvm.maxnum", [_FLOAT], kind)
        return builder.call(function, arguments, fastmath=("nnan", "nsz"))

    return types.float32(types.float32, types.float32), generate


def _as_bits(typing_context: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


def _of_bits(typing_context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], _FLOAT)

    return types.float32(types.int32), generate


def _fetch(typing_context: Any, values: Any, ahead: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, flag, flag, flag])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(function, [pointer, flag(0), flag(2), flag(1)])
        return context.get_dummy_value()

    return types.void(values, types.intp), generate


fetch: Callable[[Any, int], None] = _intrinsic(_fetch)
"""Bring what lies this many numbers from the first of an array on to the cache, meanwhile; also beyond its end."""
any_from: Callable[[Any, Scalar, Scalar], bool] = _intrinsic(_any_from)
"""Whether one of `LANES` numbers of an array, from this place on, is at least so large. A loop over so few would not
become one instruction."""
larger: Callable[[Scalar, Scalar], Scalar] = _intrinsic(_larger)
"""The larger of two float32, any where one is no number. Unlike a comparison it becomes one instruction for many."""
as_bits: Callable[[Scalar], Scalar] = _intrinsic(_as_bits)
"""The int32 with the bits of a float32."""
of_bits: Callable[[Scalar], Scalar] = _intrinsic(_of_bits)
"""The float32 with the bits of an int32."""

_ROUNDING = np.float32(1.5 * 2**23)
_C1, _C2, _C3, _C4, _C5 = (
    np.float32(c)
    for c in (0.6931469775991942, 0.24022242085365883, 0.055507337432124104, 0.00967151264007091, 0.0013264727208515195)
)


@compiled
def exp2(x: Scalar) -> Scalar:
    """2**x for x from -126 to 127, to 2e-7 of it."""
    shifted = x + _ROUNDING  # whose lowest bits are x rounded to a whole number
    f = x - (shifted - _ROUNDING)
    # The polynomial nearest to 2**f from -1/2 to 1/2, as a share of it, that is 1 at 0.
    p = ((((_C5 * f + _C4) * f + _C3) * f + _C2) * f + _C1) * f + np.float32(1.0)
    return of_bits(np.int32(as_bits(p) + (as_bits(shifted) << np.int32(23))))
