"""How much work a search has before it, estimated from what it has done: the total that its progress shows.

The unit is one plan measured while candidates are compared. How many steps a path takes is not known before: it ends
where KL passes a limit, and KL grows about exponentially with the skips, so the steps left follow from its growth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

PER_STEP = 6.0  # candidates tried at a step after the first: 24 steps of SmolLM2 take some 200, 60 of them the first
SHARED = 0.6  # of the second path's work: what the first has measured is known


@dataclass
class SearchEstimate:
    """`sublayers`: how many there are; `most_skips`: a path's limit; `max_kl`: where it ends; `report_cost`: what
    measuring a plan on unseen text takes, in units."""

    sublayers: int
    most_skips: int
    max_kl: float
    report_cost: float
    done: float = 0.0
    _path: int = 0
    _steps: int = 0  # of the path that runs
    _first: float = 0.0  # units at its first step
    _begun: float = 0.0  # `done` when it began
    _before: list[int] = field(default_factory=list)  # steps of the paths that are done
    _kls: list[float] = field(default_factory=list)
    _reports: tuple[int, int] | None = None

    def measured(self) -> None:
        """Count one more candidate."""
        self.done += 1

    def stepped(self, kl: float) -> None:
        """Record that the path took a step, to a plan of this KL."""
        self._steps += 1
        self._kls.append(kl)
        if self._steps == 1:
            self._first = self.done - self._begun

    def next_path(self) -> None:
        self._before.append(self._steps)
        self._path, self._steps, self._kls, self._first, self._begun = self._path + 1, 0, [], 0.0, self.done

    def reporting(self, done: int, total: int) -> None:
        """Record how many of the plans are measured on unseen text."""
        before = self._reports[0] if self._reports else 0
        self.done += (done - before) * self.report_cost
        self._reports = done, total

    @property
    def total(self) -> float:
        """Units of the whole search, as far as is known now; never less than what is done."""
        if self._reports is not None:
            done, total = self._reports
            return self.done + (total - done) * self.report_cost
        steps = self._expected_steps()
        path = self.done - self._begun
        if self._steps:
            rest = path - self._first
            per_step = rest / (self._steps - 1) if self._steps > 2 else PER_STEP
            left = (steps - self._steps) * per_step
        else:
            first = self.sublayers if self._path == 0 else 0
            left = max(first - path, 0) + (steps - 1) * PER_STEP * (1 if self._path == 0 else SHARED)
        if self._path == 0:
            left += steps * PER_STEP * SHARED
        plans = steps + (self._before[0] if self._before else steps) * SHARED
        return self.done + left + plans * self.report_cost

    def _expected_steps(self) -> float:
        """Estimate the steps of the path that runs: by the limit, by the growth of KL, or as the path before."""
        most = min(self.most_skips, self.sublayers - 1)
        usual = min(float(self._before[0] if self._before else 24), most)
        kls = [kl for kl in self._kls if kl > 0]
        if len(kls) < 3:
            return float(min(max(usual, self._steps + 1), most))
        growth = (math.log(kls[-1]) - math.log(kls[0])) / (len(kls) - 1)
        if growth <= 0:
            return float(min(max(usual, self._steps + 1), most))
        left = max((math.log(self.max_kl) - math.log(kls[-1])) / growth, 1.0)
        return min(self._steps + left, float(most))
