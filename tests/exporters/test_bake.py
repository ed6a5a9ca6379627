"""Baking a plan. Oracles: the canonical decoder run in float64 numpy with the plan applied by hand, and arithmetic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_decoder import logits_of
from tiny_models import tiny_checkpoint

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan, Skip
from edgeskip.core.sublayers import parse_sublayer
from edgeskip.exporters.bake import bake
from edgeskip.models.decoder import Attention, Decoder, FeedForward, Linear, Tensor
from edgeskip.models.source import open_model
from edgeskip.planning.planner import sources_of

BLOCKS, HIDDEN = 4, 64
TOKENS = [(5 * i * i + i) % 300 + 2 for i in range(20)]
CASES = {
    "nothing": [],
    "one attention": ["attn.1"],
    "one ffn": ["ffn.2"],
    "the first sublayer": ["attn.0"],
    "the first two": ["attn.0", "ffn.0"],
    "the first three": ["attn.0", "ffn.0", "attn.1"],
    "the last sublayer": ["ffn.3"],
    "the last two": ["attn.3", "ffn.3"],
    "a whole block": ["attn.2", "ffn.2"],
    "consecutive": ["ffn.1", "attn.2", "ffn.2", "attn.3"],
    "first, middle and last": ["attn.0", "ffn.1", "ffn.3"],
    "all attentions": ["attn.0", "attn.1", "attn.2", "attn.3"],
    "all ffns": ["ffn.0", "ffn.1", "ffn.2", "ffn.3"],
    "all but one": ["attn.0", "ffn.0", "attn.1", "ffn.1", "ffn.2", "attn.3", "ffn.3"],
}


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """Llama with biases on every projection, and Qwen2, which has them on q, k and v."""
    options: dict[str, Any] = {"attention_bias": True, "mlp_bias": True} if request.param == "llama" else {}
    folder: Path = tmp_path_factory.mktemp("bake") / request.param
    return open_model(str(tiny_checkpoint(request.param, folder, **options))).decoder


def plan(names: list[str], compensation: str, seed: int = 0) -> Plan:
    rng = np.random.default_rng(seed)
    skips = []
    sources = sources_of([parse_sublayer(name, BLOCKS) for name in names], BLOCKS)
    for name in names:
        scale = 1.0 if compensation == "none" else float(rng.uniform(0.6, 1.6))
        biased = compensation in ("affine", "linear")
        bias = rng.normal(scale=0.5, size=HIDDEN).astype(np.float32) if biased else None
        sublayer = parse_sublayer(name, BLOCKS)
        source = sources[sublayer] if compensation == "linear" else None
        matrix = rng.normal(scale=0.1, size=(HIDDEN, HIDDEN)).astype(np.float32) if source else None
        skips.append(Skip(sublayer, scale, bias, matrix, source))
    return Plan(BLOCKS, tuple(skips))


@pytest.mark.parametrize("compensation", ["none", "scale", "affine", "linear"])
@pytest.mark.parametrize("case", CASES)
def test_folding_is_exact(decoder: Decoder, case: str, compensation: str) -> None:
    """To float32's rounding of the folded weights: logits are of order 10."""
    chosen = plan(CASES[case], compensation)
    baked = bake(decoder, chosen)
    assert [s.sublayer for s in baked.sublayers] == list(chosen.kept)
    expected = logits_of(decoder, TOKENS, chosen)
    np.testing.assert_allclose(logits_of(baked, TOKENS), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_map_whose_source_is_left_out_too_does_nothing(decoder: Decoder) -> None:
    """An engine that skips more than was planned: u of a sublayer that does not run is nothing."""
    mapped = plan(["attn.2"], "linear").skips[0]
    more = Plan(BLOCKS, (Skip(parse_sublayer("ffn.1", BLOCKS), 1.1), mapped))
    bare = Plan(BLOCKS, (more.skips[0], Skip(mapped.sublayer, mapped.scale, mapped.bias)))
    np.testing.assert_array_equal(logits_of(bake(decoder, more), TOKENS), logits_of(bake(decoder, bare), TOKENS))


def test_eps_is_divided_by_the_square_of_the_scale(decoder: Decoder) -> None:
    """RMSNorm(S·y; eps) = RMSNorm(y; eps/S²), by hand, S the product of the scales that came before."""
    skips = (Skip(parse_sublayer("ffn.0", BLOCKS), 2.0), Skip(parse_sublayer("ffn.2", BLOCKS), 0.25))
    baked = bake(decoder, Plan(BLOCKS, skips))
    eps = {str(s.sublayer): s.norm.eps for s in baked.sublayers}
    assert eps["attn.0"] == 1e-5
    assert eps["attn.1"] == eps["ffn.1"] == eps["attn.2"] == 1e-5 / 4
    assert eps["attn.3"] == eps["ffn.3"] == baked.norm.eps == 1e-5 / 0.25


def test_eps_matters_where_the_stream_is_tiny(decoder: Decoder) -> None:
    """With an eps as large as the stream itself a wrong eps would show at once."""
    coarse = replace(
        decoder,
        norm=replace(decoder.norm, eps=0.5),
        sublayers=tuple(replace(s, norm=replace(s.norm, eps=0.5)) for s in decoder.sublayers),
    )
    chosen = plan(["attn.0", "ffn.1", "ffn.2"], "scale")
    expected = logits_of(coarse, TOKENS, chosen)
    np.testing.assert_allclose(logits_of(bake(coarse, chosen), TOKENS), expected, rtol=0, atol=1e-4)
    assert np.abs(expected - logits_of(decoder, TOKENS, chosen)).max() > 1e-2


def test_only_output_projections_change(decoder: Decoder) -> None:
    """By hand: behind a skip of scale 1.6 o, down and their biases are divided by it, nothing else is touched."""
    scale = 1.6
    baked = bake(decoder, Plan(BLOCKS, (Skip(parse_sublayer("ffn.1", BLOCKS), scale),)))
    before = {s.sublayer: s for s in decoder.sublayers}
    for sublayer in baked.sublayers:
        factor = scale if sublayer.block >= 2 else 1.0
        original = before[sublayer.sublayer]
        parts = ("q", "k", "v", "o") if isinstance(sublayer, Attention) else ("gate", "up", "down")
        for part in parts:
            old, new = getattr(original, part), getattr(sublayer, part)
            divisor = factor if part in ("o", "down") else 1.0
            np.testing.assert_allclose(new.weight.read() * divisor, old.weight.read(), rtol=1e-6)
            assert (new.bias is None) == (old.bias is None)
            if old.bias is not None:
                np.testing.assert_allclose(new.bias.read() * divisor, old.bias.read(), rtol=1e-6)
    assert baked.embedding is decoder.embedding
    assert baked.head is decoder.head
    assert baked.embedding_bias is None


def test_a_bias_joins_the_sublayer_before(decoder: Decoder) -> None:
    """By hand: two affine skips behind ffn.0 add b1/s1 + b2/(s1·s2) to its output, none to the embedding."""
    b1, b2 = np.random.default_rng(1).normal(size=(2, HIDDEN)).astype(np.float32)
    skips = (Skip(parse_sublayer("attn.1", BLOCKS), 1.25, b1), Skip(parse_sublayer("ffn.1", BLOCKS), 0.8, b2))
    baked = bake(decoder, Plan(BLOCKS, skips))
    before, after = decoder.sublayers[1], baked.sublayers[1]
    assert isinstance(before, FeedForward)
    assert isinstance(after, FeedForward)
    old = 0 if before.down.bias is None else before.down.bias.read()
    assert after.down.bias is not None
    np.testing.assert_allclose(after.down.bias.read(), old + b1 / 1.25 + b2 / (1.25 * 0.8), rtol=1e-5, atol=1e-6)
    assert baked.embedding_bias is None


def test_biases_before_any_kept_sublayer_join_the_embedding(decoder: Decoder) -> None:
    """By hand: (x + b)/S with S the scale so far."""
    b1, b2 = np.random.default_rng(1).normal(size=(2, HIDDEN)).astype(np.float32)
    skips = (Skip(parse_sublayer("attn.0", BLOCKS), 1.25, b1), Skip(parse_sublayer("ffn.0", BLOCKS), 0.8, b2))
    baked = bake(decoder, Plan(BLOCKS, skips))
    assert baked.embedding_bias is not None
    np.testing.assert_allclose(baked.embedding_bias.read(), b1 / 1.25 + b2 / (1.25 * 0.8), rtol=1e-5, atol=1e-6)


def test_baking_reads_no_weights(decoder: Decoder) -> None:
    """Laziness, by construction: every weight of this decoder fails when it is read."""

    def refuse() -> Any:
        raise AssertionError("a weight was read")

    def unread(linear: Linear) -> Linear:
        return Linear(Tensor(linear.weight.name, linear.weight.shape, refuse), linear.bias)

    sublayers = tuple(
        replace(s, o=unread(s.o)) if isinstance(s, Attention) else replace(s, down=unread(s.down))
        for s in decoder.sublayers
    )
    baked = bake(replace(decoder, sublayers=sublayers), plan(["attn.0", "ffn.2"], "affine"))
    assert len(baked.sublayers) == 6


def test_a_plan_for_another_model_is_refused(decoder: Decoder) -> None:
    with pytest.raises(EdgeSkipError, match="3 blocks, the model has 4"):
        bake(decoder, Plan(3))
