"""What rounding errors weigh. Oracles: inputs of the first and the last linear layers computed in numpy, and the
weighted error itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeskip.core.plan import Plan, Skip
from edgeskip.core.sublayers import Sublayer
from edgeskip.exporters.importance import HEAD_WEIGHT, measure_importance
from edgeskip.exporters.onnx.quantize import dequantize, quantize
from edgeskip.models.source import open_model

TOKENS = np.arange(60, dtype=np.int64) * 7 % 320


def test_mean_squares_by_hand(tiny_llama: Path) -> None:
    """q, k and v of block 0 read norm(embedding); with all but attn.0 skipped every later norm sees one stream."""
    source = open_model(str(tiny_llama))
    decoder = source.decoder
    x = decoder.embedding.read()[TOKENS].astype(np.float64)

    def mean_square(stream: Any, norm: Any) -> Any:
        normed = stream / np.sqrt((stream * stream).mean(-1, keepdims=True) + norm.eps) * norm.weight.read()
        return np.square(normed).mean(axis=0)

    dense = measure_importance(source, Plan(4), TOKENS)
    for name in ("q_proj", "k_proj", "v_proj"):
        measured = dense[f"model.layers.0.self_attn.{name}.weight"]
        np.testing.assert_allclose(measured, mean_square(x, decoder.sublayers[0].norm), rtol=1e-4)
    weights = {name for name in source.tensors if name.endswith("proj.weight")}
    assert set(dense) == weights | {HEAD_WEIGHT}
    assert dense["model.layers.2.mlp.down_proj.weight"].shape == (128,)
    kept = Sublayer(0, "attn")
    skips = tuple(Skip(s.sublayer) for s in decoder.sublayers if s.sublayer != kept)
    changed = measure_importance(source, Plan(4, skips), TOKENS)
    second = "model.layers.1.self_attn.q_proj.weight"
    assert not np.allclose(changed[second], dense[second], rtol=0.01)
    ratio = changed[HEAD_WEIGHT] / np.square(decoder.norm.weight.read())
    first = changed["model.layers.3.mlp.up_proj.weight"] / np.square(decoder.sublayers[-1].norm.weight.read())
    np.testing.assert_allclose(ratio, first, rtol=1e-3)


@pytest.mark.parametrize("symmetric", [False, True])
def test_weighing_lowers_the_weighted_error(symmetric: bool) -> None:
    """The error of the output, which is what the weights are for; without importance every column weighs the same."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(200, 256)).astype(np.float32)
    importance = np.exp(rng.normal(size=256) * 2).astype(np.float32)

    def restored(by: Any) -> Any:
        packed = quantize(weight, bits=4, block_size=32, symmetric=symmetric, importance=by)
        return dequantize(packed, bits=4, block_size=32)

    def error(other: Any) -> float:
        return float((np.square(weight - other) * importance).sum())

    assert error(restored(importance)) < 0.95 * error(restored(None))
    np.testing.assert_array_equal(restored(None), restored(np.full(256, 3.0, np.float32)))
