"""What stands in a graph in place of sublayers that a plan skips: x ← s·x + b on the residual stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeskip.core.plan import Skip
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.exporters.onnx.graph import GraphBuilder


def apply_compensation(
    graph: GraphBuilder,
    form: WeightFormat,
    skips: Sequence[Skip],
    stream: ir.Value,
    update: ir.Value | None,
    bias: ir.Value | None,
) -> tuple[ir.Value, ir.Value]:
    """Return the stream and update that replace the sublayers of `skips`, one after the other.

    Their sum is s·(stream + update + bias) + b. Both are made here, as a branch of an `If` must make what it gives.
    """
    name = f"{skips[0].sublayer}.skip"
    scale, shift = _together(graph, form, skips, name)
    if update is None:
        less = graph.constant(f"{name}.less", form.cast(np.array(scale - 1)))
        moved = graph.op("Mul", [stream, less], f"{name}.update")
        stream = graph.op("Identity", [stream], f"{name}.stream")
    else:
        factor = graph.constant(f"{name}.scale", form.cast(np.array(scale)))
        moved = graph.op("Mul", [update, factor], f"{name}.update")
        stream = graph.op("Mul", [stream, factor], f"{name}.stream")
        if bias is not None:
            moved = graph.op("Add", [moved, graph.op("Mul", [bias, factor], f"{name}.bias")], f"{name}.update/bias")
    if shift is not None:
        moved = graph.op("Add", [moved, shift], f"{name}.update/shift")
    return stream, moved


def _together(
    graph: GraphBuilder, form: WeightFormat, skips: Sequence[Skip], name: str
) -> tuple[float, ir.Value | None]:
    """Return s and b of all skips together; b is None if it is zero."""
    scale, shift = 1.0, np.zeros(1)
    for skip in skips:
        scale, shift = scale * skip.scale, shift * skip.scale + (0 if skip.bias is None else skip.bias)
    if not shift.any():
        return scale, None
    return scale, graph.weight(f"{name}.shift", lambda: form.cast(shift))
