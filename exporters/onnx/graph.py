"""A thin builder over onnx_ir: nodes, initializers in the external file, values. Knows nothing of decoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeskip.core.version import __version__
from edgeskip.exporters.onnx.weights import INLINE_BYTES, WeightFile
from edgeskip.runtime.engines.onnxruntime.runtime_graph import SWITCHES

ONNX_OPSET = 21
IR_VERSION = 10  # the newest that onnxruntime 1.23 and onnxruntime-web read
MICROSOFT = "com.microsoft"


class GraphBuilder:
    """Collects one graph, in execution order. Several may share a weight file."""

    def __init__(self, weights: WeightFile) -> None:
        self.weights = weights
        self._nodes: list[ir.Node] = []
        self._initializers: dict[str, ir.Value] = {}
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        value = ir.val(name, dtype, shape)
        self._inputs.append(value)
        return value

    def switch(self, name: str, default: NDArray[Any]) -> ir.Value:
        """Return a constant that our own runtime makes an input when it loads the graph (`runtime_graph.SWITCHES`)."""
        assert name in SWITCHES, name
        return self.constant(name, default)

    def output(
        self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[int | str], *, first: bool = False
    ) -> None:
        value.name = name
        value.type = ir.TensorType(dtype)
        value.shape = ir.Shape(shape)
        self._outputs.insert(0 if first else len(self._outputs), value)

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """Return a small initializer of this graph alone, inline."""
        assert array.nbytes <= INLINE_BYTES, f"{name} is a weight"
        return self.reference(ir.tensor(array, name=name))

    def weight(self, name: str, make: Callable[[], NDArray[Any]]) -> ir.Value:
        """Return an initializer that all graphs over the weight file share by its name.

        `make()` is called for the first of them.
        """
        return self.reference(self.weights.once(name, make))

    def reference(self, tensor: ir.TensorProtocol) -> ir.Value:
        """Return the initializer over a tensor that is already written; one of each name."""
        name = tensor.name or ""
        if name not in self._initializers:
            self._initializers[name] = ir.Value(
                name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
        return self._initializers[name]

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
        """Append a node; its outputs are named after it, but for the optional ones that nobody reads."""
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
        """Append a node of one output."""
        return self.node(op, inputs, name, domain=domain, **attributes)[0]

    def choose(
        self,
        condition: ir.Value,
        then: Callable[[], Sequence[ir.Value]],
        otherwise: Callable[[], Sequence[ir.Value]],
        name: str,
    ) -> tuple[ir.Value, ...]:
        """Append an `If`; each branch appends its own nodes and returns its outputs, all of them made in it.

        Initializers and inputs that a branch requests are the whole graph's: ONNX lets branches read what is outside.
        """
        branches = [self._branch(then, f"{name}/then"), self._branch(otherwise, f"{name}/else")]
        count = len(branches[0].outputs)
        attributes = {"then_branch": branches[0], "else_branch": branches[1]}
        return self.node("If", [condition], name, outputs=count, **attributes)

    def _branch(self, build: Callable[[], Sequence[ir.Value]], name: str) -> ir.Graph:
        outside, self._nodes = self._nodes, []
        try:
            outputs = build()
            return ir.Graph([], outputs, nodes=self._nodes, name=name)
        finally:
            self._nodes = outside

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        """Write `model.onnx`; the external file has been written already."""
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._nodes,
            initializers=list(self._initializers.values()),
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
