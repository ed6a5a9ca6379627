"""Losses over the vocabulary. Oracles: torch's own cross-entropy of transformers' logits, and KL by its definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgeskip.training import losses
from edgeskip.training.losses import cross_entropy, divergence, next_token_rows


@pytest.fixture
def head() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 11, bias=False)


def test_a_label_is_learned_at_the_position_before_it() -> None:
    labels = torch.tensor([[-100, -100, 4, 5], [-100, 3, -100, -100]])
    rows, targets = next_token_rows(labels)
    assert rows.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert targets.tolist() == [4, 5, 3]


@pytest.mark.parametrize("at_once", [4, 1024])
def test_cross_entropy_is_torchs(head: nn.Linear, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """Also in parts that are computed again: loss and both gradients."""
    monkeypatch.setattr(losses, "ROWS_AT_ONCE", at_once)
    targets = torch.arange(9)
    found, expected = (torch.randn(9, 6, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    found.requires_grad_(True), expected.requires_grad_(True)
    ours = cross_entropy(head, found, targets)
    gradients = torch.autograd.grad(ours, (found, head.weight))
    reference = functional.cross_entropy(head(expected), targets)
    wanted = torch.autograd.grad(reference, (expected, head.weight))
    torch.testing.assert_close(ours, reference)
    torch.testing.assert_close(gradients, wanted)


@pytest.mark.parametrize("at_once", [4, 1024])
def test_divergence_by_its_definition(head: nn.Linear, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(losses, "ROWS_AT_ONCE", at_once)
    torch.manual_seed(2)
    student, teacher = torch.randn(9, 6, requires_grad=True), torch.randn(9, 6, requires_grad=True)
    found = divergence(head, student, teacher)
    p, q = torch.softmax(head(teacher), -1), torch.softmax(head(student), -1)
    torch.testing.assert_close(found, (p * (p / q).log()).sum(-1).mean())
    found.backward()
    assert teacher.grad is None, "the teacher does not learn"
    assert student.grad is not None
    assert float(divergence(head, teacher, teacher).detach()) == pytest.approx(0, abs=1e-6)
