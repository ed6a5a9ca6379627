"""GGUF exports that draft: through a calibrated map, with a trimmed head, with a plan's model. Oracles: transformers'
hidden states through map and head, llama.cpp on the files, the whole export, files that the test has damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from exports import export_gguf, refuse_gguf
from gguf_exports import CHECKED, UNCHECKED, engine_over, kinds_of, profile_of
from numpy.typing import NDArray
from talking_gguf import talking_gguf
from tiny_gguf import Kind
from tiny_models import tiny_checkpoint
from variants import TOKENS, in_one_prefill, in_steps

import edgeskip
import edgeskip.exporters.draft as draft_module
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.metrics import compare_logits as compare
from edgeskip.exporters.draft import DraftHead
from edgeskip.exporters.gguf.formats import gguf_format
from edgeskip.exporters.job import ExportResult
from edgeskip.exporters.options import DraftRequest, ExportPolicy
from edgeskip.models.source import ModelSource, open_model
from edgeskip.models.torch_reference.load import load_torch_model
from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.planning.planner import resolve
from edgeskip.profiles.schema import ExitStatistics, Profile
from edgeskip.profiles.vectors import Vectors
from edgeskip.runtime.engines.interface import DraftingEngine
from edgeskip.runtime.engines.llamacpp.engine import LlamaCppEngine
from edgeskip.runtime.engines.llamacpp.split import LlamaCppSplitEngine
from edgeskip.runtime.engines.pair import PairEngine

EXIT, SIZE = 2, 40
EARLY, TRIMMED = DraftRequest("early-exit", (EXIT,)), DraftRequest("early-exit", (EXIT,), SIZE)
SKIP_PLAN = DraftRequest("skip-plan")
SKIP = ("attn.1", "ffn.2", "attn.3")  # not what follows the exit: its bias would be the draft's
MAP = np.eye(64, dtype=np.float32) + np.random.default_rng(5).normal(scale=0.1, size=(64, 64)).astype(np.float32)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def source(tiny_llama: Path) -> ModelSource:
    return open_model(str(tiny_llama))


def calibrated(source: ModelSource, skip: tuple[str, ...] = (), *, ridge: float = 0.5) -> tuple[Profile, Vectors]:
    """A profile with an exit after two blocks whose map agrees `ridge` of the time, the plain head 0.4; token counts
    by which every third token is frequent."""
    profile, vectors = profile_of(source, skip, "affine")
    exits = [ExitStatistics(layer=EXIT, tokens=100, plain_agreement=0.4, ridge_agreement=ridge)]
    counts = np.where(np.arange(profile.model.vocab_size) % 3 == 1, 100, 1).astype(np.int64)
    return profile.model_copy(update={"exits": exits}), replace(vectors, exit_maps={EXIT: MAP}, token_counts=counts)


def export(
    source: ModelSource,
    out: Path,
    draft: DraftRequest,
    precision: str = "f32",
    *,
    skip: tuple[str, ...] = (),
    ridge: float = 0.5,
    policy: ExportPolicy = CHECKED,
) -> list[ExportResult]:
    form = gguf_format(precision, source.checkpoint.gguf)
    return export_gguf(source, *calibrated(source, skip, ridge=ridge), form, out, draft=draft, policy=policy)


def head_of(source: ModelSource) -> NDArray[np.float32]:
    decoder = source.decoder
    return (decoder.head.weight if decoder.head else decoder.embedding).read()


def expected_draft(source: ModelSource, skip: tuple[str, ...] = (), *, mapped: bool) -> NDArray[np.float32]:
    """Logits [n, V]: transformers' hidden state of the exit, its RMS norm, the map or the norm's weight, the head."""
    model = load_torch_model(source)
    with torch.inference_mode(), skipped(model, resolve(*profile_of(source, skip, "affine"))):
        states = model(torch.from_numpy(TOKENS)[None], output_hidden_states=True).hidden_states[EXIT][0].numpy()
    normed = states / np.sqrt(np.mean(states**2, axis=-1, keepdims=True) + source.decoder.norm.eps)
    final = normed @ MAP.T if mapped else normed * source.decoder.norm.weight.read()
    logits: NDArray[np.float32] = final @ head_of(source).T
    return logits


def drafted(engine: Any) -> NDArray[np.float32]:
    """Draft logits of every token, in steps of one; several at once first where they lead to the same."""
    assert isinstance(engine, LlamaCppSplitEngine | PairEngine)
    drafting: DraftingEngine = engine
    drafting.truncate(0)
    rows = [drafting.draft(TOKENS[n : n + 1]).copy() for n in range(len(TOKENS))]
    drafting.truncate(5)
    np.testing.assert_allclose(drafting.draft(TOKENS[5:20]), rows[19], atol=0.05)
    return np.concatenate(rows)


@pytest.mark.parametrize("skip", [(), SKIP], ids=["dense", "skipped"])
def test_a_map_is_folded_into_the_first_files_own_head(source: ModelSource, out: Path, skip: tuple[str, ...]) -> None:
    """Any llama.cpp program drafts through it; both halves together are the whole to the bit."""
    first, rest = export(source, out, EARLY, skip=skip)
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(first.path).tensors}
    np.testing.assert_array_equal(tensors["output_norm.weight"], np.ones(64))
    np.testing.assert_allclose(tensors["output.weight"], head_of(source) @ MAP, atol=1e-5)
    manifest = first.manifest
    assert (manifest.head, manifest.agreement, manifest.draft_head) == ("ridge", 0.5, None)
    record, both = manifest.draft_verification, manifest.verification
    assert record is not None
    assert both is not None
    assert (record.passed, both.passed) == (True, True)
    assert record.reference.endswith("LlamaForCausalLM, same plan by hooks, exit map, float32")
    assert (rest.manifest.head, rest.manifest.verification, rest.manifest.draft_verification) == (None, both, None)
    expected = expected_draft(source, skip, mapped=True)
    pair = LlamaCppSplitEngine(first.path, rest.path, threads=1)
    for logits in (in_steps(engine_over(first.path)), drafted(pair)):
        assert compare(expected, logits)[1] < 1e-4
    assert compare(expected, expected_draft(source, skip, mapped=False))[1] > 0.01
    form = gguf_format("f32", None)
    (whole,) = export_gguf(source, *profile_of(source, skip, "affine"), form, out / "w.gguf", policy=UNCHECKED)
    np.testing.assert_array_equal(in_steps(pair), in_steps(engine_over(whole.path)))


def test_a_map_that_does_no_better_is_left_out(source: ModelSource, out: Path) -> None:
    first, _ = export(source, out, EARLY, ridge=0.4, policy=UNCHECKED)
    assert "output.weight" not in kinds_of(first.path)
    assert (first.manifest.head, first.manifest.agreement) == ("plain", 0.4)
    assert compare(expected_draft(source, mapped=False), in_one_prefill(engine_over(first.path)))[1] < 1e-4


@pytest.mark.parametrize(("ridge", "skip"), [(0.5, ()), (0.5, SKIP), (0.1, ())], ids=["mapped", "skipped", "plain"])
def test_a_trimmed_head_lies_beside(source: ModelSource, out: Path, ridge: float, skip: tuple[str, ...]) -> None:
    """Every third token is frequent; 1 is the end and kept in any case. The first file is a plain draft by itself."""
    first, rest = export(source, out, TRIMMED, skip=skip, ridge=ridge)
    name = f"{first.path.stem}-head.safetensors"
    assert {path.name for path in out.iterdir()} == {first.path.name, rest.path.name, name}
    manifest = first.manifest
    assert (manifest.draft_head, manifest.head) == (name, "ridge" if ridge == 0.5 else "plain")
    assert (rest.manifest.draft_head, rest.manifest.draft_head_sha256) == (None, None)
    assert manifest.draft_verification is not None
    assert manifest.draft_verification.passed
    assert "output.weight" not in kinds_of(first.path)
    ends = {source.generation_config.get("eos_token_id", source.config.get("eos_token_id"))}
    with edgeskip.load(first.path, threads=1) as session:
        engine = session.engine
        assert isinstance(engine, LlamaCppSplitEngine)
        tokens = engine.draft_tokens
        assert tokens is not None
        assert len(tokens) == SIZE
        assert {token for token in tokens if token % 3 != 1} <= ends
        logits = drafted(engine)
    expected = expected_draft(source, skip, mapped=ridge == 0.5)
    assert logits.shape == (len(TOKENS), SIZE)
    assert compare(expected[:, tokens], logits)[1] < 1e-4
    assert compare(expected[:, tokens], logits)[0] < 0.05
    plain = in_one_prefill(engine_over(first.path))
    assert compare(expected_draft(source, skip, mapped=False), plain)[1] < 1e-4


def test_a_side_file_that_is_missing_or_damaged(source: ModelSource, out: Path) -> None:
    """One line; the draft alone, which any program may run, needs no side file."""
    first, _ = export(source, out, TRIMMED, policy=UNCHECKED)
    head = out / f"{first.path.stem}-head.safetensors"
    content = head.read_bytes()
    for damaged in (content[:-1], content[:-1] + b"\x00", b""):
        head.write_bytes(damaged)
        with pytest.raises(EdgeSkipError, match=r"-head\.safetensors is damaged or another export's: .* export again"):
            edgeskip.load(first.path)
    head.unlink()
    with pytest.raises(EdgeSkipError, match=r"-head\.safetensors is missing, .*: put it beside the file"):
        edgeskip.load(first.path)
    opened = edgeskip.runtime.loader.open_artifact(first.path, alone=True)
    assert isinstance(opened.engine, LlamaCppEngine)


@pytest.mark.parametrize(
    ("draft", "change"), [(EARLY, 0), (TRIMMED, 0), (TRIMMED, 1)], ids=["map", "trimmed, map", "trimmed, rows"]
)
def test_a_wrong_head_leaves_nothing(
    source: ModelSource, out: Path, monkeypatch: pytest.MonkeyPatch, draft: DraftRequest, change: int
) -> None:
    """The check of the draft by itself: both halves together never use its head."""
    real = draft_module.draft_head

    def wrong(decoder: Any, exit_map: Any, tokens: Any, **options: Any) -> DraftHead:
        if not change:
            return real(decoder, exit_map.T, tokens, **options)
        return replace(real(decoder, exit_map, tokens - change, **options), tokens=tokens)

    monkeypatch.setattr(draft_module, "draft_head", wrong)
    with pytest.raises(EdgeSkipError, match="does not match"):
        export(source, out, draft)
    assert list(out.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "head"), [("Q4_1", "Q8_0"), ("F16", "F16"), ("BF16", "BF16")])
def test_what_a_folded_head_becomes_beside_kept_blocks(tmp_path: Path, out: Path, kind: str, head: str) -> None:
    """It has no blocks to keep: eight bits where the model has fewer. Everything else keeps its own."""
    path, _ = talking_gguf(tmp_path / "m.gguf", kind=Kind[kind])
    source = open_model(str(path))
    before = {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}
    first, rest = export(source, out, EARLY, "keep", policy=CHECKED if kind == "Q4_1" else UNCHECKED)
    assert kinds_of(first.path)["output.weight"] == head
    tensors = {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(first.path).tensors}
    assert tensors["token_embd.weight"] == before["token_embd.weight"]
    assert tensors["blk.1.ffn_up.weight"] == before["blk.1.ffn_up.weight"]
    pair = LlamaCppSplitEngine(first.path, rest.path, threads=1)
    np.testing.assert_array_equal(in_one_prefill(pair), in_one_prefill(engine_over(path)))
    if kind == "Q4_1":
        record = first.manifest.draft_verification
        assert record is not None
        assert record.bound == "KL ≤ 0.25 nats per token; widened KL ≤ 0.01 nats per token"


def test_llamacpps_mixtures_keep_the_embedding(out: Path, tmp_path: Path) -> None:
    """Its own quantizer would give an embedding fewer bits where it is no head; then the pair had another than the
    whole."""
    folder = tiny_checkpoint("llama", tmp_path / "m", hidden_size=256, intermediate_size=256, num_hidden_layers=4)
    source = open_model(str(folder))
    profile, vectors = calibrated(source)
    exit_map = np.eye(256, dtype=np.float32) + np.random.default_rng(5).normal(scale=0.1, size=(256, 256))
    vectors = replace(vectors, exit_maps={EXIT: exit_map.astype(np.float32)})
    form = gguf_format("q4_k_m", None)
    first, rest = export_gguf(source, profile, vectors, form, out, draft=EARLY, policy=UNCHECKED)
    (whole,) = export_gguf(source, profile, vectors, form, out / "w.gguf", policy=UNCHECKED)
    assert kinds_of(first.path)["output.weight"] == "Q6_K"
    tables = [
        next(tensor for tensor in gguf.GGUFReader(file.path).tensors if tensor.name == "token_embd.weight")
        for file in (first, rest, whole)
    ]
    assert [table.tensor_type.name for table in tables] == ["Q6_K"] * 3
    assert len({table.data.tobytes() for table in tables}) == 1


def test_a_plans_model_drafts_for_the_dense_one(source: ModelSource, out: Path) -> None:
    """Two ordinary files. Oracle: an export of each by itself, and transformers in the check of either."""
    dense, skips = export(source, out, SKIP_PLAN, skip=SKIP)
    names = ["tiny-llama-F32.gguf", "tiny-llama-explicit3-F32.gguf"]
    assert [dense.path, skips.path] == [out / name for name in names]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert (dense.manifest.label, dense.manifest.part, dense.manifest.draft) == ("dense", "whole", names[1])
    assert (skips.manifest.label, skips.manifest.part, skips.manifest.draft) == ("lossy-skip", "whole", None)
    assert (dense.manifest.plan.skip, skips.manifest.plan.skip) == ([], list(SKIP))
    for file, reference in ((dense, "LlamaForCausalLM, float32"), (skips, "same plan by hooks, float32")):
        record = file.manifest.verification
        assert record is not None
        assert record.passed
        assert record.reference.endswith(reference)
    with edgeskip.load(dense.path, threads=1) as session, edgeskip.load(skips.path, threads=1) as draft:
        engine = session.engine
        assert isinstance(engine, PairEngine)
        assert (session.label, draft.label) == ("dense", "lossy-skip")
        np.testing.assert_array_equal(in_steps(engine), in_steps(engine_over(dense.path)))
        expected = draft.logits(TOKENS)
        assert compare(expected, drafted(engine))[1] < 1e-4
        assert compare(expected, in_steps(engine))[1] > 0.01


def test_a_dense_file_without_its_draft_is_itself(source: ModelSource, out: Path, tmp_path: Path) -> None:
    """A file of that name that is no draft of it is found out when it is to draft."""
    dense, skips = export(source, out, SKIP_PLAN, skip=SKIP, policy=UNCHECKED)
    skips.path.unlink()
    with edgeskip.load(dense.path, threads=1) as session:
        assert isinstance(session.engine, LlamaCppEngine)
        expected = session.logits(TOKENS)
    talking_gguf(skips.path)
    with edgeskip.load(dense.path, threads=1) as session:
        np.testing.assert_array_equal(session.logits(TOKENS), expected)
        assert isinstance(session.engine, PairEngine)
        with pytest.raises(EdgeSkipError, match=r"explicit3-F32\.gguf .*: export both again"):
            session.engine.draft(TOKENS[:1])


def test_each_files_quantization_is_weighed_under_its_own_plan(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import edgeskip.exporters.gguf.target as module

    folder = tiny_checkpoint("llama", tmp_path / "m", hidden_size=256, intermediate_size=256, num_hidden_layers=4)
    plans: list[int] = []
    real = module.importance_of

    def noted(source: ModelSource, plan: Any) -> Any:
        plans.append(len(plan.skips))
        return real(source, plan)

    monkeypatch.setattr(module, "importance_of", noted)
    source = open_model(str(folder))
    profile, vectors = profile_of(source, SKIP, "scale")
    form = gguf_format("q4_k_m", None)
    dense, skips = export_gguf(source, profile, vectors, form, out, draft=SKIP_PLAN, policy=UNCHECKED)
    assert sorted(plans) == [0, 3]
    assert kinds_of(dense.path)["token_embd.weight"] == kinds_of(skips.path)["token_embd.weight"] == "Q6_K"


@pytest.mark.parametrize(
    ("draft", "told"),
    [
        (DraftRequest("early-exit", (1, 2)), "--exit-layer 1,2: a GGUF pair has one exit"),
        (DraftRequest("early-exit", (4,)), "--exit-layer 4 is not possible"),
        (DraftRequest("early-exit", (2,), 0), "a draft vocabulary of 0 tokens is impossible"),
    ],
)
def test_requests_that_cannot_be(source: ModelSource, out: Path, draft: DraftRequest, told: str) -> None:
    form = gguf_format("f32", None)
    for refuses in (refuse_gguf, export_gguf):
        with pytest.raises(EdgeSkipError, match=told):
            refuses(source, *calibrated(source), form, out, draft=draft, policy=UNCHECKED)
    assert list(out.iterdir()) == []


def test_what_a_trimmed_head_needs(source: ModelSource, out: Path, tmp_path: Path) -> None:
    """Counts in the profile, and both halves."""
    form = gguf_format("f32", None)
    profile, vectors = profile_of(source, (), "none")
    with pytest.raises(EdgeSkipError, match="token counts, which this profile lacks: calibrate again"):
        refuse_gguf(source, profile, vectors, form, out, draft=TRIMMED, policy=UNCHECKED)
    qwen3 = open_model(str(tiny_checkpoint("qwen3", tmp_path / "q")))
    with pytest.raises(EdgeSkipError, match=r"no architecture for both halves of qwen3, .*: leave --draft-vocab out"):
        refuse_gguf(qwen3, *calibrated(qwen3), form, out, draft=TRIMMED, policy=UNCHECKED)
    (alone,) = export(qwen3, out, EARLY)
    assert (alone.manifest.head, alone.manifest.draft_verification) == ("ridge", None)
    assert alone.manifest.verification is not None
    assert "exit map" in alone.manifest.verification.reference
    assert compare(expected_draft(qwen3, mapped=True), in_steps(engine_over(alone.path)))[1] < 1e-4


@pytest.mark.parametrize("draft", [TRIMMED, SKIP_PLAN], ids=["trimmed", "skip-plan"])
def test_what_is_there_is_not_replaced(source: ModelSource, out: Path, draft: DraftRequest) -> None:
    """Any of the files; nothing else is written then."""
    files = [file.path for file in export(source, out, draft, skip=SKIP, policy=UNCHECKED)]
    (last,) = {*out.iterdir()} - {*files} or {files[-1]}
    for path in {*out.iterdir()} - {last}:
        path.unlink()
    before = last.read_bytes()
    with pytest.raises(EdgeSkipError, match=f"{last.name} exists: choose another -o or add --overwrite"):
        export(source, out, draft, skip=SKIP, policy=UNCHECKED)
    assert [path.read_bytes() for path in out.iterdir()] == [before]
    export(source, out, draft, skip=SKIP, policy=replace(UNCHECKED, overwrite=True))
    with pytest.raises(EdgeSkipError, match="is two files: give -o a folder, not"):
        export(source, out / "x.gguf", draft, skip=SKIP, policy=UNCHECKED)
