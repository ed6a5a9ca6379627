"""`edgeskip inspect FILE.gguf`. Oracle: files written with the gguf package's own writer, keys and counts by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gguf")

from tiny_gguf import Kind, write_tiny_gguf
from tiny_models import tiny_model

from edgeskip.artifacts.gguf.manifest import GgufManifest
from edgeskip.artifacts.manifest import PlanSummary, VerificationRecord
from edgeskip.profiles.schema import ModelRecord

Cli = Callable[..., Any]


def manifest(**changes: Any) -> GgufManifest:
    fields: dict[str, Any] = {
        "label": "lossy-skip",
        "precision": "q8_0",
        "model": ModelRecord(
            source="tiny", name="tiny", family="llama", fingerprint="ef" * 32, num_blocks=4, hidden_size=64,
            vocab_size=320,
        ),
        "plan": PlanSummary(method="explicit", compensation="scale", skip=["attn.1", "ffn.2"], num_blocks=4),
        "inputs": {"profile": "cd" * 32},
        "versions": {"edgeskip": "0.1.0"},
        "created": "2025-01-01T00:00:00Z",
        "verification": VerificationRecord(
            passed=True,
            reference="transformers LlamaForCausalLM, same plan by hooks, float32",
            tokens=128,
            max_abs_logit_difference=0.5,
            kl_divergence=0.01,
            widened_kl_divergence=0.0002,
            top1_agreement=0.95,
            bound="KL at most 0.1 nats",
        ),
    }  # fmt: skip
    return GgufManifest(**fields | changes)


@pytest.fixture(scope="module")
def model() -> Any:
    """A tied Llama of 4 blocks: 4 × 7 matrices and the embedding, 4 × 2 + 1 norms."""
    return tiny_model("llama")


@pytest.fixture
def gguf_path(model: Any, tmp_path: Path) -> Callable[..., Path]:
    def write(made: GgufManifest | None, **keys: Any) -> Path:
        metadata = {
            "general.name": "Tiny",
            "general.license": "apache-2.0",
            "general.file_type": 7,
            "tokenizer.ggml.pre": "smollm",
            "tokenizer.chat_template": "{{ x }}",
            **(made.to_metadata() if made else {}),
            **keys,
        }
        return write_tiny_gguf(model, tmp_path / "tiny-Q8_0.gguf", kind=Kind.Q8_0, metadata=metadata)

    return write


def test_a_file_of_ours_as_text(cli: Cli, gguf_path: Callable[..., Path]) -> None:
    path = gguf_path(manifest())
    outcome = cli("inspect", path)
    assert outcome.code == 0
    text = " ".join(outcome.out.split())
    for expected in (
        "label lossy-skip model tiny (llama, 4 blocks)",
        "source tiny (fingerprint efefefefefefefef)",
        "architecture llama, 4 blocks in the file",
        "precision q8_0 (29 Q8_0, 9 F32)",
        "context 512 tokens",
        "skipped 2 of 8 sublayers (explicit): attn.1, ffn.2",
        "compensation scale",
        "tokenizer gpt2, pre-tokenizer smollm, 320 tokens, chat template yes",
        "license apache-2.0",
        f"size {path.stat().st_size / 1e6:,.1f} MB",
        "passed (KL at most 0.1 nats)",
        "KL 1.00e-02 nats (2.00e-04 widened), top-1 agreement 95.0%",
        "made from profile cdcdcdcdcdcdcdcd",
        "2025-01-01T00:00:00Z, edgeskip 0.1.0",
    ):
        assert expected in text
    assert "partner" not in text
    assert "both halves" not in text


def test_a_file_of_ours_as_json(cli: Cli, gguf_path: Callable[..., Path]) -> None:
    made = manifest(verification=None)
    path = gguf_path(made, **{"tokenizer.chat_template": None, "general.license": None})
    report = json.loads(cli("inspect", path, "--json").out)
    assert report == {
        "kind": "gguf",
        "path": str(path),
        "size_bytes": path.stat().st_size,
        "problem": None,
        "made_by_edgeskip": True,
        "name": "Tiny",
        "architecture": "llama",
        "file_type": "Q8_0",
        "num_blocks": 4,
        "context_length": 512,
        "license": None,
        "tensor_types": {"Q8_0": 29, "F32": 9},
        "tokenizer": {"model": "gpt2", "pre": "smollm", "num_tokens": 320},
        "chat_template": False,
        "partner_found": None,
        "draft_found": None,
        "draft_head_found": None,
        "decode_found": None,
        **made.model_dump(mode="json"),
    }
    assert "--no-check" in " ".join(cli("inspect", path).out.split())


def test_a_half_names_its_partner_and_whether_it_is_there(
    cli: Cli, gguf_path: Callable[..., Path], tmp_path: Path
) -> None:
    path = gguf_path(manifest(label="draft-only", part="first", exit_layer=2, partner="tiny-rest.gguf"))
    text = " ".join(cli("inspect", path).out.split())
    assert "label draft-only" in text
    assert "part first of a pair, exit layer 2" in text
    assert "verified both halves together: passed" in text
    assert "partner tiny-rest.gguf (MISSING beside it); together lossy-skip" in text
    (tmp_path / "tiny-rest.gguf").write_bytes(b"")
    assert "tiny-rest.gguf (beside it)" in " ".join(cli("inspect", path).out.split())
    assert json.loads(cli("inspect", path, "--json").out)["partner_found"] is True


def test_a_half_says_how_it_drafts(cli: Cli, gguf_path: Callable[..., Path], tmp_path: Path) -> None:
    """By hand."""
    drafts = {"head": "ridge", "agreement": 0.34, "draft_head": "tiny-head.safetensors", "draft_head_sha256": "ab" * 32}
    record = manifest().verification
    assert record is not None
    failed = record.model_copy(update={"passed": False})
    half = {"label": "draft-only", "part": "first", "exit_layer": 2, "partner": "r.gguf", "draft_verification": failed}
    path = gguf_path(manifest(**half, **drafts))
    text = " ".join(cli("inspect", path).out.split())
    assert "draft head calibrated map, agrees with the full model on 34.0%; tiny-head.safetensors (MISSING" in text
    assert "verified both halves together: passed" in text
    assert "draft verified FAILED (KL" in text
    (tmp_path / "tiny-head.safetensors").write_bytes(b"")
    assert json.loads(cli("inspect", path, "--json").out)["draft_head_found"] is True
    path = gguf_path(manifest(**half, head="plain"))
    assert "draft head the model's own architecture" in " ".join(cli("inspect", path).out.split())


def test_a_model_names_its_draft(cli: Cli, gguf_path: Callable[..., Path], tmp_path: Path) -> None:
    """By hand."""
    path = gguf_path(manifest(label="dense", draft="tiny-adaskip2.gguf"))
    assert "draft tiny-adaskip2.gguf (MISSING beside it); for" in " ".join(cli("inspect", path).out.split())
    (tmp_path / "tiny-adaskip2.gguf").write_bytes(b"")
    assert "draft tiny-adaskip2.gguf (beside it); for" in " ".join(cli("inspect", path).out.split())


def test_a_file_of_others(cli: Cli, gguf_path: Callable[..., Path]) -> None:
    path = gguf_path(None, **{"general.file_type": 9999, "tokenizer.ggml.pre": None, "llama.context_length": None})
    outcome = cli("inspect", path)
    text = " ".join(outcome.out.split())
    assert outcome.code == 0
    for expected in (
        "label none: not made by EdgeSkip model Tiny",
        "precision unknown (29 Q8_0, 9 F32)",
        "context unknown tokens",
        "tokenizer gpt2, pre-tokenizer unnamed, 320 tokens, chat template yes",
    ):
        assert expected in text
    assert "skipped" not in text
    assert "verified" not in text
    report = json.loads(cli("inspect", path, "--json").out)
    assert (report["label"], report["made_by_edgeskip"], report["file_type"]) == (None, False, None)


def test_damaged_missing_and_half_a_manifest(cli: Cli, gguf_path: Callable[..., Path], tmp_path: Path) -> None:
    path = gguf_path(manifest())
    assert "not a profile" in cli("inspect", path, "--plot", tmp_path / "a.png").complaint()
    content = path.read_bytes()
    for damaged, message in (
        (content[: len(content) // 2], "truncated"),
        (content[:100], "not a whole GGUF file"),
        (b"", "not a whole GGUF file"),
        (b"PK" + content[2:], "does not start with 'GGUF'"),
        (content.replace(b"lossy-skip", b"lousy-skip"), "edgeskip.label is damaged"),
    ):
        path.write_bytes(damaged)
        outcome = cli("inspect", path)
        assert message in outcome.complaint()
        assert outcome.out == ""
    path.unlink()
    assert "No such file" in cli("inspect", path).complaint()


def test_without_the_gguf_package(cli: Cli, gguf_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf_path(manifest())
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install 'edgeskip[llamacpp]'" in cli("inspect", path).complaint()
