"""Blocks multiplied through their scales, and rows reordered. Oracle: the gguf package's own dequantizing."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.gguf.blocks import _SCALES, check_scalable, encode, kept_bytes
from edgeskip.exporters.gguf.tensors import paired_up
from edgeskip.models.decoder import QuantizedBlocks, Tensor, constant
from edgeskip.models.readers.gguf_checkpoint import paired_apart

KINDS = [*_SCALES, "F32", "F16", "BF16"]


def random_blocks(kind: str) -> Any:
    """uint8 [8, …]: any bytes are codes; the fp16 scales are of usual size."""
    rng = np.random.default_rng(0)
    if kind in ("F32", "F16", "BF16"):
        return encode(rng.normal(size=(8, 256)).astype(np.float32), kind)
    size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    flat = rng.integers(0, 256, (8 * 4, size), dtype=np.uint8)
    for offset in _SCALES[kind]:
        flat[:, offset : offset + 2] = rng.uniform(0.01, 0.1, (32, 1)).astype("<f2").view(np.uint8)
    return flat.reshape(8, -1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1 / 1.37, 1.21, 0.5])
def test_the_factor_is_in_the_weights(kind: str, factor: float) -> None:
    raw = random_blocks(kind)
    before = raw.copy()
    scaled = kept_bytes(QuantizedBlocks(kind, lambda: raw, factor), "w")
    was, now = (dequantize(rows, GGMLQuantizationType[kind]).astype(np.float64) for rows in (raw, scaled))
    assert np.abs(was).max() > 0.05
    # Two fp16 numbers in a block, each off by 2^-11 of itself at most; weights are sums of both.
    bound = {"F32": 2**-23, "BF16": 2**-8}.get(kind, 2**-10)
    assert np.abs(now - was * factor).max() <= bound * np.abs(was * factor).max()
    assert not np.array_equal(now, was)
    np.testing.assert_array_equal(raw, before)  # the model's own bytes are not touched


@pytest.mark.parametrize("kind", KINDS)
def test_no_factor_no_change(kind: str) -> None:
    raw = random_blocks(kind)
    assert kept_bytes(QuantizedBlocks(kind, lambda: raw), "w") is raw


@pytest.mark.parametrize("kind", ["MXFP4", "IQ1_M", "NVFP4"])
def test_types_without_wide_scales(kind: str) -> None:
    check_scalable(QuantizedBlocks(kind, lambda: np.zeros((1, 1), np.uint8)), "w")
    with pytest.raises(EdgeSkipError, match=f"w is {kind}.*another --precision"):
        kept_bytes(QuantizedBlocks(kind, lambda: np.zeros((1, 1), np.uint8), 1.1), "w")


@pytest.mark.parametrize("kind", ["Q4_1", "F16"])
def test_a_scale_beyond_fp16(kind: str) -> None:
    raw = encode(np.full((1, 32), 6e4, np.float32) * np.linspace(-1, 1, 32, dtype=np.float32), kind)
    with pytest.raises(EdgeSkipError, match=r"blk\.0\.x leaves the range of 16-bit floats"):
        kept_bytes(QuantizedBlocks(kind, lambda: raw, 100.0), "blk.0.x")


def test_encode_is_the_gguf_packages() -> None:
    values = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    for kind in ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"):
        expected = gguf.quants.quantize(values, GGMLQuantizationType[kind]).view(np.uint8)
        np.testing.assert_array_equal(encode(values, kind), expected)
    with pytest.raises(EdgeSkipError, match="16-bit"):
        encode(np.full((1, 32), 1e6, np.float32), "F16")


def test_factors_multiply_and_a_sum_has_no_blocks() -> None:
    raw = random_blocks("Q4_1")
    weight = Tensor("w", (8, 128), lambda: np.ones((8, 128), np.float32), QuantizedBlocks("Q4_1", lambda: raw))
    twice = weight.times(0.5).times(3.0)
    assert twice.blocks is not None
    assert (twice.blocks.factor, twice.read()[0, 0]) == (1.5, 1.5)
    assert weight.plus(constant("b", np.ones((8, 128), np.float32))).blocks is None


def test_rows_pair_up_and_apart() -> None:
    """Oracle by hand: two heads of four rows, halves (0 1 | 2 3) become pairs (0 2) (1 3)."""
    rows = np.arange(8)[:, None] * np.ones((1, 3), int)
    assert paired_up(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    np.testing.assert_array_equal(paired_apart(paired_up(rows, 2), 2), rows)
