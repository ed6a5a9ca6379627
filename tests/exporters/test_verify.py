"""The check after export. Oracles: numbers worked out by hand, and artifacts damaged on purpose."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeskip.artifacts.manifest import VerificationRecord, read_manifest
from edgeskip.core.errors import EdgeSkipError
from edgeskip.core.files import sha256_of
from edgeskip.core.metrics import compare_logits as compare
from edgeskip.exporters.bake import bake
from edgeskip.exporters.onnx.formats import WeightFormat
from edgeskip.exporters.onnx.lower import lower
from edgeskip.exporters.onnx.sidecars import write_sidecars
from edgeskip.exporters.onnx.target import unchecked_manifest, write_manifest
from edgeskip.exporters.verify import BOUNDS, Bound, verify
from edgeskip.models.source import ModelSource, open_model
from edgeskip.planning.planner import resolve


def rows(*values: Any) -> Any:
    return np.array(values, dtype=np.float32)


def test_compare_by_hand() -> None:
    """Probabilities (1/2, 1/2) against (1/4, 3/4), and two equal rows: KL = ½·ln 2 + ½·ln ⅔, halved over two rows."""
    reference = np.log(rows([0.5, 0.5], [0.9, 0.1]))
    other = np.log(rows([0.25, 0.75], [0.9, 0.1]))
    difference, kl, agreement = compare(reference, other)
    assert difference == pytest.approx(math.log(2), rel=1e-6)
    assert kl == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2, rel=1e-5)
    assert agreement == 0.5


def test_compare_of_equal_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(70, 11)).astype(np.float32) * 10
    assert compare(logits, logits) == (0.0, 0.0, 1.0)


def test_a_constant_moves_logits_but_no_probability() -> None:
    logits = np.random.default_rng(0).normal(size=(70, 11)).astype(np.float32)
    difference, kl, agreement = compare(logits, logits + np.float32(2))
    assert difference == pytest.approx(2, rel=1e-5)
    assert kl == pytest.approx(0, abs=1e-6)
    assert agreement == 1


def test_more_rows_than_are_compared_at_once() -> None:
    """Oracle: the same formula over all rows together."""
    rng = np.random.default_rng(0)
    reference, other = rng.normal(size=(2, 100, 7)).astype(np.float32)
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (reference.astype(float), other.astype(float)))
    difference, kl, agreement = compare(reference, other)
    assert difference == np.abs(reference.astype(np.float64) - other).max()
    assert kl == pytest.approx((p * np.log(p / q)).sum() / 100, rel=1e-9)
    assert agreement == (reference.argmax(-1) == other.argmax(-1)).mean()


def test_huge_logits_do_not_overflow() -> None:
    _, kl, agreement = compare(rows([1e4, 0]), rows([1e4, 1]))
    assert (kl, agreement) == (pytest.approx(0, abs=1e-9), 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bound", [*BOUNDS.values(), Bound(1e30, 1e30)], ids=str)
@pytest.mark.parametrize("side", ["reference", "artifact"])
def test_what_is_not_a_number_fails(side: str, bound: Bound, value: float) -> None:
    """In a late row, alone among good ones; and without a word from numpy on stderr."""
    good = np.random.default_rng(0).normal(size=(80, 7)).astype(np.float32)
    bad = good.copy()
    bad[40, 3] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        difference, kl, _ = compare(*((bad, good) if side == "reference" else (good, bad)))
    assert not bound.holds(difference, kl)


def test_bounds_by_hand() -> None:
    assert BOUNDS["fp32"].holds(1e-3, 99)
    assert not BOUNDS["fp32"].holds(1.01e-3, 2e-9)
    assert BOUNDS["fp32"].holds(1e-2, 1e-9)  # single logits of a model that is the same in all but rounding
    assert not BOUNDS["fp32"].holds(1.01e-2, 0)
    assert BOUNDS["fp16"].holds(99, 0.02)
    assert not BOUNDS["fp16"].holds(0, 0.021)
    assert not BOUNDS["int4"].holds(0, 1.1)
    assert str(BOUNDS["fp32"]) == "max |Δlogit| ≤ 0.001, or 0.01 where KL ≤ 1e-09"


def test_a_record_of_nan_survives_its_file() -> None:
    """--allow-mismatch keeps such an artifact: its manifest must be JSON and readable."""
    record = VerificationRecord(
        passed=False,
        reference="r",
        tokens=1,
        max_abs_logit_difference=math.nan,
        kl_divergence=math.inf,
        top1_agreement=0.0,
        bound="b",
    )
    text = record.model_dump_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    back = VerificationRecord.model_validate(json.loads(text))
    assert math.isnan(back.max_abs_logit_difference)
    assert math.isinf(back.kl_divergence)


@pytest.fixture
def source(tiny_llama: Path) -> ModelSource:
    return open_model(str(tiny_llama))


@pytest.fixture
def artifact(source: ModelSource, tmp_path: Path) -> Path:
    """A dense fp32 artifact with a first manifest, as the check finds it."""
    from random_profiles import random_profile

    folder = tmp_path / "artifact"
    folder.mkdir()
    profile, vectors = random_profile(source, tmp_path / "p.json")
    graph = lower(bake(source.decoder, resolve(profile, vectors)), WeightFormat(), folder)
    write_sidecars(source, graph, folder)
    source.write_tokenizer(folder)
    write_manifest(unchecked_manifest(source, profile, graph, folder), folder)
    return folder


def check(source: ModelSource, folder: Path) -> VerificationRecord:
    from edgeskip.core.plan import Plan

    return verify(source, Plan(4), folder, bound=BOUNDS["fp32"]).record


def test_a_good_artifact_passes(source: ModelSource, artifact: Path) -> None:
    import transformers

    record = check(source, artifact)
    assert record.passed
    assert record.tokens == 256
    assert record.max_abs_logit_difference <= 1e-3
    assert record.top1_agreement > 0.99
    assert record.reference == f"transformers {transformers.__version__} LlamaForCausalLM, float32"


def test_one_changed_weight_fails(source: ModelSource, artifact: Path) -> None:
    """Oracle: we changed it: one weight of the last down projection, by 0.5."""
    import onnx

    graph = onnx.load(artifact / "model.onnx", load_external_data=False).graph
    (tensor,) = [t for t in graph.initializer if t.name == "ffn.3.down.weight"]
    offset = int(next(entry.value for entry in tensor.external_data if entry.key == "offset"))
    data = np.memmap(artifact / "model.onnx.data", np.float32, "r+", offset, shape=(64 * 128,))
    data[77] += 0.5
    data.flush()
    manifest = read_manifest(artifact)  # the check is of what was written, not of what changed afterwards
    files = {**manifest.files, "model.onnx.data": sha256_of(artifact / "model.onnx.data")}
    write_manifest(manifest.model_copy(update={"files": files}), artifact)
    record = check(source, artifact)
    assert not record.passed
    assert record.max_abs_logit_difference > 1e-3


def test_the_plan_must_be_the_artifacts(source: ModelSource, artifact: Path) -> None:
    """A dense artifact against the model with a skip."""
    from edgeskip.core.plan import Plan, Skip
    from edgeskip.core.sublayers import Sublayer

    record = verify(source, Plan(4, (Skip(Sublayer(1, "attn"), 1.1),)), artifact, bound=BOUNDS["fp32"]).record
    assert not record.passed
    assert "same plan by hooks" in record.reference


@pytest.mark.fresh
def test_an_artifact_that_does_not_run(source: ModelSource, artifact: Path) -> None:
    (artifact / "model.onnx.data").write_bytes(b"")
    with pytest.raises(
        EdgeSkipError, match=r"does not run in a fresh process: .*model.onnx.data is not the file its manifest names"
    ):
        check(source, artifact)


@pytest.mark.fresh
def test_a_process_that_is_killed_is_named(
    source: ModelSource, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: a child that ends itself by a signal; nothing shows that memory ran out, so it is not guessed."""
    run = subprocess.run

    def killed(command: list[str], **options: Any) -> Any:
        return run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], **options)

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(EdgeSkipError, match=r"was ended by SIGKILL \(.*nothing shows that memory ran out\)$"):
        check(source, artifact)


def test_a_relative_folder(source: ModelSource, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(artifact.parent.parent)
    assert check(source, artifact.relative_to(artifact.parent.parent)).passed


@pytest.mark.fresh
def test_nothing_beside_the_artifact_is_imported(
    source: ModelSource, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output may be put into a folder someone else made: a numpy.py there is data."""
    for folder in (artifact, artifact.parent):
        for name in ("numpy.py", "json.py", "sitecustomize.py"):
            (folder / name).write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    monkeypatch.chdir(artifact)
    assert check(source, artifact).passed
    assert not (tmp_path / "ran").exists()


def test_a_short_context(tmp_path: Path) -> None:
    """40 positions: the check uses 39 tokens and generates one."""
    from exports import export_onnx
    from random_profiles import random_profile
    from tiny_models import tiny_checkpoint

    source = open_model(str(tiny_checkpoint("llama", tmp_path / "model", max_position_embeddings=40)))
    profile, vectors = random_profile(source, tmp_path / "p.json", skip=("ffn.1",))
    manifest = export_onnx(source, profile, vectors, WeightFormat(), tmp_path / "out")
    assert manifest.verification is not None
    assert manifest.verification.passed
    assert manifest.verification.tokens == 39
