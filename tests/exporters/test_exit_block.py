"""Trained exit adapters in ONNX artifacts. Oracles: transformers on a model assembled from the same weights, the check
after export (`ExitAdapterModule` on the streamed model), the graph of the whole model, and the folder's listing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exit_adapters import adapted_profile, drafting_model, random_adapter
from exports import export_onnx
from variants import SKIPPED, TOKENS, VARIANTS, Case, case_of, torch_logits

import edgeskip.exporters.draft as module
from edgeskip.artifacts.manifest import Manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.plan import Plan
from edgeskip.exporters.draft import exit_block
from edgeskip.exporters.onnx.formats import weight_format
from edgeskip.exporters.options import DraftRequest
from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.planning.planner import resolve
from edgeskip.profiles.exit_adapter import ExitAdapter
from edgeskip.runtime.engines.onnxruntime.split import OnnxRuntimeSplitEngine

EXIT, SIZE = 2, 40


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_of(tmp_path_factory.mktemp("llama"), "llama")


def exported(
    case: Case,
    path: Path,
    adapters: dict[int, ExitAdapter],
    *,
    skip: tuple[str, ...] = (),
    vocabulary: int | None = None,
    precision: str = "fp32",
) -> Manifest:
    profile, vectors = adapted_profile(case.source, path / "p.json", adapters, skip)
    draft = DraftRequest("early-exit", tuple(adapters), vocabulary)
    form = weight_format(precision, accuracy_level=1)
    return export_onnx(case.source, profile, vectors, form, path / "out", draft=draft)


def expected_draft(case: Case, path: Path, layer: int, adapter: ExitAdapter, skip: tuple[str, ...] = ()) -> Any:
    """`skip` names nothing at or after the exit."""
    model = drafting_model(case.oracle, layer, adapter)
    plan = resolve(*adapted_profile(case.source, path / "again.json", {}, skip))
    with skipped(model, replace(plan, num_blocks=len(model.model.layers))):
        return torch_logits(model, TOKENS)


def drafted(engine: OnnxRuntimeSplitEngine, which: int = 0) -> Any:
    """Draft logits of every token: one by one, and of the second half those of a draft that begins after plain steps,
    which fill its cache as well."""
    engine.truncate(0)
    rows = np.concatenate([engine.draft(TOKENS[n : n + 1], which=which).copy() for n in range(len(TOKENS))])
    half = len(TOKENS) // 2
    engine.truncate(0)
    engine.step(TOKENS[: half - 1])
    engine.step(TOKENS[half - 1 : half])
    later = [engine.draft(TOKENS[n : n + 1], which=which).copy() for n in range(half, len(TOKENS) - 5)]
    engine.verify(TOKENS[-5:-3])
    engine.truncate(len(TOKENS) - 5)
    later.append(engine.draft(TOKENS[-5:], which=which).copy())
    np.testing.assert_allclose(np.concatenate(later[:-1]), rows[half:-5], rtol=0, atol=1e-4)
    np.testing.assert_allclose(later[-1], rows[-1:], rtol=0, atol=1e-4)
    return rows


@pytest.mark.parametrize(
    ("variant", "kind", "skip"),
    [
        ("llama, tied", "map", ()),
        ("llama, tied", "block", tuple(SKIPPED[1][:2])),
        ("llama, untied", "block", ()),
        ("llama, biases", "block", ()),
        ("mistral, window", "block", ()),
        ("qwen2, window above", "block", ()),
        ("qwen3, biases and untied", "block", tuple(SKIPPED[1][:2])),
        ("smollm3", "block", ()),
    ],
)
def test_an_exit_drafts_through_its_adapter(variant: str, kind: Any, skip: tuple[str, ...], tmp_path: Path) -> None:
    """fp32 on the fresh process' own check, and here on a model assembled in transformers; verified as ever."""
    family, overrides = VARIANTS[variant]
    case = case_of(tmp_path / "model", family, **overrides)
    adapter = random_adapter(case.source, kind)
    manifest = exported(case, tmp_path, {EXIT: adapter}, skip=skip)
    assert manifest.draft is not None
    (found,) = manifest.draft.exits
    kept = EXIT - sum(name.startswith("attn") for name in skip)
    assert (found.head, found.num_kv_layers) == (kind, kept + (kind == "block"))
    assert manifest.draft.verify_kv_layers == 2
    if not skip:
        assert found.agreement == 0.5
    engine = OnnxRuntimeSplitEngine(tmp_path / "out", manifest, threads=1)
    logits = drafted(engine)
    if variant == "qwen2, window above":  # its block after the exit has a window, the first none: the check saw to it
        return
    wanted = expected_draft(case, tmp_path, EXIT, adapter, skip)
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-3)


def test_a_skip_right_after_the_exit_counts_before_the_block(llama: Case, tmp_path: Path) -> None:
    """Its scale and bias are the exit state's. Oracle: the check after export."""
    adapter = random_adapter(llama.source, "block")
    manifest = exported(llama, tmp_path, {EXIT: adapter}, skip=("attn.1", "attn.2", "ffn.2"))
    assert manifest.verification is not None
    assert manifest.verification.passed


@pytest.mark.parametrize("vocabulary", [None, SIZE], ids=["whole", "trimmed"])
def test_every_exit_has_a_block_of_its_own(llama: Case, tmp_path: Path, vocabulary: int | None) -> None:
    """The deeper one's plain map beside it; onnxruntime-genai's draft is the first."""
    adapters = {1: random_adapter(llama.source, "block"), 2: random_adapter(llama.source, "block", 1)}
    adapters[3] = random_adapter(llama.source, "map", 2)
    manifest = exported(llama, tmp_path, adapters, vocabulary=vocabulary)
    draft, folder = manifest.draft, tmp_path / "out"
    assert draft is not None
    assert [(e.head, e.num_kv_layers) for e in draft.exits] == [("block", 2), ("block", 2), ("map", 1)]
    engine = OnnxRuntimeSplitEngine(folder, manifest, threads=1)
    columns = slice(None) if vocabulary is None else engine.draft_tokens
    for which, (layer, adapter) in enumerate(adapters.items()):
        wanted = expected_draft(llama, tmp_path, layer, adapter)[:, columns]
        np.testing.assert_allclose(drafted(engine, which), wanted, rtol=0, atol=1e-3)
    genai = json.loads((folder / "genai_config.json").read_text())["model"]["draft"]
    graph = onnx.load(folder / genai["filename"], load_external_data=False).graph
    assert genai["filename"] == ("draft.onnx" if vocabulary is None else "draft-genai.onnx")
    assert genai["num_hidden_layers"] == sum(i.name.endswith(".key") for i in graph.input) == 2


@pytest.mark.parametrize("vocabulary", [None, SIZE], ids=["whole", "trimmed"])
@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_lower_precisions(llama: Case, tmp_path: Path, precision: str, vocabulary: int | None) -> None:
    """The check after export bounds the divergence; the draft's own matrices have eight bits in int4."""
    adapter = random_adapter(llama.source, "block")
    manifest = exported(llama, tmp_path, {EXIT: adapter}, precision=precision, vocabulary=vocabulary)
    assert manifest.verification is not None
    assert manifest.verification.passed
    graph = onnx.load(tmp_path / "out" / "draft.onnx", load_external_data=False).graph
    bits = {
        node.name: next(a.i for a in node.attribute if a.name == "bits")
        for node in graph.node
        if node.op_type == "MatMulNBits"
    }
    own = {name: width for name, width in bits.items() if name.startswith("exit.2.")}
    assert set(own.values()) == ({8} if precision == "int4" else set())
    assert len(own) == (0 if precision == "fp16" else 5 + (vocabulary is None))  # a trimmed head holds the map


def test_a_wrong_block_is_found(llama: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check after export, on a block whose attention is another's."""
    other = random_adapter(llama.source, "block", 5)
    adapter = random_adapter(llama.source, "block")
    name = "self_attn.v_proj.weight"
    damaged = replace(adapter, block={**adapter.block, name: other.block[name]})
    real = module.extra_block
    monkeypatch.setattr(
        module, "extra_block", lambda family, settings, _: real(family, settings, module_weights(damaged))
    )
    with pytest.raises(EdgeSkipError, match="the draft after 2 blocks does not match"):
        exported(llama, tmp_path, {EXIT: adapter})
    assert not (tmp_path / "out").exists()


def module_weights(adapter: ExitAdapter) -> Any:
    return {name: module.constant(name, array) for name, array in adapter.block.items()}


@pytest.mark.parametrize("change", ["shape", "missing", "unknown"])
def test_a_block_of_another_model_is_refused(llama: Case, change: str) -> None:
    """By hand, one line each."""
    adapter = random_adapter(llama.source, "block")
    block = dict(adapter.block)
    if change == "shape":
        block["mlp.up_proj.weight"] = block["mlp.up_proj.weight"][:-1]
    elif change == "missing":
        del block["mlp.up_proj.weight"]
    else:
        block["self_attn.q_norm.weight"] = np.ones(16, np.float32)
    with pytest.raises(EdgeSkipError, match=r"the trained block of exit layer 2 is not of .* train it again \(.*\)$"):
        exit_block(llama.source, ExitAdapter(adapter.map, block), Plan(4), EXIT)
    assert exit_block(llama.source, random_adapter(llama.source, "map"), Plan(4), EXIT) is None
    assert exit_block(llama.source, None, Plan(4), EXIT) is None
