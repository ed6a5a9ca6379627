"""Fits what replaces a skipped sublayer to the stream that earlier skips have left.

The stream at the skipped place is brought back to what the *dense* model has after the sublayer, so a fit also repairs
what earlier skips did. Tokens weigh 1/‖y‖²: every reader of the stream goes through a norm, so relative errors count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from edgeskip.core.plan import Compensation

# Of the ridge: λ = RIDGE · d/n · (mean variance of u's elements). Chosen once on SmolLM2 (2,048 and 8,192 tokens).
RIDGE = 4.0


@dataclass(frozen=True)
class Fit:
    """x ← scale·x + u·mapᵀ + bias; bias float32 [d], map float32 [d, d], u the last kept sublayer's update."""

    scale: float
    bias: Tensor | None = None
    map: Tensor | None = None

    def apply(self, x: Tensor, update: Tensor | None) -> Tensor:
        y = x * self.scale if self.bias is None else x * self.scale + self.bias
        return y if self.map is None or update is None else y + update @ self.map.T


def fit(x: Tensor, y: Tensor, update: Tensor | None, compensation: Compensation) -> Fit:
    """Fit what takes `x` to `y`, float32 [W, T, d].

    `none`: nothing; `scale`: mean ‖y‖/‖x‖ (AdaSkip eq. 3 on this stream); `affine`: s² = var(y)/var(x), b = mean(y) −
    s·mean(x); `linear`: s = 1 and the least squares of y − x on u, with a ridge: part of what is skipped follows from
    the update of the sublayer before it (ReplaceMe, arXiv 2505.02819, fits such a map in place of whole blocks). Of b
    counts the share that windows agree on, 1 − v/‖b‖², v its variance between windows (James and Stein).

    Args:
        x: The stream before the skipped sublayer, as the skips so far have left it.
        y: The dense model's stream after that sublayer.
        update: What the last kept sublayer added; None at the model's start.
        compensation: What may replace the sublayer.
    """
    if compensation == "none":
        return Fit(1.0)
    if compensation == "scale":
        return Fit(float((y.norm(dim=-1) / x.norm(dim=-1).clamp_min(1e-30)).double().mean()))
    weights = _weights(y)
    mean_x, mean_y = _window_means(x, weights), _window_means(y, weights)
    if compensation == "linear" and update is not None:
        fitted_map = _ridge(x, y, update, weights)
        wide = _window_means(update, weights) @ fitted_map.T
        return Fit(1.0, _agreed(mean_y - mean_x - wide, weights).float(), fitted_map.float())
    scale = 1.0
    if compensation == "affine":
        variances = [_variance(stream, means, weights) for stream, means in ((x, mean_x), (y, mean_y))]
        scale = (variances[1] / variances[0]) ** 0.5 if min(variances) > 0 else 1.0
    return Fit(scale, _agreed(mean_y - scale * mean_x, weights).float())


def _weights(y: Tensor) -> Tensor:
    """Return 1/‖y‖² [W, T]; a token whose stream is zero has no direction and no weight."""
    import torch

    square = (y * y).sum(dim=-1)
    return torch.where(square > 0, 1 / square.clamp_min(torch.finfo(y.dtype).tiny), 0)


def _window_means(stream: Tensor, weights: Tensor) -> Tensor:
    """Return each window's weighted mean, float64 [W, d]."""
    return (weights[..., None] * stream).double().sum(dim=1) / weights.double().sum(dim=1)[:, None]


def _mean(means: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over all tokens [d] of windows' means [W, d]."""
    shares = weights.double().sum(dim=1)
    return (shares[:, None] * means).sum(dim=0) / shares.sum()


def _variance(stream: Tensor, means: Tensor, weights: Tensor) -> float:
    square = (weights * (stream * stream).sum(dim=-1)).double().sum() / weights.double().sum()
    variance = float(square - (_mean(means, weights) ** 2).sum())
    return variance if variance > 1e-12 * float(square) else 0.0


def _agreed(biases: Tensor, weights: Tensor) -> Tensor:
    """Return the bias that windows' biases [W, d] agree on [d]."""
    bias = _mean(biases, weights)
    if len(biases) < 2:
        return bias
    between = float(((biases - biases.mean(dim=0)) ** 2).sum()) / (len(biases) - 1)
    share = min(max(1 - between / max(float((bias**2).sum()), 1e-300), 0.0), 1.0)
    return share * bias


def _ridge(x: Tensor, y: Tensor, update: Tensor, weights: Tensor) -> Tensor:
    """Return T float64 [d, d] that minimizes Σ w·‖(y − x) − T·u‖² about the means, plus λ·‖T‖²."""
    import torch

    w = weights.flatten().double()[:, None]
    u, r = update.flatten(0, 1).double(), (y - x).flatten(0, 1).double()
    u = u - (w * u).sum(dim=0) / w.sum()
    r = r - (w * r).sum(dim=0) / w.sum()
    gram = (w * u).T @ u
    strength = RIDGE * u.shape[1] / len(u) * gram.diagonal().mean()
    penalty = strength * torch.eye(u.shape[1], dtype=gram.dtype, device=gram.device)
    if not float(strength) > 0:  # the update is the same everywhere: nothing to read from it
        return torch.zeros_like(gram)
    found: Tensor = torch.linalg.solve(gram + penalty, (w * u).T @ r).T
    return found
