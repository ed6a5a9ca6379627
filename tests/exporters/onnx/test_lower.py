"""The fp32 and fp16 graphs, run by the runtime's own engine.

Oracle: transformers on the same checkpoint, its plan applied by hooks (`skipped`); the bound is that of the design,
max |Δlogit| ≤ 1e-3.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from lowering import artifact_of, engine_of
from tiny_models import FAMILIES
from variants import SKIPPED, TOKENS, VARIANTS, Case, case_of, in_one_prefill, in_steps, torch_logits

from edgeskip.core.metrics import compare_logits as compare
from edgeskip.core.plan import Plan
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine

FP32, FP16 = WeightFormat("fp32"), WeightFormat("fp16")


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family, overrides = VARIANTS[request.param]
    return case_of(tmp_path_factory.mktemp("case"), family, **overrides)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    return case_of(tmp_path_factory.mktemp("llama"), "llama")


def assert_matches(engine: OnnxRuntimeEngine, expected: Any, tokens: Any = TOKENS) -> None:
    np.testing.assert_allclose(in_one_prefill(engine, tokens), expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(in_steps(engine, tokens), expected, rtol=0, atol=1e-3)


def test_dense(case: Case, tmp_path: Path) -> None:
    plan = Plan(case.config.num_blocks)
    assert_matches(engine_of(case.source, plan, FP32, tmp_path), torch_logits(case.oracle))


@pytest.mark.parametrize("compensation", ["none", "scale", "affine"])
@pytest.mark.parametrize("names", SKIPPED, ids="+".join)
def test_three_sublayers_skipped(case: Case, names: list[str], compensation: str, tmp_path: Path) -> None:
    plan = case.plan(names, compensation)
    expected = case.expected(plan)
    assert np.abs(expected - torch_logits(case.oracle)).max() > 0.1  # the plan is felt
    assert_matches(engine_of(case.source, plan, FP32, tmp_path), expected)


def test_the_variants_differ(tmp_path: Path) -> None:
    """The oracle itself: each setting moves the logits, so that ignoring it would fail `test_dense`."""
    plain = torch_logits(case_of(tmp_path / "plain", "llama").oracle)
    for name, overrides in list(VARIANTS.values()):
        if name == "llama" and overrides and "tie_word_embeddings" not in overrides:
            other = torch_logits(case_of(tmp_path / str(len(list(tmp_path.iterdir()))), "llama", **overrides).oracle)
            assert np.abs(other - plain).max() > 0.05, overrides


def test_a_window_shorter_than_the_sequence(tmp_path: Path) -> None:
    """300 tokens through a window of 40: the cache is several windows long and has grown once."""
    case = case_of(tmp_path / "model", "mistral", sliding_window=40)
    tokens = np.resize(TOKENS, 300)
    engine = engine_of(case.source, Plan(4), FP32, tmp_path)
    assert_matches(engine, torch_logits(case.oracle, tokens), tokens)


def test_the_whole_context(llama: Case, tmp_path: Path) -> None:
    """Up to the last position the rotary tables cover."""
    tokens = np.resize(TOKENS, 512)
    engine = engine_of(llama.source, Plan(4), FP32, tmp_path)
    assert engine.context_length == 512
    assert_matches(engine, torch_logits(llama.oracle, tokens), tokens)


@pytest.mark.parametrize(
    "names",
    [
        ["attn.0", "attn.1", "attn.2", "attn.3"],
        ["ffn.0", "ffn.1", "ffn.2", "ffn.3"],
        ["attn.0", "ffn.0", "attn.1", "ffn.1", "attn.2", "ffn.2", "attn.3"],
        ["ffn.0", "attn.1", "ffn.1", "attn.2", "ffn.2", "attn.3", "ffn.3"],
        ["attn.2", "ffn.2", "attn.3", "ffn.3"],
        ["attn.0", "ffn.0"],
    ],
    ids=["no attention", "no ffn", "one ffn", "one attention", "last blocks", "first block"],
)
def test_extreme_plans(llama: Case, names: list[str], tmp_path: Path) -> None:
    plan = llama.plan(names)
    engine = engine_of(llama.source, plan, FP32, tmp_path)
    assert_matches(engine, llama.expected(plan))


def test_equally_long_steps_give_all_their_logits(llama: Case, tmp_path: Path) -> None:
    """One prefill of all tokens is the oracle: the second step's shapes are those of the first."""
    engine = engine_of(llama.source, Plan(4), FP32, tmp_path)
    whole = engine.step(TOKENS, logits=0).copy()
    engine.truncate(0)
    halves = [engine.step(half, logits=0).copy() for half in np.split(TOKENS, 2)]
    assert np.abs(np.concatenate(halves) - whole).max() < 1e-4


@pytest.mark.parametrize(
    "names", [[], ["ffn.3"], ["attn.3", "ffn.3"], [f"attn.{i}" for i in range(4)]], ids=["dense", "1", "2", "no attn"]
)
def test_logits_to_keep(llama: Case, names: list[str], tmp_path: Path) -> None:
    """0 = all positions, k = the last k of them, unset = the last one; on an empty and on a filled cache."""
    import onnxruntime

    plan = llama.plan(names)
    engine = engine_of(llama.source, plan, FP32, tmp_path)
    every = in_one_prefill(engine)
    for start in (0, 20):
        for kept in (1, 2, 7, 28):
            engine.truncate(start)
            rows = engine.step(TOKENS[start:], logits=kept)
            assert rows.shape == (kept, 320)
            np.testing.assert_allclose(rows, every[-kept:], rtol=0, atol=1e-4)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {
        value.name: np.zeros((1, 2, 0, 16), np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past_key_values")
    }
    feed |= {"input_ids": TOKENS[None], "attention_mask": np.ones((1, len(TOKENS)), np.int64)}
    feed["position_ids"] = np.arange(len(TOKENS))[None]
    (last,) = session.run(["logits"], feed)
    np.testing.assert_allclose(last, every[None, -1:], rtol=0, atol=1e-4)


def test_skipped_sublayers_are_gone(llama: Case, tmp_path: Path) -> None:
    """Oracle: the onnx package's own reading; caches are counted by kept attention."""
    dense = artifact_of(llama.source, Plan(4), FP32, tmp_path / "dense")
    lossy = artifact_of(llama.source, llama.plan(["attn.1", "ffn.2"]), FP32, tmp_path / "lossy")
    assert (dense.graph.num_kv_layers, lossy.graph.num_kv_layers) == (4, 3)
    graph = onnx.load(tmp_path / "lossy" / "model.onnx", load_external_data=False).graph
    names = [node.name for node in graph.node] + [value.name for value in graph.initializer]
    assert any(name.startswith("attn.2") for name in names)
    assert not [name for name in names if name.startswith(("attn.1", "ffn.2"))]
    caches = {f"{n}.{part}" for n in range(3) for part in ("key", "value")}
    inputs = {"input_ids", "attention_mask", "position_ids"} | {f"past_key_values.{c}" for c in caches}
    assert {value.name for value in graph.input} == inputs
    assert {value.name for value in graph.output} == {"logits"} | {f"present.{c}" for c in caches}
    saved = (tmp_path / "dense" / "model.onnx.data").stat().st_size
    saved -= (tmp_path / "lossy" / "model.onnx.data").stat().st_size
    weights = (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64) * 4  # q and o, k and v, gate and up and down
    assert weights - 4096 <= saved <= weights + 4096


def test_all_weights_lie_in_one_file_beside_the_graph(llama: Case, tmp_path: Path) -> None:
    """Oracle: the onnx package's reading of the locations; a tied head adds no bytes."""
    artifact_of(llama.source, Plan(4), FP32, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    initializers = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.initializer
    external = [value for value in initializers if value.data_location == onnx.TensorProto.EXTERNAL]
    locations = {entry.value for value in external for entry in value.external_data if entry.key == "location"}
    assert locations == {"model.onnx.data"}
    assert sum(value.ByteSize() for value in initializers) < 20_000
    parameters = sum(int(np.prod(tensor.shape)) for tensor in llama.source.tensors.values()) - 9 * 64
    tables = 2 * 512 * 8  # cos and sin
    assert (tmp_path / "model.onnx.data").stat().st_size == pytest.approx(4 * (parameters + tables), rel=0.02)


def test_progress_names_every_sublayer(llama: Case, tmp_path: Path) -> None:
    from edgeskip.exporters.bake import bake
    from edgeskip.exporters.onnx.lower import lower

    told: list[str] = []
    plan = llama.plan(["attn.1", "ffn.2"])
    lower(bake(llama.source.decoder, plan), FP32, tmp_path, step=told.append)
    assert told == ["embedding", *map(str, plan.kept), "head"]


@pytest.mark.parametrize("family", FAMILIES)
def test_fp16(family: str, tmp_path: Path) -> None:
    """Oracle: transformers in float32 with weights rounded to float16; what is left is float16 arithmetic."""
    case = case_of(tmp_path / "model", family)
    for parameter in case.oracle.parameters():
        parameter.data.copy_(parameter.data.half().float())
    plan = case.plan(["attn.1", "ffn.2"])
    engine = engine_of(case.source, plan, FP16, tmp_path)
    for logits in (in_one_prefill(engine), in_steps(engine)):
        difference, kl, agreement = compare(case.expected(plan), logits)
        assert difference < 0.25
        assert kl < 1e-3
        assert agreement > 0.9
