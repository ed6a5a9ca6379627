"""Block-wise integer quantization of a weight matrix for MatMulNBits: chooses scales and zero points, packs bits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.machine import usable_cores

VALUES_AT_ONCE = 1 << 18  # keeps the search's temporaries in cache and its memory small
# A narrower range trades clipped outliers for finer steps, a wider one moves the grid; the best differs per block.
RANGE_FACTORS = np.array([1.1, 1.05, 1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.76], dtype=np.float32)


@dataclass(frozen=True)
class Quantized:
    """weight ≈ (q − zero_point)·scale per block along the input dimension K (MatMulNBits specification)."""

    blocks: NDArray[np.uint8]  # [N, K/block, block·bits/8], low-order values first
    scales: NDArray[np.float32]  # [N, K/block]
    zero_points: NDArray[np.uint8] | None  # [N, ceil(K/block·bits/8)]; None = 2^(bits−1)


def quantize(
    weight: NDArray[np.float32],
    *,
    bits: int,
    block_size: int,
    symmetric: bool,
    importance: NDArray[np.float32] | None = None,
) -> Quantized:
    """Quantize `weight` [N, K] to `bits` (4 or 8) per value, minimizing each block's squared error.

    `importance` [K] weighs the columns' errors: with the mean square of each input it is the error of the output that
    is minimized (see `edgeskip.exporters.importance`). For every block a small grid of ranges is tried; each try
    rounds, then refits the scale by weighted least squares.

    Raises:
        EdgeSkipError: If K is not a multiple of `block_size`.
    """
    rows, columns = weight.shape
    if columns % block_size:
        raise EdgeSkipError(
            f"int4 needs input widths that are multiples of the block size, {columns} is not one of {block_size}: "
            "choose a smaller --block-size or another --precision"
        )
    if importance is None:
        importance = np.ones(columns, np.float32)
    # Channels that the text never used still count a little: other texts may use them.
    share = (importance / max(float(importance.mean()), 1e-30) + 1e-4).astype(np.float32).reshape(1, -1, block_size)
    step = max(1, VALUES_AT_ONCE // columns)
    chunks = [weight[start : start + step] for start in range(0, rows, step)]
    with ThreadPoolExecutor(usable_cores()) as pool:  # numpy releases the lock
        results = list(pool.map(lambda chunk: _quantize_rows(chunk, share, bits, symmetric), chunks))
    values = np.concatenate([result[0] for result in results])
    scales = np.concatenate([result[1] for result in results])
    zeros = np.concatenate([result[2] for result in results])
    return Quantized(
        blocks=_pack(values, bits),
        scales=scales,
        zero_points=None if symmetric else _pack(zeros, bits),
    )


def dequantize(packed: Quantized, *, bits: int, block_size: int) -> NDArray[np.float32]:
    """Return the weight [N, K] that the operators compute with."""
    values = _unpack(packed.blocks, bits)[..., :block_size].astype(np.float32)
    blocks = values.shape[1]
    if packed.zero_points is None:
        zeros = np.full(values.shape[:2], 2.0 ** (bits - 1), np.float32)
    else:
        zeros = _unpack(packed.zero_points, bits)[:, :blocks].astype(np.float32)
    return ((values - zeros[..., None]) * packed.scales[..., None]).reshape(values.shape[0], -1)


def _quantize_rows(
    weight: NDArray[np.float32], share: NDArray[np.float32], bits: int, symmetric: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Return values [n, B, block], scales [n, B] and zero points [n, B] of some rows; share [1, B, block]."""
    w = weight.reshape(weight.shape[0], *share.shape[1:])
    top = 2**bits - 1
    middle = 2 ** (bits - 1)
    low = np.minimum(w.min(axis=-1), 0.0)
    high = np.maximum(w.max(axis=-1), 0.0)
    if symmetric:
        # The value farthest from zero sits at −middle, the one end that has a step more.
        extreme = np.where(-low > high, low, high)
        full = -extreme / middle
    else:
        full = (high - low) / top
    best_error = np.full(low.shape, np.inf, np.float32)
    best_values = np.full(w.shape, middle, np.uint8)
    best_scale = np.zeros_like(low)
    best_zero = np.full(low.shape, middle, np.uint8)
    for factor in RANGE_FACTORS:
        scale = full * factor
        safe = np.where(scale == 0, np.float32(1), scale)
        zero = np.full_like(low, middle) if symmetric else np.clip(np.rint(-low * factor / safe), 0, top)
        q = np.clip(np.rint(w / safe[..., None]) + zero[..., None], 0, top)
        centered = q - zero[..., None]
        weighted = share * centered
        norm = (weighted * centered).sum(axis=-1)
        refit = np.where(norm > 0, (weighted * w).sum(axis=-1) / np.where(norm > 0, norm, 1), 0)
        error = (share * np.square(w - centered * refit[..., None])).sum(axis=-1)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_scale = np.where(better, refit, best_scale)
        best_zero = np.where(better, zero, best_zero).astype(np.uint8)
        best_values = np.where(better[..., None], q, best_values).astype(np.uint8)
    return best_values, best_scale.astype(np.float32), best_zero


def _pack(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack 4-bit values two to a byte along the last axis, the first in the low half; 8-bit values stay."""
    if bits == 8:
        return values
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), np.uint8)], axis=-1)
    packed: NDArray[np.uint8] = values[..., 0::2] | (values[..., 1::2] << np.uint8(4))
    return packed


def _unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return the inverse of `_pack`, padding included."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
