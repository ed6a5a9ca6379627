"""What a user may choose about a search, apart from model and corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import COMPENSATIONS, Compensation

Objective = Literal["kl", "perplexity"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
_TOKENS = ("fit_tokens", "search_tokens", "report_tokens")


@dataclass(frozen=True)
class SearchPolicy:
    """Tokens are counted in whole windows of `context`.

    `fit_tokens` are what a plan's compensation is fitted to in the end, the first `search_tokens` of them while
    candidates are compared, on as many others; quality is reported on `report_tokens` that neither has seen. A path
    ends at `max_skips`, or when KL exceeds `max_kl` nats. `dtype` is what the model multiplies in; auto = bfloat16
    if the hardware computes in it.
    """

    objective: Objective = "kl"
    compensation: Compensation = "linear"
    fit_tokens: int = 8192
    search_tokens: int = 3072
    report_tokens: int = 6144
    context: int = 1024
    max_skips: int | None = None
    max_kl: float = 1.0
    seed: int = 0
    device: str = "cpu"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise EdgeSkipError(f"--objective {self.objective} is unknown: choose {' or '.join(OBJECTIVES)}")
        if self.compensation not in COMPENSATIONS:
            raise EdgeSkipError(
                f"--compensation {self.compensation} is unknown: choose one of {', '.join(COMPENSATIONS)}"
            )
        if self.context < 16:
            raise EdgeSkipError(f"--window-tokens {self.context} is too short to search on: give at least 16")
        if min(getattr(self, name) for name in _TOKENS) < 2 * self.context:
            raise EdgeSkipError(
                f"--tokens {self.fit_tokens} is fewer than two windows of {self.context}: give more, or fewer "
                "--window-tokens"
            )
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise EdgeSkipError(f"dtype {self.dtype} is unknown: choose auto, float32 or bfloat16")
        if self.max_skips is not None and self.max_skips < 1:
            raise EdgeSkipError(f"--max-skips {self.max_skips} leaves nothing to search: give at least 1")
        if not self.max_kl > 0:
            raise EdgeSkipError(f"--search-kl {self.max_kl} leaves nothing to search: give nats above 0")

    @property
    def windows(self) -> tuple[int, int, int]:
        """Windows to fit to, to compare candidates on and to report on."""
        fit = max(self.fit_tokens, self.search_tokens)
        return fit // self.context, self.search_tokens // self.context, self.report_tokens // self.context

    @property
    def limits(self) -> dict[str, Any]:
        """Where a search ends: a front keeps it, to know which other question it answers."""
        return {"max_skips": self.max_skips, "max_kl": self.max_kl}

    @property
    def settings(self) -> dict[str, Any]:
        """What the quality of a plan depends on, apart from the model, the text and the type it is multiplied in."""
        return {
            "compensation": self.compensation,
            **{name: getattr(self, name) for name in _TOKENS},
            "context": self.context,
            "seed": self.seed,
        }
