"""What --target, --precision and --draft ask for. Oracle: by hand, one line for each combination."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_profiles import random_profile

from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.options import DraftRequest, parse_draft, parse_targets, resolve_draft
from edgeskip.models.source import open_model
from edgeskip.profiles.schema import ExitStatistics, PlanRecord, Profile, SpeculationRecord

ONNX, GGUF, BOTH = ("onnx",), ("gguf",), ("onnx", "gguf")


@pytest.mark.parametrize(
    ("target", "precision", "expected"),
    [
        ("onnx", None, {"onnx": None}),
        ("gguf", None, {"gguf": None}),
        ("onnx,gguf", None, {"onnx": None, "gguf": None}),
        ("GGUF , onnx", None, {"onnx": None, "gguf": None}),
        ("onnx", "f16", {"onnx": "f16"}),
        ("onnx", "INT4", {"onnx": "int4"}),
        ("gguf", "Q4_K_M", {"gguf": "q4_k_m"}),
        ("gguf", "keep", {"gguf": "keep"}),
        ("onnx,gguf", "int4,q4_0", {"onnx": "int4", "gguf": "q4_0"}),
        ("gguf,onnx", "q4_0, int4", {"onnx": "int4", "gguf": "q4_0"}),  # in the order of the targets
        ("onnx,gguf,gguf", "int4,q4_0", {"onnx": "int4", "gguf": "q4_0"}),  # once is enough
        ("onnx,gguf", "f32", {"onnx": "f32", "gguf": "f32"}),
        ("onnx,gguf", "fp16", {"onnx": "fp16", "gguf": "fp16"}),
        ("onnx,gguf", "f16,f32", {"onnx": "f16", "gguf": "f32"}),
        ("onnx", "fp8", {"onnx": "fp8"}),  # refused later, by the target that does not know it
    ],
)
def test_what_is_asked_for(target: str, precision: str | None, expected: dict[str, str | None]) -> None:
    assert parse_targets(target, precision) == expected
    assert list(parse_targets(target, precision)) == list(expected)


@pytest.mark.parametrize(
    ("target", "precision", "told"),
    [
        ("tflite", None, "--target tflite is unknown"),
        ("onnx,tflite", None, "--target tflite is unknown"),
        ("", None, "--target '' names nothing"),
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
        parse_targets(target, precision)
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
    assert parse_draft(draft, exit_layer, draft_vocab, ONNX) == expected
    if exit_layer != "1, 2":
        assert parse_draft(draft, exit_layer, draft_vocab, BOTH) == expected


@pytest.mark.parametrize(
    ("draft", "exit_layer", "draft_vocab", "targets", "told"),
    [
        ("early", "2", None, GGUF, "--draft early is unknown: choose early-exit or skip-plan"),
        ("", None, None, ONNX, "is unknown"),
        (None, "2", None, GGUF, "--exit-layer 2 requires --draft early-exit"),
        (None, None, 64, ONNX, "--draft-vocab 64 requires --draft early-exit"),
        ("skip-plan", "2", None, ONNX, "--exit-layer requires --draft early-exit"),
        ("skip-plan", None, 64, ONNX, "--draft-vocab requires --draft early-exit"),
        ("early-exit", "2,", None, ONNX, "--exit-layer 2, is not a list of whole numbers"),
        ("early-exit", "-1", None, ONNX, "--exit-layer -1 is not a list of whole numbers"),
        ("early-exit", "9" * 5000, None, ONNX, "is not a list of whole numbers"),
        ("early-exit", "²", None, ONNX, "is not a list of whole numbers"),
        ("early-exit", "2,2", None, ONNX, "--exit-layer 2,2: name the exits shallow first"),
        ("early-exit", "3,2", None, ONNX, "shallow first"),
        ("early-exit", "1,2", None, GGUF, "a GGUF pair has one exit"),
        ("early-exit", "1,2", None, BOTH, "a GGUF pair has one exit"),
    ],
)
def test_a_draft_that_cannot_be(
    draft: str | None, exit_layer: str | None, draft_vocab: int | None, targets: tuple[str, ...], told: str
) -> None:
    with pytest.raises(EdgeSkipError) as info:
        parse_draft(draft, exit_layer, draft_vocab, targets)
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
    assert resolve_draft(asked, swept(profile, 64)) == DraftRequest("early-exit", (3,), 64)
    assert resolve_draft(asked, swept(profile, None)) == DraftRequest("early-exit", (3,))
    assert resolve_draft(DraftRequest("early-exit", (), 32), swept(profile, 64)) == DraftRequest("early-exit", (3,), 32)
    assert resolve_draft(DraftRequest("early-exit", (2,)), swept(profile, 64)) == DraftRequest("early-exit", (2,))
    plan = PlanRecord(method="explicit", compensation="none", skip=["ffn.1"])
    asked = DraftRequest("skip-plan")
    assert resolve_draft(asked, profile.model_copy(update={"plan": plan})) == asked


def test_a_trained_exit_brings_the_vocabulary_it_was_trained_for(profile: Profile) -> None:
    """By hand: exit 2 was trained for 48 tokens, exit 3 for all."""
    exits = [
        ExitStatistics(layer=2, tokens=9, plain_agreement=0.1, adapter="map", adapter_agreement=0.3, adapter_vocab=48),
        ExitStatistics(layer=3, tokens=9, plain_agreement=0.1, adapter="map", adapter_agreement=0.3),
    ]
    trained = profile.model_copy(update={"exits": exits})
    assert resolve_draft(DraftRequest("early-exit", (2,)), trained) == DraftRequest("early-exit", (2,), 48)
    assert resolve_draft(DraftRequest("early-exit", (2,), 32), trained) == DraftRequest("early-exit", (2,), 32)
    assert resolve_draft(DraftRequest("early-exit", (3,)), trained) == DraftRequest("early-exit", (3,))
    assert resolve_draft(DraftRequest("early-exit", (1,)), trained) == DraftRequest("early-exit", (1,))


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
        resolve_draft(request_, profile)
    assert told in str(info.value)
