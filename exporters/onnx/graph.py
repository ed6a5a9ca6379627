"""A thin builder over onnx_ir: nodes, initialisers in the external file, values. Knows nothing of decoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeskip.exporters.onnx.weights import WeightFile
from edgeskip.version import __version__

ONNX_OPSET = 21
IR_VERSION = 10  # the newest that onnxruntime 1.23 and onnxruntime-web read
MICROSOFT = "com.microsoft"
INLINE_BYTES = 1024  # smaller constants live in model.onnx, where ONNX Runtime can fold them


class GraphBuilder:
    """Collects one graph, in execution order."""

    def __init__(self, weights: WeightFile) -> None:
        self.weights = weights
        self._nodes: list[ir.Node] = []
        self._initializers: list[ir.Value] = []
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        value = ir.val(name, dtype, shape)
        self._inputs.append(value)
        return value

    def optional_input(self, name: str, default: NDArray[Any]) -> ir.Value:
        """An initialiser that is also a graph input: callers may override it and need not know of it."""
        value = self.constant(name, default)
        self._inputs.append(value)
        return value

    def output(
        self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[int | str], *, first: bool = False
    ) -> None:
        value.name = name
        value.type = ir.TensorType(dtype)
        value.shape = ir.Shape(shape)
        self._outputs.insert(0 if first else len(self._outputs), value)

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """An initialiser: inline where it is tiny, else in the external file."""
        if array.nbytes <= INLINE_BYTES:
            return self.reference(ir.tensor(array, name=name))
        return self.reference(self.weights.add(name, array))

    def reference(self, tensor: ir.TensorProtocol) -> ir.Value:
        """An initialiser over a tensor that is already written."""
        value = ir.Value(
            name=tensor.name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self._initializers.append(value)
        return value

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        *,
        domain: str = "",
        outputs: int = 1,
        unused: tuple[int, ...] = (),
        **attributes: Any,
    ) -> tuple[ir.Value, ...]:
        """Appends a node; its outputs are named after it, but for the optional ones that nobody reads."""
        node = ir.node(op, inputs, attributes, domain=domain, num_outputs=outputs, name=name)
        for position, value in enumerate(node.outputs):
            value.name = f"{name}.{position}" if outputs > 1 else f"{name}.out"
            if position in unused:
                value.name = ""  # ONNX: an optional output left out, which the kernel then does not compute
        self._nodes.append(node)
        return tuple(node.outputs)

    def op(
        self, op: str, inputs: Sequence[ir.Value | None], name: str, *, domain: str = "", **attributes: Any
    ) -> ir.Value:
        """Appends a node of one output."""
        return self.node(op, inputs, name, domain=domain, **attributes)[0]

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        """Writes `model.onnx`; the external file has been written already."""
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._nodes,
            initializers=self._initializers,
            opset_imports={"": ONNX_OPSET, MICROSOFT: 1},
            name="decoder",
        )
        model = ir.Model(
            graph,
            ir_version=IR_VERSION,
            producer_name="edgeskip",
            producer_version=__version__,
            metadata_props=metadata,
        )
        ir.save(model, path)


def int64(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
