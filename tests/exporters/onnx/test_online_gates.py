"""The graph whose FFNs stand in gates of their own, and measure what they do to the stream.

Oracles: the graph without gates; transformers on the same checkpoint with the plan and the gated FFNs by hooks, and the
streams before and after its FFNs; the onnx package's reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from lowering import rounded_model, run_graph
from tiny_models import tiny_checkpoint
from variants import TOKENS, VARIANTS, Case, case_of, torch_logits

from edgeskip.core.metrics import compare_logits as compare
from edgeskip.core.plan import Plan, Skip
from edgeskip.core.sublayers import Sublayer
from edgeskip.exporters.bake import bake
from edgeskip.exporters.onnx.formats import WeightFormat, weight_format
from edgeskip.exporters.onnx.lower import lower
from edgeskip.models.source import open_model
from edgeskip.models.torch_reference.blocks import blocks_of
from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.planning.planner import fitted_plan
from edgeskip.profiles.schema import PlanRecord

FP32 = WeightFormat("fp32")
# The gates of ffn.0, 2 and 3 are left: an FFN absorbs the bias of the attention after it, and the first sublayer kept
# is an FFN or follows the embedding's bias.
PLANS = [[], ["ffn.1", "attn.3"], ["attn.0", "attn.1", "ffn.1"]]
SCALES = {0: 1.2, 2: 0.9, 3: 1.1}
FAMILIES = ["llama, tied", "llama, biases", "qwen2", "qwen3, biases and untied", "smollm3"]


def both(
    case: Case, plan: Plan, form: WeightFormat, folder: Path, blocks: list[int] | None = None
) -> tuple[Path, Path]:
    """The graph with gates, around the kept FFNs of `blocks` or all, and the one without."""
    gates = [s for s in plan.kept if s.kind == "ffn" and (blocks is None or s.block in blocks)]
    for name, online in (("online", gates), ("static", [])):
        (folder / name).mkdir()
        lower(bake(case.source.decoder, plan, shifts_apart=online), form, folder / name, online=online)
    return folder / "online" / "model.onnx", folder / "static" / "model.onnx"


def run(path: Path, outputs: list[str], **feeds: Any) -> list[Any]:
    return [row[0] for row in run_graph(path, outputs, len(TOKENS), input_ids=TOKENS[None], **feeds)]


def shut(blocks: list[int], ffns: list[int]) -> dict[str, Any]:
    """The inputs that leave out the FFNs of `blocks`, of the graph's `ffns`."""
    scales = [SCALES[block] if block in blocks else 7.0 for block in ffns]  # an open gate's scale says nothing
    return {"ffn_skip": np.isin(ffns, blocks), "ffn_scale": np.array(scales, np.float32)}


def gated(plan: Plan, blocks: list[int]) -> Plan:
    skips = (*plan.skips, *(Skip(Sublayer(block, "ffn"), SCALES[block]) for block in blocks))
    return replace(plan, skips=tuple(sorted(skips, key=lambda skip: skip.sublayer)))


@contextmanager
def watched(model: Any) -> Iterator[dict[int, tuple[float, float]]]:
    """Cosine and norm ratio of the stream over each FFN at the last position, by hooks around norm and FFN."""
    found: dict[int, tuple[float, float]] = {}
    hooks, before = [], {}

    def listen(number: int, block: Any) -> None:
        def at_norm(_: Any, args: Any) -> None:
            before[number] = args[0][0, -1].double()

        def at_end(_: Any, __: Any, output: Any) -> None:
            x, y = before[number], before[number] + output[0, -1].double()
            found[number] = (float(torch.cosine_similarity(x, y, dim=0)), float(y.norm() / x.norm()))

        hooks.append(block.ffn_norm.register_forward_pre_hook(at_norm))
        hooks.append(block.ffn.register_forward_hook(at_end))

    for number, block in enumerate(blocks_of(model)):
        listen(number, block)
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("variant", FAMILIES)
def test_open_shut_and_watched(variant: str, tmp_path: Path) -> None:
    family, overrides = VARIANTS[variant]
    case = case_of(tmp_path / "model", family, **overrides)
    for number, names in enumerate(PLANS):
        plan, ffns = case.plan(names), [n for n in range(4) if f"ffn.{n}" not in names]
        folder = tmp_path / str(number)
        folder.mkdir()
        online, static = both(case, plan, FP32, folder)
        (expected,) = run(static, ["logits"])
        logits, similarity, ratio = run(online, ["logits", "ffn_similarity", "ffn_norm_ratio"])
        np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
        assert not similarity.any()
        assert not ratio.any()
        for kept in (0, 7):
            for blocks in ([0], [2, 3], [block for block in ffns if block in SCALES]):
                with skipped(case.oracle, gated(plan, blocks)), watched(case.oracle) as found:
                    oracle = torch_logits(case.oracle)
                logits, similarity, ratio = run(
                    online,
                    ["logits", "ffn_similarity", "ffn_norm_ratio"],
                    ffn_watch=np.ones(1, bool),
                    logits_to_keep=np.array([kept]),
                    **shut(blocks, ffns),
                )
                np.testing.assert_allclose(logits, oracle[-kept:], rtol=0, atol=1e-3)
                # The hooks of `skipped` come first, so what is left out is measured by torch as well: 1 and its scale.
                np.testing.assert_allclose(similarity, [found[n][0] for n in ffns], rtol=0, atol=1e-5)
                np.testing.assert_allclose(ratio, [found[n][1] for n in ffns], rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_lower_precisions(family: str, precision: str, tmp_path: Path) -> None:
    """Oracle: a model whose weights are what the stored ones stand for; open, the graph without gates."""
    form = weight_format(precision, accuracy_level=1)
    case = Case(open_model(str(tiny_checkpoint(family, tmp_path / "model"))), rounded_model(family, form))
    plan = case.plan(PLANS[1])
    online, static = both(case, plan, form, tmp_path)
    np.testing.assert_array_equal(*(run(path, ["logits"])[0] for path in (online, static)))
    with torch.inference_mode(), skipped(case.oracle, gated(plan, [0, 3])), watched(case.oracle) as found:
        expected = torch_logits(case.oracle)
    logits, similarity, ratio = run(
        online,
        ["logits", "ffn_similarity", "ffn_norm_ratio"],
        ffn_watch=np.ones(1, bool),
        **shut([0, 3], [0, 2, 3]),
    )
    difference, kl, _ = compare(expected, logits.astype(np.float32))
    assert difference < (0.25 if precision == "fp16" else 1e-3)
    assert kl < 1e-3
    measured = np.array([found[n] for n in (0, 2, 3)])
    np.testing.assert_allclose(np.stack([similarity, ratio], -1), measured, atol=2e-3 if precision == "fp16" else 1e-5)


@pytest.mark.parametrize("variant", ["llama, biases", "qwen3"])
def test_gates_of_some(variant: str, tmp_path: Path) -> None:
    """FFNs without a gate run as in a graph without gates, and keep the shift of a skip after them in their bias."""
    family, overrides = VARIANTS[variant]
    case = case_of(tmp_path / "model", family, **overrides)
    plan = case.plan(["attn.1", "ffn.1", "attn.3"])  # the biases after ffn.0, not gated, and ffn.2, gated
    online, static = both(case, plan, FP32, tmp_path, [2, 3])
    graph = onnx.load(online, load_external_data=False).graph
    assert [node.name for node in graph.node if node.op_type == "If"] == ["ffn.2.online", "ffn.3.online", "watch"]
    sizes = {value.name: value.dims[0] for value in graph.initializer if value.name.startswith("ffn_s")}
    assert sizes == {"ffn_skip": 2, "ffn_scale": 2}
    (expected,) = run(static, ["logits"])
    np.testing.assert_allclose(run(online, ["logits"])[0], expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    with skipped(case.oracle, gated(plan, [2])), watched(case.oracle) as found:
        oracle = torch_logits(case.oracle)
    outputs = ["logits", "ffn_similarity", "ffn_norm_ratio"]
    logits, similarity, ratio = run(online, outputs, ffn_watch=np.ones(1, bool), **shut([2], [2, 3]))
    np.testing.assert_allclose(logits, oracle, rtol=0, atol=1e-3)
    np.testing.assert_allclose(similarity, [found[n][0] for n in (2, 3)], rtol=0, atol=1e-5)
    np.testing.assert_allclose(ratio, [found[n][1] for n in (2, 3)], rtol=1e-4)


@pytest.mark.parametrize("variant", ["llama, tied", "llama, biases"])
def test_a_map_goes_with_the_ffn_it_reads(variant: str, tmp_path: Path) -> None:
    """A linear plan whose maps read gated FFNs, before one skip and before two. Oracle: torch by hooks, where a map
    reads nothing once its source is left out; that this is not what a map that stays would give."""
    family, overrides = VARIANTS[variant]
    case = case_of(tmp_path / "model", family, **overrides)
    rng, size = np.random.default_rng(3), case.config.hidden_size
    names = ["attn.1", "attn.3", "ffn.3"]  # read ffn.0, and twice ffn.2
    record = PlanRecord(method="explicit", compensation="linear", skip=names, scales=[1.1, 0.9, 1.2])
    biases = rng.normal(scale=0.2, size=(3, size)).astype(np.float32)
    maps = rng.normal(scale=0.05, size=(3, size, size)).astype(np.float32)
    plan = fitted_plan(4, record, biases, maps)
    assert [str(skip.source) for skip in plan.skips] == ["ffn.0", "ffn.2", "ffn.2"]
    online, _ = both(case, plan, FP32, tmp_path)
    found = {}
    for blocks in ([], [0], [2], [0, 2]):
        with skipped(case.oracle, gated(plan, blocks)):
            expected = torch_logits(case.oracle)
        (found[tuple(blocks)],) = run(online, ["logits"], **shut(blocks, [0, 1, 2]))
        np.testing.assert_allclose(found[tuple(blocks)], expected, rtol=0, atol=1e-3)
    # The same gates over the same plan without maps: what is left of a map's source is nothing.
    bare = replace(plan, skips=tuple(replace(skip, map=None, source=None) for skip in plan.skips))
    (tmp_path / "bare").mkdir()
    without, _ = both(case, bare, FP32, tmp_path / "bare")
    for blocks, same in (([0, 2], True), ([0], False), ([], False)):
        (logits,) = run(without, ["logits"], **shut(blocks, [0, 1, 2]))
        assert (np.abs(logits - found[tuple(blocks)]).max() < 1e-3) == same


def test_gates_let_the_norms_stay_fused_and_cost_nothing_stored(tmp_path: Path) -> None:
    """Oracle: operators and bytes, counted by the onnx package: as many fused norms, one `If` for each FFN and one for
    the measuring, the same weights."""
    case = case_of(tmp_path / "model", "llama")
    online, static = both(case, case.plan(PLANS[1]), FP32, tmp_path)
    graphs = [onnx.load(path, load_external_data=False).graph for path in (online, static)]
    fused = [[node.name for node in g.node if node.op_type == "SkipSimplifiedLayerNormalization"] for g in graphs]
    assert fused[0] == fused[1]
    assert [node.name for node in graphs[0].node if node.op_type == "If"] == [
        *("ffn.0.online", "ffn.2.online", "ffn.3.online", "watch")
    ]
    assert [value.name for value in graphs[0].output][-2:] == ["ffn_similarity", "ffn_norm_ratio"]
    named = {d.dim_param for v in graphs[0].input for d in v.type.tensor_type.shape.dim if d.dim_param}
    for value in graphs[0].output[-2:]:  # Optimum sizes an output from what the inputs' dimensions are called
        assert {d.dim_param for d in value.type.tensor_type.shape.dim if d.dim_param} <= named
    inside = [o for n in graphs[0].node for a in n.attribute if a.HasField("g") for k in a.g.node for o in k.output]
    assert len(set(inside)) == len(inside)
    assert not set(inside) & {output for node in graphs[0].node for output in node.output}  # ONNX: none shadows another
    assert online.with_name("model.onnx.data").stat().st_size == static.with_name("model.onnx.data").stat().st_size
