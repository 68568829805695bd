"""Constants of a TensorFlow GraphDef file, read without TensorFlow and without executing anything.

Only what a frozen graph needs is understood: ``Const`` nodes with float32 or int32 tensors.  The wire format is
protocol buffers' (https://protobuf.dev/programming-guides/encoding/); the field numbers are those of TensorFlow's
``graph.proto``, ``node_def.proto``, ``attr_value.proto`` and ``tensor.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_DTYPES = {1: np.dtype("<f4"), 3: np.dtype("<i4")}
_NODE, _NODE_NAME, _NODE_OP, _NODE_ATTR = 1, 1, 2, 5
_ATTR_KEY, _ATTR_VALUE, _VALUE_TENSOR = 1, 2, 8
_TENSOR_DTYPE, _TENSOR_SHAPE, _TENSOR_CONTENT, _TENSOR_FLOATS, _TENSOR_INTS = 1, 2, 4, 5, 7
_SHAPE_DIM, _DIM_SIZE = 2, 1


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(field number, value) pairs of one message: int for varints, memoryview for everything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"not a GraphDef file: wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"the GraphDef file ends in the middle of a field (at byte {at})")
        yield number, data[at : at + size]
        at += size


def _tensor(data: memoryview) -> np.ndarray:
    dtype, shape, parts = 0, [], []
    for number, value in _fields(data):
        if number == _TENSOR_DTYPE:
            dtype = value
        elif number == _TENSOR_SHAPE:
            for kind, dim in _fields(value):
                if kind == _SHAPE_DIM:
                    shape.append(dict(_fields(dim)).get(_DIM_SIZE, 0))
        elif number in (_TENSOR_CONTENT, _TENSOR_FLOATS, _TENSOR_INTS) and not isinstance(value, int):
            parts.append(bytes(value))
    flat = np.frombuffer(b"".join(parts), _DTYPES[dtype])
    size = int(np.prod(shape))
    # TensorFlow stores a constant tensor's value once.
    return (np.full(size, flat[0], flat.dtype) if flat.size == 1 else flat.copy()).reshape(shape)


def read_constants(path: Path) -> dict[str, np.ndarray]:
    """Float constants of the frozen graph at ``path`` by node name, in TensorFlow's own axis order.

    Raises:
        ValueError: the file is not a GraphDef or is cut short.
    """
    constants: dict[str, np.ndarray] = {}
    for number, node in _fields(memoryview(path.read_bytes())):
        if number != _NODE:
            continue
        name = op = ""
        tensor: memoryview | None = None
        for kind, value in _fields(node):
            if kind == _NODE_NAME:
                name = bytes(value).decode()
            elif kind == _NODE_OP:
                op = bytes(value).decode()
            elif kind == _NODE_ATTR:
                attribute = dict(_fields(value))
                if bytes(attribute[_ATTR_KEY]) == b"value":
                    tensor = dict(_fields(attribute[_ATTR_VALUE])).get(_VALUE_TENSOR)
        if op == "Const" and tensor is not None and dict(_fields(tensor))[_TENSOR_DTYPE] == 1:
            constants[name] = _tensor(tensor)
    return constants
