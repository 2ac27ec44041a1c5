"""Tensor types of ONNX, Triton and numpy, and conversions between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backends.contract.errors import EngineError, InvalidField
from backends.onnxruntime_shim.config import ConfigError

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True, slots=True)
class ElementType:
    """A tensor's datatype.

    ``triton``: its name in a model configuration, or "" where Triton has none. ``onnx``: its number
    in ``TensorProto.DataType``. ``numpy``: the type of its arrays.
    """

    triton: str
    onnx: int
    numpy: type[np.generic]


ELEMENT_TYPES = {
    "tensor(float)": ElementType("TYPE_FP32", 1, np.float32),
    "tensor(uint8)": ElementType("TYPE_UINT8", 2, np.uint8),
    "tensor(int8)": ElementType("TYPE_INT8", 3, np.int8),
    "tensor(uint16)": ElementType("TYPE_UINT16", 4, np.uint16),
    "tensor(int16)": ElementType("TYPE_INT16", 5, np.int16),
    "tensor(int32)": ElementType("TYPE_INT32", 6, np.int32),
    "tensor(int64)": ElementType("TYPE_INT64", 7, np.int64),
    "tensor(string)": ElementType("TYPE_STRING", 8, np.object_),
    "tensor(bool)": ElementType("TYPE_BOOL", 9, np.bool_),
    "tensor(float16)": ElementType("TYPE_FP16", 10, np.float16),
    "tensor(double)": ElementType("TYPE_FP64", 11, np.float64),
    "tensor(uint32)": ElementType("TYPE_UINT32", 12, np.uint32),
    "tensor(uint64)": ElementType("TYPE_UINT64", 13, np.uint64),
    # The native backend has no datatype for bfloat16 either: here, only a state can have it.
    "tensor(bfloat16)": ElementType("", 16, np.uint16),
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of a graph. ``shape``: its sizes, with -1 for variable ones."""

    name: str
    type: ElementType
    shape: tuple[int, ...]


def tensor_infos(arguments: Iterable[Any]) -> dict[str, TensorInfo]:
    """Return the tensors of ``session.get_inputs()`` and the like, by name.

    Raises `ConfigError` for an unsupported type.
    """
    infos = {}
    for argument in arguments:
        if argument.type not in ELEMENT_TYPES:
            raise ConfigError(f"tensor '{argument.name}' has the unsupported type {argument.type}")
        shape = tuple(dim if isinstance(dim, int) else -1 for dim in argument.shape)
        infos[argument.name] = TensorInfo(argument.name, ELEMENT_TYPES[argument.type], shape)
    return infos


def to_graph(info: TensorInfo, array: Array) -> Array:
    """Return a request's tensor as the graph takes it.

    Raises `InvalidField` for a wrong datatype or shape, and for strings that are not UTF-8.
    """
    dtype = info.type.numpy
    if array.dtype != dtype:
        raise InvalidField(
            f"input '{info.name}'",
            f"must be {info.type.triton.removeprefix('TYPE_')}, not {array.dtype}",
        )
    if not info.shape and array.size == 1:
        array = array.reshape(())  # Triton has no scalars.
    if array.ndim != len(info.shape) or any(
        fixed not in (-1, given) for fixed, given in zip(info.shape, array.shape, strict=True)
    ):
        raise InvalidField(
            f"input '{info.name}'",
            f"must have the shape {list(info.shape)}, not {list(array.shape)}",
        )
    return _decoded(info.name, array) if dtype is np.object_ else array


def _decoded(name: str, array: Array) -> Array:
    try:
        return _map_objects(bytes.decode, array)
    except UnicodeDecodeError:
        raise InvalidField(f"input '{name}'", "must be UTF-8") from None


def from_graph(array: Array) -> Array:
    """Return a graph's output as Triton's Python backend takes it."""
    if array.dtype == np.object_:
        array = _map_objects(str.encode, array)
    return array if array.ndim else array.reshape(1)


def _map_objects(function: Callable[[Any], object], array: Array) -> Array:
    mapped = np.empty(array.size, np.object_)
    mapped[:] = [function(item) for item in array.flat]
    return mapped.reshape(array.shape)


def concatenate(parts: Sequence[Arrays]) -> Arrays:
    """Return the rows of several requests as the rows of one."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def split(outputs: Arrays, sizes: Sequence[int]) -> list[Arrays]:
    """Return the outputs of each request, whose numbers of rows are ``sizes``.

    Raises `EngineError` for an output that does not have a row for each input row.
    """
    if len(sizes) == 1:
        return [outputs]
    total, parts = sum(sizes), [Arrays() for _ in sizes]
    for name, array in outputs.items():
        if not array.ndim or len(array) != total:
            raise EngineError(
                f"output '{name}' has the shape {list(array.shape)} for a batch of {total}"
            )
        begin = 0
        for part, size in zip(parts, sizes, strict=True):
            part[name] = array[begin : begin + size]
            begin += size
    return parts
