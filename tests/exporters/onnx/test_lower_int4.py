"""The int4 graph. Oracle: transformers on a checkpoint whose weights are what the quantized ones stand for,
`dequantize(quantize(w))`: then only the operators' arithmetic is left to differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lowering import artifact_of, engine_of, rounded_model
from tiny_models import FAMILIES, tiny_checkpoint
from variants import TOKENS, in_one_prefill, in_steps, random_plan, torch_logits

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.metrics import compare_logits as compare
from edgeskip.core.plan import Plan
from edgeskip.exporters.onnx.formats import WeightFormat, weight_format
from edgeskip.exporters.onnx.quantize import quantize
from edgeskip.models.source import open_model
from edgeskip.models.torch_reference.skipping import skipped


def expected_logits(family: str, form: WeightFormat, plan: Plan, **overrides: Any) -> Any:
    model = rounded_model(family, form, **overrides)
    with skipped(model, plan):
        return torch_logits(model)


FORMS = {
    "default": {},
    "symmetric": {"symmetric": True},
    "blocks of 16": {"block_size": 16},
    "blocks of 64": {"block_size": 64},
    "8-bit head": {"head_bits": 8},
}


@pytest.mark.parametrize("skip", [[], ["attn.0", "ffn.1", "ffn.3"]], ids=["dense", "skipped"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_float_activations(options: dict[str, Any], tied: bool, skip: list[str], tmp_path: Path) -> None:
    """accuracy_level 1 computes in float32: only the order of additions and the folded scales differ."""
    form = weight_format("int4", accuracy_level=1, **options)
    source = open_model(str(tiny_checkpoint("llama", tmp_path / "model", tie_word_embeddings=tied)))
    plan = random_plan(skip, "affine", num_blocks=4, hidden_size=64)
    engine = engine_of(source, plan, form, tmp_path / "artifact")
    expected = expected_logits("llama", form, plan, tie_word_embeddings=tied)
    np.testing.assert_allclose(in_one_prefill(engine), expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(in_steps(engine), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("level", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, level: int, tmp_path: Path) -> None:
    """accuracy_level 4 rounds activations to 8 bits: a small divergence, far from that of a wrong weight."""
    form = weight_format("int4", accuracy_level=level)
    source = open_model(str(tiny_checkpoint(family, tmp_path / "model")))
    plan = random_plan(["attn.1", "ffn.2"], "scale", num_blocks=4, hidden_size=64)
    engine = engine_of(source, plan, form, tmp_path / "artifact")
    expected = expected_logits(family, form, plan)
    for logits in (in_one_prefill(engine), in_steps(engine)):
        difference, kl, agreement = compare(expected, logits)
        if level == 1:
            assert difference < 1e-3
        else:
            assert kl < 0.02
            assert agreement > 0.8


def test_embedding_and_tied_head_are_stored_once(tmp_path: Path) -> None:
    """By hand: 8 bits a weight of the table, 4 a weight of the blocks, a float32 scale and a zero point a block."""
    source = open_model(str(tiny_checkpoint("llama", tmp_path / "model")))
    manifest = artifact_of(source, Plan(4), weight_format("int4", head_bits=8, block_size=32), tmp_path)
    table, blocks = 320 * 64, 4 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
    tables = 2 * 512 * 8 * 4  # cos and sin
    expected = table + table / 32 * 5 + blocks / 2 + blocks / 32 * 4.5 + tables + 9 * 64 * 4
    size = (tmp_path / "model.onnx.data").stat().st_size + (tmp_path / "model.onnx").stat().st_size
    assert expected < size < expected + 40_000  # the graph itself
    record = manifest.graph.quantisation
    values = [record[name] for name in ("block_size", "symmetric", "head_bits", "accuracy_level")]
    assert values == [32, False, 8, 4]


def test_a_width_that_is_no_multiple_leaves_an_error(tmp_path: Path) -> None:
    source = open_model(str(tiny_checkpoint("llama", tmp_path / "model", intermediate_size=80)))
    with pytest.raises(EdgeSkipError, match="80 is not one of 64"):
        artifact_of(source, Plan(4), weight_format("int4"), tmp_path)
    engine = engine_of(source, Plan(4), weight_format("int4", block_size=16), tmp_path)
    assert np.isfinite(engine.step(TOKENS)).all()


@pytest.mark.parametrize(
    ("precision", "options", "told"),
    [
        ("fp8", {}, "fp8 is unknown: choose one of fp32, fp16, int4"),
        ("int4", {"block_size": 24}, "--block-size 24"),
        ("int4", {"head_bits": 5}, "--head-bits 5"),
        ("int4", {"accuracy_level": 2}, "--accuracy-level 2"),
    ],
)
def test_formats_that_cannot_be(precision: str, options: dict[str, int], told: str) -> None:
    with pytest.raises(EdgeSkipError, match=told):
        weight_format(precision, **options)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_what_an_embeddings_errors_weigh(tied: bool, tmp_path: Path) -> None:
    """Oracle: `quantize` with the head's importance where the head reads the table too, else without any."""
    import onnx

    source = open_model(str(tiny_checkpoint("llama", tmp_path / "model", tie_word_embeddings=tied)))
    weights = np.geomspace(1e-3, 1e3, 64).astype(np.float32)
    form = replace(WeightFormat("int4"), importance={"lm_head.weight": weights})
    artifact_of(source, Plan(4), form, tmp_path / "artifact")
    graph = onnx.load(tmp_path / "artifact" / "model.onnx").graph
    (table,) = [t for t in graph.initializer if t.name == "embedding.weight"]
    expected = quantize(
        source.decoder.embedding.read(),
        bits=4,
        block_size=form.block_size,
        symmetric=False,
        importance=weights if tied else None,
    )
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(table), expected.blocks.reshape(len(expected.blocks), -1))
