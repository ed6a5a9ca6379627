"""What --target, --precision and --draft ask for. Oracle: by hand, one line for each combination."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_profiles import random_profile

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.options import DraftRequest, Targets, draft_of, settled, targets_of
from edgeskip.models.source import open_model
from edgeskip.profiles.schema import ExitStatistics, PlanRecord, Profile, SpeculationRecord

ONNX, GGUF, BOTH = Targets(True, False), Targets(False, True), Targets(True, True)


@pytest.mark.parametrize(
    ("target", "precision", "expected"),
    [
        ("onnx", None, Targets(True, False, "fp32", None)),
        ("gguf", None, Targets(False, True, "fp32", None)),
        ("onnx,gguf", None, Targets(True, True, "fp32", None)),
        ("GGUF , onnx", None, Targets(True, True, "fp32", None)),
        ("onnx", "f16", Targets(True, False, "fp16", None)),
        ("onnx", "INT4", Targets(True, False, "int4", None)),
        ("gguf", "Q4_K_M", Targets(False, True, "fp32", "q4_k_m")),
        ("gguf", "keep", Targets(False, True, "fp32", "keep")),
        ("onnx,gguf", "int4,q4_0", Targets(True, True, "int4", "q4_0")),
        ("gguf,onnx", "q4_0, int4", Targets(True, True, "int4", "q4_0")),  # in the order of the targets
        ("onnx,gguf,gguf", "int4,q4_0", Targets(True, True, "int4", "q4_0")),  # once is enough
        ("onnx,gguf", "f32", Targets(True, True, "fp32", "f32")),
        ("onnx,gguf", "fp16", Targets(True, True, "fp16", "fp16")),
        ("onnx,gguf", "f16,f32", Targets(True, True, "fp16", "f32")),
        ("onnx", "fp8", Targets(True, False, "fp8", None)),  # refused later, by the target that does not know it
    ],
)
def test_what_is_asked_for(target: str, precision: str | None, expected: Targets) -> None:
    assert targets_of(target, precision) == expected


@pytest.mark.parametrize(
    ("target", "precision", "told"),
    [
        ("tflite", None, "--target tflite is unknown: choose onnx, gguf or onnx,gguf"),
        ("onnx,tflite", None, "--target tflite is unknown"),
        ("", None, "--target  is unknown"),
        ("onnx,", None, "--target onnx, is unknown"),
        ("onnx", "fp32,f16", "--precision fp32,f16 does not fit --target onnx: give one for each target"),
        ("gguf", "q8_0,q4_0", "does not fit --target gguf"),
        ("onnx,gguf", "int4", "--precision int4 does not fit --target onnx,gguf"),
        ("onnx,gguf", "q4_0", "does not fit"),
        ("onnx,gguf", "int4,q4_0,f16", "does not fit"),
        ("gguf,gguf", "q8_0,q4_0", "does not fit"),
    ],
)
def test_what_cannot_be(target: str, precision: str | None, told: str) -> None:
    with pytest.raises(EdgeSkipError) as info:
        targets_of(target, precision)
    assert told in str(info.value)


@pytest.mark.parametrize(
    ("draft", "exit_layer", "draft_vocab", "expected"),
    [
        (None, None, None, None),
        ("early-exit", "2", None, DraftRequest("early-exit", (2,))),
        ("Early-Exit", None, None, DraftRequest("early-exit")),
        ("early-exit", "1, 2", 64, DraftRequest("early-exit", (1, 2), 64)),
        ("skip-plan", None, None, DraftRequest("skip-plan")),
    ],
)
def test_a_draft(draft: str | None, exit_layer: str | None, draft_vocab: int | None, expected: object) -> None:
    assert draft_of(draft, exit_layer, draft_vocab, ONNX) == expected
    if exit_layer != "1, 2":
        assert draft_of(draft, exit_layer, draft_vocab, BOTH) == expected


@pytest.mark.parametrize(
    ("draft", "exit_layer", "draft_vocab", "targets", "told"),
    [
        ("early", "2", None, GGUF, "--draft early is unknown: choose early-exit or skip-plan"),
        ("", None, None, ONNX, "is unknown"),
        (None, "2", None, GGUF, "--exit-layer 2 is of an early-exit draft: add --draft early-exit"),
        (None, None, 64, ONNX, "--draft-vocab 64 is of an early-exit draft"),
        ("skip-plan", "2", None, ONNX, "--exit-layer is of --draft early-exit"),
        ("skip-plan", None, 64, ONNX, "--draft-vocab is of --draft early-exit"),
        ("early-exit", "2,", None, ONNX, "--exit-layer 2, is no number of blocks"),
        ("early-exit", "-1", None, ONNX, "--exit-layer -1 is no number of blocks"),
        ("early-exit", "9" * 5000, None, ONNX, "is no number of blocks"),
        ("early-exit", "²", None, ONNX, "is no number of blocks"),
        ("early-exit", "2,2", None, ONNX, "--exit-layer 2,2: name the exits shallow first"),
        ("early-exit", "3,2", None, ONNX, "shallow first"),
        ("early-exit", "1,2", None, GGUF, "a GGUF pair has one exit"),
        ("early-exit", "1,2", None, BOTH, "a GGUF pair has one exit"),
    ],
)
def test_a_draft_that_cannot_be(
    draft: str | None, exit_layer: str | None, draft_vocab: int | None, targets: Targets, told: str
) -> None:
    with pytest.raises(EdgeSkipError) as info:
        draft_of(draft, exit_layer, draft_vocab, targets)
    assert told in str(info.value)


@pytest.fixture
def profile(tiny_llama: Path, tmp_path: Path) -> Profile:
    """4 blocks, 320 tokens; no plan, no sweep."""
    return random_profile(open_model(str(tiny_llama)), tmp_path / "p.json")[0]


def swept(profile: Profile, draft_vocab: int | None) -> Profile:
    record = SpeculationRecord(
        exit_layer=3,
        num_speculations=4,
        draft_vocab=draft_vocab,
        target="onnx",
        precision="fp32",
        speedup=1.5,
        acceptance=0.7,
        machine="test",
        created="2025-01-01T00:00:00Z",
    )
    return profile.model_copy(update={"speculation": record})


def test_what_is_left_to_the_profile(profile: Profile) -> None:
    """The sweep's vocabulary belongs to its exit: it is not taken for another."""
    asked = DraftRequest("early-exit")
    assert settled(asked, swept(profile, 64)) == DraftRequest("early-exit", (3,), 64)
    assert settled(asked, swept(profile, None)) == DraftRequest("early-exit", (3,))
    assert settled(DraftRequest("early-exit", (), 32), swept(profile, 64)) == DraftRequest("early-exit", (3,), 32)
    assert settled(DraftRequest("early-exit", (2,)), swept(profile, 64)) == DraftRequest("early-exit", (2,))
    plan = PlanRecord(method="explicit", compensation="none", skip=["ffn.1"])
    asked = DraftRequest("skip-plan")
    assert settled(asked, profile.model_copy(update={"plan": plan})) == asked


def test_a_trained_exit_brings_the_vocabulary_it_was_trained_for(profile: Profile) -> None:
    """By hand: exit 2 was trained for 48 tokens, exit 3 for all."""
    exits = [
        ExitStatistics(layer=2, tokens=9, plain_agreement=0.1, adapter="map", adapter_agreement=0.3, adapter_vocab=48),
        ExitStatistics(layer=3, tokens=9, plain_agreement=0.1, adapter="map", adapter_agreement=0.3),
    ]
    trained = profile.model_copy(update={"exits": exits})
    assert settled(DraftRequest("early-exit", (2,)), trained) == DraftRequest("early-exit", (2,), 48)
    assert settled(DraftRequest("early-exit", (2,), 32), trained) == DraftRequest("early-exit", (2,), 32)
    assert settled(DraftRequest("early-exit", (3,)), trained) == DraftRequest("early-exit", (3,))
    assert settled(DraftRequest("early-exit", (1,)), trained) == DraftRequest("early-exit", (1,))


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (DraftRequest("early-exit"), "needs an exit layer and the profile has no sweep: add --exit-layer"),
        (DraftRequest("early-exit", (4,)), "--exit-layer 4 is not possible: the model has 4 blocks, choose 1 … 3"),
        (DraftRequest("early-exit", (0, 2)), "--exit-layer 0 is not possible"),
        (DraftRequest("early-exit", (2,), 0), "--draft-vocab 0 is not possible: the model has 320 tokens"),
        (DraftRequest("early-exit", (2,), 321), "--draft-vocab 321 is not possible"),
        (DraftRequest("skip-plan"), "--draft skip-plan needs a plan in the profile: make one with  edgeskip plan"),
    ],
)
def test_what_the_profile_does_not_give(profile: Profile, request_: DraftRequest, told: str) -> None:
    with pytest.raises(EdgeSkipError) as info:
        settled(request_, profile)
    assert told in str(info.value)
