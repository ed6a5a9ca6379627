"""What a drafter proposes for one round: tokens, and what the acceptance rule must know of how they were drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Proposal:
    """Drafted tokens d1 … dk, in order.

    `distributions[i]` float64 [vocab_size] is q, which d(i+1) was drawn from; None = the token was certain (greedy, or
    an n-gram). `grades[i]` is the drafter's own class of how sure it was, an index into its reliability table.
    """

    tokens: list[int] = field(default_factory=list)
    distributions: list[NDArray[np.float64] | None] = field(default_factory=list)
    grades: list[int] = field(default_factory=list)

    def add(self, token: int, distribution: NDArray[np.float64] | None, grade: int) -> None:
        self.tokens.append(token)
        self.distributions.append(distribution)
        self.grades.append(grade)

    def __len__(self) -> int:
        return len(self.tokens)
