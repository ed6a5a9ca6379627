"""How weights are stored in an ONNX artifact: the policy, and the operators that read each format.

fp32 and fp16 use MatMul; int4 uses `com.microsoft.MatMulNBits` and `GatherBlockQuantized` (ONNX Runtime's
contrib operator specification).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeskip.artifacts.manifest import Precision
from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.importance import HEAD_WEIGHT, Importance
from edgeskip.exporters.onnx.graph import MICROSOFT, GraphBuilder
from edgeskip.exporters.onnx.quantize import Quantized, quantize
from edgeskip.models.decoder import Linear, Tensor

_ALIASES = {"f32": "fp32", "f16": "fp16"}


@dataclass(frozen=True)
class WeightFormat:
    """What the weights look like; the int4 fields mean nothing to fp32 and fp16."""

    precision: Precision = "fp32"
    block_size: int = 64
    symmetric: bool = False
    head_bits: int = 4  # embedding and head; the blocks' matrices are always 4-bit
    accuracy_level: int = 4  # MatMulNBits: 4 = int8 activations, 1 = fp32 activations
    # What rounding errors weigh, by parameter name; without an entry every input weighs the same.
    importance: Importance = field(default_factory=dict, repr=False)

    @property
    def quantized(self) -> bool:
        return self.precision == "int4"

    @property
    def activations(self) -> ir.DataType:
        return ir.DataType.FLOAT16 if self.precision == "fp16" else ir.DataType.FLOAT

    @property
    def numpy(self) -> type[np.float16] | type[np.float32]:
        return np.float16 if self.precision == "fp16" else np.float32

    def record(self) -> dict[str, str | int | bool]:
        """Return the manifest's record; empty if nothing is quantized."""
        if not self.quantized:
            return {}
        return {
            "method": "least squares, weighted by input mean squares" if self.importance else "least squares",
            "block_size": self.block_size,
            "symmetric": self.symmetric,
            "head_bits": self.head_bits,
            "accuracy_level": self.accuracy_level,
        }

    def cast(self, array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(array, dtype=self.numpy)


def weight_format(
    precision: str, *, block_size: int = 64, symmetric: bool = False, head_bits: int = 4, accuracy_level: int = 4
) -> WeightFormat:
    """Return the format for the words and numbers that a user gave; `f32` and `f16` are other names of `fp32`, `fp16`.

    Raises:
        EdgeSkipError: If one is not among the choices.
    """
    precision = _ALIASES.get(precision, precision)
    if precision not in get_args(Precision):
        raise EdgeSkipError(f"--precision {precision} is unknown: choose one of {', '.join(get_args(Precision))}")
    for name, value, choices in (
        ("block-size", block_size, (16, 32, 64, 128)),
        ("head-bits", head_bits, (4, 8)),
        ("accuracy-level", accuracy_level, (1, 4)),
    ):
        if value not in choices:
            raise EdgeSkipError(f"--{name} {value} is not possible: choose one of {', '.join(map(str, choices))}")
    known: Precision = next(p for p in get_args(Precision) if p == precision)
    return WeightFormat(known, block_size, symmetric, head_bits, accuracy_level)


def stacked(linears: list[Linear]) -> Linear:
    """Return several projections of one input as one: rows one below the other; a missing bias is zero.

    It goes by the first one's parameter name, under which the importance of the shared input is found.
    """
    rows = sum(linear.weight.shape[0] for linear in linears)
    name, columns = linears[0].weight.name, linears[0].weight.shape[1]
    weight = Tensor(name, (rows, columns), lambda: np.concatenate([li.weight.read() for li in linears]))
    if all(linear.bias is None for linear in linears):
        return Linear(weight)
    return Linear(
        weight,
        Tensor(
            f"{name}.bias",
            (rows,),
            lambda: np.concatenate(
                [li.bias.read() if li.bias else np.zeros(li.weight.shape[0], np.float32) for li in linears]
            ),
        ),
    )


def linear(
    graph: GraphBuilder, form: WeightFormat, x: ir.Value, weights: Linear, name: str, *, bits: int = 4
) -> ir.Value:
    """Return y = W·x (+ bias) in the given format; `bits` is the width of quantized weights."""
    if form.quantized:
        packed = _quantized(form, weights.weight, weights.weight.name, bits)
        table = graph.weight(f"{name}.weight", lambda: packed().blocks)
        y = _matmul_nbits(graph, form, x, [table, *_grid(graph, form, name, packed)], weights.weight.shape, bits, name)
    else:
        table = graph.weight(f"{name}.weight", lambda: form.cast(weights.weight.read().T))
        y = graph.op("MatMul", [x, table], name)
    if weights.bias is None:
        return y
    return graph.op("Add", [y, vector(graph, form, f"{name}.bias", weights.bias)], f"{name}/add")


def vector(graph: GraphBuilder, form: WeightFormat, name: str, weight: Tensor) -> ir.Value:
    """Return a bias or a norm's weight, which is never quantized."""
    return graph.weight(name, lambda: form.cast(weight.read()))


def _quantized(form: WeightFormat, weight: Tensor, name: str, bits: int) -> Callable[[], Quantized]:
    """Quantize when first asked: not at all if another graph wrote the same weight."""

    @cache
    def packed() -> Quantized:
        return quantize(
            weight.read(),
            bits=bits,
            block_size=form.block_size,
            symmetric=form.symmetric,
            importance=form.importance.get(name),
        )

    return packed


def _grid(graph: GraphBuilder, form: WeightFormat, name: str, packed: Callable[[], Quantized]) -> list[ir.Value]:
    """Return scales and, if there are any, zero points."""

    def zero_points() -> NDArray[np.uint8]:
        found = packed().zero_points
        assert found is not None
        return found

    grid = [graph.weight(f"{name}.scales", lambda: packed().scales)]
    return grid if form.symmetric else [*grid, graph.weight(f"{name}.zero_points", zero_points)]


def _matmul_nbits(
    graph: GraphBuilder,
    form: WeightFormat,
    x: ir.Value,
    weights: list[ir.Value],
    shape: tuple[int, ...],
    bits: int,
    name: str,
) -> ir.Value:
    return graph.op(
        "MatMulNBits",
        [x, *weights],
        name,
        domain=MICROSOFT,
        N=shape[0],
        K=shape[1],
        bits=bits,
        block_size=form.block_size,
        accuracy_level=form.accuracy_level,
    )


def _table(
    graph: GraphBuilder, form: WeightFormat, weight: Tensor, name: str, *, tied: bool
) -> tuple[ir.TensorProtocol, list[ir.Value]]:
    """Return the embedding as it is stored, and its grid.

    Rounding errors of a `tied` one, which the head reads too, weigh what they do to the logits; what is only looked up
    has no inputs to weigh.
    """
    if not form.quantized:
        return graph.weights.once(f"{name}.weight", lambda: form.cast(weight.read())), []
    packed = _quantized(form, weight, HEAD_WEIGHT if tied else weight.name, form.head_bits)
    stored = graph.weights.once(f"{name}.weight", lambda: packed().blocks.reshape(weight.shape[0], -1))
    return stored, _grid(graph, form, name, packed)


def embedding(
    graph: GraphBuilder, form: WeightFormat, ids: ir.Value, weight: Tensor, name: str, *, tied: bool
) -> ir.Value:
    """Return rows of the table [V, d] for int64 `ids` [b, n] → [b, n, d]; `tied`: the head reads the table too."""
    stored, grid = _table(graph, form, weight, name, tied=tied)
    table = graph.reference(stored)
    if not form.quantized:
        return graph.op("Gather", [table, ids], name, axis=0)
    return graph.op(
        "GatherBlockQuantized",
        [table, ids, *grid],
        name,
        domain=MICROSOFT,
        bits=form.head_bits,
        block_size=form.block_size,
        gather_axis=0,
        quantize_axis=1,
    )


def tied_head(graph: GraphBuilder, form: WeightFormat, x: ir.Value, weight: Tensor, table: str, name: str) -> ir.Value:
    """Return logits [b, k, V] from the bytes of the embedding [V, d] that goes by the name `table`."""
    stored, grid = _table(graph, form, weight, table, tied=True)
    if form.quantized:
        vocabulary, width = weight.shape
        blob = (vocabulary, width // form.block_size, form.block_size * form.head_bits // 8)
        rows = graph.reference(graph.weights.alias(f"{name}.weight", stored, blob))
        return _matmul_nbits(graph, form, x, [rows, *grid], weight.shape, form.head_bits, name)
    # Another name over the same bytes: ONNX Runtime unmaps them once it has packed the head.
    rows = graph.reference(graph.weights.alias(f"{name}.weight", stored, weight.shape))
    if form.precision == "fp32":
        return graph.op("FusedMatMul", [x, rows], name, domain=MICROSOFT, transB=1)
    # FusedMatMul has no fp16 kernel on CPU; ONNX Runtime fuses these two if it has one.
    columns = graph.op("Transpose", [rows], f"{name}/transpose", perm=[1, 0])
    return graph.op("MatMul", [x, columns], name)
