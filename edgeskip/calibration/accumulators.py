"""The sums that calibration keeps of each sublayer, and the statistics that follow from them.

Everything is a sum over tokens, so the sums of two shards of a corpus add up to the sums of the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.sublayers import sublayers_of
from edgeskip.profiles.schema import Phase, PhaseStatistics
from edgeskip.profiles.vectors import Vectors

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

# Rows of `PhaseSums.scalars`.
_TOKENS, _COSINE, _RATIO, _SQUARE_IN, _SQUARE_OUT, _DOT, _WEIGHT, _WEIGHTED_OUT, _WEIGHTED_DOT = range(9)
_WINDOWS, _BETWEEN_IN, _BETWEEN_DOT, _BETWEEN_OUT = range(9, 13)


class PhaseSums:
    """Sums over the tokens of one phase for all 2M sublayers: `scalars` [13, 2M], `vectors` [2, 2M, hidden_size].

    x is the residual stream before a sublayer, y after it. The vectors are Σ w·x and Σ w·y with the weight
    w = 1/‖x‖² (see `statistics_of`). Kept in float64, or float32 on devices that have no float64 (Apple's MPS).
    """

    def __init__(self, num_sublayers: int, hidden_size: int, device: torch.device) -> None:
        import torch

        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self.scalars = torch.zeros(13, num_sublayers, dtype=self.dtype, device=device)
        self.vectors = torch.zeros(2, num_sublayers, hidden_size, dtype=self.dtype, device=device)
        self._closed = self.scalars[_WEIGHT].clone(), self.vectors.clone()

    def add(self, sublayer: int, x: Tensor, y: Tensor, squares: tuple[Tensor, Tensor], measured: Tensor | None) -> None:
        """Add tokens: x, y [tokens, hidden_size]; squares = ‖x‖², ‖y‖² [tokens]; `measured` bool [tokens] or all.

        A token whose stream is exactly zero has no direction and is left out.
        """
        import torch

        square_in, square_out = squares
        counted = square_in > 0 if measured is None else (square_in > 0) & measured
        one = counted.to(x.dtype)
        weight = torch.where(counted, 1 / square_in, 0)
        dot = torch.linalg.vecdot(x, y)
        length_in, length_out = square_in.sqrt(), square_out.sqrt()
        cosine = dot / (length_in * length_out).clamp_min(torch.finfo(x.dtype).tiny)
        ratio = torch.where(counted, length_out / length_in, 0)
        per_token = torch.stack((one, one * cosine, ratio, one * square_in, one * square_out, one * dot))
        weighted = torch.stack((weight, weight * square_out, weight * dot))
        self.scalars[:_WINDOWS, sublayer] += torch.cat((per_token, weighted)).sum(dim=1)
        self.vectors[0, sublayer] += weight @ x
        self.vectors[1, sublayer] += weight @ y

    def close_window(self) -> None:
        """End a window: adds W·‖⟨x⟩‖², W·⟨x⟩·⟨y⟩ and W·‖⟨y⟩‖² of its own means, W = Σ w of its tokens."""
        import torch

        closed_weight, closed_vectors = self._closed
        weight = self.scalars[_WEIGHT] - closed_weight
        x, y = self.vectors - closed_vectors
        products = torch.stack([torch.linalg.vecdot(a, b) for a, b in ((x, x), (x, y), (y, y))])
        self.scalars[_WINDOWS] += weight > 0
        self.scalars[_BETWEEN_IN:] += torch.where(weight > 0, products / weight, 0)
        self._closed = self.scalars[_WEIGHT].clone(), self.vectors.clone()

    def arrays(self) -> tuple[Array, Array]:
        """`scalars` and `vectors` on the host, float64."""
        return self.scalars.double().cpu().numpy(), self.vectors.double().cpu().numpy()


def statistics_of(
    scalars: Array, vectors: Array, phase: Phase
) -> tuple[list[PhaseStatistics], NDArray[np.float32], NDArray[np.float32]]:
    """Means of one phase: the statistics of every sublayer, mean_in and mean_out [2M, hidden_size].

    IO similarity and scale are plain means over tokens (AdaSkip eq. 2 and 3). The affine compensation gives the
    stream the mean and the variance that the sublayer would have given it: with means ⟨·⟩ weighted by 1/‖x‖²,
    s² = (⟨‖y‖²⟩ − ‖⟨y⟩‖²) / (⟨‖x‖²⟩ − ‖⟨x⟩‖²) and b = ⟨y⟩ − s·⟨x⟩. A least-squares s would shrink the stream at
    every skip, and later sublayers would weigh too much. The weights are those of a relative error, which is what
    every reader of the stream sees, through its norm; without them a few tokens of enormous norm (attention
    sinks) decide s alone.

    A bias holds for the text it was measured on. `bias_share` says how far windows agree on it: 1 − v/‖b‖², not
    below 0, with v the variance of b between windows; it shrinks b towards 0 as James and Stein's estimator does.
    Raises EdgeSkipError if a sum is not finite.
    """
    num_blocks = scalars.shape[1] // 2
    for sublayer in sublayers_of(num_blocks):
        if not (np.isfinite(scalars[:, sublayer.index]).all() and np.isfinite(vectors[:, sublayer.index]).all()):
            raise EdgeSkipError(
                f"the residual stream is not finite at {sublayer} ({phase}): calibrate with --dtype float32 or "
                "bfloat16; if it is the same there, the model's weights are damaged: fetch it again"
            )
    tokens, weight = scalars[_TOKENS], scalars[_WEIGHT]
    if not tokens.all():
        raise EdgeSkipError(f"the residual stream is zero in every token ({phase}): are the model's weights all zero?")
    mean_in, mean_out = vectors / weight[:, None]
    # ⟨‖x‖²⟩ = Σ(w·‖x‖²)/Σw = tokens/Σw, because w = 1/‖x‖².
    square_in, square_out = tokens / weight, scalars[_WEIGHTED_OUT] / weight
    variance_in = square_in - (mean_in**2).sum(axis=1)
    variance_out = square_out - (mean_out**2).sum(axis=1)
    covariance = scalars[_WEIGHTED_DOT] / weight - (mean_in * mean_out).sum(axis=1)
    ratio = scalars[_RATIO] / tokens
    # Where a stream does not vary at all (a single token), only its length is left to keep.
    steady = (variance_in <= 1e-12 * square_in) | (variance_out <= 1e-12 * square_out)
    slope = np.sqrt(np.divide(variance_out, variance_in, out=ratio**2, where=~steady))
    affine_error = (variance_out - 2 * slope * covariance + slope**2 * variance_in) * weight / tokens
    share = _bias_share(scalars, slope, ((mean_out - slope[:, None] * mean_in) ** 2).sum(axis=1))
    # Σ w·‖y − x‖² = Σ w·‖y‖² − 2·Σ w·x·y + tokens.
    error = scalars[_WEIGHTED_OUT] / tokens - 2 * scalars[_WEIGHTED_DOT] / tokens + 1
    found = [
        PhaseStatistics(
            tokens=int(tokens[i]),
            similarity=float(scalars[_COSINE, i] / tokens[i]),
            scale=float(ratio[i]),
            affine_scale=float(slope[i]),
            bias_share=None if share is None else float(share[i]),
            error=float(max(error[i], 0.0)),
            affine_error=float(max(affine_error[i], 0.0)),
            mean_square_in=float(scalars[_SQUARE_IN, i] / tokens[i]),
            mean_square_out=float(scalars[_SQUARE_OUT, i] / tokens[i]),
            mean_dot=float(scalars[_DOT, i] / tokens[i]),
        )
        for i in range(2 * num_blocks)
    ]
    return found, mean_in.astype(np.float32), mean_out.astype(np.float32)


def _bias_share(scalars: Array, slope: Array, square_bias: Array) -> Array | None:
    """1 − v/‖b‖² for every sublayer [2M]; None if a single window tells nothing of the variance v."""
    windows = scalars[_WINDOWS]
    if not (windows > 1).all():
        return None
    mean_square = scalars[_BETWEEN_OUT] - 2 * slope * scalars[_BETWEEN_DOT] + slope**2 * scalars[_BETWEEN_IN]
    between = (mean_square / scalars[_WEIGHT] - square_bias) * windows / (windows - 1)
    share: Array = np.clip(1 - between / np.maximum(square_bias, np.finfo(np.float64).tiny), 0, 1)
    return share


def vectors_of(phases: dict[Phase, tuple[NDArray[np.float32], NDArray[np.float32]]]) -> Vectors:
    """Return the vectors file's content from each phase's mean_in and mean_out."""
    return Vectors(
        mean_in={phase: means[0] for phase, means in phases.items()},
        mean_out={phase: means[1] for phase, means in phases.items()},
    )
