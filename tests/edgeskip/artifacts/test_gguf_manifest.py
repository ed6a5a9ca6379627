"""The manifest as metadata strings. Oracle: the gguf package reading a file its writer wrote, and damage by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from edgeskip.artifacts.gguf.manifest import DRAFT_VERIFICATION_KEY, VERIFICATION_KEY, GgufManifest, read_gguf_manifest
from edgeskip.artifacts.manifest import PlanSummary, VerificationRecord
from edgeskip.core.errors import EdgeSkipError
from edgeskip.profiles.schema import ModelRecord

RECORD = VerificationRecord(
    passed=True,
    reference="transformers 5.23.0 LlamaForCausalLM, same plan by hooks, float32",
    tokens=256,
    max_abs_logit_difference=0.25,
    kl_divergence=0.001,
    top1_agreement=0.99,
    widened_kl_divergence=1e-5,
    bound="KL ≤ 0.25 nats per token; widened KL ≤ 0.001 nats per token",
)


def manifest(**changes: Any) -> GgufManifest:
    fields: dict[str, Any] = {
        "label": "lossy-skip",
        "precision": "Q4_1",
        "model": ModelRecord(
            source="models/näïve name", name="m", family="llama", fingerprint="ef" * 32, num_blocks=4, hidden_size=64,
            vocab_size=320,
        ),
        "plan": PlanSummary(method="explicit", compensation="scale", skip=["attn.1", "ffn.2"], num_blocks=4),
        "inputs": {"model": "cd" * 32, "corpus a b.txt": "ab" * 32},
        "versions": {"edgeskip": "0.1.0"},
        "created": "2025-01-01T00:00:00Z",
    }  # fmt: skip
    return GgufManifest(**fields | changes)


WHOLE = manifest()
MANIFESTS = [
    WHOLE,
    manifest(label="dense", plan=PlanSummary(method="dense", compensation="none", skip=[], num_blocks=4)),
    manifest(verification=RECORD),
    manifest(label="draft-only", part="first", exit_layer=2, partner="m-exit2-rest-Q4_1.gguf"),
    manifest(part="rest", exit_layer=2, partner="m-exit2-Q4_1.gguf", verification=RECORD),
    manifest(label="draft-only", part="first", exit_layer=2),
    manifest(
        label="draft-only",
        part="first",
        exit_layer=2,
        partner="m-exit2-rest-Q4_1.gguf",
        head="ridge",
        agreement=0.34,
        draft_head="m-exit2-Q4_1-head.safetensors",
        draft_head_sha256="ab" * 32,
        verification=RECORD,
        draft_verification=RECORD.model_copy(update={"passed": False}),
    ),
    manifest(label="dense", draft="m-adaskip8-Q4_1.gguf"),
    manifest(verification=RECORD.model_copy(update={"passed": False, "kl_divergence": float("nan")})),
]


@pytest.mark.parametrize("made", MANIFESTS, ids=lambda made: f"{made.label}-{made.part}")
def test_through_a_file(made: GgufManifest, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    for key, value in made.to_metadata().items():
        writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    fields = gguf.GGUFReader(tmp_path / "x.gguf").fields
    back = read_gguf_manifest({key: field.contents() for key, field in fields.items()}, "x.gguf")
    assert back is not None
    assert repr(back) == repr(made)  # a NaN equals no other


def test_plain_facts_are_plain_strings() -> None:
    """As any viewer shows them; what is not there has no key."""
    metadata = MANIFESTS[3].to_metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    assert metadata["edgeskip.format"] == "edgeskip-gguf-1"
    assert metadata["edgeskip.label"] == "draft-only"
    assert (metadata["edgeskip.part"], metadata["edgeskip.exit_layer"]) == ("first", "2")
    assert metadata["edgeskip.partner"] == "m-exit2-rest-Q4_1.gguf"
    assert json.loads(metadata["edgeskip.plan"])["skip"] == ["attn.1", "ffn.2"]
    assert "näïve" in metadata["edgeskip.model"]
    assert not {"edgeskip.exit_layer", "edgeskip.partner"} & set(WHOLE.to_metadata())


def test_the_verification_takes_the_place_that_is_kept_for_it() -> None:
    """A long record of ours too: every number at full length."""
    numbers = dict.fromkeys(("max_abs_logit_difference", "kl_divergence", "top1_agreement"), -1.2345678901234567e-300)
    longest = RECORD.model_copy(update={"reference": "transformers 55.55.55 " + "X" * 200, **numbers})
    empty, full = (made.to_metadata()[VERIFICATION_KEY] for made in (WHOLE, manifest(verification=longest)))
    assert len(empty.encode()) == len(full.encode())
    assert json.loads(empty) is None
    assert json.loads(full)["passed"] is True


def test_the_drafts_record_has_a_place_of_its_own() -> None:
    """In a first half, filled or not; nowhere else."""
    empty, full = (
        manifest(part="first", exit_layer=2, draft_verification=record).to_metadata()[DRAFT_VERIFICATION_KEY]
        for record in (None, RECORD)
    )
    assert len(empty.encode()) == len(full.encode())
    assert (json.loads(empty), json.loads(full)["tokens"]) == (None, 256)
    assert DRAFT_VERIFICATION_KEY not in WHOLE.to_metadata()


@pytest.mark.parametrize(
    ("made", "together"),
    [(MANIFESTS[0], "lossy-skip"), (MANIFESTS[1], "dense"), (MANIFESTS[3], "lossy-skip"), (MANIFESTS[4], "lossy-skip")],
)
def test_what_both_halves_give(made: GgufManifest, together: str) -> None:
    assert made.pair_label == together


def test_another_programs_file() -> None:
    assert read_gguf_manifest({"general.architecture": "llama", "edgeskipper": "x"}, "x.gguf") is None


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("plan", "{", "edgeskip.* keys are damaged"),
        ("plan", "[]", "edgeskip.plan is damaged"),
        ("plan", 3, "edgeskip.* keys are damaged"),
        ("plan", "[" * 100_000, "edgeskip.* keys are damaged"),
        ("model", '{"source": 1}', "edgeskip.model."),
        ("label", "lossless", "edgeskip.label is damaged"),
        ("label", ["dense"], "edgeskip.label is damaged"),
        ("part", "middle", "edgeskip.part is damaged"),
        ("exit_layer", "two", "edgeskip.exit_layer is damaged"),
        ("format", "edgeskip-gguf-9", "edgeskip.format is damaged"),
        ("verification", '{"passed": true}', "edgeskip.verification."),
        ("verification", "\x00", "edgeskip.* keys are damaged"),
        ("draft_verification", '{"passed": true}', "edgeskip.draft_verification."),
        ("head", "round", "edgeskip.head is damaged"),
        ("agreement", "high", "edgeskip.agreement is damaged"),
        ("nonsense", "x", "edgeskip.nonsense is damaged"),
        ("inputs", '{"model": 7}', "edgeskip.inputs.model is damaged"),
        ("label", None, "edgeskip.label is damaged"),
        ("versions", None, "edgeskip.versions is damaged"),
    ],
)
def test_damaged_keys(key: str, value: Any, told: str) -> None:
    """None: the key is missing. One line that names file and key."""
    metadata: dict[str, Any] = {**WHOLE.to_metadata(), f"edgeskip.{key}": value}
    if value is None:
        del metadata[f"edgeskip.{key}"]
    with pytest.raises(EdgeSkipError) as info:
        read_gguf_manifest(metadata, "x.gguf")
    message = str(info.value)
    assert message.startswith("x.gguf: its ")
    assert told in message
    assert message.endswith("export again")
    assert "\n" not in message
    assert len(message) < 300
