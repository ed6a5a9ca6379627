"""What drafting and verifying cost on this device: measured once per session, on the engine itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgeskip.runtime.engines.interface import DraftingEngine, Engine

CONTEXT = 32  # tokens in the cache while measuring
ROWS = (1, 2, 4, 8)  # tokens verified at once; between these and beyond, the curve is linear
REPEATS = 3
BUDGET_S = 1.0  # a large model is measured with fewer repeats
_TOKEN = 0  # any: no kernel here works longer on one token than on another


@dataclass(frozen=True)
class LatencyCurve:
    """Seconds by number of tokens, linear between the measured points."""

    tokens: tuple[int, ...]
    seconds: tuple[float, ...]

    def at(self, tokens: int) -> float:
        """Return the seconds of a step of `tokens` tokens."""
        if tokens <= self.tokens[-1] or len(self.tokens) == 1:
            return float(np.interp(tokens, self.tokens, self.seconds))
        return self.seconds[-1] + (tokens - self.tokens[-1]) * self.slope(tokens)

    def slope(self, tokens: int) -> float:
        """Return the seconds that one more token costs at `tokens`; never negative."""
        if len(self.tokens) == 1:
            return 0.0
        right = min(max(1, int(np.searchsorted(self.tokens, tokens))), len(self.tokens) - 1)
        rise = self.seconds[right] - self.seconds[right - 1]
        return max(0.0, rise / (self.tokens[right] - self.tokens[right - 1]))


@dataclass(frozen=True)
class LatencyModel:
    """Seconds of every part of a round, at a short context.

    Attributes:
        step: The whole model over n tokens that were not drafted; of one token = a plain decode step.
        draft: One draft step, by exit.
        verify: The verification of n rows, that is of n − 1 drafted tokens; None if the engine does not draft.
    """

    step: LatencyCurve
    draft: tuple[float, ...] = ()
    verify: LatencyCurve | None = None

    @property
    def plain(self) -> float:
        """Seconds of a plain decode step."""
        return self.step.seconds[0]


def measure_latencies(engine: Engine, drafting: DraftingEngine | None) -> LatencyModel:
    """Run the engine on a few arbitrary tokens, and leave it empty; takes about 60 plain steps, at most 1 s.

    Every figure is the minimum of several rounds in which all are measured in turn, because other load only adds time.

    Args:
        engine: Verifies.
        drafting: The same engine if it drafts, else None.
    """
    context = min(CONTEXT, engine.context_length // 2)
    rows = [n for n in ROWS if context + n + 1 <= engine.context_length] or [1]
    engine.truncate(0)
    engine.reserve(min(engine.context_length, context + ROWS[-1] + 1))
    engine.step(_tokens(context))
    work: dict[tuple[str, int], Callable[[], object]] = {
        ("step", n): partial(engine.step, _tokens(n), logits=0) for n in rows
    }
    if drafting is not None:
        for which in range(drafting.drafts):
            work["draft", which] = partial(drafting.draft, _tokens(1), which=which)
        for n in rows:
            work["verify", n] = partial(drafting.verify, _tokens(1))
    times: dict[tuple[str, int], list[float]] = {name: [] for name in work}
    begin = time.perf_counter()
    for repeat in range(REPEATS + 1):  # the first time warms up: kernels pack, buffers are made
        if repeat > 1 and time.perf_counter() - begin > BUDGET_S:
            break
        for (kind, n), run in work.items():
            if kind == "verify" and drafting is not None and n > 1:
                for _ in range(n - 1):
                    drafting.draft(_tokens(1))
            started = time.perf_counter()
            run()
            times[kind, n].append(time.perf_counter() - started)
            engine.truncate(context)
    engine.truncate(0)
    seconds = {name: min(found[1:] or found) for name, found in times.items()}
    return LatencyModel(
        step=_curve(seconds, "step", rows),
        draft=tuple(seconds["draft", which] for which in range(drafting.drafts)) if drafting else (),
        verify=_curve(seconds, "verify", rows) if drafting else None,
    )


def _curve(seconds: dict[tuple[str, int], float], kind: str, rows: Sequence[int]) -> LatencyCurve:
    return LatencyCurve(tuple(rows), tuple(seconds[kind, n] for n in rows))


def _tokens(count: int) -> NDArray[np.int64]:
    return np.full(count, _TOKEN, np.int64)
