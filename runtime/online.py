"""Online skipping: what a user may choose, and what it did in one generation. Frozen data; the loop is a file of its
own."""

from __future__ import annotations

from dataclasses import dataclass

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.arguments import check_count, check_real


@dataclass(frozen=True)
class Online:
    """AdaSkip's decode phase (arXiv 2501.02336): the FFNs that hardly changed the stream in an answer's first tokens
    are left out for the rest of it. None = as the artifact's manifest says."""

    window: int | None = None
    """P: decode steps that are watched, with every FFN running, before anything is left out."""
    threshold: float | None = None
    """β: an FFN whose mean similarity over the window is at least this is left out."""
    gate: bool = True
    """False = nothing is left out, and the whole generation is watched: for what one would want to know of it."""

    def __post_init__(self) -> None:
        if self.window is not None:
            object.__setattr__(self, "window", check_count(self.window, "the window", least=1))
        if self.threshold is not None and not -1 <= check_real(self.threshold, "the threshold β") <= 1:
            raise EdgeSkipError(f"the threshold β is a similarity, from -1 to 1, not {self.threshold}")
