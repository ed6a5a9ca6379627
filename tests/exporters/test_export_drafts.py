"""Exports that draft for themselves, as a whole and in this process. Oracles: the folder's listing, by hand what the
profile says, and artifacts that are wrong because the test made them so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import export_onnx
from random_profiles import random_profile
from variants import torch_logits

import edgeskip.exporters.onnx.drafts as drafts_module
from edgeskip.artifacts.manifest import Manifest, read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of
from edgeskip.core.plan import Plan
from edgeskip.exporters.draft import draft_tokens
from edgeskip.exporters.onnx.formats import weight_format
from edgeskip.exporters.onnx.segment import Segment
from edgeskip.exporters.options import DraftRequest, ExportPolicy
from edgeskip.exporters.split import exit_plan
from edgeskip.exporters.verify import shipped_tokens
from edgeskip.models.source import ModelSource, open_model
from edgeskip.models.torch_reference.load import load_torch_model
from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.planning.planner import resolve
from edgeskip.profiles.schema import ExitStatistics, Profile
from edgeskip.profiles.vectors import Vectors

COMMON = {
    *("model.onnx", "model.onnx.data", "model-genai.onnx", "draft.onnx", "config.json", "generation_config.json"),
    *("genai_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "edgeskip.json"),
}
SKIP = ("attn.0", "ffn.1", "attn.2")
EXITS = DraftRequest("early-exit", (2, 3))
TRIMMED = DraftRequest("early-exit", (2,), 64)
PLANNED = DraftRequest("skip-plan")


@pytest.fixture
def source(tiny_llama: Path) -> ModelSource:
    return open_model(str(tiny_llama))


def calibrated(source: ModelSource, path: Path, skip: tuple[str, ...] = ()) -> tuple[Profile, Vectors]:
    """A profile whose exit after 2 blocks has a map that agrees more than the model's own head, and 3 one that does
    less."""
    rng = np.random.default_rng(0)
    profile, vectors = random_profile(source, path, skip=skip)
    exits = [
        ExitStatistics(layer=layer, tokens=99, plain_agreement=0.25, ridge_agreement=ridge)
        for layer, ridge in ((2, 0.5), (3, 0.125))
    ]
    maps = {n: (np.eye(64) + rng.normal(scale=0.1, size=(64, 64))).astype(np.float32) for n in (2, 3)}
    vectors = replace(vectors, exit_maps=maps, token_counts=rng.integers(0, 99, 320))
    return profile.model_copy(update={"exits": exits}), vectors


def exported(source: ModelSource, path: Path, draft: DraftRequest, precision: str = "fp32", **policy: bool) -> Manifest:
    profile, vectors = calibrated(source, path / "p.json", SKIP if draft is PLANNED else ())
    form = weight_format(precision)
    return export_onnx(source, profile, vectors, form, path / "out", draft=draft, policy=ExportPolicy(**policy))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int4"])
@pytest.mark.parametrize("draft", [EXITS, TRIMMED, PLANNED], ids=["exits", "trimmed", "skip-plan"])
def test_an_artifact_says_what_it_drafts_with(
    source: ModelSource, tmp_path: Path, draft: DraftRequest, precision: str
) -> None:
    manifest = exported(source, tmp_path, draft, precision)
    folder = tmp_path / "out"
    assert read_manifest(folder) == manifest
    extra = {EXITS: {"draft-3.onnx"}, TRIMMED: {"draft-genai.onnx", "draft_tokens.npy"}, PLANNED: set()}[draft]
    files = COMMON | extra | (set() if draft is PLANNED else {"verify.onnx"})
    assert {path.name for path in folder.iterdir()} == files
    assert manifest.files == {name: sha256_of(folder / name) for name in files - {"edgeskip.json"}}
    assert manifest.label == "dense"
    assert manifest.plan.skip == []
    assert manifest.graph.num_kv_layers == 4
    assert manifest.verification is not None
    assert manifest.verification.passed
    record = manifest.draft
    assert record is not None
    assert record.kind == draft.kind
    if draft is PLANNED:
        assert record.plan is not None
        assert record.plan.skip == list(SKIP)
        assert record.agreement is not None
        assert (record.exits, record.verify) == ([], None)
        return
    found = [(e.layer, e.file, e.num_kv_layers, e.head, e.agreement) for e in record.exits]
    assert found[0] == (2, "draft.onnx", 2, "ridge", 0.5)
    assert found[1:] == ([(3, "draft-3.onnx", 1, "plain", 0.25)] if draft is EXITS else [])  # as calibrated
    assert (record.verify, record.verify_kv_layers) == ("verify.onnx", 1 if draft is EXITS else 2)
    assert record.vocabulary == ("draft_tokens.npy" if draft is TRIMMED else None)


def test_exits_of_a_skipped_model(source: ModelSource, tmp_path: Path) -> None:
    """Both are in the files, and the output is the plan's. What the exits agreed on was calibrated without it, so the
    check's figure stands there."""
    profile, vectors = calibrated(source, tmp_path / "p.json", SKIP)
    manifest = export_onnx(source, profile, vectors, weight_format("fp32"), tmp_path / "out", draft=TRIMMED)
    assert manifest.label == "lossy-skip"
    assert manifest.plan.skip == list(SKIP)
    assert manifest.draft is not None
    (found,) = manifest.draft.exits
    assert (found.num_kv_layers, found.head) == (1, "ridge")
    assert found.agreement not in (0.5, None)
    assert manifest.draft.verify_kv_layers == 1


def test_progress_names_the_draft(source: ModelSource, tmp_path: Path) -> None:
    profile, vectors = calibrated(source, tmp_path / "p.json")
    told: list[str] = []
    export_onnx(source, profile, vectors, weight_format("fp32"), tmp_path / "out", draft=EXITS, step=told.append)
    assert told[-3:] == ["head", "draft", "check"]
    assert len(told) == len(set(told)) == 8 + 4


Damage = Callable[[Segment], Segment]


def wrong(monkeypatch: pytest.MonkeyPatch, file: str, damage: Damage) -> None:
    """From now on one file's segment is what `damage` makes of it."""
    real = drafts_module.write_graph

    def write(weights: Any, decoder: Any, segment: Segment, form: Any, path: Path, *rest: Any) -> int:
        return real(weights, decoder, damage(segment) if path.name == file else segment, form, path, *rest)

    monkeypatch.setattr(drafts_module, "write_graph", write)


def reordered(segment: Segment) -> Segment:
    first, second, *rest = segment.sublayers
    return replace(segment, sublayers=(second, first, *rest))


def without_map(segment: Segment) -> Segment:
    assert segment.head is not None
    return replace(segment, head=replace(segment.head, map=None))


def other_tokens(segment: Segment) -> Segment:
    assert segment.head is not None
    assert segment.head.tokens is not None
    return replace(segment, head=replace(segment.head, tokens=segment.head.tokens[::-1]))


def no_compensation(segment: Segment) -> Segment:
    return replace(segment, skips={name: replace(skip, scale=0.3) for name, skip in segment.skips.items()})


@pytest.mark.parametrize(
    ("draft", "file", "damage", "told"),
    [
        (EXITS, "verify.onnx", reordered, "the exported model does not match"),
        (EXITS, "model-genai.onnx", reordered, "the exported model does not match"),
        (EXITS, "draft.onnx", without_map, "the draft after 2 blocks does not match"),
        (EXITS, "draft-3.onnx", reordered, "the exported model does not match"),
        (TRIMMED, "draft-genai.onnx", other_tokens, "the draft after 2 blocks does not match"),
        (PLANNED, "model.onnx", no_compensation, "the skip-plan draft does not match"),
        (PLANNED, "draft.onnx", no_compensation, "the skip-plan draft does not match"),
        (PLANNED, "model-genai.onnx", reordered, "the exported model does not match"),
    ],
)
def test_a_wrong_graph_is_caught(
    source: ModelSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    draft: DraftRequest,
    file: str,
    damage: Damage,
    told: str,
) -> None:
    """Whichever file it is, it leaves nothing."""
    wrong(monkeypatch, file, damage)
    with pytest.raises(EdgeSkipError, match=f"{told} the torch model: .*--allow-mismatch"):
        exported(source, tmp_path, draft)
    assert {path.name for path in tmp_path.iterdir()} == {"p.json", "p.safetensors"}


def test_a_wrong_draft_may_be_kept(source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model itself is right, but the artifact did not pass."""
    wrong(monkeypatch, "draft.onnx", without_map)
    record = exported(source, tmp_path, EXITS, allow_mismatch=True).verification
    assert record is not None
    assert record.max_abs_logit_difference < 1e-3
    assert not record.passed


def test_without_the_check(source: ModelSource, tmp_path: Path) -> None:
    manifest = exported(source, tmp_path, PLANNED, check=False)
    assert manifest.verification is None
    assert manifest.draft is not None
    assert manifest.draft.agreement is None


@pytest.mark.parametrize(
    ("draft", "skip", "told"),
    [
        (DraftRequest("early-exit", (1,)), ("attn.0", "ffn.0"), "every sublayer before the exit layer"),
        (DraftRequest("early-exit", (2,), 64), (), "calibrate again"),  # no counts in the profile
    ],
)
def test_what_is_refused_before_any_work(
    source: ModelSource, tmp_path: Path, draft: DraftRequest, skip: tuple[str, ...], told: str
) -> None:
    profile, vectors = random_profile(source, tmp_path / "p.json", skip=skip)
    begun: list[str] = []
    form = weight_format("int4")
    with pytest.raises(EdgeSkipError, match=told):
        export_onnx(source, profile, vectors, form, tmp_path / "out", draft=draft, step=begun.append)
    assert begun == []


def test_how_often_the_skipped_model_agrees(source: ModelSource, tmp_path: Path) -> None:
    """Oracle: transformers dense and with the plan by hooks, their likeliest tokens compared on the shipped text."""
    profile, vectors = calibrated(source, tmp_path / "p.json", ("ffn.3",))
    plan = resolve(profile, vectors)
    manifest = export_onnx(source, profile, vectors, weight_format("fp32"), tmp_path / "out", draft=PLANNED)
    model = load_torch_model(source)
    dense = torch_logits(model, shipped_tokens(source, 256))
    with skipped(model, plan):
        lossy = torch_logits(model, shipped_tokens(source, 256))
    assert manifest.draft is not None
    assert manifest.draft.agreement == pytest.approx((dense.argmax(-1) == lossy.argmax(-1)).mean())
    assert 0 < manifest.draft.agreement < 1


def test_how_often_an_exit_agrees_that_was_not_calibrated(source: ModelSource, tmp_path: Path) -> None:
    """Oracle: transformers with and without the blocks after the exit, over the tokens that the head knows."""
    profile, vectors = calibrated(source, tmp_path / "p.json")
    profile = profile.model_copy(update={"exits": []})
    asked = DraftRequest("early-exit", (3,), 200)
    manifest = export_onnx(source, profile, vectors, weight_format("fp32"), tmp_path / "out", draft=asked)
    tokens, known = shipped_tokens(source, 256), draft_tokens(source, vectors, 200)
    model = load_torch_model(source)
    with skipped(model, exit_plan(Plan(4), 3)):
        drafted = known[torch_logits(model, tokens)[:, known].argmax(-1)]
    assert manifest.draft is not None
    (found,) = manifest.draft.exits
    assert found.agreement == pytest.approx((torch_logits(model, tokens).argmax(-1) == drafted).mean())
    assert 0 < found.agreement < 1
