"""What a training loop asks of a method: a torch module that gives the loss of a batch, in parts that have names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class LossParts:
    """`total` is what descends; `parts` are for people: name (`last`, `exit 6`) → scalar without gradient."""

    total: Tensor
    parts: dict[str, Tensor]


class Objective(Protocol):
    """A `torch.nn.Module` whose parameters with gradients are trained. `step` counts from 0.

    Whatever it draws at random follows from the seed it was made with, `step` and the process' rank, so that a resumed
    run draws the same.
    """

    def __call__(self, batch: dict[str, Tensor], step: int) -> LossParts: ...


def seed_of(seed: int, step: int, rank: int) -> int:
    """Return a seed for what is drawn at one step by one process (splitmix64's finaliser, Steele et al. 2014)."""
    mask = (1 << 64) - 1
    x = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank + 1) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return (x ^ (x >> 31)) & ((1 << 63) - 1)
