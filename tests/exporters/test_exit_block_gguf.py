"""Trained exit adapters in GGUF pairs. Oracles: transformers on a model assembled from the same weights, the check
after export, the whole model's own export to the bit, and the files' tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from exit_adapters import adapted_profile, drafting_model, random_adapter
from exports import export_gguf
from gguf_exports import UNCHECKED, engine_over, kinds_of
from talking_gguf import talking_gguf
from tiny_gguf import Kind
from tiny_models import tiny_checkpoint
from variants import SKIPPED, TOKENS, VARIANTS, Case, case_of, in_steps, torch_logits

from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.metrics import compare_logits as compare
from edgeskip.exporters.gguf.formats import gguf_format
from edgeskip.exporters.job import ExportResult
from edgeskip.exporters.options import DraftRequest, ExportPolicy
from edgeskip.models.source import ModelSource, open_model
from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.planning.planner import resolve
from edgeskip.profiles.exit_adapter import ExitAdapter
from edgeskip.runtime.engines.llamacpp.split import LlamaCppSplitEngine
from edgeskip.runtime.loader import open_artifact

EXIT, SIZE = 2, 40
CHECKED = ExportPolicy()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_of(tmp_path_factory.mktemp("llama"), "llama")


def exported(
    source: ModelSource,
    out: Path,
    adapter: ExitAdapter,
    *,
    layer: int = EXIT,
    skip: tuple[str, ...] = (),
    vocabulary: int | None = None,
    precision: str = "f32",
    policy: ExportPolicy = CHECKED,
) -> list[ExportResult]:
    profile, vectors = adapted_profile(source, out.with_suffix(".json"), {layer: adapter}, skip)
    draft = DraftRequest("early-exit", (layer,), vocabulary)
    form = gguf_format(precision, source.checkpoint.gguf)
    out.mkdir(exist_ok=True)
    return export_gguf(source, profile, vectors, form, out, draft=draft, policy=policy)


def expected_draft(case: Case, path: Path, layer: int, adapter: ExitAdapter, skip: tuple[str, ...] = ()) -> Any:
    """`skip` names nothing at or after the exit."""
    model = drafting_model(case.oracle, layer, adapter)
    plan = resolve(*adapted_profile(case.source, path / "again.json", {}, skip))
    with skipped(model, replace(plan, num_blocks=len(model.model.layers))):
        return torch_logits(model, TOKENS)


def drafted(engine: LlamaCppSplitEngine) -> Any:
    """Draft logits of every token: one by one, and of the second half those of drafts that begin after a prefill and
    plain steps, which fill the block's cache as well."""
    engine.truncate(0)
    rows = np.concatenate([engine.draft(TOKENS[n : n + 1]).copy() for n in range(len(TOKENS))])
    half = len(TOKENS) // 2
    engine.truncate(0)
    engine.step(TOKENS[: half - 1])
    engine.step(TOKENS[half - 1 : half])
    later = [engine.draft(TOKENS[n : n + 1]).copy() for n in range(half, len(TOKENS) - 5)]
    engine.verify(TOKENS[-5:-3])
    engine.truncate(len(TOKENS) - 5)
    later.append(engine.draft(TOKENS[-5:]).copy())
    np.testing.assert_allclose(np.concatenate(later), np.concatenate([rows[half:-5], rows[-1:]]), rtol=0, atol=5e-3)
    return rows


def opened(file: ExportResult) -> LlamaCppSplitEngine:
    engine = open_artifact(file.path, threads=1).engine
    assert isinstance(engine, LlamaCppSplitEngine)
    return engine


@pytest.mark.parametrize(
    ("variant", "kind", "skip"),
    [
        ("llama, tied", "map", ()),
        ("llama, tied", "block", ()),
        ("llama, untied", "block", tuple(SKIPPED[1][:2])),
        ("llama, biases", "block", ()),
    ],
)
def test_an_exit_drafts_through_its_adapter(variant: str, kind: Any, skip: tuple[str, ...], tmp_path: Path) -> None:
    """F32: by any llama.cpp program from the first file, and by the pair, which is the whole model to the bit."""
    family, overrides = VARIANTS[variant]
    case = case_of(tmp_path / "model", family, **overrides)
    adapter = random_adapter(case.source, kind)
    first, rest = exported(case.source, tmp_path / "out", adapter, skip=skip)
    assert (first.manifest.head, rest.manifest.head) == (kind, None)
    assert first.manifest.draft_verification is not None
    assert first.manifest.draft_verification.passed
    wanted, pair = expected_draft(case, tmp_path, EXIT, adapter, skip), opened(first)
    for logits in (in_steps(engine_over(first.path)), drafted(pair)):
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=2e-3)
    form, dense = gguf_format("f32", None), tmp_path / "w.gguf"
    profile = adapted_profile(case.source, tmp_path / "p.json", {}, skip)
    (whole,) = export_gguf(case.source, *profile, form, dense, policy=UNCHECKED)
    np.testing.assert_array_equal(in_steps(pair), in_steps(engine_over(whole.path)))


@pytest.mark.parametrize(("family", "layer"), [("qwen2", 2), ("qwen3", 2), ("smollm3", 4)])
def test_families_that_have_no_stub(family: str, layer: int, tmp_path: Path) -> None:
    """A trained block is a whole block of the family's, so these have pairs too where they have one."""
    case = case_of(tmp_path / "model", family, num_hidden_layers=6)
    adapter = random_adapter(case.source, "block")
    files = exported(case.source, tmp_path / "out", adapter, layer=layer, policy=UNCHECKED)
    assert [file.architecture for file in files] == [family] * 2
    wanted = expected_draft(case, tmp_path, layer, adapter)
    np.testing.assert_allclose(drafted(opened(files[0])), wanted, rtol=0, atol=2e-3)


def test_a_block_where_the_family_has_no_place_for_it(tmp_path: Path) -> None:
    """By hand: every 4th block of llama.cpp's smollm3 is one without rotary positions, and the trained block has them.
    After two blocks the pair has no second half, and the draft is written alone."""
    source = open_model(str(tiny_checkpoint("smollm3", tmp_path / "model", num_hidden_layers=9)))
    adapter = random_adapter(source, "block")
    with pytest.raises(
        EdgeSkipError, match=r"cannot hold a trained block after 7 blocks .*choose another --exit-layer"
    ):
        exported(source, tmp_path / "out", adapter, layer=7, policy=UNCHECKED)
    (first,) = exported(source, tmp_path / "out", adapter, layer=2)
    assert (first.manifest.part, first.manifest.head) == ("first", "block")
    assert first.manifest.verification is not None
    assert first.manifest.verification.passed


@pytest.mark.parametrize(
    ("kind", "skip"), [("map", ()), ("block", ()), ("block", ("attn.1", "attn.2", "ffn.2"))], ids=str
)
def test_a_trimmed_head_reads_the_state_after_the_block(
    llama: Case, kind: Any, skip: tuple[str, ...], tmp_path: Path
) -> None:
    """The first file by itself has the model's own norm and head after the block; the check after export sees to both,
    and to a skip right after the exit."""
    adapter = random_adapter(llama.source, kind)
    first, _ = exported(llama.source, tmp_path / "out", adapter, skip=skip, vocabulary=SIZE)
    assert first.manifest.draft_verification is not None
    assert first.manifest.draft_verification.passed
    engine = opened(first)
    logits = drafted(engine)
    assert logits.shape == (len(TOKENS), SIZE)
    if not skip:
        wanted = expected_draft(llama, tmp_path, EXIT, adapter)
        assert compare(wanted[:, engine.draft_tokens], logits)[1] < 1e-4
        norm = np.diag(llama.source.decoder.norm.weight.read())
        if kind == "block":
            plain = expected_draft(llama, tmp_path, EXIT, replace(adapter, map=norm))
            np.testing.assert_allclose(in_steps(engine_over(first.path)), plain, rtol=0, atol=2e-3)


def test_a_long_prompt_comes_in_batches(tmp_path: Path) -> None:
    """With and without a trimmed head; the first batch has no row of outputs. Oracle: the first file by itself."""
    case = case_of(tmp_path / "model", "llama", max_position_embeddings=700)
    adapter = random_adapter(case.source, "block")
    tokens = np.random.default_rng(0).integers(2, 300, 600)
    first, _ = exported(case.source, tmp_path / "out", adapter, policy=UNCHECKED)
    wanted = engine_over(first.path).step(tokens).copy()
    np.testing.assert_allclose(opened(first).draft(tokens), wanted, rtol=0, atol=2e-3)
    trimmed, _ = exported(case.source, tmp_path / "trimmed", adapter, vocabulary=SIZE, policy=UNCHECKED)
    engine = opened(trimmed)
    np.testing.assert_allclose(engine.draft(tokens), wanted[:, engine.draft_tokens], rtol=0, atol=0.05)


def test_kept_blocks_and_llamacpps_mixtures(tmp_path: Path) -> None:
    """Beside kept blocks the adapter's matrices are Q8_0; llama.cpp's quantizer chooses by itself."""
    path, _ = talking_gguf(tmp_path / "m.gguf", kind=Kind.Q4_1)
    source = open_model(str(path))
    adapter = random_adapter(source, "block")
    first, _ = exported(source, tmp_path / "out", adapter, precision="keep")
    kinds = kinds_of(first.path)
    assert {kind for name, kind in kinds.items() if name.startswith(f"blk.{EXIT}.") and "norm" not in name} == {"Q8_0"}
    tensors = {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(first.path).tensors}
    before = {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}
    assert tensors["blk.1.ffn_up.weight"] == before["blk.1.ffn_up.weight"]
    mixed, _ = exported(source, tmp_path / "mixed", adapter, precision="q4_0", policy=UNCHECKED)
    assert kinds_of(mixed.path)[f"blk.{EXIT}.ffn_up.weight"] == "Q4_0"


def test_runs_are_not_repeated(llama: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts and plain steps build other graphs; a remembered address that is wrong would make every one run twice."""
    first, _ = exported(llama.source, tmp_path / "out", random_adapter(llama.source, "block"), policy=UNCHECKED)
    engine = opened(first)
    runs: list[int] = []
    append = engine._first.append_tokens
    monkeypatch.setattr(engine._first, "append_tokens", lambda *args: (runs.append(1), append(*args)))
    for n, token in enumerate(TOKENS[:20]):
        (engine.draft if n % 3 else engine.step)(np.array([token]))
    assert len(runs) <= 21
