"""How far a skipped model is from the dense one on given windows: KL divergence, perplexity, top-1 agreement.

Defined as in `core.metrics`, but in torch: a search measures thousands of plans where the model is, in its precision.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from edgeskip.core.bounds import Reading

if TYPE_CHECKING:
    from torch import Tensor

    from edgeskip.planning.search.runner import SublayerRunner

ROWS_AT_ONCE = 512  # rows of the vocabulary in float32 that are in memory together, a few times
MOST_KEPT = 2**27  # numbers: the dense model's logits are kept up to there, and computed again beyond


@dataclass(frozen=True)
class PlanQuality:
    """Means per token: `kl` = KL(dense ‖ skipped) and `loss` = −ln p(next token), in nats; `losses` of each window."""

    kl: Reading
    loss: Reading
    top1: Annotated[float, Field(ge=0, le=1)]
    losses: tuple[Reading, ...] = ()

    @property
    def perplexity(self) -> float:
        return _exp(self.loss)

    def perplexity_ratio(self, dense: PlanQuality) -> tuple[float, float]:
        """Return perplexity over the dense model's, and its standard error by how much windows differ (0 for one)."""
        ratio = _exp(self.loss - dense.loss)
        differences = [ours - theirs for ours, theirs in zip(self.losses, dense.losses, strict=True)]
        if len(differences) < 2:
            return ratio, 0.0
        return ratio, ratio * statistics.stdev(differences) / math.sqrt(len(differences))


def _exp(nats: float) -> float:
    return math.exp(min(nats, 300.0))  # beyond it is as good as infinite, and still a number


class QualityMeter:
    """Compares streams after the last sublayer with the dense model's.

    `rows` says which windows count; of each, every `stride`-th token from `first` on that has a next one.
    """

    def __init__(self, runner: SublayerRunner, dense: Tensor, rows: slice, *, first: int = 0, stride: int = 1) -> None:
        self._runner, self._rows, self._places = runner, rows, slice(first, None, stride)
        self._next = runner.windows[rows, 1:][:, self._places].reshape(-1)
        self._dense = self._chosen(dense)
        size = runner.logits(self._dense[:1]).shape[1]
        self._kept: list[Tensor] | None = None
        if len(self._dense) * size <= MOST_KEPT:
            self._kept = [runner.logits(part).log_softmax(dim=-1) for part in _parts(self._dense)]

    @property
    def tokens(self) -> int:
        return len(self._next)

    def measure(self, stream: Tensor) -> PlanQuality:
        """Return the quality of a stream [W, T, hidden_size] of all the runner's windows."""
        kl, agreed = 0.0, 0
        losses: list[float] = []
        pairs = zip(_parts(self._chosen(stream)), _parts(self._next), strict=True)
        for number, (part, tokens) in enumerate(pairs):
            expected = self._reference(number)
            found = self._runner.logits(part).log_softmax(dim=-1)
            kl += float((expected.exp() * (expected - found)).sum(dtype=expected.dtype))
            losses += (-found.gather(1, tokens[:, None])[:, 0]).tolist()
            agreed += int((expected.argmax(dim=-1) == found.argmax(dim=-1)).sum())
        size = self.tokens // len(self._runner.windows[self._rows])  # tokens of a window
        windows = tuple(statistics.fmean(losses[start : start + size]) for start in range(0, self.tokens, size))
        return PlanQuality(max(kl / self.tokens, 0.0), statistics.fmean(windows), agreed / self.tokens, windows)

    def _reference(self, number: int) -> Tensor:
        if self._kept is not None:
            return self._kept[number]
        start = number * ROWS_AT_ONCE
        return self._runner.logits(self._dense[start : start + ROWS_AT_ONCE]).log_softmax(dim=-1)

    def _chosen(self, stream: Tensor) -> Tensor:
        return stream[self._rows, :-1][:, self._places].flatten(0, 1)


def _parts(rows: Tensor) -> list[Tensor]:
    return [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
