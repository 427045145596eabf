"""Arrays of numbers as they come: one block of bytes, read by numpy where it is installed."""

from __future__ import annotations

import importlib
import math
import struct
from dataclasses import dataclass, field
from typing import Any

from xlmstream.errors import ProtocolError
from xlmstream.v1 import tensor_pb2

_FORMATS = {"float32": "f", "float16": "e"}
_NAMES = {
    tensor_pb2.DATA_TYPE_FLOAT32: "float32",
    tensor_pb2.DATA_TYPE_FLOAT16: "float16",
    tensor_pb2.DATA_TYPE_BFLOAT16: "bfloat16",
}
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array of numbers."""

    dtype: str
    """ "float32", "float16" or "bfloat16": how each number is stored in `data`, little-endian."""
    shape: tuple[int, ...]
    data: bytes = field(repr=False)
    """The numbers, the last axis fastest."""

    def numpy(self) -> Any:
        """As a numpy array that shares `data` and cannot be written to; bfloat16, which numpy lacks, as float32.

        Raises ImportError where numpy is not installed.
        """
        np: Any = importlib.import_module("numpy")
        if self.dtype == "bfloat16":
            upper = np.frombuffer(self.data, "<u2").astype("<u4") << 16
            return upper.view("<f4").reshape(self.shape)
        return np.frombuffer(self.data, f"<f{_BYTES[self.dtype]}").reshape(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Lets numpy functions take a tensor as it is."""
        array = self.numpy()
        return array if dtype is None and not copy else array.astype(dtype or array.dtype)

    def tolist(self) -> list[Any]:
        """As nested lists of floats."""
        numbers: list[Any] = list(self.numbers())
        for size in reversed(self.shape[1:]):
            numbers = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        return numbers

    def numbers(self) -> tuple[float, ...]:
        """All numbers, one after another."""
        count = math.prod(self.shape)
        if self.dtype != "bfloat16":
            return struct.unpack(f"<{count}{_FORMATS[self.dtype]}", self.data)
        wide = b"".join(b"\0\0" + self.data[at : at + 2] for at in range(0, len(self.data), 2))
        return struct.unpack(f"<{count}f", wide)


def tensor_of(message: tensor_pb2.Tensor) -> Tensor:
    """Raises ProtocolError where the bytes are not what the shape says."""
    dtype, shape = _NAMES.get(message.dtype), tuple(message.shape)
    if dtype is None or len(message.data) != math.prod(shape) * _BYTES[dtype]:
        raise ProtocolError(f"the service sent {len(message.data)} bytes as a {dtype} tensor of shape {shape}")
    return Tensor(dtype, shape, message.data)


def has_numpy() -> bool:
    try:
        importlib.import_module("numpy")
    except ImportError:
        return False
    return True


def array_of(tensor: Tensor) -> Any:
    """A numpy array; the tensor itself where numpy is not installed."""
    return tensor.numpy() if has_numpy() else tensor


def stacked(tensors: list[Tensor]) -> Any:
    """Tensors of one shape as one array with an axis more; of several shapes, as a list of arrays.

    Without numpy: a Tensor, or a list of those.
    """
    shapes = {(one.dtype, one.shape) for one in tensors}
    if len(shapes) != 1:
        return [array_of(one) for one in tensors]
    [(dtype, shape)] = shapes
    return array_of(Tensor(dtype, (len(tensors), *shape), b"".join(one.data for one in tensors)))
