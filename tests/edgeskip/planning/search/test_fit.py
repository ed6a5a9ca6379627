"""What replaces a skipped sublayer. Oracles: streams made by a known rule, numpy's least squares, hand calculations."""

import numpy as np
import pytest
import torch

from edgeskip.planning.search.fit import RIDGE, fit

W, T, D = 3, 400, 6


def stream(seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(W, T, D, generator=torch.Generator().manual_seed(seed))


def test_none_changes_nothing() -> None:
    found = fit(stream(0), stream(1), stream(2), "none")
    assert (found.scale, found.bias, found.map) == (1.0, None, None)


def test_scale_is_the_mean_ratio_of_lengths() -> None:
    x = stream(0)
    y = x * torch.rand(W, T, 1, generator=torch.Generator().manual_seed(1)).add(0.5)
    expected = (y.numpy().astype(float) ** 2).sum(-1) ** 0.5 / (x.numpy().astype(float) ** 2).sum(-1) ** 0.5
    assert fit(x, y, None, "scale").scale == pytest.approx(expected.mean(), rel=1e-5)


def test_affine_finds_the_rule_that_made_the_stream() -> None:
    x, bias = stream(0), torch.arange(1.0, D + 1)
    found = fit(x, 1.3 * x + bias, None, "affine")
    assert found.scale == pytest.approx(1.3, rel=1e-4)
    assert found.bias is not None
    # James and Stein take a little off, as windows' means differ in their last digits only.
    torch.testing.assert_close(found.bias, bias, rtol=1e-3, atol=1e-3)


def test_windows_that_disagree_leave_no_bias() -> None:
    """Biases +b, −b and 0 in three windows say nothing of a fourth."""
    x = stream(0)
    shift = torch.tensor([1.0, -1.0, 0.0])[:, None, None] * torch.ones(D)
    found = fit(x, x + shift, None, "affine")
    assert found.bias is not None
    assert found.bias.norm() < 0.05


def test_linear_is_weighted_ridge_regression_on_the_update() -> None:
    """numpy, by the equation in the docstring: rows weigh 1/‖y‖², means apart, λ = RIDGE·d/n·(mean variance)."""
    x, u = stream(0, 5.0), stream(1)
    matrix = torch.randn(D, D, generator=torch.Generator().manual_seed(2))
    y = x + u @ matrix.T + 0.1 * stream(3) + 0.7
    found = fit(x, y, u, "linear")
    rows = [part.numpy().reshape(-1, D).astype(float) for part in (x, y, u)]
    weight = 1 / (rows[1] ** 2).sum(-1, keepdims=True)
    centred = rows[2] - (weight * rows[2]).sum(0) / weight.sum()
    rest = rows[1] - rows[0]
    rest = rest - (weight * rest).sum(0) / weight.sum()
    gram = (weight * centred).T @ centred
    penalty = RIDGE * D / len(centred) * np.trace(gram) / D * np.eye(D)
    expected = np.linalg.solve(gram + penalty, (weight * centred).T @ rest).T
    assert found.map is not None
    np.testing.assert_allclose(found.map.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert found.scale == 1.0
    error = (found.apply(x, u) - y).norm() / (x - y).norm()
    assert error < 0.2


def test_linear_without_an_update_before_is_a_bias() -> None:
    x = stream(0)
    found = fit(x, x + 2, None, "linear")
    assert (found.scale, found.map) == (1.0, None)
    assert found.bias is not None
    torch.testing.assert_close(found.bias, torch.full((D,), 2.0), rtol=1e-3, atol=1e-3)


def test_an_update_that_is_always_the_same_gives_no_map() -> None:
    found = fit(stream(0), stream(1), torch.zeros(W, T, D), "linear")
    assert found.map is not None
    assert not found.map.any()
