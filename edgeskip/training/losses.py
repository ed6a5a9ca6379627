"""Losses over the vocabulary: cross-entropy and distillation through a head, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

ROWS_AT_ONCE = 1024  # of logits in memory together; more are computed again in the backward pass


def next_token_rows(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the next token is learned: bool [batch, n] over positions, and those tokens [rows].

    Labels −100 = not.
    """
    learned = torch.zeros_like(labels, dtype=torch.bool)
    learned[:, :-1] = labels[:, 1:] != -100
    return learned, labels[:, 1:][learned[:, :-1]]


def cross_entropy(head: nn.Module, rows: Tensor, targets: Tensor) -> Tensor:
    """Return mean −log p(target) of `head`'s logits for `rows` [n, d], in nats."""

    def part(x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(head(x).float(), y, reduction="sum")

    return _in_parts(part, rows, targets) / len(targets)


def divergence(head: nn.Module, rows: Tensor, teacher: Tensor) -> Tensor:
    """Return mean KL(teacher ‖ student) in nats: `rows` [n, d] through `head` against `teacher` [n, d] through it."""

    def part(x: Tensor, reference: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = functional.log_softmax(head(reference).float(), dim=-1)
        return functional.kl_div(
            functional.log_softmax(head(x).float(), dim=-1), wanted, reduction="sum", log_target=True
        )

    return _in_parts(part, rows, teacher) / len(rows)


def _in_parts(part: Callable[[Tensor, Tensor], Tensor], rows: Tensor, other: Tensor) -> Tensor:
    if len(rows) <= ROWS_AT_ONCE:
        return part(rows, other)
    total = rows.new_zeros((), dtype=torch.float32)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        total = total + checkpoint(part, rows[some], other[some], use_reentrant=False)
    return total
