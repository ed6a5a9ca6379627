"""The head of an exit and what it is chosen from. Oracle: the same products in numpy; the profile's numbers by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_profiles import random_profile
from tiny_models import tiny_checkpoint

import edgeskip.exporters.draft as module
from edgeskip.core.errors import EdgeSkipError
from edgeskip.exporters.draft import ChosenHead, chosen_head, draft_head, draft_tokens
from edgeskip.models.source import ModelSource, open_model
from edgeskip.profiles.exit_adapter import ExitAdapter
from edgeskip.profiles.schema import ExitStatistics

MAP = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
KNOWN = np.arange(1, 320, 3)


@pytest.fixture
def source(tiny_llama: Path) -> ModelSource:
    return open_model(str(tiny_llama))


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> ModelSource:
    return open_model(str(tiny_checkpoint("llama", tmp_path / "model", tie_word_embeddings=request.param)))


def rows_of(source: ModelSource) -> Any:
    decoder = source.decoder
    return (decoder.head.weight if decoder.head else decoder.embedding).read()


def test_the_models_own(either: ModelSource) -> None:
    head = draft_head(either.decoder, None, None)
    assert (head.norm, head.map, head.head, head.tokens) == (either.decoder.norm, None, None, None)


def test_a_map_before_the_models_own_head(either: ModelSource) -> None:
    """Norm weights are in the map's target, so the norm before it has none."""
    head = draft_head(either.decoder, MAP, None)
    assert head.head is None
    assert head.map is not None
    np.testing.assert_array_equal(head.map.weight.read(), MAP)
    np.testing.assert_array_equal(head.norm.weight.read(), np.ones(64))
    assert head.norm.eps == either.decoder.norm.eps


@pytest.mark.parametrize("exit_map", [None, MAP], ids=["plain", "map"])
@pytest.mark.parametrize("at_once", [7, 4096])
def test_a_trimmed_head_holds_the_map(
    either: ModelSource, exit_map: Any, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", at_once)
    head = draft_head(either.decoder, exit_map, KNOWN)
    rows = rows_of(either)[KNOWN]
    assert head.map is None
    assert head.head is not None
    assert head.head.weight.shape == (len(KNOWN), 64)
    np.testing.assert_allclose(head.head.weight.read(), rows if exit_map is None else rows @ MAP, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(head.tokens, KNOWN)


def test_a_whole_head_holds_the_map_where_that_is_asked_for(either: ModelSource) -> None:
    head = draft_head(either.decoder, MAP, None, fold=True)
    assert head.map is None
    assert head.head is not None
    np.testing.assert_allclose(head.head.weight.read(), rows_of(either) @ MAP, rtol=1e-4, atol=1e-4)
    assert draft_head(either.decoder, None, None, fold=True).head is None


@pytest.mark.parametrize(
    ("plain", "ridge", "mapped", "agreement"), [(0.2, 0.3, True, 0.3), (0.3, 0.2, False, 0.3), (0.3, 0.3, False, 0.3)]
)
def test_the_better_of_map_and_plain_head(
    source: ModelSource, tmp_path: Path, plain: float, ridge: float, mapped: bool, agreement: float
) -> None:
    profile, vectors = random_profile(source, tmp_path / "p.json")
    statistics = ExitStatistics(layer=2, tokens=99, plain_agreement=plain, ridge_agreement=ridge)
    profile = profile.model_copy(update={"exits": [statistics]})
    vectors = replace(vectors, exit_maps={2: MAP})
    found = chosen_head(profile, vectors, 2)
    assert (found.kind, found.agreement) == ("ridge" if mapped else "plain", agreement)
    assert (found.adapter is not None and found.adapter.map is MAP) == mapped
    assert chosen_head(profile, vectors, 3) == ChosenHead()  # not calibrated: the plain head, nothing known of it


@pytest.mark.parametrize("block", [{}, {"mlp.up_proj.weight": MAP}], ids=["map", "block"])
@pytest.mark.parametrize(
    ("trained", "chosen"), [(0.4, True), (0.3, True), (None, True), (0.29, False)], ids=["more", "same", "?", "less"]
)
def test_a_trained_adapter_unless_the_others_agree_more(
    source: ModelSource, tmp_path: Path, trained: float | None, chosen: bool, block: dict[str, Any]
) -> None:
    """By hand: the calibrated map agrees on 0.3."""
    profile, vectors = random_profile(source, tmp_path / "p.json")
    adapter = ExitAdapter(MAP, block)
    statistics = ExitStatistics(
        layer=2,
        tokens=99,
        plain_agreement=0.2,
        ridge_agreement=0.3,
        adapter=adapter.kind,
        adapter_agreement=trained,
    )
    profile = profile.model_copy(update={"exits": [statistics]})
    vectors = replace(vectors, exit_maps={2: MAP}, exit_adapters={2: adapter})
    found = chosen_head(profile, vectors, 2)
    assert (found.kind, found.agreement) == ((adapter.kind, trained) if chosen else ("ridge", 0.3))
    assert (found.adapter is adapter) == chosen


def test_the_tokens_of_a_trimmed_head(source: ModelSource, tmp_path: Path) -> None:
    """The three most frequent and the model's end of text, id 1, ascending."""
    _, vectors = random_profile(source, tmp_path / "p.json")
    counts = np.zeros(320, np.int64)
    counts[[300, 7, 40, 9]] = [5, 9, 7, 2]
    np.testing.assert_array_equal(draft_tokens(source, replace(vectors, token_counts=counts), 4), [1, 7, 40, 300])
    assert draft_tokens(source, vectors, None) is None
    for found in (vectors, None):
        with pytest.raises(EdgeSkipError, match=r"--draft-vocab needs .*: calibrate again"):
            draft_tokens(source, found, 4)


@pytest.mark.parametrize(("generation", "config", "expected"), [([5, 1], 1, [5, 1]), (5, 1, [5, 1]), (None, 1, [1])])
def test_ends_of_text(tiny_llama: Path, tmp_path: Path, generation: Any, config: Any, expected: list[int]) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    for name, value in (("generation_config.json", generation), ("config.json", config)):
        content = json.loads((folder / name).read_text())
        content["eos_token_id"] = value
        (folder / name).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    assert list(open_model(str(folder)).end_tokens) == expected
