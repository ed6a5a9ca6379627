"""The profiles that ship are whole: every file beside them, of the stated hash, of a ready model, with a card."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeskip.profiles.presets import ready_profiles
from edgeskip.profiles.registry import READY_MODELS
from edgeskip.profiles.schema import read_adapter, read_profile
from edgeskip.profiles.vectors import read_vectors

PROFILES = ready_profiles()
TRAINED = sorted(set(PROFILES) - set(READY_MODELS))
SIZE = 16 * 1024 * 1024  # bytes, of one shipped file


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_and_its_files_belong_together(name: str) -> None:
    """Oracle: the hashes in the profile (its readers check them)."""
    path = PROFILES[name]
    profile = read_profile(path)
    vectors = read_vectors(profile, path)
    lora = read_adapter(profile, path)
    assert (lora is None) == (profile.model.adapter is None)
    assert {found.layer for found in profile.exits if found.adapter} == set(vectors.exit_adapters)
    for file in path.parent.glob(f"{name}.*"):
        assert file.stat().st_size <= SIZE


@pytest.mark.parametrize("name", PROFILES)
def test_its_model_can_be_had_by_everybody(name: str) -> None:
    """Oracle: the list of ready models; a profile that names a path works on one machine only."""
    model = read_profile(PROFILES[name]).model
    ready = READY_MODELS[model.source]
    base = model.adapter.base_fingerprint if model.adapter else model.fingerprint
    assert base == ready.member_sha256


@pytest.mark.parametrize("name", TRAINED)
def test_what_was_trained_has_a_card(name: str) -> None:
    """Oracle: what a card must say of a result: data, steps, seed, command, hardware, licence."""
    card = PROFILES[name].with_suffix(".md").read_text(encoding="utf-8")
    for word in ("Data", "Steps", "Seed", "Command", "Hardware", "License"):
        assert re.search(rf"^\W*{word}\b", card, re.MULTILINE), word
    assert str(Path(name)) in card
