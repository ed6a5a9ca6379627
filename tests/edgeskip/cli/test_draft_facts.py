"""The words `edgeskip inspect` has for drafts, by hand-made records."""

from __future__ import annotations

from types import SimpleNamespace

from edgeskip.artifacts.manifest import DraftRecord, ExitRecord, PlanSummary
from edgeskip.cli.views.draft_facts import draft_facts, exit_facts
from edgeskip.profiles.schema import ExitStatistics, SpeculationRecord


def test_an_early_exit():
    exits = [
        ExitRecord(layer=4, file="draft.onnx", num_kv_layers=4, head="ridge", agreement=0.25),
        ExitRecord(layer=8, file="draft-8.onnx", num_kv_layers=4, head="plain"),
        ExitRecord(layer=9, file="draft-9.onnx", num_kv_layers=2, head="block", agreement=0.5),
    ]
    record = DraftRecord(kind="early-exit", exits=exits, verify="verify.onnx", vocabulary="draft_tokens.npy")
    assert draft_facts(record) == {
        "draft": "early-exit after 4 blocks (draft.onnx, calibrated map, agrees on 25.0%); "
        "after 8 blocks (draft-8.onnx, plain head); "
        "after 9 blocks (draft-9.onnx, trained block, agrees on 50.0%); head over the tokens of draft_tokens.npy"
    }


def test_a_skip_plan_and_none():
    plan = PlanSummary(method="adaskip", compensation="scale", skip=["attn.3", "ffn.9"], num_blocks=12)
    record = DraftRecord(kind="skip-plan", plan=plan, agreement=0.5)
    assert draft_facts(record) == {"draft": "skip-plan, without 2 sublayers (attn.3, ffn.9), agrees on 50.0%"}
    assert draft_facts(None) == {}


def test_a_profile():
    exits = [
        ExitStatistics(layer=4, tokens=100, plain_agreement=0.05, ridge_agreement=0.3),
        ExitStatistics(layer=6, tokens=100, plain_agreement=0.1, adapter="map", adapter_agreement=0.4),
        ExitStatistics(layer=8, tokens=100, plain_agreement=0.1, ridge_agreement=0.3, adapter="block"),
    ]
    best = SpeculationRecord(
        exit_layer=4, num_speculations=2, draft_vocab=8192, target="onnx", precision="fp32", speedup=1.2,
        acceptance=0.5, machine="a CPU", created="today",
    )  # fmt: skip
    facts = exit_facts(SimpleNamespace(exits=exits, speculation=best))
    assert facts["exits"] == (
        "4: 5.0% plain, 30.0% with a map; 6: 10.0% plain, 40.0% with a trained map; "
        "8: 10.0% plain, 30.0% with a map, with a trained block"
    )
    assert facts["best draft"].startswith("exit layer 4, γ 2, 8192 draft tokens: 1.20× plain, 50% accepted")
    assert exit_facts(SimpleNamespace(exits=[], speculation=None)) == {}
