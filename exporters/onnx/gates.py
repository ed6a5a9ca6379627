"""FFNs that a graph can leave out one by one while it runs, and what a runtime measures to choose them.

AdaSkip's decode phase (arXiv 2501.02336): a runtime watches each FFN's similarity and norm ratio over the first tokens
of an answer, and leaves those out for the rest of it that hardly change the stream. Three optional inputs, so that a
runtime which does not know of them runs the model as it is; over the G FFNs that have a gate, in execution order:

ffn_skip bool [G]: true = the FFN gives way to x ← s·x. ffn_scale float32 [G]: its s (1 unless set). ffn_watch bool [1]:
true = ffn_similarity, cosine(x, y), and ffn_norm_ratio, ‖y‖/‖x‖, float32 [1, G], are measured of the run's last
position, x being the stream before the FFN and y after it, in the batch's first row; else both are zeros. An FFN that
is left out measures 1 and s. No dimension is named: Optimum sizes every output from the inputs' names.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.exporters.onnx.graph import GraphBuilder, int64

SKIP, SCALE, WATCH = "ffn_skip", "ffn_scale", "ffn_watch"
SIMILARITY, NORM_RATIO = "ffn_similarity", "ffn_norm_ratio"


class FfnGates:
    """The gates of one graph's `count` FFNs: inputs first, a `gate` around each in order, then `measure`.

    A gate gives the update alone: the stream passes by, so that what follows still adds and normalizes in one operator.
    """

    def __init__(self, graph: GraphBuilder, form: WeightFormat, count: int) -> None:
        self._graph, self._form, self._count = graph, form, count
        skip = graph.switch(SKIP, np.zeros(count, np.bool_))
        scale = graph.switch(SCALE, np.ones(count, np.float32))
        self._watch = graph.switch(WATCH, np.zeros(1, np.bool_))
        # Cut once: an operator for each FFN that picks its own would cost three times as much as the gates do.
        self._skips = graph.node("Split", [skip], f"{SKIP}/split", outputs=count, axis=0, num_outputs=count)
        less = graph.op("Sub", [scale, graph.constant("one.float", np.ones(1, np.float32))], f"{SCALE}/less")
        if form.activations != ir.DataType.FLOAT:
            less = graph.op("Cast", [less], f"{SCALE}/cast", to=int(form.activations))
        self._less = less
        self._last = graph.constant("last_position", int64(-1))
        self._rows: list[tuple[ir.Value, ir.Value]] = []  # stream and update of the last position, [b, 1, d]

    def gate(self, stream: ir.Value, feed_forward: Callable[[], ir.Value], name: str) -> ir.Value:
        """Return the update of the next FFN: what `feed_forward` appends, or (s − 1)·stream if it is left out."""
        graph, number = self._graph, len(self._rows)

        def skipped() -> list[ir.Value]:
            place = graph.constant(f"{name}.online.place", int64(number))
            less = graph.op("Gather", [self._less, place], f"{name}.online.less", axis=0)
            return [graph.op("Mul", [stream, less], f"{name}.online.update")]

        (update,) = graph.choose(self._skips[number], skipped, lambda: [feed_forward()], f"{name}.online")
        # Always: two rows cost less than an `If`, and an `If` over all streams would keep all of them in memory.
        x, u = (
            graph.op("Gather", [value, self._last], f"{name}.watch/{part}", axis=1)
            for part, value in (("stream", stream), ("update", update))
        )
        self._rows.append((x, u))
        return update

    def measure(self) -> None:
        """Append the outputs. EdgeSkip's runtime requests them; they are zeros unless `ffn_watch` is true."""
        graph = self._graph
        zeros = graph.constant("watch/zeros", np.zeros((1, self._count), np.float32))

        def measured() -> list[ir.Value]:
            x, u = (self._together(part, [row[n] for row in self._rows]) for n, part in enumerate(("x", "u")))
            y = graph.op("Add", [x, u], "watch/y")
            axis = graph.constant("last_axis", int64(-1))
            product = graph.op("ReduceSum", [graph.op("Mul", [x, y], "watch/xy"), axis], "watch/dot", keepdims=0)
            before, after = (
                graph.op("ReduceL2", [value, axis], f"watch/norm_{part}", keepdims=0)
                for part, value in (("x", x), ("y", y))
            )
            norms = graph.op("Mul", [before, after], "watch/norms")
            return [
                graph.op("Div", [product, norms], "watch/cosine"),
                graph.op("Div", [after, before], "watch/ratio"),
            ]

        def nothing() -> list[ir.Value]:
            return [graph.op("Identity", [zeros], f"watch/none_{part}") for part in ("similarity", "ratio")]

        similarity, ratio = graph.choose(self._watch, measured, nothing, "watch")
        for value, name in ((similarity, SIMILARITY), (ratio, NORM_RATIO)):
            graph.output(value, name, ir.DataType.FLOAT, [1, self._count])

    def _together(self, part: str, rows: list[ir.Value]) -> ir.Value:
        """Return [b, 1, d] of each FFN as float32 [1, G, d]; float16 would overflow in the squares."""
        graph = self._graph
        joined = graph.op("Concat", rows, f"watch/{part}/all", axis=1)
        joined = graph.op("Gather", [joined, graph.constant("watch/first", int64(0))], f"watch/{part}", axis=0)
        if self._form.activations == ir.DataType.FLOAT:
            return joined
        return graph.op("Cast", [joined], f"watch/{part}/cast", to=int(ir.DataType.FLOAT))
