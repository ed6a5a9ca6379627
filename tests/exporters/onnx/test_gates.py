"""The dense graph whose skipped sublayers stand in gates, and the skipped graph beside it.

Oracle: transformers on the same checkpoint, dense and with the plan applied by hooks; the onnx package's reading.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from lowering import rounded_model, run_graph
from tiny_models import FAMILIES, tiny_checkpoint
from variants import SKIPPED, TOKENS, VARIANTS, Case, case_of, random_plan, torch_logits

from edgeskip.core.metrics import compare_logits as compare
from edgeskip.exporters.onnx.drafts import lower_skip_plan
from edgeskip.exporters.onnx.formats import WeightFormat, weight_format
from edgeskip.exporters.onnx.lower import lower
from edgeskip.models.source import open_model
from edgeskip.models.torch_reference.skipping import skipped

FP32 = WeightFormat("fp32")
SHUT = np.array([True])
# Besides mixed ones: the first sublayers, the last ones, all attention, several in one gate at each end.
PLANS = [
    *SKIPPED,
    ["attn.0", "ffn.0", "attn.1"],
    ["attn.2", "ffn.2", "attn.3", "ffn.3"],
    ["ffn.3"],
    ["attn.0", "attn.1", "attn.2", "attn.3"],
]


def logits_of(path: Path, kept: int = 0, **feeds: Any) -> Any:
    (logits,) = run_graph(
        path, ["logits"], len(TOKENS), input_ids=TOKENS[None], logits_to_keep=np.array([kept]), **feeds
    )
    return logits[0]


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family, overrides = VARIANTS[request.param]
    return case_of(tmp_path_factory.mktemp("case"), family, **overrides)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_of(tmp_path_factory.mktemp("llama"), "llama")


def assert_both(case: Case, names: list[str], compensation: str, folder: Path) -> None:
    plan = case.plan(names, compensation)
    lower_skip_plan(case.source.decoder, plan, FP32, folder)
    dense, lossy = torch_logits(case.oracle), case.expected(plan)
    assert np.abs(lossy - dense).max() > 0.1  # the plan is felt
    for kept in (0, 7):
        graph, draft = folder / "model.onnx", folder / "draft.onnx"
        np.testing.assert_allclose(logits_of(graph, kept), dense[-kept:], rtol=0, atol=1e-3)
        np.testing.assert_allclose(logits_of(graph, kept, skip=~SHUT), dense[-kept:], rtol=0, atol=1e-3)
        np.testing.assert_allclose(logits_of(graph, kept, skip=SHUT), lossy[-kept:], rtol=0, atol=1e-3)
        np.testing.assert_allclose(logits_of(draft, kept), lossy[-kept:], rtol=0, atol=1e-3)


@pytest.mark.parametrize("names", SKIPPED, ids="+".join)
def test_open_it_is_dense_and_shut_the_plan(case: Case, names: list[str], tmp_path: Path) -> None:
    assert_both(case, names, "affine", tmp_path)


@pytest.mark.parametrize("compensation", ["none", "scale", "affine"])
@pytest.mark.parametrize("names", PLANS, ids="+".join)
def test_every_place_of_a_gate(llama: Case, names: list[str], compensation: str, tmp_path: Path) -> None:
    assert_both(llama, names, compensation, tmp_path)


@pytest.mark.parametrize("names", PLANS[2:4], ids="+".join)
def test_gates_among_biases(tmp_path: Path, names: list[str]) -> None:
    """Output projections with biases, which wait to be added when a gate comes."""
    case = case_of(tmp_path / "model", "llama", attention_bias=True, mlp_bias=True)
    (tmp_path / "artifact").mkdir()
    assert_both(case, names, "affine", tmp_path / "artifact")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_lower_precisions(family: str, precision: str, tmp_path: Path) -> None:
    """Oracle: a model whose weights are what the stored ones stand for."""
    form = weight_format(precision, accuracy_level=1)
    source = open_model(str(tiny_checkpoint(family, tmp_path / "model")))
    model = rounded_model(family, form)
    if precision == "fp16":
        for parameter in model.parameters():
            parameter.data.copy_(parameter.data.half().float())
    plan = random_plan(["attn.1", "ffn.1", "attn.3"], "affine", num_blocks=4, hidden_size=64)
    lower_skip_plan(source.decoder, plan, form, tmp_path)
    with torch.inference_mode(), skipped(model, plan):
        lossy = torch_logits(model)
    for logits, reference in (
        (logits_of(tmp_path / "model.onnx"), torch_logits(model)),
        (logits_of(tmp_path / "model.onnx", skip=SHUT), lossy),
        (logits_of(tmp_path / "draft.onnx"), lossy),
    ):
        difference, kl, _ = compare(reference, logits.astype(np.float32))
        assert difference < (0.25 if precision == "fp16" else 1e-3)
        assert kl < 1e-3


def test_what_is_skipped_keeps_its_cache(llama: Case, tmp_path: Path) -> None:
    """Shut, past is present: as it was given, where a skipped attention's would have grown."""
    lower_skip_plan(llama.source.decoder, llama.plan(["attn.1"]), FP32, tmp_path)
    names = [f"present.{n}.key" for n in (0, 1)]
    for skip, length in ((~SHUT, len(TOKENS)), (SHUT, 0)):
        kept, passed = run_graph(tmp_path / "model.onnx", names, len(TOKENS), input_ids=TOKENS[None], skip=skip)
        assert kept.shape[2] == len(TOKENS)
        assert passed.shape[2] == length


def test_one_gate_for_neighbours_and_one_set_of_weights(llama: Case, tmp_path: Path) -> None:
    """Oracle: operators and bytes, counted by the onnx package. Besides a dense artifact's bytes there are the shifts
    of two gates; the draft's graph has no operator of what is skipped and no weight of its own."""
    (tmp_path / "dense").mkdir()
    lower(llama.source.decoder, FP32, tmp_path / "dense")
    lower_skip_plan(llama.source.decoder, llama.plan(["attn.1", "ffn.1", "attn.3"]), FP32, tmp_path)
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    assert [node.name for node in graph.node if node.op_type == "If"] == ["attn.1.gate", "attn.3.gate"]
    assert {value.name for value in graph.input} - {
        f"past_key_values.{n}.{p}" for n in range(4) for p in ("key", "value")
    } == {*("input_ids", "attention_mask", "position_ids")}
    draft = onnx.load(tmp_path / "draft.onnx", load_external_data=False).graph
    names = [node.name for node in draft.node] + [value.name for value in draft.initializer]
    skipped_ = [name for name in names if name.startswith(("attn.1", "ffn.1", "attn.3"))]
    assert skipped_
    assert all(".skip." in name for name in skipped_)
    assert not any(node.op_type == "If" for node in draft.node)
    size, dense = ((folder / "model.onnx.data").stat().st_size for folder in (tmp_path, tmp_path / "dense"))
    assert size == dense  # a shift of 64 numbers is in the graphs' own files
