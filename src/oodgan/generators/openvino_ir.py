"""Read the constants of an OpenVINO IR (XML graph + BIN weights) without OpenVINO."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oodgan.errors import UserError

_DTYPES = {"f32": np.float32, "f16": np.float16, "i64": np.int64, "i32": np.int32}


class Graph:
    """The operations of one IR in execution order, and the constants that feed them."""

    def __init__(self, xml: Path) -> None:
        try:
            root = ElementTree.parse(xml).getroot()
            self._data = xml.with_suffix(".bin").read_bytes()
            self._layers = {layer.attrib["id"]: layer for layer in root.iter("layer")}
            self._inputs: dict[str, list[str]] = {}
            edges = sorted(root.iter("edge"), key=lambda edge: int(edge.attrib["to-port"]))
            for edge in edges:
                self._inputs.setdefault(edge.attrib["to-layer"], []).append(edge.attrib["from-layer"])
        except (OSError, ElementTree.ParseError, KeyError) as error:
            raise UserError(f"{xml} is not a readable OpenVINO IR: {error}") from error

    def operations(self, *types: str) -> list[str]:
        """Ids of the operations of the given types, in the order in which they are executed."""
        return [i for i in sorted(self._layers, key=int) if self._layers[i].attrib["type"] in types]

    def type(self, operation: str) -> str:
        return self._layers[operation].attrib["type"]

    def inputs(self, operation: str) -> list[str]:
        return self._inputs.get(operation, [])

    def constant(self, operation: str) -> Tensor:
        """The constant operand of an operation, as a tensor."""
        for source in self.inputs(operation):
            if self.type(source) == "Const":
                return self.value(source)
        raise UserError(f"operation {self._layers[operation].attrib['name']} has no constant operand")

    def value(self, const: str) -> Tensor:
        data = self._layers[const].find("data")
        assert data is not None
        shape = [int(size) for size in data.attrib["shape"].split(",") if size.strip()]
        dtype = _DTYPES[data.attrib["element_type"]]
        array = np.frombuffer(
            self._data,
            dtype,
            count=int(np.prod(shape)),
            offset=int(data.attrib["offset"]),
        )
        return torch.from_numpy(array.reshape(shape).copy())
