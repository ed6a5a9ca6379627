"""Export as a whole, in this process. Oracles: the folder's listing, transformers under the same plan, and artifacts
that are wrong because the test made them so."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import export_onnx
from random_profiles import random_profile
from tiny_models import tiny_checkpoint

import edgeskip.exporters.onnx.target as target_module
from edgeskip.artifacts.manifest import read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.exporters.options import ExportPolicy
from edgeskip.models.decoder import Attention, Decoder
from edgeskip.models.source import ModelSource, open_model
from edgeskip.models.torch_reference.load import load_torch_model
from edgeskip.models.torch_reference.skipping import skipped
from edgeskip.planning.planner import resolve
from edgeskip.runtime.engines.onnxruntime.engine import OnnxRuntimeEngine

FILES = {
    *("model.onnx", "model.onnx.data", "config.json", "generation_config.json", "genai_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "edgeskip.json"),
}
SKIP = ("attn.0", "ffn.1", "attn.2")


@pytest.fixture
def source(tiny_llama: Path) -> ModelSource:
    return open_model(str(tiny_llama))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int4"])
@pytest.mark.parametrize("skip", [(), SKIP], ids=["dense", "skipped"])
def test_an_artifact_says_what_it_is(
    source: ModelSource, tmp_path: Path, skip: tuple[str, ...], precision: Any
) -> None:
    profile, vectors = random_profile(source, tmp_path / "p.json", skip=skip)
    folder = tmp_path / "out"
    manifest = export_onnx(source, profile, vectors, WeightFormat(precision), folder)
    assert read_manifest(folder) == manifest
    assert {path.name for path in folder.iterdir()} == FILES
    assert manifest.files == {name: sha256_of(folder / name) for name in FILES - {"edgeskip.json"}}
    assert manifest.label == ("lossy-skip" if skip else "dense")
    assert manifest.plan.skip == list(skip)
    assert manifest.plan.compensation == ("affine" if skip else "none")
    assert manifest.graph.precision == precision
    assert manifest.graph.num_kv_layers == 4 - sum(name.startswith("attn") for name in skip)
    assert manifest.graph.kv_dtype == ("float16" if precision == "fp16" else "float32")
    assert manifest.inputs["model"] == source.fingerprint
    assert manifest.inputs["vectors"] == profile.vectors.sha256
    assert set(manifest.versions) == {"edgeskip", "python", "onnxruntime", "onnx-ir", "torch", "transformers"}
    assert manifest.verification is not None
    assert manifest.verification.passed
    if precision == "fp32":
        assert manifest.verification.max_abs_logit_difference <= 1e-3
    assert {path.name for path in tmp_path.iterdir()} == {"p.json", "p.safetensors", "out"}


@pytest.mark.parametrize("compensation", ["none", "scale", "affine"])
def test_logits_of_the_finished_folder(source: ModelSource, tmp_path: Path, compensation: Any) -> None:
    """Oracle: transformers with the profile's own plan by hooks."""
    profile, vectors = random_profile(source, tmp_path / "p.json", skip=SKIP, compensation=compensation)
    manifest = export_onnx(source, profile, vectors, WeightFormat(), tmp_path / "out", policy=ExportPolicy(check=False))
    assert manifest.verification is None
    tokens = np.arange(2, 40, dtype=np.int64) * 7 % 320
    model = load_torch_model(source)
    with torch.inference_mode(), skipped(model, resolve(profile, vectors)):
        expected = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
    engine = OnnxRuntimeEngine(tmp_path / "out", manifest, threads=1)
    np.testing.assert_allclose(engine.step(tokens, logits=0), expected, rtol=0, atol=1e-3)


def test_progress_ends_with_the_check(source: ModelSource, tmp_path: Path) -> None:
    """The verb's bar counts kept sublayers, embedding, head and check, each told once."""
    profile, vectors = random_profile(source, tmp_path / "p.json", skip=SKIP)
    told: list[str] = []
    export_onnx(source, profile, vectors, WeightFormat(), tmp_path / "out", step=told.append)
    assert (told[0], told[-2:]) == ("embedding", ["head", "check"])
    assert len(told) == len(set(told)) == 8 - len(SKIP) + 3


def test_a_profile_of_other_weights(source: ModelSource, tmp_path: Path) -> None:
    """Same shape, other numbers."""
    other = open_model(str(tiny_checkpoint("llama", tmp_path / "other", seed=1)))
    profile, vectors = random_profile(source, tmp_path / "p.json")
    with pytest.raises(EdgeSkipError, match=r"made for other weights .*calibrate"):
        export_onnx(other, profile, vectors, WeightFormat(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def damaged_lower(monkeypatch: pytest.MonkeyPatch, damage: Any) -> None:
    """From now on the lowering writes a decoder that `damage` changed."""
    real = target_module.lower

    def wrong(decoder: Decoder, *arguments: Any, **options: Any) -> Any:
        return real(damage(decoder), *arguments, **options)

    monkeypatch.setattr(target_module, "lower", wrong)


def wrong_eps(decoder: Decoder) -> Decoder:
    return replace(decoder, norm=replace(decoder.norm, eps=0.3))


def wrong_order(decoder: Decoder) -> Decoder:
    first, second, *rest = decoder.sublayers
    return replace(decoder, sublayers=(second, first, *rest))


def lost_rotation(decoder: Decoder) -> Decoder:
    sublayers = (replace(s, rotary=False) if isinstance(s, Attention) else s for s in decoder.sublayers)
    return replace(decoder, sublayers=tuple(sublayers))


def not_a_number(decoder: Decoder) -> Decoder:
    return replace(decoder, norm=replace(decoder.norm, weight=decoder.norm.weight.times(float("nan"))))


DAMAGES = [wrong_eps, wrong_order, lost_rotation, not_a_number]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_mismatch_leaves_nothing(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    """Also not instead of an artifact that was there before."""
    profile, vectors = random_profile(source, tmp_path / "p.json", skip=SKIP)
    before = export_onnx(source, profile, vectors, WeightFormat(), tmp_path / "out")
    damaged_lower(monkeypatch, damage)
    for target in ("out", "new"):
        with pytest.raises(EdgeSkipError, match=r"does not match the torch model: .*--allow-mismatch"):
            export_onnx(
                source, profile, vectors, WeightFormat(), tmp_path / target, policy=ExportPolicy(overwrite=True)
            )
    assert {path.name for path in tmp_path.iterdir()} == {"p.json", "p.safetensors", "out"}
    assert read_manifest(tmp_path / "out") == before


@pytest.mark.parametrize("damage", [wrong_eps, not_a_number])
def test_a_mismatch_may_be_kept(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    """--allow-mismatch: the folder is there and says that it did not pass."""
    profile, vectors = random_profile(source, tmp_path / "p.json")
    damaged_lower(monkeypatch, damage)
    policy = ExportPolicy(allow_mismatch=True)
    export_onnx(source, profile, vectors, WeightFormat(), tmp_path / "out", policy=policy)
    record = read_manifest(tmp_path / "out").verification
    assert record is not None
    assert not record.passed
    json.loads((tmp_path / "out" / "edgeskip.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_a_wrong_graph_is_caught_through_rounding(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any
) -> None:
    profile, vectors = random_profile(source, tmp_path / "p.json")
    damaged_lower(monkeypatch, wrong_order)
    with pytest.raises(EdgeSkipError, match="does not match"):
        export_onnx(source, profile, vectors, WeightFormat(precision), tmp_path / "out")


def test_an_existing_folder(source: ModelSource, tmp_path: Path) -> None:
    """Refused; with overwrite replaced as a whole where it is an artifact or empty, refused where it is not ours."""
    profile, vectors = random_profile(source, tmp_path / "p.json")
    target, replacing = tmp_path / "out", ExportPolicy(overwrite=True, check=False)
    target.mkdir()
    with pytest.raises(EdgeSkipError, match="add --overwrite"):
        export_onnx(source, profile, vectors, WeightFormat(), target)
    export_onnx(source, profile, vectors, WeightFormat(), target, policy=replacing)
    (target / "leftover").write_text("of the artifact")
    export_onnx(source, profile, vectors, WeightFormat(), target, policy=replacing)
    assert {path.name for path in target.iterdir()} == FILES
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "mine.txt").write_text("mine")
    with pytest.raises(EdgeSkipError, match="is not an EdgeSkip artifact"):
        export_onnx(source, profile, vectors, WeightFormat(), letters, policy=replacing)
    assert [path.name for path in letters.iterdir()] == ["mine.txt"]


def test_the_models_own_folder_is_not_replaced(tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama", tmp_path / "model")
    source = open_model(str(folder))
    profile, vectors = random_profile(source, tmp_path / "p.json")
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(EdgeSkipError, match="is not an EdgeSkip artifact"):
        export_onnx(source, profile, vectors, WeightFormat(), folder, policy=ExportPolicy(overwrite=True))
    assert {path.name for path in folder.iterdir()} == before


def test_with_another_build_of_onnxruntime(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU build comes in place of `onnxruntime`, under a name of its own."""
    real = importlib.metadata.distribution

    def distribution(name: str) -> Any:
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return real("onnxruntime" if name == "onnxruntime-gpu" else name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    profile, vectors = random_profile(source, tmp_path / "p.json")
    manifest = export_onnx(source, profile, vectors, WeightFormat(), tmp_path / "out", policy=ExportPolicy(check=False))
    assert {name for name in manifest.versions if name.startswith("onnxruntime")} == {"onnxruntime-gpu"}


def test_a_tokenizer_that_reads_otherwise_than_transformers_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: transformers on the model's folder; the artifact's copy is changed behind the exporter's back."""
    folder = tiny_checkpoint("llama", tmp_path / "model")
    source = open_model(str(folder))
    profile, vectors = random_profile(source, tmp_path / "p.json")
    files = source.checkpoint.tokenizer.files
    spec = json.loads(files["tokenizer.json"])
    spec["normalizer"] = {"type": "Lowercase"}
    changed = {**files, "tokenizer.json": json.dumps(spec).encode()}
    monkeypatch.setattr(source.checkpoint.tokenizer, "files", changed)
    with pytest.raises(
        EdgeSkipError, match=r"the tokens of 'The quick brown.* differ from transformers' at position 0 "
    ):
        export_onnx(source, profile, vectors, WeightFormat(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
