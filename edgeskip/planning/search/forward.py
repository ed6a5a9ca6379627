"""One run of a plan over a runner's windows, its compensation fitted on the way to part of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from edgeskip.planning.search.fit import Fit, fit

if TYPE_CHECKING:
    from torch import Tensor

    from edgeskip.core.plan import Compensation
    from edgeskip.planning.search.runner import SublayerRunner

StreamState = tuple["Tensor", "Tensor | None"]
"""The stream before a sublayer, and what the last kept one before it has added."""
DenseStreams = Callable[[int], "Tensor"]
"""Number of a sublayer → the dense model's stream after it, of the windows that are fitted to; asked for in order."""


def kept_streams(streams: list[Tensor]) -> DenseStreams:
    """Return streams that are kept in memory."""
    return streams.__getitem__


def recomputed_streams(runner: SublayerRunner, rows: slice) -> DenseStreams:
    """Return streams of a dense run of `rows` that goes along, sublayer by sublayer: twice the work, no memory."""
    at, x = 0, runner.start[rows]
    narrow = runner.narrowed(rows)

    def after(index: int) -> Tensor:
        nonlocal at, x
        while at <= index:
            x = x + narrow.update(at, x)
            at += 1
        return x

    return after


def forward(
    runner: SublayerRunner,
    skip: Collection[int],
    compensation: Compensation,
    dense: DenseStreams,
    rows: slice,
    *,
    first: int = 0,
    before: StreamState | None = None,
    watch: Callable[[int, StreamState], None] = lambda index, kept: None,
) -> tuple[Tensor, dict[int, Fit]]:
    """Run a plan over the runner's windows, fitting its compensation on the way.

    Args:
        runner: Runs the model's sublayers.
        skip: Numbers of the sublayers to skip.
        compensation: What replaces them.
        dense: The dense model's streams, which the compensation is fitted to.
        rows: The windows to fit to.
        first: Sublayer to begin with.
        before: Stream and update before that one; None = the model's start.
        watch: Called with each sublayer's number and what stands before it.

    Returns:
        The stream after the last sublayer, float32 [W, T, d], and what replaced each skipped sublayer from `first` on.
    """
    x, update = before or (runner.start, None)
    fits: dict[int, Fit] = {}
    for index in range(first, runner.num_sublayers):
        watch(index, (x, update))
        if index in skip:
            last = None if update is None else update[rows]
            fits[index] = fit(x[rows], dense(index), last, compensation)
            x = fits[index].apply(x, update)
        else:
            update = runner.update(index, x)
            x = x + update
    return x, fits
