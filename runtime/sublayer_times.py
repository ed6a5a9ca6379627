"""What each sublayer of a model costs on this device: repeat steps with and without marks and divide their time.

Nothing here depends on an engine: a `SublayerProfiler` runs the steps. Marks (time stamps between sublayers, or a
profiler's) cost time themselves; what they add to a step is subtracted in equal shares, so that the parts add up to the
step without marks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

QUARTILE = 0.25  # of repeats: whatever else the machine does can only add to a step's time
OneRow = Literal["after-last-attention", "last"]


@dataclass(frozen=True)
class ProfiledStep:
    """A step of `tokens` tokens behind `held` that are in the KV cache; logits of the last one."""

    held: int
    tokens: int


@dataclass
class StepTimes:
    """Times of one step, in seconds; the last part is what belongs to no sublayer, those before are the sublayers'.

    `marks` [2M + 1] is how many marks each part has.
    """

    marks: NDArray[np.int64]
    plain_s: list[float] = field(default_factory=list)
    parts_s: list[NDArray[np.float64]] = field(default_factory=list)  # of [2M + 1]


class SublayerProfiler(Protocol):
    """An open model that can time its sublayers."""

    def sample(self, steps: Sequence[tuple[ProfiledStep, int]], advance: Callable[[], None]) -> list[StepTimes]:
        """Run every step so many times, plainly and marked, after a warm-up; return the times of each.

        `advance` is called after each run.
        """

    def close(self) -> None:
        """Free the model's memory."""


@dataclass(frozen=True)
class StepBreakdown:
    """Seconds of one step: `base_s` is everything that no plan removes, `sublayer_s` [2M] in execution order."""

    base_s: float
    sublayer_s: tuple[float, ...]


def measure_steps(
    clock: SublayerProfiler,
    steps: Sequence[tuple[ProfiledStep, int]],
    rounds: int,
    advance: Callable[[], None] = lambda: None,
) -> list[StepBreakdown]:
    """Return the cost of every step, from `rounds` rounds of as many repeats as it comes with."""
    collected: list[StepTimes] = []
    for _ in range(rounds):
        samples = clock.sample(steps, advance)
        if not collected:
            collected = samples
            continue
        for whole, more in zip(collected, samples, strict=True):
            whole.plain_s += more.plain_s
            whole.parts_s += more.parts_s
    return [step_breakdown(sample) for sample in collected]


def step_breakdown(sample: StepTimes) -> StepBreakdown:
    """Return lower quartiles; the time that marks add to the step is subtracted in proportion to their number."""
    plain = float(np.quantile(sample.plain_s, QUARTILE))
    parts = np.quantile(sample.parts_s, QUARTILE, axis=0)
    parts = parts + (plain - parts.sum()) * sample.marks / sample.marks.sum()
    # Of a model so small that marks take longer than it does, rounding could make a part negative.
    sublayers = np.maximum(parts[:-1], 0)
    return StepBreakdown(max(0.0, plain - float(sublayers.sum())), tuple(map(float, sublayers)))


def random_tokens(count: int, vocab_size: int) -> NDArray[np.int64]:
    """Return tokens int64 [count] to run; their content does not change the time."""
    return np.random.default_rng(0).integers(vocab_size, size=count)
