"""A plan: which sublayers are skipped and what replaces each. Frozen data that knows no file format."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.sublayers import Sublayer, sublayers_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PlanMethod = Literal["adaskip", "budget", "early-exit", "skipdecode", "unified", "least-similar", "random"]
"""How a user may have sublayers chosen."""
PLAN_METHODS: tuple[PlanMethod, ...] = get_args(PlanMethod)
Compensation = Literal["none", "scale", "affine", "linear"]
COMPENSATIONS: tuple[Compensation, ...] = get_args(Compensation)
# What follows from a profile's statistics; the others are fitted to a plan as a whole.
STATISTICAL: tuple[Compensation, ...] = ("none", "scale", "affine")
Label = Literal["dense", "lossy-skip", "draft-only", "verified"]


@dataclass(frozen=True)
class Skip:
    """A skipped sublayer becomes `x ← scale·x + map·u + bias` on the residual stream (AdaSkip eq. 3).

    See docs/concepts/compensation.md.

    u is what the sublayer `source`, the last one kept before this, has added to the stream; nothing if that one is
    left out too, by an engine for instance that skips more as it runs.
    """

    sublayer: Sublayer
    scale: float = 1.0
    bias: NDArray[np.float32] | None = None  # [hidden_size]
    map: NDArray[np.float32] | None = None  # [hidden_size, hidden_size]
    source: Sublayer | None = None

    def __post_init__(self) -> None:
        if (self.map is None) != (self.source is None) or (self.source is not None and self.source >= self.sublayer):
            raise EdgeSkipError(f"{self.sublayer}: a map needs the sublayer before it whose update it reads")
        if not 0 < self.scale < math.inf:
            # RMSNorm(c·x) = RMSNorm(x) needs c > 0: the fold would be wrong.
            raise EdgeSkipError(f"{self.sublayer}: compensation scale {self.scale} is not positive and finite")


@dataclass(frozen=True)
class Plan:
    """The skips of a model of `num_blocks` blocks, in execution order; no skips = dense."""

    num_blocks: int
    skips: tuple[Skip, ...] = ()
    compensation: Compensation = "none"

    def __post_init__(self) -> None:
        order = [skip.sublayer for skip in self.skips]
        if order != sorted(set(order)):
            raise EdgeSkipError("a plan lists each skipped sublayer once, in execution order")
        if len(order) >= 2 * self.num_blocks:
            raise EdgeSkipError("the plan skips every sublayer: keep at least one")

    @property
    def label(self) -> Label:
        """What any output of this plan must be called (docs/concepts/labels.md)."""
        return "lossy-skip" if self.skips else "dense"

    @property
    def skipped(self) -> frozenset[Sublayer]:
        return frozenset(skip.sublayer for skip in self.skips)

    @property
    def kept(self) -> tuple[Sublayer, ...]:
        return tuple(s for s in sublayers_of(self.num_blocks) if s not in self.skipped)

    def skip_for(self, sublayer: Sublayer) -> Skip | None:
        return next((skip for skip in self.skips if skip.sublayer == sublayer), None)
