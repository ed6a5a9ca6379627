"""What a user may choose about online skipping; `decoding/online.py` has the loop."""

from __future__ import annotations

from dataclasses import dataclass

from edgeskip.core.errors import EdgeSkipError
from edgeskip.runtime.arguments import check_count, check_real


@dataclass(frozen=True)
class Online:
    """How FFNs are left out while decoding: AdaSkip's decode phase (arXiv 2501.02336).

    The FFNs that hardly change the hidden states during an answer's first tokens are left out for the rest of it.

    Args:
        window: Decode steps P to watch, with every FFN running, before any is left out; None = as exported.
        threshold: Mean similarity β over the window, −1 to 1, from which an FFN is left out; None = as exported.
        gate: False = leave out nothing and watch the whole generation, to measure its FFNs.

    Raises:
        EdgeSkipError: If a value is out of range.

    Example:
        >>> edgeskip.Online(window=16, threshold=0.95)
        Online(window=16, threshold=0.95, gate=True)
    """

    window: int | None = None
    threshold: float | None = None
    gate: bool = True

    def __post_init__(self) -> None:
        if self.window is not None:
            object.__setattr__(self, "window", check_count(self.window, "the window", least=1))
        if self.threshold is not None and not -1 <= check_real(self.threshold, "the threshold β") <= 1:
            raise EdgeSkipError(f"the threshold β is a similarity: it must be from -1 to 1, not {self.threshold}")
