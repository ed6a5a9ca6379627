"""From runs to figures: medians with their spread, ratios paired by round, agreement of tokens. Computes only."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.driver import Run


@dataclass(frozen=True)
class Spread:
    """A median over rounds with the least and the greatest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        numbers = list(values)
        return cls(statistics.median(numbers), min(numbers), max(numbers))


@dataclass(frozen=True)
class Figures:
    """What one contestant's runs come to; tokens/s over prompt and over the tokens after the first."""

    prefill_tokens_per_s: Spread
    decode_tokens_per_s: Spread
    ttft_s: Spread
    tpot_s: Spread
    peak_rss_bytes: int
    others_cores: float | None  # median over rounds of the cores everything else kept busy
    python_share: Spread | None  # of decode time, where the worker notes `runtime_s`


def figures_of(runs: Sequence[Run], prompt_tokens: int) -> Figures:
    """Figures of one contestant over its rounds; `prompt_tokens` is the prompt's length."""
    others = [run.others_cores for run in runs if run.others_cores is not None]
    shares = [1 - run.notes["runtime_s"] / sum(run.token_s) for run in runs if "runtime_s" in run.notes]
    return Figures(
        prefill_tokens_per_s=Spread.of(prompt_tokens / run.prefill_s for run in runs),
        decode_tokens_per_s=Spread.of(len(run.token_s) / sum(run.token_s) for run in runs),
        ttft_s=Spread.of(run.prefill_s for run in runs),
        tpot_s=Spread.of(sum(run.token_s) / len(run.token_s) for run in runs),
        peak_rss_bytes=max(run.peak_rss_bytes for run in runs),
        others_cores=statistics.median(others) if others else None,
        python_share=Spread.of(shares) if shares else None,
    )


@dataclass(frozen=True)
class Ratios:
    """How many times as fast one contestant is as another, round by round: > 1 = faster."""

    prefill: Spread
    decode: Spread


def ratios_of(ours: Sequence[Run], theirs: Sequence[Run]) -> Ratios:
    """Their seconds over ours. Runs are paired by round, so that a machine that drifts slows both of a pair."""
    pairs = list(zip(ours, theirs, strict=True))
    return Ratios(
        prefill=Spread.of(b.prefill_s / a.prefill_s for a, b in pairs),
        decode=Spread.of(sum(b.token_s) / sum(a.token_s) for a, b in pairs),
    )


def agreement(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many greedy tokens are the same before the first that is not."""
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), len(ours))


@dataclass(frozen=True)
class Target:
    """A bound and what was measured against it, by the median."""

    what: str
    bound: float
    measured: Spread
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.measured.median >= self.bound if self.at_least else self.measured.median <= self.bound
